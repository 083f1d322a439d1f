"""Trajectories as a Hugging Face dataset, or as a data frame of pandas or polars.

A value whose shape is the environment's (observation, action, info) becomes a typed column
where all of its values are of one type that Arrow and Parquet have; else its values are JSON texts
as in the files. An array that becomes lists keeps the type of its elements. A missing reward or
return is null, and so is a missing value in a typed column, and the action of a mistake: what was
refused or could not be read is the JSON text ``mistake_action``. Nothing else is null. A seed that
needs more than 64 bits with a sign makes its column unsigned, or text. A data set needs the extra
``datasets``; a data frame the extra ``parquet``, and pandas or polars.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from openenv_async.models import to_builtins
from openenv_async.rollouts.files import read_trajectories
from openenv_async.rollouts.record import Trajectory, Transition, encode
from openenv_async.types import ModelCall

__all__ = ["to_dataframe", "to_dataset"]

_EPISODE = (
    *("index", "episode_id", "seed", "status", "episode_return", "steps", "duration"),
    *("mistakes", "task_id", "group", "member", "attempts"),
)
_ERROR = ("error_code", "error_message")
_FREE: Final = ("observation", "next_observation", "action", "info")
_OF_MISTAKES: Final = ("mistake", "mistake_message", "mistake_action")
_OF_STEPS: Final = ("reward", "terminated", "truncated", *_OF_MISTAKES)
_CALL: Final = tuple(name for name in ModelCall.__dataclass_fields__ if name != "extra")
_FIXED: Final = {
    "index": "int64",
    "steps": "int64",
    "mistakes": "int64",
    "group": "int64",
    "member": "int64",
    "attempts": "int64",
    "t": "int64",
    "episode_return": "float64",
    "duration": "float64",
    "reward": "float64",
    "terminated": "bool_",
    "truncated": "bool_",
}
"""Arrow's name of the type of each column that is not text."""


def to_dataset(
    trajectories: str | Path | Iterable[Trajectory], *, rows: Literal["step", "episode"] = "step"
) -> Any:
    """Return a ``datasets.Dataset`` of trajectories.

    Args:
        trajectories: a file, or what ``read_trajectories`` gives.
        rows: one a step, with what is known of its episode, or one an episode, with lists.

    Raises:
        ValueError: ``rows`` is neither.
        InvalidModel: a value has no form in a data set.
        ModuleNotFoundError: ``datasets`` is not installed.
    """
    if rows not in ("step", "episode"):
        raise ValueError(f"rows must be 'step' or 'episode', got {rows!r}")
    try:
        import datasets  # type: ignore[import-untyped,unused-ignore]  # only some releases have types
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            "this needs Hugging Face datasets: pip install 'openenv-async[datasets]'",
            name=exc.name,
        ) from None
    return datasets.Dataset(datasets.table.InMemoryTable(_table(trajectories, rows)))


def to_dataframe(
    trajectories: str | Path | Iterable[Trajectory],
    *,
    rows: Literal["step", "episode"] = "step",
    library: Literal["pandas", "polars"] = "pandas",
) -> Any:
    """Return a data frame of trajectories, with the columns of ``to_dataset``.

    Args:
        trajectories: a file, or what ``read_trajectories`` gives.
        rows: one a step, with what is known of its episode, or one an episode, with lists.
        library: of the data frame.

    Raises:
        ValueError: ``rows`` or ``library`` is neither.
        InvalidModel: a value has no form in a data frame.
        ModuleNotFoundError: the library, or pyarrow, is not installed.
    """
    if rows not in ("step", "episode"):
        raise ValueError(f"rows must be 'step' or 'episode', got {rows!r}")
    if library not in ("pandas", "polars"):
        raise ValueError(f"library must be 'pandas' or 'polars', got {library!r}")
    try:
        importlib.import_module(library)
        table = _table(trajectories, rows)
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            f"this needs {library} and pyarrow: pip install {library} 'openenv-async[parquet]'",
            name=exc.name,
        ) from None
    if library == "pandas":
        return table.to_pandas()
    return importlib.import_module("polars").from_arrow(table)


def _table(trajectories: str | Path | Iterable[Trajectory], rows: str) -> Any:
    """Return trajectories as an Arrow table."""
    import pyarrow as pa  # type: ignore[import-untyped]  # it has none

    if isinstance(trajectories, str | Path):
        trajectories = read_trajectories(trajectories)
    made = [row for each in trajectories for row in _rows(each, rows)]
    columns: dict[str, Any] = {}
    for name in _names(rows):
        column = [row[name] for row in made]
        if name in _FREE:
            columns[name] = _free_column(
                pa, column, in_lists=rows == "episode", typed=name != "info"
            )
        elif name == "seed":
            columns[name] = _seed_column(pa, column)
        else:
            kind = getattr(pa, _FIXED.get(name, "string"))()
            kind = _calls_type(pa) if name == "model_calls" else kind
            nested = rows == "episode" and name in (*_OF_STEPS, "model_calls")
            columns[name] = pa.array(column, pa.list_(kind) if nested else kind)
    return pa.table(columns)


def _names(rows: str) -> list[str]:
    values = ["observation", "action", "reward", "terminated", "truncated", "info"]
    values += [*_OF_MISTAKES, "model_calls"]
    if rows == "step":
        return [*_EPISODE, "t", *values, "next_observation"]
    return [*_EPISODE, *_ERROR, *values]


def _rows(trajectory: Trajectory, rows: str) -> Iterable[dict[str, Any]]:
    episode = {name: getattr(trajectory, name) for name in (*_EPISODE, *_ERROR)}
    episode["status"] = None if trajectory.status is None else str(trajectory.status)
    steps = trajectory.transitions
    observations = [step.observation for step in steps] + [trajectory.final_observation]
    made = [_step(step) for step in steps]
    if rows == "step":
        for step, before, after in zip(made, observations, observations[1:], strict=False):
            yield episode | step | {"observation": before, "next_observation": after}
        return
    lists = {name: [step[name] for step in made] for name in made[0]} if made else {}
    begun = bool(steps) or trajectory.seed is not None
    nothing: dict[str, Any] = {name: [] for name in _names("episode")}
    yield nothing | episode | lists | {"observation": observations if begun else []}


def _step(step: Transition) -> dict[str, Any]:
    """Return the columns of a step, its observations left out."""
    mistake = step.mistake
    return {
        "t": step.t,
        "action": step.action if mistake is None else None,
        "reward": step.reward,
        "terminated": step.terminated,
        "truncated": step.truncated,
        "info": step.info,
        "mistake": None if mistake is None else mistake.kind,
        "mistake_message": None if mistake is None else mistake.message,
        "mistake_action": None if mistake is None else _json(step.action),
        "model_calls": [_call(call) for call in step.model_calls],
    }


def _call(call: ModelCall) -> dict[str, Any]:
    made = {name: getattr(call, name) for name in _CALL}
    for name in ("prompt_ids", "completion_ids", "logprobs", "mask"):
        made[name] = None if made[name] is None else list(made[name])
    for name in ("messages", "reply", "weight_version"):
        value = made[name]
        is_text = value is None or (name == "weight_version" and isinstance(value, str))
        made[name] = value if is_text else _json(value)
    return made


def _calls_type(pa: Any) -> Any:
    """The type of the model calls of a step; messages and replies are JSON texts."""
    lists = {"prompt_ids": pa.int32(), "completion_ids": pa.int32(), "mask": pa.int8()}
    types = {name: pa.list_(kind) for name, kind in lists.items()}
    types |= {"logprobs": pa.list_(pa.float64()), "seconds": pa.float64(), "continues": pa.bool_()}
    return pa.list_(pa.struct([(name, types.get(name, pa.string())) for name in _CALL]))


# -- columns ------------------------------------------------------------------------------------


class _Untyped(Exception):
    """Raised when no one Arrow type says as much as the values do."""


@dataclass(frozen=True)
class _Kind:
    """A type of values.

    Attributes:
        name: ``null`` (fits any), a NumPy or Arrow type, ``list`` or ``struct``.
        parts: names and types of a struct's fields; of a list's elements.
        shape: of an array.
    """

    name: str
    parts: tuple[tuple[str, _Kind], ...] = ()
    shape: tuple[int, ...] = ()


_NULL: Final = _Kind("null")
_PLAIN: Final = {bool: "bool_", int: "int64", float: "float64", str: "string"}
_ELEMENTS: Final = {"b": "bool_", "U": "string"}
_INT64: Final = range(-(1 << 63), 1 << 63)


def _free_column(pa: Any, column: list[Any], in_lists: bool, *, typed: bool) -> Any:
    """A column as plain values of one type, or as JSON texts."""
    values = [value for each in column for value in each] if in_lists else column
    kind = pa.string()
    convert: Any = _json
    if typed:
        plain = [to_builtins(value) for value in values]
        with contextlib.suppress(_Untyped):
            kind, convert = _arrow(pa, _common(map(_kind_of, plain))), _plain
    if in_lists:
        made = [[convert(value) for value in each] for each in column]
        return pa.array(made, pa.list_(kind))
    return pa.array([convert(value) for value in column], kind)


def _seed_column(pa: Any, seeds: list[int | None]) -> Any:
    given = [seed for seed in seeds if seed is not None]
    if all(seed in _INT64 for seed in given):
        return pa.array(seeds, pa.int64())
    if all(0 <= seed < 1 << 64 for seed in given):
        return pa.array(seeds, pa.uint64())
    return pa.array([None if seed is None else str(seed) for seed in seeds], pa.string())


def _kind_of(value: Any) -> _Kind:
    """The type of a plain value.

    Raises:
        _Untyped: it has none.
    """
    if value is None:
        return _NULL
    if type(value) is int and value not in _INT64:
        raise _Untyped
    if type(value) is str and not _is_text(value):
        raise _Untyped
    if type(value) in _PLAIN:
        return _Kind(_PLAIN[type(value)])
    if isinstance(value, bytes):
        return _Kind("binary")
    if hasattr(value, "dtype"):
        return _kind_of_array(value)
    if isinstance(value, dict):
        if not value or not all(type(key) is str and _is_text(key) for key in value):
            raise _Untyped  # Parquet has no struct without fields
        return _Kind("struct", tuple((key, _kind_of(item)) for key, item in sorted(value.items())))
    if isinstance(value, list | tuple):
        return _Kind("list", (("", _common(map(_kind_of, value))),))
    raise _Untyped


def _kind_of_array(array: Any) -> _Kind:
    dtype, shape = array.dtype, tuple(array.shape)
    if dtype.kind not in "biufU" or (dtype.itemsize > 8 and dtype.kind != "U"):
        raise _Untyped
    if len(shape) > 1 and 0 in shape:  # lists would not have its shape
        raise _Untyped
    if dtype.kind == "U" and not all(map(_is_text, array.ravel().tolist())):
        raise _Untyped
    return _Kind(_ELEMENTS.get(dtype.kind, dtype.name), (), shape or (-1,))


def _is_text(value: str) -> bool:
    """Tell whether UTF-8 has it: a lone surrogate it has not."""
    return value.isascii() or value.encode("utf-8", "replace").decode() == value


def _common(kinds: Iterable[_Kind]) -> _Kind:
    """The one type of several; a missing value has any.

    Raises:
        _Untyped: they differ.
    """
    common = _NULL
    for kind in kinds:
        common = _both(common, kind)
    return common


def _both(a: _Kind, b: _Kind) -> _Kind:
    if a == b or b == _NULL:
        return a
    if a == _NULL:
        return b
    if a.name != b.name or a.shape != b.shape or [n for n, _ in a.parts] != [n for n, _ in b.parts]:
        raise _Untyped
    parts = ((name, _both(x, y)) for (name, x), (_, y) in zip(a.parts, b.parts, strict=True))
    return _Kind(a.name, tuple(parts))


def _arrow(pa: Any, kind: _Kind) -> Any:
    if kind.name == "struct":
        return pa.struct([(name, _arrow(pa, part)) for name, part in kind.parts])
    if kind.name == "list":
        return pa.list_(_arrow(pa, kind.parts[0][1]))
    made = getattr(pa, "float32" if kind.name == "float16" else kind.name)()
    for size in kind.shape:
        made = made if size == -1 else pa.list_(made)
    return made


def _plain(value: Any) -> Any:
    value = to_builtins(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _json(value: Any) -> str:
    return encode(value).decode()
