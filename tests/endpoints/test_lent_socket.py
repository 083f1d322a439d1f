"""A socket's messages in another thread: whole ones there, all else to the transport."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from openenv_async.endpoints.alertness import Alertness
from openenv_async.endpoints.lent_socket import SocketMessages, can_lend
from openenv_async.protocol.websocket_frames import data_frame, masked_data_frame, message_place

MAX_SIZE = 1 << 20


class Transport:
    """A transport of one end of a pair of sockets, which writes and reads nothing itself."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.written: list[bytes] = []
        self.reading = True
        self.closing = False
        self.aborted = False
        self.extra: dict[str, Any] = {"socket": end}
        self.buffered = 0

    def get_extra_info(self, name: str) -> Any:
        return self.extra.get(name)

    def is_closing(self) -> bool:
        return self.closing

    def is_reading(self) -> bool:
        return self.reading

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def abort(self) -> None:
        self.aborted = True


class Lent:
    """Both ends, with one lent."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        ours.setblocking(False)
        self.ours = ours
        self.transport = Transport(ours)
        self.fed = b""
        self.received: list[Any] = []
        self.queued: list[bytes] = []
        self.messages = self.lend()

    def lend(self) -> SocketMessages:
        return SocketMessages(
            self.transport,
            framed=lambda message: masked_data_frame(message, False),
            place=lambda data: message_place(data, MAX_SIZE),
            feed=self.feed,
            receive=self.received.append,
            ended=lambda: self.queued,
        )

    def feed(self, data: bytes) -> None:
        self.fed += data


@pytest.fixture
def lent() -> Iterator[Lent]:
    made = Lent()
    yield made
    made.messages._close()
    made.ours.close()
    made.peer.close()


def framed(message: bytes) -> bytes:
    return b"".join(data_frame(message, False))


def test_messages_are_received_one_by_one(lent: Lent) -> None:
    assert not lent.transport.reading
    lent.peer.sendall(framed(b"first") + framed(b"") + framed(b"x" * 300)[:100])
    assert lent.messages.receive(5) == b"first"
    assert lent.messages.receive(5) == b""
    assert lent.messages.receive(0.001) is None
    lent.peer.sendall(framed(b"x" * 300)[100:])
    assert lent.messages.receive(5) == b"x" * 300
    lent.messages.end([], False)
    assert (lent.fed, lent.transport.reading) == (b"", True)


@pytest.mark.parametrize("size", [65_535, 65_536, 200_000, MAX_SIZE])
def test_a_large_message_comes_in_many_pieces(lent: Lent, size: int) -> None:
    message = os.urandom(size)
    data = framed(message) + framed(b"next")
    for at in range(0, len(data), 50_000):
        lent.peer.sendall(data[at : at + 50_000])
        if at + 50_000 < len(data) - 6:
            assert lent.messages.receive(0.0) is None
    found = lent.messages.receive(5)
    assert found is not None
    assert bytes(found) == message
    assert lent.messages.receive(5) == b"next"


@pytest.mark.parametrize("size", [100, 200_000])
def test_what_was_read_too_far_goes_to_the_transport(lent: Lent, size: int) -> None:
    begun = framed(b"y" * size)[: size - 10]
    lent.peer.sendall(framed(b"first") + begun)
    assert lent.messages.receive(5) == b"first"
    while lent.messages.receive(0.01) is not None:
        pass
    lent.messages.end([b"not mine"], False)
    assert lent.received == [b"not mine"]
    rest = b""
    lent.peer.close()
    while more := lent.ours.recv(1 << 20):
        rest += more
    assert lent.fed + rest == begun


@pytest.mark.parametrize(
    "frame",
    [
        b"\x89\x00",  # a ping
        b"\x81\x01x",  # text
        b"\x02\x01x",  # a fragment
        b"\x82\x81mask?",  # masked, which a server never does
        b"\x82\x7f" + (MAX_SIZE + 1).to_bytes(8, "big"),
    ],
)
def test_anything_but_a_message_is_left_to_the_transport(lent: Lent, frame: bytes) -> None:
    lent.peer.sendall(framed(b"first") + frame)
    assert lent.messages.receive(5) == b"first"
    with pytest.raises(OSError, match="other than a message"):
        lent.messages.receive(5)
    lent.messages.end([], False)
    assert lent.fed == frame


def test_an_end_is_found_by_both(lent: Lent) -> None:
    lent.peer.close()
    with pytest.raises(ConnectionResetError):
        lent.messages.receive(5)
    lent.messages.end([], False)
    assert lent.transport.reading  # and finds the end once more
    assert lent.ours.recv(1) == b""


def test_what_the_peer_does_not_take_is_written_by_the_transport(lent: Lent) -> None:
    lent.messages.send(b"small")
    with pytest.raises(BlockingIOError, match="slower"):
        lent.messages.send(b"z" * MAX_SIZE)
    lent.queued = [b"renewed meanwhile"]
    lent.messages.end([], False)
    rest, renewed = lent.transport.written
    assert renewed == b"renewed meanwhile"
    lent.ours.close()
    whole = b""
    while more := lent.peer.recv(1 << 20):
        whole += more
    assert len(whole + rest) == 6 + 5 + 14 + MAX_SIZE  # with headers and masks


def test_a_torn_message_ends_the_transport(lent: Lent) -> None:
    lent.peer.sendall(framed(b"first"))
    lent.messages.end([b"unread"], True)
    assert lent.transport.aborted
    assert (lent.received, lent.fed, lent.transport.reading) == ([], b"", False)


def test_a_transport_that_was_closed_meanwhile_is_left_alone(lent: Lent) -> None:
    lent.peer.sendall(framed(b"first") + b"\x89")
    assert lent.messages.receive(5) == b"first"
    lent.transport.closing = True
    lent.messages.end([b"unread"], False)
    assert lent.received == [b"unread"]
    assert (lent.fed, lent.transport.reading, lent.transport.written) == (b"", False, [])


@pytest.mark.parametrize("why", ["tls", "no socket", "closing", "paused", "unsent", "nothing"])
def test_a_socket_is_lent_only_where_nothing_is_under_way(lent: Lent, why: str) -> None:
    lent.messages.end([], False)
    transport = lent.transport
    match why:
        case "tls":
            transport.extra["sslcontext"] = object()
        case "no socket":
            transport.extra["socket"] = None
        case "closing":
            transport.closing = True
        case "paused":
            transport.reading = False
        case "unsent":
            transport.buffered = 1
    assert can_lend(transport) is (why == "nothing")


def test_the_descriptor_is_closed_with_the_loan(lent: Lent) -> None:
    fd = lent.messages._fd
    os.fstat(fd)
    lent.messages.end([], False)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    dropped = lent.lend()
    fd = dropped._fd
    del dropped
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


class Looks(Alertness):
    """Alertness that looks out, however long it takes, and has an answer come at the third look."""

    __slots__ = ("come", "looks")

    def __init__(self, come: Callable[[], object]) -> None:
        super().__init__(2)
        self.come = come
        self.looks = 0

    def begin(self) -> bool:
        super().begin()
        return True

    def goes_on(self) -> bool:
        self.looks += 1
        if self.looks == 3:
            self.come()
        return self.looks < 5


def test_an_answer_that_is_due_is_looked_out_for(lent: Lent) -> None:
    looks = lent.messages._alertness = Looks(lambda: lent.peer.sendall(framed(b"soon")))
    assert lent.messages.receive(5, is_due=True) == b"soon"
    assert looks.looks == 3


def test_an_answer_that_does_not_come_in_a_moment_is_slept_for(lent: Lent) -> None:
    looks = lent.messages._alertness = Looks(lambda: None)
    assert lent.messages.receive(0.001, is_due=True) is None
    assert looks.looks == 5
    assert looks.begun is None


def test_other_messages_are_slept_for_at_once(lent: Lent) -> None:
    looks = lent.messages._alertness = Looks(lambda: None)
    assert lent.messages.receive(0.001) is None
    assert looks.looks == 0
