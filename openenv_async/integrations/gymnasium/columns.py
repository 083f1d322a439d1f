"""Batches of Gymnasium's as columns of the protocol, with no object a row.

A *shape* says how elements of a space lie in a column: ``STACKED`` as one array whose first axis is
the rows, or a dict from names to shapes as fields. A space without one travels row by row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from openenv_async.errors import InvalidAction
from openenv_async.protocol import columns

__all__ = ["STACKED", "ActionColumn", "array_of", "numbers_of", "outside", "packed", "shape_of"]

STACKED: Final = "stacked"
_ARRAYS: Final = (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)


def shape_of(space: spaces.Space[Any]) -> Any:
    """Return how the elements of a space lie in a column; ``None`` where they do not."""
    match space:
        case spaces.Discrete():
            return STACKED
        case spaces.Dict() if space.spaces:
            parts = {key: shape_of(part) for key, part in space.spaces.items()}
            whole = all(isinstance(key, str) for key in parts) and None not in parts.values()
            return parts if whole else None
        case _ if isinstance(space, _ARRAYS) and space.shape:
            return STACKED
    return None


class ActionColumn:
    """Actions of a batch.

    Args:
        parts: an array, or a dict of such parts, in the shape of their space.
        count: rows.
    """

    __slots__ = ("_count", "_parts")

    def __init__(self, parts: Any, count: int) -> None:
        self._parts = parts
        self._count = count

    @classmethod
    def of(
        cls, shape: Any, space: spaces.Space[Any], actions: Any, count: int
    ) -> ActionColumn | None:
        """Take a batch, if each row of it is what travels for an element.

        Args:
            shape: of elements of the space.
            space: of one action.
            actions: a batch of it.
            count: rows that there must be.

        Returns:
            ``None`` where the rows must be looked at one by one.
        """
        parts = _parts_of(shape, space, actions, count)
        return None if parts is None else cls(parts, count)

    def __len__(self) -> int:
        return self._count

    def where(self, kept: NDArray[np.bool_]) -> ActionColumn:
        """Return the rows that are true in a mask."""
        return ActionColumn(_kept(self._parts, kept), int(np.count_nonzero(kept)))

    def packed(self) -> bytes:
        """Return the column."""
        return packed(self._parts) if self._count else columns.apart(())


def _parts_of(shape: Any, space: spaces.Space[Any], actions: Any, count: int) -> Any:
    if shape == STACKED:
        return _array_of(space, actions, count)
    if not shape:
        return None
    if not isinstance(space, spaces.Dict):  # the one field of an object
        ((name, inner),) = shape.items()
        part = _parts_of(inner, space, actions, count)
        return None if part is None else {name: part}
    if not isinstance(actions, Mapping) or actions.keys() != shape.keys():
        return None
    parts = {
        name: _parts_of(inner, space.spaces[name], actions[name], count)
        for name, inner in shape.items()
    }
    return None if any(part is None for part in parts.values()) else parts


def _array_of(space: spaces.Space[Any], actions: Any, count: int) -> NDArray[Any] | None:
    """A batch as an array, if nothing of it had to be changed."""
    if isinstance(space, spaces.Discrete):
        array = numbers_of(space, actions)
        if array.shape != (count,) or array.dtype.kind not in "iu" or array.dtype == np.uint64:
            return None
        return array.astype(np.int64, copy=False)
    if not isinstance(actions, np.ndarray) or actions.dtype != space.dtype:
        return None
    return actions if actions.shape == (count, *(space.shape or ())) else None


def numbers_of(space: spaces.Space[Any], actions: Any) -> NDArray[Any]:
    """Return a batch of a Discrete space as an array: [rows]; a row may be an array of one.

    Raises:
        InvalidAction: its rows differ in shape.
    """
    array = array_of(space, actions)
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def array_of(space: spaces.Space[Any], actions: Any) -> NDArray[Any]:
    """Return a batch as an array: [rows, …].

    Raises:
        InvalidAction: its rows differ in shape.
    """
    try:
        return np.asarray(actions)
    except ValueError as exc:
        raise InvalidAction(
            f"invalid actions: they must be a batch of {space}, got rows of different shapes:"
            f" {actions!r:.120}"
        ) from exc


def outside(space: spaces.Space[Any], actions: Any) -> NDArray[np.bool_] | None:
    """Return which rows of a batch are beyond the bounds of their space: bool [rows].

    Only numbers and arrays that travel as they are can be judged.

    Returns:
        ``None`` where none is.
    """
    if isinstance(space, spaces.Dict):
        known = [name for name in space.spaces if isinstance(actions, Mapping) and name in actions]
        parts = [outside(space.spaces[name], actions[name]) for name in known]
        found = [part for part in parts if part is not None]
        return np.logical_or.reduce(found) if len({*map(len, found)}) == 1 else None
    if isinstance(space, spaces.Discrete):
        array = numbers_of(space, actions)
        if array.dtype.kind not in "iu" or array.ndim != 1 or not array.size:
            return None
        least, most = int(space.start), int(space.start) + int(space.n) - 1
        if not least and array.dtype == np.int64:  # then what is below is above as unsigned
            if np.maximum.reduce(array.view(np.uint64)) <= most:
                return None
        elif array.min() >= least and array.max() <= most:
            return None
        return (array < least) | (array > most)
    if not isinstance(space, _ARRAYS) or not isinstance(actions, np.ndarray):
        return None
    shape = space.shape or ()
    if actions.dtype != space.dtype or actions.shape[1:] != shape or actions.ndim != len(shape) + 1:
        return None
    low, high = _bounds(space)
    within = (actions >= low) & (actions <= high)
    return None if within.all() else ~within.all(axis=tuple(range(1, actions.ndim)))


def _bounds(space: Any) -> tuple[Any, Any]:
    match space:
        case spaces.MultiDiscrete():
            return space.start, space.start + space.nvec - 1
        case spaces.MultiBinary():
            return 0, 1
    return space.low, space.high


def _kept(parts: Any, kept: NDArray[np.bool_]) -> Any:
    if isinstance(parts, dict):
        return {name: _kept(part, kept) for name, part in parts.items()}
    return parts[kept]


def packed(parts: Any) -> bytes:
    """Return arrays, in the shape of their space, as a column."""
    if isinstance(parts, dict):
        return columns.fields({name: packed(part) for name, part in parts.items()})
    return columns.stacked(parts)
