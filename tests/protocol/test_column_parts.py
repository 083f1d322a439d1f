"""Parts of column frames say of their rows what the whole says of them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.errors import ProtocolError
from openenv_async.models import PayloadCodec
from openenv_async.protocol.column_parts import (
    StepParts,
    joined,
    observations_of_rows,
)
from openenv_async.protocol.columns import (
    AGAIN,
    BEGUN,
    REWARDED,
    TERMINATED,
    TRUNCATED,
    StepRows,
    apart,
    channels_of,
    pack_channels,
    pack_numbers,
    replies_of,
    requests_of,
    stacked,
)
from openenv_async.protocol.frames import Begun, Observation, ObservationColumns, StepColumns

ANY: PayloadCodec[Any] = PayloadCodec(Any, "msgpack")
FORMS = ("numbers", "arrays", "fields", "apart")


def column(form: str, count: int) -> bytes:
    """A column whose every element differs."""
    each = np.arange(count, dtype=np.float32)
    match form:
        case "numbers":
            return stacked(each)
        case "arrays":
            return stacked(np.stack([each, -each], axis=1))
        case "fields":
            return ANY.encode([1, {"x": [0, each], "in": [1, {"y": [0, each.reshape(-1, 1)]}]}])
        case _:
            return apart([ANY.encode({"row": row}) for row in range(count)])


@st.composite
def steps(draw: st.DrawFn) -> tuple[StepColumns, int]:
    count = draw(st.integers(1, 12))
    resets = draw(st.none() | st.lists(st.integers(0, 1), min_size=count, max_size=count))
    begin = sum(resets or ())
    seeded = bool(begin) and draw(st.booleans())
    again = draw(st.none() | st.lists(st.integers(-1, 9), min_size=count, max_size=count))
    frame = StepColumns(
        pack_channels(range(10, 10 + count)),
        pack_numbers(range(5, 5 + count)),
        column(draw(st.sampled_from(FORMS)), count - begin),
        30.0,
        None if resets is None else bytes(resets),
        np.arange(begin, dtype="<i8").tobytes() if seeded else None,
        ANY.encode({"level": 1}) if begin else None,
        60.0,
        None if again is None else pack_numbers(again),
    )
    return frame, count


@st.composite
def observations(draw: st.DrawFn) -> tuple[ObservationColumns, int]:
    count = draw(st.integers(1, 12))
    flag = st.sampled_from(
        [0, TERMINATED, TRUNCATED, REWARDED, BEGUN, BEGUN | REWARDED, BEGUN | AGAIN]
    )
    flags = draw(st.lists(flag, min_size=count, max_size=count))
    told = [row for row in range(count) if draw(st.booleans())]
    frame = ObservationColumns(
        pack_channels(range(10, 10 + count)),
        pack_numbers(range(5, 5 + count)),
        column(draw(st.sampled_from(FORMS)), count),
        np.arange(count, dtype="<f8").tobytes(),
        bytes(flags),
        msgspec.msgpack.encode([[row, ANY.encode({"row": row})] for row in told]),
        msgspec.msgpack.encode([[r, f"episode {r}", r] for r in range(count) if flags[r] & BEGUN]),
        ends_of(draw(st.sampled_from(FORMS)), sum(flag & AGAIN != 0 for flag in flags)),
    )
    return frame, count


def ends_of(form: str, count: int) -> bytes | None:
    """The ends of episodes of so many rows."""
    if not count:
        return None
    return msgspec.msgpack.encode(
        ObservationColumns(
            b"",
            b"",
            column(form, count),
            (np.arange(count) + 0.5).astype("<f8").tobytes(),
            bytes([TERMINATED | REWARDED, TRUNCATED] * count)[:count],
            msgspec.msgpack.encode([[count - 1, ANY.encode("last")]]),
        )
    )


def told(reply: Observation | Begun, channel: int, seq: int) -> Observation | Begun:
    """A reply under another channel and number, and so its end of the episode before."""
    if isinstance(reply, Begun) and reply.final is not None:
        final = told(msgspec.msgpack.decode(reply.final, type=Observation), channel, seq)
        reply = msgspec.structs.replace(reply, final=msgspec.msgpack.encode(final))
    return msgspec.structs.replace(reply, channel=channel, seq=seq)


def chosen(data: st.DataObject, count: int) -> list[int]:
    return sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1)))


@given(st.data())
def test_the_requests_of_some_rows(data: st.DataObject) -> None:
    frame, count = data.draw(steps())
    rows = chosen(data, count)
    parts = StepParts(frame, count)
    parts.of(np.array(chosen(data, count)), b"", b"")  # of which another says nothing
    part = part_of(parts, rows)
    whole: list[Any] = list(requests_of(frame, 100))
    expected = [
        msgspec.structs.replace(whole[row], channel=row + 1, seq=row + 70, ack=row + 69)
        for row in rows
    ]
    assert list(requests_of(part, 100)) == expected
    if frame.again is not None:
        read = [StepRows(each, channels_of(each.channels, 100)) for each in (frame, part)]
        for each in read:
            each.read()
        seeds = [read[0].again(row).seed for row in rows]
        assert [read[1].again(row).seed for row in range(len(rows))] == seeds


@given(st.data())
def test_the_replies_of_some_rows(data: st.DataObject) -> None:
    frame, count = data.draw(observations())
    rows = chosen(data, count)
    part = observations_of_rows(
        frame, count, np.array(rows), rows_plus(rows, 1), rows_plus(rows, 70)
    )
    whole = replies_of(frame)
    assert replies_of(part) == [told(whole[row], row + 1, row + 70) for row in rows]


def part_of(parts: StepParts, rows: list[int]) -> StepColumns:
    channels, seqs = pack_channels(rows_plus(rows, 1)), pack_numbers(rows_plus(rows, 70))
    return parts.of(np.array(rows), channels, seqs)


@given(st.data())
def test_what_was_cut_apart_is_joined_again(data: st.DataObject) -> None:
    frame, count = data.draw(observations())
    owners = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    owners[0] = 0
    places = [[row for row in range(count) if owners[row] == owner] for owner in range(3)]
    pieces = [
        (rows, observations_of_rows(frame, count, np.array(rows), rows_plus(rows, 1), rows))
        for rows in data.draw(st.permutations(places))
        if rows
    ]
    made = joined(pieces)
    assert made is not None
    rows, whole = made
    assert rows == sorted(row for some, _ in pieces for row in some)  # owner 3 has not answered
    whole.channels, whole.seqs = pack_channels(rows_plus(rows, 1)), pack_numbers(rows)
    expected = [
        told(reply, row + 1, row) for row, reply in enumerate(replies_of(frame)) if row in rows
    ]
    assert replies_of(whole) == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": stacked(np.zeros(2, np.int64))},
        {"payload": stacked(np.zeros((2, 1)))},
        {"payload": stacked(np.zeros(3))},
        {"payload": apart([b"\0", b"\0"])},
        {"payload": ANY.encode([1, {"x": [0, np.zeros(2)]}])},
        {"payload": b"\xc1"},
        {"rewards": b""},
        {"flags": b"\0"},
        {"infos": msgspec.msgpack.encode([[2, b""]])},
        {"begun": b"\xc0"},
        {"finals": b"\xc0"},
        {"finals": ends_of("numbers", 1)},
    ],
)
def test_replies_that_differ_are_not_joined(changes: dict[str, bytes]) -> None:
    frame = ObservationColumns(b"", b"", stacked(np.zeros(2)), bytes(16), bytes(2))
    assert joined([([2, 0], frame), ([1, 3], frame)]) is not None
    other = msgspec.structs.replace(frame, **changes)
    assert joined([([2, 0], frame), ([1, 3], other)]) is None


def rows_plus(rows: list[int], offset: int) -> list[int]:
    return [row + offset for row in rows]


@pytest.mark.parametrize(
    "changes",
    [
        {"payload": b""},
        {"payload": b"\xc1"},
        {"payload": stacked(np.zeros(2))},
        {"payload": apart([b"\0"])},
        {"payload": ANY.encode([1, {}])},
        {"payload": ANY.encode([1, {"x": [2, [b"\0", b"\0", b"\0"]]}])},
        {"payload": ANY.encode([0, np.float32(1)])},
        {"resets": b"\0"},
        {"resets": b"\1\0\0", "seeds": b"\0", "payload": stacked(np.zeros(2))},
    ],
)
def test_requests_that_cannot_be_read_are_not_cut(changes: dict[str, bytes]) -> None:
    frame = StepColumns(pack_channels([1, 2, 3]), pack_numbers([1] * 3), stacked(np.zeros(3)))
    assert len(list(requests_of(part_of(StepParts(frame, 3), [0, 2]), 10))) == 2
    with pytest.raises(ProtocolError):
        part_of(StepParts(msgspec.structs.replace(frame, **changes), 3), [0, 2])


@pytest.mark.parametrize(
    "changes",
    [
        {"rewards": b""},
        {"flags": b"\0"},
        {"infos": b"\xc0"},
        {"begun": ANY.encode([[0, 1, 2]])},
        {"payload": stacked(np.zeros(4))},
    ],
)
def test_replies_that_cannot_be_read_are_not_cut(changes: dict[str, bytes]) -> None:
    frame = ObservationColumns(
        pack_channels([1, 2, 3]),
        pack_numbers([1] * 3),
        stacked(np.zeros(3)),
        np.zeros(3).tobytes(),
        bytes(3),
    )
    rows = np.array([1])
    assert len(replies_of(observations_of_rows(frame, 3, rows, [1], [1]))) == 1
    with pytest.raises(ProtocolError):
        observations_of_rows(msgspec.structs.replace(frame, **changes), 3, rows, [1], [1])
