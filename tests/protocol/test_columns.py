"""Column frames: what they say, taken apart row by row; and what is wrong with one."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import numpy as np
import pytest

from openenv_async.errors import ProtocolError
from openenv_async.models import PayloadCodec
from openenv_async.protocol.codec import BadFrame, MsgpackCodec, frame_codec
from openenv_async.protocol.columns import (
    BEGUN,
    REWARDED,
    TERMINATED,
    TRUNCATED,
    apart,
    has_columns,
    numbers_of,
    pack_channels,
    pack_numbers,
    ranges_of,
    replies_of,
    requests_of,
    rows_of,
    stacked,
)
from openenv_async.protocol.frames import (
    Begun,
    Observation,
    ObservationColumns,
    Reset,
    Step,
    StepColumns,
)

ANY: PayloadCodec[Any] = PayloadCodec(Any, "msgpack")
LIMIT = 1000


def ints(*values: int) -> bytes:
    return np.array(values, "<i8").tobytes()


def told(column: bytes, rows: int) -> list[Any]:
    return [ANY.decode(payload) for payload in rows_of(column, rows)]


@pytest.mark.parametrize("channels", [[1], [1, 2, 3], [3, 2, 1], [7, 8, 20, 1, 2], [2**32 - 1]])
def test_channels_are_ranges_in_their_order(channels: list[int]) -> None:
    ranges = ranges_of(pack_channels(channels), LIMIT)
    assert [c for first, count in ranges for c in range(first, first + count)] == channels


def test_a_run_of_channels_is_one_range() -> None:
    assert len(pack_channels(range(1, 1025))) == 8


@pytest.mark.parametrize("channels", [[0], [-1], [2**32]])
def test_a_channel_out_of_range_is_not_packed(channels: list[int]) -> None:
    with pytest.raises(ValueError, match="channel"):
        pack_channels(channels)


@pytest.mark.parametrize(
    "ranges",
    [
        [],
        [0, 1],
        [1, 0],
        [1, LIMIT + 1],
        [1, 2**32 - 1, 1, 2**32 - 1],
        [1, 3, 2, 1],
        [5, 1, 5, 1],
        [4, 2, 3, 2],
    ],
)
def test_malformed_channels_are_refused(ranges: list[int]) -> None:
    with pytest.raises(ProtocolError):
        ranges_of(np.array(ranges, "<u4").tobytes(), LIMIT)


def test_channels_of_a_wrong_length_are_refused() -> None:
    with pytest.raises(ProtocolError):
        ranges_of(b"\1\0\0\0\1\0\0", LIMIT)


@pytest.mark.parametrize(("numbers", "size"), [([4, 4, 4], 8), ([4, 5, 4], 24), ([1], 8)])
def test_equal_numbers_travel_once(numbers: list[int], size: int) -> None:
    packed = pack_numbers(numbers)
    assert len(packed) == size
    assert numbers_of(packed, len(numbers)).tolist() == numbers


def test_numbers_of_other_rows_are_refused() -> None:
    with pytest.raises(ProtocolError):
        numbers_of(ints(1, 2), 3)


def test_elements_of_a_stacked_column() -> None:
    assert told(stacked(np.array([1, 2, 3])), 3) == [1, 2, 3]
    assert told(stacked(np.array([True, False])), 2) == [True, False]
    assert told(stacked(np.array([0.5, np.inf])), 2) == [0.5, np.inf]
    rows = told(stacked(np.arange(6, dtype=np.float32).reshape(3, 2)), 3)
    assert [row.dtype for row in rows] == [np.dtype(np.float32)] * 3
    np.testing.assert_array_equal(rows, [[0, 1], [2, 3], [4, 5]])


def test_elements_of_fields_and_of_payloads() -> None:
    fields = {"x": [0, np.array([1, 2])], "y": [1, {"z": [0, np.array([[1.0], [2.0]])]}]}
    first, second = told(ANY.encode([1, fields]), 2)
    assert (first["x"], second["x"]) == (1, 2)
    np.testing.assert_array_equal(second["y"]["z"], [2.0])
    payloads = [ANY.encode("a"), ANY.encode({"b": None})]
    assert rows_of(apart(payloads), 2) == payloads


@pytest.mark.parametrize(
    "column",
    [
        b"",
        b"\xc1",
        ANY.encode(None),
        ANY.encode([]),
        ANY.encode([0, 5]),
        ANY.encode([0, np.array(5)]),
        ANY.encode([0, np.zeros(3)]),
        ANY.encode([1, {}]),
        ANY.encode([1, {"a": [0, np.zeros(2)], "b": [0, np.zeros(3)]}]),
        ANY.encode([0, np.zeros((3, 0))]),
        ANY.encode([3, []]),
        apart([b"a"]),
        apart([b"a", b"b", b"c"]),
        msgspec.msgpack.encode([2, ["a", "b"]]),
    ],
)
def test_malformed_columns_are_refused(column: bytes) -> None:
    with pytest.raises(ProtocolError):
        rows_of(column, 2)


def told_more_rows(count: int) -> tuple[StepColumns, ObservationColumns]:
    """Frames of a few bytes whose arrays without elements, or ranges, are of so many rows."""
    channels, empty = pack_channels([1, 2]), stacked(np.zeros((count, 0)))
    steps = StepColumns(channels, pack_numbers([1, 1]), empty)
    ranges = np.array([1, count], "<u4").tobytes()
    replies = ObservationColumns(ranges, ints(1), empty, np.zeros(2).tobytes(), bytes(2))
    return steps, replies


def test_rows_that_are_only_said_take_no_memory() -> None:
    steps, replies = told_more_rows(2_000_000)
    tracemalloc.start()
    try:
        assert [type(each) for each in requests_of(steps, LIMIT)] == [BadFrame, BadFrame]
        with pytest.raises(ProtocolError):
            replies_of(replies)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_requests_of_a_frame() -> None:
    options = ANY.encode({"level": 2})
    frame = StepColumns(
        pack_channels([1, 2, 9]),
        pack_numbers([4, 4, 6]),
        stacked(np.array([7, 8])),
        30.0,
        bytes([0, 1, 0]),
        ints(5),
        options,
        10.0,
    )
    assert list(requests_of(frame, LIMIT)) == [
        Step(1, 4, 3, ANY.encode(7), 30.0),
        Reset(2, 4, 3, options, 5, None, 10.0),
        Step(9, 6, 5, ANY.encode(8), 30.0),
    ]


def test_a_frame_of_resets_alone() -> None:
    frame = StepColumns(pack_channels([1, 2]), pack_numbers([1, 1]), apart([]), None, bytes([1, 1]))
    assert list(requests_of(frame, LIMIT)) == [Reset(1, 1), Reset(2, 1)]


@pytest.mark.parametrize(
    "frame",
    [
        StepColumns(pack_channels([3, 4]), ints(2), stacked(np.zeros(3))),
        StepColumns(pack_channels([3, 4]), ints(2), b""),
        StepColumns(pack_channels([3, 4]), ints(2), stacked(np.zeros(2)), None, b"\0"),
        StepColumns(pack_channels([3, 4]), ints(2), stacked(np.zeros(1)), None, b"\1\0", b"\5"),
        StepColumns(pack_channels([3, 4]), ints(2), stacked(np.zeros(2)), again=ints(1, 2, 3)),
    ],
)
def test_what_cannot_be_read_is_answered_row_by_row(frame: StepColumns) -> None:
    bad = list(requests_of(frame, LIMIT))
    assert [type(each) for each in bad] == [BadFrame] * 2
    assert [(each.channel, each.seq) for each in bad] == [(3, 2), (4, 2)]


def test_without_channels_or_numbers_the_frame_is_refused() -> None:
    for frame in (
        StepColumns(b"", ints(1), stacked(np.zeros(1))),
        StepColumns(pack_channels([1, 2]), ints(1, 2, 3), stacked(np.zeros(2))),
    ):
        with pytest.raises(ProtocolError):
            requests_of(frame, LIMIT)


def test_the_replies_of_a_frame() -> None:
    info = ANY.encode({"won": True})
    frame = ObservationColumns(
        pack_channels([1, 2, 3]),
        pack_numbers([4, 4, 9]),
        stacked(np.array([10, 20, 30])),
        np.array([0.0, 1.5, 2.0]).tobytes(),
        bytes([TRUNCATED, TERMINATED | REWARDED, BEGUN]),
        msgspec.msgpack.encode([[1, info]]),
        msgspec.msgpack.encode([[2, "episode", 5]]),
    )
    assert replies_of(frame) == [
        Observation(1, 4, ANY.encode(10), None, False, True),
        Observation(2, 4, ANY.encode(20), 1.5, True, False, info),
        Begun(3, 9, ANY.encode(30), "episode", 5),
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"rewards": b""},
        {"flags": b"\0"},
        {"flags": bytes([BEGUN, 0])},
        {"infos": b"\xc0"},
        {"begun": ANY.encode([[0, 1, 2]])},
        {"payload": stacked(np.zeros(3))},
        {"finals": b"\xc0"},
        {"finals": msgspec.msgpack.encode(ObservationColumns(b"", b"", apart([b""]), b"", b"\1"))},
    ],
)
def test_malformed_replies_are_refused(changes: dict[str, bytes]) -> None:
    frame = ObservationColumns(
        pack_channels([1, 2]), ints(1), stacked(np.zeros(2)), np.zeros(2).tobytes(), bytes(2)
    )
    assert len(replies_of(frame)) == 2
    with pytest.raises(ProtocolError):
        replies_of(msgspec.structs.replace(frame, **changes))


def test_json_has_no_columns() -> None:
    assert has_columns("msgpack")
    assert not has_columns("json")
    codec = frame_codec("openenv.v1.json", "server", 1 << 20)
    (bad,) = codec.decode('[[10, "", "", null]]')
    assert isinstance(bad, BadFrame)
    assert "unknown frame kind" in bad.error.message


def test_a_message_of_columns_is_written_and_read() -> None:
    frame = StepColumns(pack_channels([1]), ints(1), stacked(np.zeros(1)))
    message = MsgpackCodec("client", 1 << 20).encode([frame])
    assert MsgpackCodec("server", 1 << 20).decode(message) == [frame]
