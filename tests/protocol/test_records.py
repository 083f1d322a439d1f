"""Records: however the stream is cut they come whole, and what is none is noticed at once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.protocol.records import (
    HEADER_SIZE,
    Record,
    RecordCutter,
    RecordFault,
    message_record,
    read_header,
    record,
    record_header,
)

LONG = 1 << 16
RECORDS = st.lists(st.tuples(st.sampled_from(Record), st.binary(max_size=40)), max_size=8)


class Reader:
    """A cutter and what it gave."""

    def __init__(self, max_size: int = 1 << 20) -> None:
        self.seen: list[tuple[Record, bytes]] = []
        self.views = 0
        self.cutter = RecordCutter(self._take, max_size)

    def _take(self, kind: Record, body: bytes | memoryview) -> None:
        self.views += isinstance(body, memoryview)
        self.seen.append((kind, bytes(body)))


def test_a_record_is_written_as_the_page_says() -> None:
    assert record(Record.MESSAGE, b"\x90") == bytes.fromhex("934f4501 00000001 90")
    assert record(Record.NOTE, b"") == bytes.fromhex("934f4502 00000000")
    assert record(Record.GREETING, b"ab") == bytes.fromhex("934f4503 00000002") + b"ab"
    assert record_header(Record.END, 258) == bytes.fromhex("934f4504 00000102")


def test_a_long_message_is_not_copied_to_be_sent() -> None:
    short, long = b"m" * (LONG - 1), b"m" * LONG
    assert message_record(short) == [record(Record.MESSAGE, short)]
    header, body = message_record(long)
    assert header + body == record(Record.MESSAGE, long)
    assert body is long


@given(RECORDS, st.lists(st.integers(1, 30), max_size=40))
def test_however_it_is_cut_every_record_comes_whole(
    records: list[tuple[Record, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(record(kind, body) for kind, body in records)
    reader = Reader()
    for size in cuts:
        part, stream = stream[:size], stream[size:]
        if part:
            assert reader.cutter.feed(part)
    assert not stream or reader.cutter.feed(stream)
    assert reader.seen == records
    assert reader.cutter.fault is None


def test_a_long_body_is_not_copied_and_a_short_one_is() -> None:
    reader = Reader()
    reader.cutter.feed(
        record(Record.MESSAGE, bytes(LONG)) + record(Record.MESSAGE, bytes(LONG - 1))
    )
    assert [len(body) for _, body in reader.seen] == [LONG, LONG - 1]
    assert reader.views == 1


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n", b"\x93OE\x00" + bytes(4), b"\x93OE\x05" + bytes(4), bytes(HEADER_SIZE)],
)
def test_what_is_no_record_ends_the_stream(garbage: bytes) -> None:
    reader = Reader()
    good = record(Record.MESSAGE, b"first")
    assert not reader.cutter.feed(good + garbage + good)
    assert reader.seen == [(Record.MESSAGE, b"first")]
    assert reader.cutter.fault is RecordFault.NO_RECORD
    assert not reader.cutter.feed(good)
    assert len(reader.seen) == 1


def test_a_length_over_the_bound_is_refused_before_the_body_comes() -> None:
    reader = Reader(max_size=100)
    assert reader.cutter.feed(record(Record.MESSAGE, bytes(100)))
    assert not reader.cutter.feed(record_header(Record.MESSAGE, 101))
    assert reader.cutter.fault is RecordFault.TOO_LONG
    assert len(reader.seen) == 1


def test_the_bound_may_change_between_two_records() -> None:
    reader = Reader(max_size=4)

    def take(kind: Record, body: bytes | memoryview) -> None:
        reader.seen.append((kind, bytes(body)))
        cutter.max_size = 8

    cutter = RecordCutter(take, 4)
    assert cutter.feed(record(Record.GREETING, bytes(4)) + record(Record.MESSAGE, bytes(8)))
    assert len(reader.seen) == 2


def test_a_header_is_read_as_it_was_written() -> None:
    for kind in Record:
        assert read_header(record_header(kind, 70_000)) == (kind, 70_000)
    assert read_header(b"\x93OE\x09" + bytes(4)) is None
    assert read_header(b"\x93OE\x01\x00") is None
