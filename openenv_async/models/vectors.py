"""Results of vectors of environments, read strictly: the rows, with their arrays as they travel.

Rules:

- A result is ``VectorRows`` or a ``StepResult`` of them, which has the infos. Rewards and ends are
  the rows' own: a session that is a vector has none, so a ``StepResult`` that gives one is refused.
- All arrays have as many rows. Without ``env_id`` these are all environments in order, where it is
  known how many there are; with it they are the ones that it names, each once.
- Rewards travel as float64, as those of single environments; ends as bool.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from openenv_async.models import PayloadCodec
from openenv_async.models.results import BadResult, Extracted, Read, ResultReader, Unawaited
from openenv_async.types import StepResult, VectorRows

__all__ = ["VectorReader", "rows_as_sent"]

_WANTED: Final = (
    "return VectorRows(observations, rewards, terminated, truncated), or a StepResult of them with"
    " info"
)


class VectorReader(ResultReader):
    """Readers of what a ``VectorEnvironment`` returns.

    Args:
        model: the declared observation type: ``VectorRows`` of something.
        codec: of that type.
        count: returns how many environments there are; ``None`` where the environment looks itself.
    """

    def __init__(
        self, model: Any, codec: PayloadCodec[Any], count: Callable[[], int] | None
    ) -> None:
        super().__init__(model, codec)
        self._count = count
        self._size: int | None = None

    def _reader(self, kind: type) -> Read:
        if hasattr(kind, "__await__"):
            return _unawaited
        if issubclass(kind, StepResult):
            return self._rows_in_result
        if issubclass(kind, VectorRows):
            return self._rows
        return lambda result: _refuse(result)

    def _rows(self, result: Any) -> Extracted:
        return self._sent(result), None, False, False, None

    def _rows_in_result(self, result: Any) -> Extracted:
        rows = result.observation
        if not isinstance(rows, VectorRows):
            raise BadResult(f"StepResult({_kind(rows)}) for a vector of environments: {_WANTED}")
        if result.reward is not None or result.terminated or result.truncated:
            raise BadResult(
                "a StepResult with a reward or an end of its own for a vector of environments:"
                f" they belong to the rows; {_WANTED}"
            )
        info = result.info
        if info is not None and not isinstance(info, Mapping):
            raise BadResult(f"StepResult.info={_kind(info)}: infos are a dict of names to arrays")
        return self._sent(rows), None, False, False, info or None

    def _sent(self, rows: Any) -> VectorRows[Any]:
        if self._size is None and self._count is not None:
            self._size = self._count()
        return rows_as_sent(rows, self._size)


def rows_as_sent(rows: VectorRows[Any], size: int | None) -> VectorRows[Any]:
    """Return rows with the arrays that travel.

    Args:
        rows: what an environment returned.
        size: how many environments there are; ``None`` where that is not known.

    Raises:
        BadResult: the arrays do not fit each other, or are of other numbers.
    """
    import numpy as np

    env_id = rows.env_id
    if env_id is not None:
        env_id = _integers(env_id, size)
        count: int | None = len(env_id)
    else:
        count = size
    ends = rows.terminated
    if (ends is None) is not (rows.truncated is None):
        raise BadResult("VectorRows with terminated or truncated alone: give both")
    rewards, given = rows.rewards, rows.given
    if rewards is not None:
        array = np.asarray(rewards)
        if array.dtype.kind not in "biuf":
            raise BadResult(
                f"VectorRows.rewards of {array.dtype}: rewards are numbers; the rows that were"
                " given none are False in given="
            )
        rewards = _of_rows("rewards", np.asarray(array, np.float64), count)
        count = len(rewards)
    if given is not None:
        if rewards is None:
            raise BadResult("VectorRows with given and without rewards: leave both out")
        given = _truths("given", given, count)
        if given.all():
            given = None
        else:
            rewards = np.where(given, rewards, 0.0)  # what stands there says nothing
    if ends is not None:
        ends = _truths("terminated", ends, count)
        count = len(ends)
    cut = rows.truncated if rows.truncated is None else _truths("truncated", rows.truncated, count)
    _check_batch(rows.observations, count, "observations")
    return VectorRows(rows.observations, rewards, ends, cut, given, env_id)


def _of_rows(name: str, array: Any, count: int | None) -> Any:
    if array.ndim != 1 or (count is not None and len(array) != count):
        rows = "rows" if count is None else count
        raise BadResult(f"VectorRows.{name} of shape {array.shape}: it must be [{rows}]")
    return array


def _truths(name: str, given: Any, count: int | None) -> Any:
    import numpy as np

    array = np.asarray(given)
    if array.dtype != np.bool_:
        if array.dtype.kind not in "iu" or not ((array == 0) | (array == 1)).all():
            raise BadResult(f"VectorRows.{name} of {array.dtype}: it must be booleans")
        array = array.astype(np.bool_)
    return _of_rows(name, array, count)


def _integers(given: Any, size: int | None) -> Any:
    import numpy as np

    array = np.asarray(given)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise BadResult(
            f"VectorRows.env_id of {array.dtype} and shape {array.shape}: it must be integers [n]"
        )
    most = size if size is not None else 1 << 62
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < most:
        raise BadResult(f"VectorRows.env_id names environments that there are not: 0 to {most - 1}")
    if len(np.unique(array)) != len(array):
        raise BadResult("VectorRows.env_id names an environment twice")
    return np.asarray(array, np.int64)


def _check_batch(batch: Any, count: int | None, where: str) -> None:
    """Return if every array of a batch has as many rows.

    Raises:
        BadResult: one has not, or it is not a batch.
    """
    shape = getattr(batch, "shape", None)
    if shape is not None:
        if not shape or (count is not None and shape[0] != count):
            rows = "rows" if count is None else count
            raise BadResult(f"VectorRows.{where} of shape {tuple(shape)}: it must be [{rows}, …]")
    elif isinstance(batch, Mapping):
        for key, part in batch.items():
            _check_batch(part, count, f"{where}[{key!r}]")
    elif isinstance(batch, tuple | list):
        if count is None or len(batch) == count:
            return  # a row each, such as texts
        for number, part in enumerate(batch):
            _check_batch(part, count, f"{where}[{number}]")
    elif batch is None:
        raise BadResult(f"VectorRows without {where}: is a `return` missing?")


def _unawaited(result: Any) -> Extracted:
    raise Unawaited


def _refuse(result: Any) -> Extracted:
    hint = _WANTED
    if isinstance(result, tuple) and len(result) == 5:
        hint += "; a gymnasium.vector.VectorEnv is served as it is"
    raise BadResult(f"{_kind(result)} for a vector of environments: {hint}")


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return f"a {type(value).__name__}"
