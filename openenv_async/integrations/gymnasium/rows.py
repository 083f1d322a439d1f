"""The observations of many environments in arrays that are allocated once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from openenv_async.arrays import to_ext

__all__ = ["ObservationRows"]

_JOINED: Final = 4096
"""Bytes of an observation up to which a batch is joined before it is copied to its rows."""


class ObservationRows:
    """One row for each environment.

    Arrays of one dtype and shape differ in the last bytes of their payloads only: what stands
    before them is learnt from the first one and compared for all. It must end in the header of
    an array of just that dtype and shape, so that nothing else is taken for one.

    Args:
        space: of one observation.
        count: rows.
        decode: makes an element of the space of a payload.
        alike: whether an array that came is the element as it is.

    Attributes:
        all: the batch: an array, or for composite spaces what Gymnasium makes of them.
    """

    def __init__(
        self, space: spaces.Space[Any], count: int, decode: Callable[[Any], Any], *, alike: bool
    ) -> None:
        self.all: Any = create_empty_array(space, count, np.zeros)
        self._space = space
        self._decode = decode
        self._alike = alike
        self._head = b""
        self._elements: list[Any] | None = None
        if not isinstance(self.all, np.ndarray):
            self._elements = list(iterate(batch_space(space, count), self.all))

    def put(self, payloads: list[Any], rows: list[int], where: Any) -> None:
        """Observations into their rows.

        Args:
            payloads: as they came.
            rows: which.
            where: the same as an index of NumPy's.
        """
        if self._elements is not None:
            for row, payload in zip(rows, payloads, strict=True):
                self._elements[row] = self.decoded(payload)
            concatenate(self._space, self._elements, self.all)
            return
        target, head = self.all, self._head
        size = len(head) + target[0].nbytes
        if head and size <= _JOINED:
            joined = b"".join(payloads)
            if len(joined) == size * len(rows):
                table = np.frombuffer(joined, np.uint8).reshape(len(rows), size)
                if (table[:, : len(head)] == np.frombuffer(head, np.uint8)).all():
                    data = np.ascontiguousarray(table[:, len(head) :]).view(target.dtype)
                    target[where] = data.reshape(len(rows), *target.shape[1:])
                    return
        for row, payload in zip(rows, payloads, strict=True):
            if head and len(payload) == size and payload[: len(head)] == head:
                flat = np.frombuffer(payload, target.dtype, offset=len(head))
                target[row] = flat.reshape(target.shape[1:])
            else:
                target[row] = element = self.decoded(payload)
                self._learn(bytes(payload), element)

    def _learn(self, payload: bytes, element: Any) -> None:
        """Remember what stands before the elements of an array, if it is the last thing there."""
        if not self._alike or not isinstance(element, np.ndarray) or not element.nbytes:
            return
        ext = to_ext(element)
        if ext is not None and payload.endswith(ext[1]):
            self._head = payload[: len(payload) - element.nbytes]

    def decoded(self, payload: Any) -> Any:
        """An element that may be kept: a payload's memory is its message's."""
        element = self._decode(payload)
        return np.array(element) if isinstance(element, np.ndarray) else element

    def one(self, row: int) -> Any:
        """A copy of one row."""
        return self.all[row].copy() if self._elements is None else self._elements[row]

    def some(self, rows: list[int]) -> Any:
        """A copy of some rows."""
        if self._elements is None:
            return self.all[rows]
        out: Any = create_empty_array(self._space, len(rows), np.zeros)
        return concatenate(self._space, [self._elements[row] for row in rows], out)

    def copy(self) -> Any:
        """A copy of all rows."""
        if self._elements is None:
            return self.all.copy()
        return self.some(list(range(len(self._elements))))
