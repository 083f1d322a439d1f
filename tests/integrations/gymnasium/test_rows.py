"""Observations in rows: arrays by their payloads' last bytes, everything else by its space."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from gymnasium import spaces

from openenv_async.client.vector_columns import AnswerColumns, _Columns
from openenv_async.integrations.gymnasium.columns import STACKED
from openenv_async.integrations.gymnasium.rows import ObservationRows
from openenv_async.models import PayloadCodec
from openenv_async.protocol.columns import fields, stacked

ANY: PayloadCodec[Any] = PayloadCodec(Any, "msgpack")


class Rows(ObservationRows):
    """Rows that count what they decode."""

    def __init__(self, space: spaces.Space[Any], count: int, *, alike: bool = True) -> None:
        super().__init__(space, count, self._count, alike=alike)
        self.decodes = 0

    def _count(self, payload: Any) -> Any:
        self.decodes += 1
        return ANY.decode(payload)

    def fill(self, *values: Any) -> Any:
        rows = list(range(len(values)))
        self.put([ANY.encode(value) for value in values], rows, slice(None))
        return self.all


def box(*shape: int, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(-1000, 1000, shape, dtype)


def arrays(count: int, *shape: int, first: int = 0) -> list[Any]:
    size = int(np.prod(shape))
    flat = np.arange(first, first + count * size, dtype=np.float32)
    return list(flat.reshape(count, *shape))


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1100,)])
def test_arrays_of_one_kind_are_copied_once_one_was_decoded(shape: tuple[int, ...]) -> None:
    rows = Rows(box(*shape), 3)
    first, second = arrays(3, *shape), arrays(3, *shape, first=50)
    np.testing.assert_array_equal(rows.fill(*first), first)
    assert rows.decodes == 3
    np.testing.assert_array_equal(rows.fill(*second), second)
    assert rows.decodes == 3  # by what stands before their elements


def test_one_of_another_kind_is_decoded_among_the_others() -> None:
    rows = Rows(box(3), 3)
    rows.fill(*arrays(3, 3))
    mixed = [np.zeros(3, np.float32), np.ones(3, np.float64), np.full(3, 2, np.float32)]
    np.testing.assert_array_equal(rows.fill(*mixed), [[0] * 3, [1] * 3, [2] * 3])
    assert rows.decodes == 4


def test_equal_sizes_are_not_taken_for_equal_kinds() -> None:
    rows = Rows(box(2), 2)
    rows.fill(*arrays(2, 2))
    halves = [np.full(2, 3, np.int32), np.full(2, 4, np.int32)]  # as many bytes as float32
    np.testing.assert_array_equal(rows.fill(*halves), [[3, 3], [4, 4]])


def test_a_decoder_that_makes_something_else_is_asked_for_every_row() -> None:
    rows = Rows(box(3), 2, alike=False)
    for first in (0, 9):
        values = arrays(2, 3, first=first)
        np.testing.assert_array_equal(rows.fill(*values), values)
    assert rows.decodes == 4


def test_numbers_and_lists_fill_their_rows() -> None:
    rows = Rows(spaces.Discrete(5), 3)
    assert rows.fill(1, 0, 4).tolist() == [1, 0, 4]
    assert Rows(box(2), 2).fill([1, 2], [3, 4]).tolist() == [[1, 2], [3, 4]]


def test_some_rows_are_put_and_the_others_stay() -> None:
    rows = Rows(box(2), 4)
    rows.fill(*arrays(4, 2))
    new = arrays(2, 2, first=100)
    rows.put([ANY.encode(each) for each in new], [3, 1], [3, 1])
    assert rows.all.tolist() == [[0, 1], [102, 103], [4, 5], [100, 101]]


def test_copies_are_no_views() -> None:
    rows = Rows(box(2), 3)
    rows.fill(*arrays(3, 2))
    kept = rows.one(1), rows.some([2, 0]), rows.copy()
    rows.fill(*arrays(3, 2, first=50))
    assert kept[0].tolist() == [2, 3]
    assert kept[1].tolist() == [[4, 5], [0, 1]]
    assert kept[2].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_decoded_array_does_not_keep_its_message() -> None:
    element = Rows(box(2), 1).decoded(ANY.encode(np.zeros(2, np.float32)))
    assert element.base is None
    assert element.flags.writeable


def test_composite_spaces_are_joined_as_gymnasium_does() -> None:
    space = spaces.Dict({"a": box(2), "b": spaces.Discrete(9)})
    rows = Rows(space, 2)
    assert rows.all["b"].tolist() == [0, 0]
    rows.fill({"a": [1, 2], "b": 3}, {"a": [4, 5], "b": 6})
    assert rows.all["a"].tolist() == [[1, 2], [4, 5]]
    assert rows.all["b"].tolist() == [3, 6]
    rows.put([msgspec.msgpack.encode({"a": [7, 8], "b": 0})], [1], [1])
    assert rows.all["b"].tolist() == [3, 0]
    assert rows.one(1)["b"] == 0
    some = rows.some([1])
    assert (some["a"].tolist(), some["b"].tolist()) == ([[7, 8]], [0])
    everything = rows.copy()
    rows.fill({"a": [0, 0], "b": 1}, {"a": [0, 0], "b": 1})
    assert everything["b"].tolist() == [3, 0]


def answers(column: bytes, rows: int) -> AnswerColumns:
    flags, rewards = memoryview(bytes(rows)), memoryview(bytes(8 * rows))
    frame = _Columns(b"", b"", memoryview(column), rewards, flags)
    return AnswerColumns(frame, np.arange(rows), None, is_whole=True)


def test_the_only_field_of_a_column_is_learnt_and_one_of_several_is_not() -> None:
    first, second = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
    for others, is_learnt in (({}, True), ({"after": stacked(second)}, False)):
        rows = ObservationRows(box(3), 2, ANY.decode, alike=True, shape={"value": STACKED})
        for array in (first, second, first):
            column = fields({"value": stacked(array), **others})
            rows.put_column(answers(column, 2), slice(None))
            assert (rows.all == array).all()
            assert bool(rows._column_head) is is_learnt
