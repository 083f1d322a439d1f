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

from openenv_async.protocol import columns

__all__ = ["STACKED", "ActionColumn", "shape_of"]

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
        return _packed(self._parts) if self._count else columns.apart(())


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
        array = np.asarray(actions)
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.shape != (count,) or array.dtype.kind not in "iu" or array.dtype == np.uint64:
            return None
        return array.astype(np.int64, copy=False)
    if not isinstance(actions, np.ndarray) or actions.dtype != space.dtype:
        return None
    return actions if actions.shape == (count, *(space.shape or ())) else None


def _kept(parts: Any, kept: NDArray[np.bool_]) -> Any:
    if isinstance(parts, dict):
        return {name: _kept(part, kept) for name, part in parts.items()}
    return parts[kept]


def _packed(parts: Any) -> bytes:
    if isinstance(parts, dict):
        return columns.fields({name: _packed(part) for name, part in parts.items()})
    return columns.stacked(parts)
