"""The pipe of a worker: messages and notes however the stream is sliced, and garbage is noticed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.engine.executors.pipe import (
    HEADER_SIZE,
    MAX_PIPE_MESSAGE,
    Pipe,
    PipeCodec,
    body_size,
)
from openenv_async.protocol.frames import Close, Closed, Frame, Step


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False
        self.aborted = 0

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.aborted += 1
        self.closing = True


class End:
    """A pipe's end with its wire, and what it received."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bytes]] = []
        self.lost = 0
        self.pipe = Pipe(
            lambda message: self.seen.append(("message", message)),
            self._count,
            lambda note: self.seen.append(("note", note)),
        )
        self.wire = Wire()

    def _count(self) -> None:
        self.lost += 1

    def state(self) -> tuple[bool, bool]:
        return self.pipe.connected, self.pipe.paused

    def connect(self) -> End:
        transport: Any = self.wire
        self.pipe.connection_made(transport)
        return self


def stream(parts: list[tuple[str, bytes]]) -> bytes:
    end = End().connect()
    for kind, body in parts:
        (end.pipe.send if kind == "message" else end.pipe.note)(body)
    return end.wire.written


sent = st.lists(st.tuples(st.sampled_from(["message", "note"]), st.binary(max_size=40)), max_size=6)


@given(sent, st.lists(st.integers(1, 30), max_size=20))
def test_every_slicing_gives_what_was_sent(
    parts: list[tuple[str, bytes]], slices: list[int]
) -> None:
    data, end, at = stream(parts), End().connect(), 0
    for size in [*slices, len(data)]:
        end.pipe.data_received(data[at : at + size])
        at += size
    assert end.seen == parts
    assert not end.pipe.is_garbled


def test_an_empty_message_is_one() -> None:
    end = End().connect()
    end.pipe.data_received(stream([("message", b""), ("note", b"x")]))
    assert end.seen == [("message", b""), ("note", b"x")]


def test_a_header_tells_the_size_of_its_body() -> None:
    header = stream([("message", b"x" * 300)])[:HEADER_SIZE]
    assert body_size(header) == 300
    assert body_size(stream([("note", b"x" * 7)])[:HEADER_SIZE]) == 7
    assert body_size(b"\x93OE\x03" + header[4:]) is None
    assert body_size(header[:4] + MAX_PIPE_MESSAGE.to_bytes(4, "big")) == MAX_PIPE_MESSAGE
    assert body_size(header[:4] + (MAX_PIPE_MESSAGE + 1).to_bytes(4, "big")) is None


def test_garbage_closes_the_pipe_and_what_follows_is_not_read() -> None:
    end = End().connect()
    good = stream([("message", b"good")])
    end.pipe.data_received(good + b"Traceback (most recent call last)" + good)
    assert end.seen == [("message", b"good")]
    assert end.pipe.is_garbled
    assert end.wire.aborted == 1
    end.pipe.connection_lost(None)
    assert end.lost == 1


def test_nothing_is_written_before_there_is_a_transport_or_while_it_closes() -> None:
    end = End()
    assert end.state() == (False, False)
    end.pipe.send(b"early")
    end.pipe.close()
    end.connect()
    assert end.state() == (True, False)
    assert end.wire.written == b""
    end.wire.closing = True
    end.pipe.send(b"late")
    end.pipe.note(b"late")
    assert end.wire.written == b""


def test_the_loop_s_pauses_are_known() -> None:
    end = End().connect()
    end.pipe.pause_writing()
    assert end.state() == (True, True)
    end.pipe.resume_writing()
    assert end.state() == (True, False)


def test_a_frame_that_cannot_be_encoded_costs_no_other() -> None:
    refused: list[Frame] = []

    def instead(frame: Frame, exc: Exception) -> Frame | None:
        refused.append(frame)
        return Closed(9, 9) if len(refused) == 1 else None

    server = PipeCodec("server", MAX_PIPE_MESSAGE, instead)
    client = PipeCodec("client", MAX_PIPE_MESSAGE, instead)
    bad = [Step(1, 2**70, 0, b""), Step(2, 2**70, 0, b"")]
    frames: list[Frame] = [Closed(1, 1), bad[0], bad[1], Closed(3, 1)]
    assert client.decode(server.encode(frames)) == [Closed(1, 1), Closed(9, 9), Closed(3, 1)]
    assert refused == bad
    assert client.decode(server.encode([Closed(1, 1)])) == [Closed(1, 1)]
    assert len(refused) == 2


def test_a_message_over_the_size_is_refused() -> None:
    codec = PipeCodec("server", 100, lambda frame, exc: None)
    with pytest.raises(Exception, match="100"):
        codec.decode(PipeCodec("client", 100, lambda frame, exc: None).encode([Close(1, 1)] * 90))
