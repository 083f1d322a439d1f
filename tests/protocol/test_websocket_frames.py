"""Data frames are cut as the library cuts them, however the stream is sliced."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Protocol, State

from openenv_async.protocol.websocket_frames import CutsFrames, data_frame, masked_data_frame

LIMIT = 100_000
HANDSHAKE = b"\r\n\r\n"
SIZES = st.sampled_from([0, 1, 125, 126, 127, 65_535, 65_536, 70_000])


@st.composite
def frames(draw: st.DrawFn) -> list[Frame]:
    """What a peer that keeps the rules may send: messages, whole or in fragments, and pings."""
    made: list[Frame] = []
    for _ in range(draw(st.integers(0, 5))):
        size, text = draw(SIZES), draw(st.booleans())
        body = (bytes([draw(st.integers(32, 126))]) * size)[:size]
        opcode = Opcode.TEXT if text else Opcode.BINARY
        cuts = sorted(draw(st.lists(st.integers(0, size), max_size=2)))
        edges = [0, *cuts, size]
        for index, (begin, end) in enumerate(itertools.pairwise(edges)):
            last = index == len(edges) - 2
            made.append(Frame(opcode if index == 0 else Opcode.CONT, body[begin:end], last))
            if draw(st.booleans()):
                made.append(Frame(Opcode.PING, b"are you there"))
    return made


class Library:
    """The WebSocket library's end, past its handshake."""

    def __init__(self, masked: bool) -> None:
        self.library = Protocol(SERVER if masked else CLIENT, state=State.OPEN, max_size=LIMIT)
        self.seen: list[tuple[str, bytes]] = []
        self.handshake = b""
        self.parts: list[bytes] = []
        self.kind = ""

    def data_received(self, data: bytes) -> None:
        if not self.handshake.endswith(HANDSHAKE):
            self.handshake += data
            return
        self.library.receive_data(data)
        self.take()

    def take(self) -> None:
        for event in self.library.events_received():
            assert isinstance(event, Frame)
            if event.opcode >= Opcode.CLOSE:
                self.seen.append((event.opcode.name, bytes(event.data)))
                continue
            if event.opcode is not Opcode.CONT:
                self.kind = event.opcode.name
            self.parts.append(bytes(event.data))
            if event.fin:
                self.seen.append((self.kind, b"".join(self.parts)))
                self.parts = []


class End(CutsFrames, Library):
    """One end of a connection: the cutter before the library, as both transports have it."""

    def __init__(self, masked: bool) -> None:
        super().__init__(masked)
        self.cut = 0
        self.data_received(b"GET / HTTP/1.1" + HANDSHAKE)
        self.cut_frames(masked, LIMIT, self._whole)

    def _whole(self, payload: bytes | memoryview, text: bool) -> None:
        if self.library.state is not State.OPEN:
            return
        self.cut += 1
        self.seen.append(("TEXT" if text else "BINARY", bytes(payload)))


def bare(masked: bool, stream: bytes) -> End:
    """What the library alone makes of a stream."""
    end = End(masked)
    end.library.receive_data(stream)
    end.take()
    return end


@given(frames(), st.booleans(), st.lists(st.integers(1, 5000), max_size=30))
def test_every_slicing_gives_what_the_library_gives(
    sent: list[Frame], masked: bool, slices: list[int]
) -> None:
    stream = b"".join(frame.serialize(mask=masked) for frame in sent)
    end, at = End(masked), 0
    for size in [*slices, len(stream)]:
        end.data_received(stream[at : at + size])
        at += size
    assert end.seen == bare(masked, stream).seen
    whole = [frame for frame in sent if frame.fin and frame.opcode in (1, 2)]
    assert end.cut == len(whole)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, LIMIT])
@pytest.mark.parametrize("text", [True, False])
def test_what_is_built_here_the_library_reads(size: int, text: bool) -> None:
    message = b"a" * size
    expected = [("TEXT" if text else "BINARY", message)]
    assert bare(True, masked_data_frame(message, text)).seen == expected
    assert bare(False, b"".join(data_frame(message, text))).seen == expected


def test_a_client_masks_every_frame_with_another_key() -> None:
    assert len({masked_data_frame(b"\0" * 8, False) for _ in range(50)}) == 50


def frame(first: int, second: int, rest: bytes = b"") -> bytes:
    return bytes((first, second)) + rest


@pytest.mark.parametrize(
    ("stream", "code"),
    [
        pytest.param(frame(0x82, 1, b"x"), 1002, id="unmasked"),
        pytest.param(frame(0xC2, 0x81, b"\0\0\0\0x"), 1002, id="a reserved bit"),
        pytest.param(frame(0x83, 0x81, b"\0\0\0\0x"), 1002, id="an unknown kind"),
        pytest.param(frame(0x80, 0x81, b"\0\0\0\0x"), 1002, id="a fragment of nothing"),
        pytest.param(frame(0x82, 0xFE, b"\xff\xff") + b"\0" * 4, None, id="not yet whole"),
        pytest.param(frame(0x82, 0xFF, (LIMIT + 1).to_bytes(8, "big")), 1009, id="too large"),
        pytest.param(frame(0x82, 0xFF, b"\x7f" + b"\xff" * 7), 1009, id="absurdly large"),
        pytest.param(
            frame(0x02, 0x81, b"\0\0\0\0x") + frame(0x82, 0x81, b"\0\0\0\0x"),
            1002,
            id="a message inside another",
        ),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_what_breaks_the_rules_is_left_to_the_library(
    stream: bytes, code: int | None, at_once: bool
) -> None:
    end = End(True)
    for part in [stream] if at_once else [stream[i : i + 1] for i in range(len(stream))]:
        end.data_received(part)
    assert end.cut == 0
    sent: Any = end.library.close_sent
    assert (sent and sent.code) == code
    end.data_received(masked_data_frame(b"later", False))
    if code is not None:
        assert end.seen == []


def test_a_large_frame_may_come_in_many_parts() -> None:
    end = End(True)
    stream = masked_data_frame(b"x" * LIMIT, False)
    for at in range(0, len(stream), 100):
        end.data_received(stream[at : at + 100])
    assert end.seen == [("BINARY", b"x" * LIMIT)]


def test_nothing_is_cut_before_it_begins_nor_amid_a_frame() -> None:
    """What the library has begun to read is the library's to end."""
    end = End.__new__(End)
    Library.__init__(end, True)
    end.cut = 0
    stream = masked_data_frame(b"abc", False)
    end.data_received(b"GET / HTTP/1.1" + HANDSHAKE)
    end.data_received(stream[:3])
    end.cut_frames(True, LIMIT, end._whole)  # too late
    end.data_received(stream[3:] + stream)
    assert end.seen == [("BINARY", b"abc")] * 2
    assert end.cut == 0


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
@pytest.mark.parametrize("text", [True, False])
def test_the_frames_built_are_the_library_s_own(size: int, text: bool) -> None:
    opcode = Opcode.TEXT if text else Opcode.BINARY
    wanted = Frame(opcode, b"a" * size).serialize(mask=False)
    pieces = data_frame(b"a" * size, text)
    assert b"".join(pieces) == wanted
    assert len(pieces) == (2 if size >= 65_536 else 1)  # a large message is not copied


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("size", [65_535, 65_536])
def test_only_a_large_payload_that_is_not_masked_is_a_view(masked: bool, size: int) -> None:
    kinds: list[type] = []
    end = End(masked)
    end._cut_deliver = lambda payload, text: kinds.append(type(payload))
    opcode = Opcode.BINARY
    end.data_received(Frame(opcode, b"a" * size).serialize(mask=masked))
    assert kinds == [memoryview if size >= 65_536 and not masked else bytes]
