"""The observations of many environments in arrays that are allocated once."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

from openenv_async.arrays import to_ext
from openenv_async.client.vector_columns import AnswerColumns
from openenv_async.integrations.gymnasium.columns import STACKED, packed
from openenv_async.protocol import columns
from openenv_async.protocol.columns import column_of

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
        shape: how elements lie in a column, if they are as they came; see ``columns``.

    Attributes:
        all: the batch: an array, or for composite spaces what Gymnasium makes of them.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        count: int,
        decode: Callable[[Any], Any],
        *,
        alike: bool,
        shape: Any = None,
    ) -> None:
        self.all: Any = create_empty_array(space, count, np.zeros)
        self._space = space
        self._decode = decode
        self._alike = alike
        self._head = b""
        self._shape = shape if alike else None
        self._elements: list[Any] | None = None
        self._is_behind = False  # the elements, of the batch
        self._column_head = b""
        self._row_size = self.all[0].nbytes if isinstance(self.all, np.ndarray) else 0
        self._batch_space = batch_space(space, count)
        if not isinstance(self.all, np.ndarray):
            self._elements = list(iterate(self._batch_space, self.all))

    def put(self, payloads: list[Any], rows: list[int], where: Any) -> None:
        """Observations into their rows.

        Args:
            payloads: as they came.
            rows: which.
            where: the same as an index of NumPy's.
        """
        if self._elements is not None:
            elements = self._each()
            for row, payload in zip(rows, payloads, strict=True):
                elements[row] = self.decoded(payload)
            concatenate(self._space, elements, self.all)
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

    def put_column(self, answers: AnswerColumns, where: Any) -> None:
        """The observations of many answers into the rows of their slots.

        Args:
            answers: as they came.
            where: the slots as an index of NumPy's.

        Raises:
            ProtocolError: the column is malformed.
        """
        if self._shape is not None:
            payload, target, head = answers.payload, self.all, self._column_head
            start = len(head)
            if (
                start
                and answers.index is None
                and len(payload) == start + self._row_size * len(answers)
                and payload[:start] == head
            ):
                array = np.frombuffer(payload, target.dtype, offset=start)
                target[where] = array.reshape(-1, *target.shape[1:])
                return
            form, content = column_of(payload)
            found = _arrays_of(self._shape, self._space, self.all, form, content)
            if found is not None and all(len(array) == answers.frame_rows for _, array in found):
                for target, array in found:
                    target[where] = array if answers.index is None else array[answers.index]
                self._is_behind = True
                if self._row_size and len(found) == 1 and target.dtype.kind in "iuf":
                    self._learn_column(payload, found[0][1])
                return
        self.put(answers.observations(), answers.slots.tolist(), where)

    def elements(self, answers: AnswerColumns) -> list[Any]:
        """The observations of many answers one by one, as memory of their own."""
        if self._shape == STACKED:
            form, content = column_of(answers.payload)
            found = _arrays_of(STACKED, self._space, self.all, form, content)
            if found is not None and len(found[0][1]) == answers.frame_rows:
                array = found[0][1]
                return list(array.copy() if answers.index is None else array[answers.index])
        return [self.decoded(payload) for payload in answers.observations()]

    def _each(self) -> list[Any]:
        """The elements of a composite space."""
        assert self._elements is not None
        if self._is_behind:
            self._is_behind = False
            self._elements = list(iterate(self._batch_space, deepcopy(self.all)))
        return self._elements

    def _learn(self, payload: bytes, element: Any) -> None:
        """Remember what stands before the elements of an array, if it is the last thing there."""
        if not self._alike or not isinstance(element, np.ndarray) or not element.nbytes:
            return
        ext = to_ext(element)
        if ext is not None and payload.endswith(ext[1]):
            self._head = payload[: len(payload) - element.nbytes]

    def _learn_column(self, payload: Any, array: Any) -> None:
        """Remember what stands before the array of a column, if that is all it holds."""
        if payload == packed(_filled(self._shape, array)):
            self._column_head = bytes(payload[: len(payload) - array.nbytes])

    def decoded(self, payload: Any) -> Any:
        """An element that may be kept: a payload's memory is its message's."""
        element = self._decode(payload)
        return np.array(element) if isinstance(element, np.ndarray) else element

    def one(self, row: int) -> Any:
        """A copy of one row."""
        return self.all[row].copy() if self._elements is None else self._each()[row]

    def some(self, rows: list[int]) -> Any:
        """A copy of some rows."""
        if self._elements is None:
            return self.all[rows]
        out: Any = create_empty_array(self._space, len(rows), np.zeros)
        elements = self._each()
        return concatenate(self._space, [elements[row] for row in rows], out)

    def copy(self) -> Any:
        """A copy of all rows."""
        if self._elements is None:
            return self.all.copy()
        if self._is_behind:  # nothing but arrays is in it
            return deepcopy(self.all)
        return self.some(list(range(len(self._elements))))


def _filled(shape: Any, array: Any) -> Any:
    """Return an array in a shape that has one."""
    if shape == STACKED:
        return array
    return {name: _filled(inner, array) for name, inner in shape.items()}


def _arrays_of(
    shape: Any, space: spaces.Space[Any], target: Any, form: int, content: Any
) -> list[tuple[Any, Any]] | None:
    """The arrays of a column beside those of the batch; ``None`` where they are not alike."""
    if shape == STACKED:
        if form != columns.STACKED or not isinstance(content, np.ndarray) or not content.ndim:
            return None
        alike = content.dtype == target.dtype and content.shape[1:] == target.shape[1:]
        return [(target, content)] if alike else None
    if form != columns.FIELDS or not isinstance(content, dict):
        return None
    is_whole = isinstance(space, spaces.Dict)
    if is_whole and content.keys() != shape.keys():
        return None
    found = []
    for name, inner in shape.items():
        match content.get(name):
            case [int() as kind, part]:
                each = _arrays_of(
                    inner,
                    space.spaces[name] if is_whole else space,  # type: ignore[attr-defined]  # a Dict
                    target[name] if is_whole else target,
                    kind,
                    part,
                )
            case _:
                return None
        if each is None:
            return None
        found += each
    return found
