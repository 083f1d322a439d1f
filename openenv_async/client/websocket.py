"""The WebSocket transport of the client: websockets for the handshake, frames without a queue."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import socket as sockets
import warnings
from collections.abc import Callable
from ssl import SSLContext
from typing import Any, Final, Unpack
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection as WebSocketConnection
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol

from openenv_async.client.connection import ClientConnection
from openenv_async.client.local import LocalTransport, local_address, open_local
from openenv_async.client.outbox import Transport
from openenv_async.client.refusals import read_failure, refused, unauthorized, unreachable
from openenv_async.client.settings import ClientKeywords, ClientSettings
from openenv_async.client.upstream import UpstreamTransport
from openenv_async.endpoints.addresses import checked_url, is_here, told_url
from openenv_async.endpoints.lent_socket import SocketMessages, can_lend
from openenv_async.endpoints.tls import trusted
from openenv_async.errors import ConnectFailed, OpenEnvError, Unauthorized
from openenv_async.protocol.blocks import SHARED_MEMORY
from openenv_async.protocol.codec import SUBPROTOCOLS
from openenv_async.protocol.local import (
    LOCAL_HEADER,
    LOCAL_SUBPROTOCOL,
    LOCAL_VERSION,
    LocalOffer,
)
from openenv_async.protocol.websocket_frames import CutsFrames, masked_data_frame, message_place
from openenv_async.telemetry.tracing import inject
from openenv_async.types import Limits, Timeouts

__all__ = ["WebSocketTransport", "dial", "websocket_url"]

log = logging.getLogger("openenv_async.client")

_USUAL: Final = ClientSettings()
UPSTREAM: Final = "upstream"
"""The name, for a subprotocol, of upstream OpenEnv's JSON dialect, which has none."""


def websocket_url(url: str) -> str:
    """The ``ws(s)://…/ws`` address of a server's base URL.

    Raises:
        TypeError, ValueError: it is not an http, https, ws or wss URL.
    """
    parts = urlsplit(checked_url(url))
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    path = parts.path.rstrip("/")
    if not path.endswith("/ws"):
        path += "/ws"
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


class _Socket(CutsFrames, WebSocketConnection):
    """A client connection that hands messages over as they come.

    The library's own queue and its reader task would cost two loop turns a message; its
    handshake, TLS, proxies, pings and closing are used as they are.
    """

    on_message: Callable[[Any], None] | None = None
    on_lost: Callable[[], None] | None = None
    on_congestion: Callable[[bool], None] | None = None
    _parts: list[bytes]
    _text: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.protocol.debug = False  # it would log every frame, and the token with the request

    def deliver(self, message: bytes | memoryview, text: bool) -> None:
        if self.on_message is not None and self.protocol.state is State.OPEN:
            self.on_message(str(message, "utf-8") if text else message)

    def process_event(self, event: Any) -> None:
        on_message = self.on_message
        if on_message is None or not isinstance(event, Frame):
            super().process_event(event)
            return
        opcode = event.opcode
        if opcode is Opcode.BINARY or opcode is Opcode.TEXT:
            if event.fin:
                on_message(event.data if opcode is Opcode.BINARY else bytes(event.data).decode())
                return
            self._parts, self._text = [bytes(event.data)], opcode is Opcode.TEXT
        elif opcode is Opcode.CONT:
            self._parts.append(bytes(event.data))
        else:
            super().process_event(event)
            return
        if event.fin:
            data = b"".join(self._parts)
            self._parts = []
            on_message(data.decode() if self._text else data)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.on_congestion is not None:
            self.on_congestion(True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.on_congestion is not None:
            self.on_congestion(False)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()


class _Connect(connect):
    """Open a connection to the address that was given, and follow no redirection from it."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class WebSocketTransport:
    """Messages over one WebSocket.

    Attributes:
        subprotocol: the one that the server chose.
        congested: whether the peer reads slower than this side writes.
    """

    name: str = "WebSocket"

    def __init__(self, socket: _Socket, connection: ClientConnection, max_size: int) -> None:
        assert socket.subprotocol is not None
        self.subprotocol: str = socket.subprotocol
        self._socket = socket
        self._receive = connection.receive
        self._max_size = max_size
        self._recall: Callable[[], bool] | None = None
        self._queued: list[bytes] = []
        _find_dead_hosts(socket.transport)
        socket.on_message = connection.receive
        socket.on_lost = lambda: connection.lost(self)
        self.congested = socket.paused
        socket.on_congestion = functools.partial(setattr, self, "congested")
        socket.cut_frames(False, max_size, socket.deliver)

    def send(self, message: bytes, text: bool) -> None:
        """Write a message; nothing happens when the socket is closed, its owner is told."""
        socket = self._socket
        if self._recall is not None and not self._recall():
            self._queued.append(masked_data_frame(message, text))
        elif socket.protocol.state is State.OPEN:
            socket.transport.write(masked_data_frame(message, text))

    def lend(self, recall: Callable[[], bool]) -> SocketMessages | None:
        """Lend the socket to a thread that waits on it itself; ``None`` while it cannot be.

        Args:
            recall: ends the loan, now if it returns true; called before anything is written here.
        """
        socket = self._socket
        if socket.protocol.state is not State.OPEN:
            return None
        if not (socket.is_between_frames and can_lend(socket.transport)):
            return None
        self._recall = recall
        return SocketMessages(
            socket.transport,
            framed=_binary_frame,
            place=functools.partial(message_place, max_size=self._max_size),
            feed=socket.data_received,
            receive=self._receive,
            ended=self._end_loan,
        )

    def _end_loan(self) -> list[bytes]:
        """The socket is this side's again; return what was to be written meanwhile."""
        self._recall = None
        queued, self._queued = self._queued, []
        return queued

    async def drained(self) -> None:
        """Return when the write buffer has room again."""
        await self._socket.drain()

    async def aclose(self, leaving: bool = True) -> None:
        """Close with a handshake, bounded by the socket's close timeout; or without a word."""
        if leaving:
            await self._socket.close()
        else:
            self._socket.transport.abort()


def _binary_frame(message: bytes) -> bytes:
    return masked_data_frame(message, False)


def _find_dead_hosts(transport: asyncio.Transport) -> None:
    """Let TCP notice a host that is gone without a word, also when nothing is being sent."""
    raw = transport.get_extra_info("socket")
    if raw is None:
        return
    options = {
        "TCP_KEEPIDLE": 30,
        "TCP_KEEPINTVL": 10,
        "TCP_KEEPCNT": 3,
        "TCP_USER_TIMEOUT": 60_000,
    }
    with contextlib.suppress(OSError):  # not TCP, or not on this system
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
        for name, value in options.items():
            if hasattr(sockets, name):
                raw.setsockopt(sockets.IPPROTO_TCP, getattr(sockets, name), value)


async def dial(
    url: str, settings: ClientSettings = _USUAL, **old: Unpack[ClientKeywords]
) -> ClientConnection:
    """Connect and exchange hello and welcome.

    Args:
        url: base URL of the server or its ``/ws`` address.
        settings: token, headers, trust and subprotocol of the request; limits and deadlines.
        old: some of the settings by themselves, as they were given once.

    Raises:
        ConnectFailed: no connection, or the server speaks no ``openenv.v1``.
        Unauthorized: the server refused the token or the origin.
    """
    if old:
        warnings.warn(
            f"dial({next(iter(old))}=) is now dial(url, ClientSettings({next(iter(old))}=...))",
            DeprecationWarning,
            stacklevel=2,
        )
        settings = settings.replace(**old)
    address = websocket_url(url)
    url = told_url(url)  # for messages
    limits, timeouts, subprotocol = settings.limits, settings.timeouts, settings.subprotocol
    names = list(SUBPROTOCOLS) if subprotocol is None else [subprotocol]
    offered = [Subprotocol(name) for name in names if name != UPSTREAM]
    all_headers = dict(settings.headers or {})
    if settings.token is not None:
        all_headers["Authorization"] = f"Bearer {settings.token}"
    inject(all_headers)
    trust = trusted(settings.ssl) if address.startswith("wss") else None

    async def open_socket() -> _Socket:
        return await _open_socket(url, address, offered, all_headers, trust, limits, timeouts)

    asks_for_local = (
        settings.local and address.startswith("ws:") and LOCAL_SUBPROTOCOL in offered[:1]
    )
    if asks_for_local:
        all_headers[LOCAL_HEADER] = LOCAL_VERSION

    async def redial(connection: ClientConnection) -> Transport:
        socket = await open_socket()
        if socket.subprotocol is not None:
            if asks_for_local:
                try:
                    transport = await _open_local(connection, socket, all_headers)
                except BaseException:
                    socket.transport.abort()  # nobody knows of it yet, and nobody waits for it
                    raise
                if transport is not None:
                    connection.close_aside(socket.close())
                    return transport
            return WebSocketTransport(socket, connection, limits.max_message_size)
        if subprotocol in (None, UPSTREAM):
            return UpstreamTransport(connection, open_socket, socket)
        await socket.close()
        raise ConnectFailed(f"{url} answers, but does not speak {subprotocol}", phase="connect")

    connection = ClientConnection(url, limits, timeouts, redial)
    await connection.start()
    return connection


async def _open_local(
    connection: ClientConnection, socket: _Socket, headers: dict[str, str]
) -> LocalTransport | None:
    """A Unix socket in place of a WebSocket, if its server is on this machine and offers one."""
    response, request = socket.response, socket.request
    if response is None or request is None:
        return None
    told = response.headers.get_all(LOCAL_HEADER)
    offer = LocalOffer.read(told[0]) if told else None
    address = local_address(offer, socket.transport.get_extra_info("socket"))
    if offer is None or address is None:
        return None
    try:
        wants = (SHARED_MEMORY,) if connection.limits.max_shared_size else ()
        return await open_local(
            connection, address, offer, {"Host": request.headers["Host"], **headers}, wants
        )
    except (FileNotFoundError, ConnectionRefusedError) as exc:
        log.debug("%s has no Unix socket here, TCP is used: %s", connection.where, exc)
    except (OSError, OpenEnvError) as exc:
        log.info("the Unix socket of %s cannot be used, TCP is: %s", connection.where, exc)
    return None


async def _open_socket(
    url: str,
    address: str,
    offered: list[Subprotocol],
    headers: dict[str, str],
    trust: SSLContext | None,
    limits: Limits,
    timeouts: Timeouts,
) -> _Socket:
    """An open WebSocket; every failure translated."""
    tls: dict[str, Any] = {} if trust is None else {"ssl": trust}
    try:
        async with asyncio.timeout(timeouts.connect):
            socket = await _Connect(
                address,
                subprotocols=offered or None,
                compression=None,
                additional_headers=headers,
                max_size=limits.max_message_size,
                ping_interval=None,
                open_timeout=None,
                close_timeout=2.0,
                proxy=None if is_here(address) else True,
                create_connection=_Socket,
                **tls,
            )
    except TimeoutError:
        raise ConnectFailed(
            f"{url} did not answer within {timeouts.connect:g} s (Timeouts.connect)",
            phase="connect",
            timed_out=True,
        ) from None
    except InvalidStatus as exc:
        response, has_token = exc.response, "Authorization" in headers
        said = read_failure(response.body)
        if said is not None:
            said.add_context(phase="connect")
        if isinstance(said, Unauthorized) or (said is None and response.status_code == 401):
            raise unauthorized(f"{url} answered HTTP {response.status_code}", has_token) from None
        raise said or refused(
            url,
            response.status_code,
            response.headers,
            has_token=has_token,
            websocket=True,
            path=urlsplit(address).path,
        ) from None
    except (OSError, InvalidHandshake, InvalidURI, EOFError, ConnectionClosed) as exc:
        raise unreachable(url, exc) from exc
    assert isinstance(socket, _Socket)
    return socket
