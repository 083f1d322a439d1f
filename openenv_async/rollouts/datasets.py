"""Trajectories as a Hugging Face dataset. Needs the extra ``datasets``.

What an environment chooses the shape of (observations, actions, infos) becomes a typed column
where all of its values are of one type; else its values are JSON texts, arrays and bytes tagged
as in the files. A missing reward or return stays null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from openenv_async.arrays import tag
from openenv_async.models import to_builtins
from openenv_async.rollouts.trajectory import Trajectory
from openenv_async.rollouts.writers import read_trajectories

__all__ = ["to_dataset"]

_EPISODE = ("index", "episode_id", "seed", "status", "episode_return", "steps", "duration")
_ERROR = ("error_code", "error_message")


def to_dataset(
    trajectories: str | Path | Iterable[Trajectory], *, rows: Literal["step", "episode"] = "step"
) -> Any:
    """A ``datasets.Dataset`` of trajectories.

    Args:
        trajectories: a file, or what ``read_trajectories`` gives.
        rows: one a step, with what is known of its episode, or one an episode, with lists.

    Raises:
        ModuleNotFoundError: ``datasets`` is not installed.
    """
    try:
        import datasets  # type: ignore[import-untyped,unused-ignore]  # only some releases have types
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            "this needs Hugging Face datasets: pip install 'openenv-async[datasets]'",
            name=exc.name,
        ) from None
    if isinstance(trajectories, str | Path):
        trajectories = read_trajectories(trajectories)
    made = [row for each in trajectories for row in _rows(each, rows)]
    columns: dict[str, list[Any]] = {name: [row[name] for row in made] for name in _names(rows)}
    for name in ("observation", "next_observation", "action", "info"):
        _settle(columns, name, rows)
    return datasets.Dataset.from_dict(columns)


def _names(rows: str) -> list[str]:
    values = ["observation", "action", "reward", "terminated", "truncated", "info"]
    if rows == "step":
        return [*_EPISODE, "t", *values, "next_observation"]
    return [*_EPISODE, *_ERROR, *values]


def _rows(trajectory: Trajectory, rows: str) -> Iterable[dict[str, Any]]:
    episode = {name: getattr(trajectory, name) for name in (*_EPISODE, *_ERROR)}
    episode["status"] = None if trajectory.status is None else str(trajectory.status)
    steps = trajectory.transitions
    observations = [step.observation for step in steps] + [trajectory.final_observation]
    if rows == "step":
        for step, after in zip(steps, observations[1:], strict=True):
            yield episode | {
                "t": step.t,
                "observation": step.observation,
                "action": step.action,
                "reward": step.reward,
                "terminated": step.terminated,
                "truncated": step.truncated,
                "info": step.info,
                "next_observation": after,
            }
        return
    yield episode | {
        "observation": observations if steps or trajectory.seed is not None else [],
        "action": [step.action for step in steps],
        "reward": [step.reward for step in steps],
        "terminated": [step.terminated for step in steps],
        "truncated": [step.truncated for step in steps],
        "info": [step.info for step in steps],
    }


def _settle(columns: dict[str, list[Any]], name: str, rows: str) -> None:
    """A column as plain values of one type, or as JSON texts."""
    if name not in columns:
        return
    column = columns[name]
    values = column if rows == "step" else [value for each in column for value in each]
    if name != "info" and _uniform(values):
        columns[name] = [_plain(value) for value in column]
    elif rows == "step":
        columns[name] = [_json(value) for value in column]
    else:
        columns[name] = [[_json(value) for value in each] for each in column]


def _uniform(values: list[Any]) -> bool:
    """Whether Arrow has one type for all of them that says as much as they do."""
    import pyarrow as pa  # type: ignore[import-untyped]  # it has none

    try:
        kinds = {_kind(value) for value in values}
        return len(kinds) <= 1 and pa.array([_plain(value) for value in values]) is not None
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return False


def _kind(value: Any) -> Any:
    """What has to be the same for two values to share a column."""
    value = to_builtins(value)
    if hasattr(value, "dtype"):
        return (str(value.dtype), value.shape)
    if isinstance(value, Mapping):
        return tuple((key, _kind(item)) for key, item in sorted(value.items()))
    if isinstance(value, list | tuple):
        return ("list", frozenset(_kind(item) for item in value))
    return type(value)


def _plain(value: Any) -> Any:
    value = to_builtins(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _json(value: Any) -> str:
    return msgspec.json.encode(tag(to_builtins(value))).decode()
