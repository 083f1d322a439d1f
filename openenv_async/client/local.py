"""The client's end of a local connection: a Unix socket in place of the WebSocket it was told by.

Rules:

- A server is on this machine only if the connection over TCP came to it directly: it sees the
  client at the address that the client has, and both addresses are of this machine. Through
  a proxy, a forwarded port or another machine that is not so. A container is known by its folder.
- The WebSocket is kept until the Unix socket works, and is used if that fails.
- A peer that listens on an abstract socket is of this user, or root; or this user is root.
"""

from __future__ import annotations

import array
import asyncio
import functools
import ipaddress
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from openenv_async.client.connection import ClientConnection
from openenv_async.client.refusals import read_failure
from openenv_async.endpoints.lent_socket import SocketMessages, can_lend
from openenv_async.endpoints.local import SOCKET_NAME, find_folder, short_path
from openenv_async.errors import ConnectFailed, ProtocolError
from openenv_async.protocol.local import (
    END_NORMAL,
    LOCAL_SUBPROTOCOL,
    ClientGreeting,
    LocalOffer,
    ServerGreeting,
    abstract_address,
    end_body,
    read_end,
    read_greeting,
    write_greeting,
)
from openenv_async.protocol.records import (
    HEADER_SIZE,
    MAX_GREETING,
    Record,
    RecordCutter,
    message_place,
    message_record,
    read_header,
    record,
)

__all__ = ["LocalTransport", "local_address", "open_local"]

log = logging.getLogger("openenv_async.client")

_ANCILLARY_SIZE: Final = 256
"""Bytes of descriptors that a server may pass at once, and more."""
_CREDENTIALS: Final = struct.Struct("3i")


def local_address(offer: LocalOffer | None, raw: Any) -> str | None:
    """Return the address of the Unix socket that an offer leads to on this machine, if any.

    Args:
        offer: of the server, as it came over TCP.
        raw: the TCP socket.
    """
    if offer is None or raw is None or sys.platform != "linux":
        return None
    try:
        mine, peer = raw.getsockname(), raw.getpeername()
        if (mine[0], mine[1]) == offer.seen_at and _is_this_machine(mine[0], peer[0]):
            return abstract_address(offer.name)
        host = f"[{peer[0]}]" if ":" in peer[0] else peer[0]
    except (OSError, IndexError, TypeError):
        return None  # not connected any more, or not by TCP
    folder = find_folder(offer.name, f"{host}:{peer[1]}")
    return None if folder is None else str(folder / SOCKET_NAME)


def _is_this_machine(mine: str, peer: str) -> bool:
    """Return whether the two ends of a TCP connection are of one machine."""
    return mine == peer or ipaddress.ip_address(peer.partition("%")[0]).is_loopback


class LocalTransport(asyncio.Protocol):
    """Messages over a Unix socket.

    Attributes:
        subprotocol: of the messages.
        congested: whether the peer reads slower than this side writes.
        grants: what the server granted of what was wanted, by name.
        descriptors: those that it passed; the transport closes what is left of them at its end.
        on_note: called with the body of each note of the server.
    """

    name: str = "Unix socket"
    subprotocol: str = LOCAL_SUBPROTOCOL

    def __init__(
        self, connection: ClientConnection, grants: Mapping[str, Any], descriptors: list[int]
    ) -> None:
        self._connection = connection
        cutter = RecordCutter(self._take, connection.limits.max_message_size)
        self._cutter = cutter
        self._feed = cutter.feed
        self._recall: Callable[[], bool] | None = None
        self._queued: list[bytes] = []
        self._transport: asyncio.Transport
        self._room: asyncio.Future[None] | None = None
        self._gone = asyncio.get_running_loop().create_future()
        self.congested = False
        self.grants = grants
        self.descriptors = descriptors
        self.on_note: Callable[[bytes], None] | None = None

    # -- the loop's side ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Take bytes as they come; other bytes than records end the connection."""
        if not self._feed(data) and not self._transport.is_closing():
            log.warning("unreadable data from %s", self._connection.where)
            self._transport.abort()

    def pause_writing(self) -> None:
        """The write buffer is full."""
        self.congested = True

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        self.congested = False
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """The server is gone, or this side left it."""
        self.close_descriptors()
        self._wake()
        if not self._gone.done():
            self._gone.set_result(None)
        self._connection.lost(self)

    def _wake(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def _take(self, kind: Record, body: bytes | memoryview) -> None:
        if kind is Record.MESSAGE:
            if not self._transport.is_closing():
                self._connection.receive(body)
        elif kind is Record.NOTE:
            if self.on_note is not None:
                self.on_note(bytes(body))
        elif kind is Record.END:
            log.debug("%s ends the connection: %d %s", self._connection.where, *read_end(body))
            self._transport.abort()

    @property
    def is_open(self) -> bool:
        """Return whether it is neither lost nor closed."""
        return not self._gone.done() and not self._transport.is_closing()

    # -- the connection's side ----------------------------------------------------------------

    def send(self, message: bytes, text: bool) -> None:
        """Write a message; nothing happens when the socket is closed, its owner is told."""
        transport = self._transport
        if self._recall is not None and not self._recall():
            self._queued.append(record(Record.MESSAGE, message))
            return
        if transport.is_closing():
            return
        transport.writelines(message_record(message))

    def note(self, body: bytes) -> None:
        """Send a note; nothing happens when the socket is closed."""
        if self._recall is not None and not self._recall():
            self._queued.append(record(Record.NOTE, body))
        elif not self._transport.is_closing():
            self._transport.write(record(Record.NOTE, body))

    def lend(self, recall: Callable[[], bool]) -> SocketMessages | None:
        """Lend the socket to a thread that waits on it itself; ``None`` while it cannot be.

        Args:
            recall: ends the loan, now if it returns true; called before anything is written here.
        """
        if not (self._cutter.is_between_records and can_lend(self._transport)):
            return None
        self._recall = recall
        return SocketMessages(
            self._transport,
            framed=functools.partial(record, Record.MESSAGE),
            place=functools.partial(message_place, max_size=self._cutter.max_size),
            feed=self.data_received,
            receive=self._connection.receive,
            ended=self._end_loan,
        )

    def _end_loan(self) -> list[bytes]:
        """The socket is this side's again; return what was to be written meanwhile."""
        self._recall = None
        queued, self._queued = self._queued, []
        return queued

    async def drained(self) -> None:
        """Return when the write buffer has room again, or the socket is closed."""
        while self.congested and not self._transport.is_closing():
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    async def aclose(self, leaving: bool = True) -> None:
        """Close, with an end if ``leaving``: so far as the server reads, for 2 s at most."""
        if leaving and not self._transport.is_closing():
            self._transport.write(record(Record.END, end_body(END_NORMAL)))
            self._transport.close()
            await asyncio.wait([self._gone], timeout=_CLOSE_TIMEOUT)
        self._transport.abort()
        await asyncio.wait([self._gone])

    def close_descriptors(self) -> None:
        """Close the descriptors that nobody took."""
        _close(self.descriptors)


_CLOSE_TIMEOUT: Final = 2.0


async def open_local(
    connection: ClientConnection,
    address: str,
    offer: LocalOffer,
    headers: Mapping[str, str],
    wants: tuple[str, ...] = (),
) -> LocalTransport:
    """Connect to a server's Unix socket and greet.

    Args:
        connection: that the transport delivers to.
        address: of the socket.
        offer: the server's.
        headers: those of the upgrade request.
        wants: names of what the server may grant.

    Raises:
        FileNotFoundError, ConnectionRefusedError: nobody listens there.
        OSError, OpenEnvError: it does not answer, or does not let this client in.
    """
    loop = asyncio.get_running_loop()
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    descriptors: list[int] = []
    try:
        # Either at once, or not at all: its queue is full.
        if address[0] == "\0":
            raw.connect(address)
            _check_peer(raw)
        else:
            folder, _, name = address.rpartition("/")
            with short_path(Path(folder)) as path:
                raw.connect(f"{path}/{name}")
        greeting = ClientGreeting(offer.key, dict(headers), list(wants))
        data = record(Record.GREETING, write_greeting(greeting))
        if raw.send(data) < len(data):
            raise ConnectFailed("the greeting is too long for the Unix socket", phase="connect")
        async with asyncio.timeout(connection.timeouts.connect):
            answer = await _read_greeting(raw, descriptors)
        if answer.status != 101:
            said = read_failure(answer.body)
            raise said or ConnectFailed(answer.body.decode(errors="replace"), phase="connect")
        _, transport = await loop.create_unix_connection(
            functools.partial(LocalTransport, connection, answer.grants, descriptors), sock=raw
        )
    except BaseException:
        _close(descriptors)  # unless the transport, which has the same list, was first
        raw.close()
        raise
    if not transport.is_open:  # it was lost before anybody could be told
        raise ConnectFailed("the Unix socket was closed after the handshake", phase="connect")
    return transport


def _close(descriptors: list[int]) -> None:
    """Close descriptors, each once: their numbers are used again at once."""
    while descriptors:
        os.close(descriptors.pop())


def _check_peer(raw: socket.socket) -> None:
    """Refuse a peer of another user, unless this one is root.

    Raises:
        PermissionError: it is.
    """
    size = _CREDENTIALS.size
    _, peer, _ = _CREDENTIALS.unpack(raw.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    me = os.geteuid()
    if me and peer not in (0, me):
        raise PermissionError(f"its Unix socket belongs to the user {peer}")


async def _read_greeting(raw: socket.socket, descriptors: list[int]) -> ServerGreeting:
    """Read the server's greeting and nothing after it; add what descriptors came with it.

    Raises:
        ConnectFailed: the server hung up.
        ProtocolError: it says something else.
    """
    header = await _read(raw, HEADER_SIZE, descriptors)
    found = read_header(header)
    if found is None or found[0] is not Record.GREETING or found[1] > MAX_GREETING:
        raise ProtocolError("not a greeting of a local connection")
    greeting: ServerGreeting = read_greeting(
        await _read(raw, found[1], descriptors), of_client=False
    )
    return greeting


async def _read(raw: socket.socket, size: int, descriptors: list[int]) -> bytes:
    """Read ``size`` bytes."""
    data = b""
    while len(data) < size:
        try:
            part, ancillary, _, _ = raw.recvmsg(
                size - len(data), _ANCILLARY_SIZE, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            await _readable(raw)
            continue
        for level, kind, passed in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(passed[: len(passed) - len(passed) % numbers.itemsize])
                descriptors += numbers
        if not part:
            raise ConnectFailed("the Unix socket was closed in the handshake", phase="connect")
        data += part
    return data


async def _readable(raw: socket.socket) -> None:
    """Wait until there is something to read."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.add_reader(raw, _set, future)
    try:
        await future
    finally:
        loop.remove_reader(raw)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
