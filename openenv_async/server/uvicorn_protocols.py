"""Uvicorn's protocols, changed where they lose time, or wait for ever for a silent peer.

- WebSockets: native messages go straight to the session engine. ASGI costs a message a queue, the
  wake-up of a task, and reading stopped and begun again; one session alone would spend more on
  these than on its step. The handshake, control frames, closing and every other WebSocket stay as
  uvicorn has them.
- HTTP: silent peers are disconnected, and a peer that speaks TLS is named. Uvicorn hands a whole
  reply to the transport and waits for nobody to read it: a peer that never does would keep the
  reply, and its connection, for ever. So would one that never sends the rest of a request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from socket import SO_ERROR, SOL_SOCKET
from typing import Any, Final, Protocol

from uvicorn.protocols.http.auto import AutoHTTPProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import State

from openenv_async.protocol.websocket_frames import CutsFrames, data_frame
from openenv_async.server.transport import TransportUser

__all__ = ["DirectWebSocket", "HTTPConnection", "connection_of", "http_protocol"]

log = logging.getLogger("openenv_async.server")

_TLS_HANDSHAKE: Final = b"\x16\x03"
"""The beginning of the first record of TLS (RFC 8446, section 5.1), and of no HTTP request."""


class DirectWebSocket(CutsFrames, WebSocketsSansIOProtocol):
    """A WebSocket that is its own ``Transport`` and can be cut, or refused without a logged error.

    Cut, because closing waits until what was written has been read: for ever, if the peer does
    not read.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn.debug = False  # it would log every frame, and the token with the request
        self.congested = False
        self._user: TransportUser | None = None

    # -- uvicorn's side -----------------------------------------------------------------------

    def handle_connect(self, event: Request) -> None:
        """Offer this transport to the application, which runs after it."""
        super().handle_connect(event)
        scope: Any = getattr(self, "scope", None)
        if scope is not None:
            scope["extensions"]["openenv.transport"] = self
            scope["extensions"]["openenv.abort"] = self.transport.abort
            scope["extensions"]["openenv.refused"] = self._refused
            scope["extensions"]["openenv.ping"] = self._ping

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: its scope offers it no more, and nothing here holds it."""
        super().connection_lost(exc)
        scope: Any = getattr(self, "scope", None)
        if scope is not None:
            left = {k: v for k, v in scope["extensions"].items() if not k.startswith("openenv.")}
            kept: Any = {**scope, "extensions": left}
            self.scope = kept
        self.conn.parser.close()  # it waits for more, and holds what it parses for

    def _ping(self, lease: float) -> None:
        """Ping the peer, and end the connection when it has not answered for ``lease`` seconds."""
        self.ping_interval, self.ping_timeout = lease / 3, lease * 2 / 3
        self.start_keepalive()

    def _refused(self) -> None:
        """The application answered with a status: uvicorn takes that for a mistake."""
        self.handshake_complete = True

    def send_receive_event_to_app(self) -> None:
        """Hand a message to the user past uvicorn's queue, if there is a user."""
        if self._user is None or self.close_sent:
            super().send_receive_event_to_app()
            return
        message, self.frames = b"".join(self.frames), []
        self._deliver(message, self.curr_msg_data_type == "text")

    def _deliver(self, message: bytes | memoryview, text: bool) -> None:
        user = self._user
        if user is None or self.conn.state is not State.OPEN:
            return
        if not text:
            user.take(message)
            return
        try:
            words = str(message, "utf-8")
        except UnicodeDecodeError:
            self.conn.send_close(1007)
            self.handle_parser_exception()
            return
        user.take(words)

    def pause_writing(self) -> None:
        """The write buffer is full."""
        super().pause_writing()
        self.congested = True
        if self._user is not None:
            self._user.congestion(True)

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        super().resume_writing()
        self.congested = False
        if self._user is not None:
            self._user.congestion(False)

    # -- the user's side ----------------------------------------------------------------------

    def attach(self, user: TransportUser) -> None:
        """Hand every message to ``user`` from now on."""
        self._user = user
        self.cut_frames(True, self.config.ws_max_size, self._deliver)

    def write(self, message: bytes, text: bool) -> None:
        """Send a message; nothing happens once the closing handshake has begun."""
        if self.conn.state is State.OPEN:
            self.transport.writelines(data_frame(message, text))

    def hold(self) -> None:
        """Read no more."""
        if not self.read_paused and not self.transport.is_closing():
            self.read_paused = True
            self.transport.pause_reading()

    def release(self) -> None:
        """Read again."""
        if self.read_paused and not self.transport.is_closing():
            self.read_paused = False
            self.transport.resume_reading()

    async def settled(self) -> None:
        """Nothing to wait for: what comes through uvicorn's queue came before the handshake."""

    def abort(self, task: asyncio.Task[None]) -> None:
        """Drop the connection; that ends ``task``."""
        self.transport.abort()

    async def aclose(self) -> None:
        """Let go of the user."""
        self._user = None


class HTTPConnection(Protocol):
    """A connection of a client, which tells when it is lost.

    Attributes:
        is_lost: it is.
        is_closing: nothing that is written now arrives; it is lost soon.
        has_whole_request: what is asked has come to its end.
        was_reset: its client closed it with something left unread, or before all was sent, or is
            gone without a word.
        received: how often data came, whole requests or parts of them.
        on_lost: called when it is lost.
    """

    is_lost: bool
    is_closing: bool
    has_whole_request: bool
    received: int
    was_reset: bool
    on_lost: Callable[[], None] | None

    def hold(self) -> None:
        """Keep what is written of the reply, so that ``flush`` sends it in one piece."""
        ...

    def flush(self) -> None:
        """Send what was kept, and keep nothing more. Idempotent."""
        ...

    def cut(self) -> None:
        """End the connection amid a reply: what was written is sent, and no end of the reply."""
        ...

    def abort(self) -> None:
        """End the connection at once, of a client that reads or sends nothing."""
        ...


def connection_of(send: Any) -> HTTPConnection | None:
    """Return the connection that the ``send`` of an application writes to, on uvicorn.

    ASGI tells of a client that left by ``receive``, which would need a task for each request.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    protocol = None if transport is None else transport.get_protocol()
    return protocol if isinstance(protocol, _DirectHTTP) else None


def http_protocol(
    write_timeout: float | None, connect_timeout: float | None
) -> type[asyncio.Protocol]:
    """A protocol class for uvicorn.

    Args:
        connect_timeout: seconds after which a peer is cut that has not sent the whole head of a
            request, or nothing more of its body; ``None``: never.
        write_timeout: seconds after which a peer that takes no data is cut; ``None``: never.
    """
    timeouts = {"write_timeout": write_timeout, "connect_timeout": connect_timeout}
    return type("DirectHTTP", (_DirectHTTP,), timeouts)


def _has_failed(transport: asyncio.BaseTransport) -> bool:
    """Tell whether the system could not send all to a peer whose end was read without an error.

    A peer that closed answers what comes after that with a reset. Reading does not tell: the end of
    its data came first.
    """
    try:
        connection = transport.get_extra_info("socket")
    except AttributeError:
        return False  # asyncio's TLS transport has forgotten its protocol: it is closed already
    try:
        return connection is not None and connection.getsockopt(SOL_SOCKET, SO_ERROR) != 0
    except OSError:
        return False  # it is closed already


class _HeldWrites:
    """The transport of a reply whose parts are sent together; each send wakes both ends."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._transport.get_protocol()

    def flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts:
            self._transport.write(b"".join(parts))


class _DirectHTTP(AutoHTTPProtocol):  # type: ignore[misc,valid-type]  # it is chosen at run time
    write_timeout: float | None = None
    connect_timeout: float | None = None
    received = 0
    _cutting: asyncio.TimerHandle | None = None
    _expecting: asyncio.TimerHandle | None = None
    _held: _HeldWrites | None = None
    is_lost = False
    was_reset = False
    on_lost: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect a request."""
        super().connection_made(transport)
        if self.connect_timeout is not None:
            self._expect(self.connect_timeout)

    def _expect(self, seconds: float) -> None:
        """Look again whether the peer has sent anything meanwhile."""
        loop: Any = self.loop
        seen = self.cycle, self.received
        self._expecting = loop.call_later(seconds, self._look_for_request, seconds, seen)

    def _look_for_request(self, seconds: float, seen: tuple[Any, int]) -> None:
        self._expecting = None
        if self.transport.is_closing():
            return
        cycle, received = seen
        if self.cycle is not cycle:
            is_silent = False
        elif cycle is None:  # no head has come yet
            is_silent = True
        elif self.received != received:
            is_silent = False
        elif cycle.response_complete:  # uvicorn's own timer runs until another head begins
            is_silent = self.timeout_keep_alive_task is None
        else:
            is_silent = cycle.more_body and not self.flow.read_paused
        if is_silent:
            self.transport.abort()
        else:
            self._expect(seconds)

    def data_received(self, data: bytes) -> None:
        """Receive as uvicorn does, but for the first bytes."""
        self.received += 1
        if self.received == 1 and data.startswith(_TLS_HANDSHAKE):
            log.warning(
                "a client spoke https or wss to this http port: give it an http:// address, or"
                " serve a certificate (--ssl-certfile; ssl_certfile=)"
            )
            self.send_400_response("This port speaks http, not https.")
            return
        super().data_received(data)

    def handle_websocket_upgrade(self, *event: Any) -> None:
        """Hand the connection over, for good."""
        super().handle_websocket_upgrade(*event)
        self._forget()

    def pause_writing(self) -> None:
        """The write buffer is full."""
        super().pause_writing()
        if self.write_timeout is not None and self._cutting is None:
            self._watch(self.write_timeout)

    def _watch(self, seconds: float) -> None:
        """Look again whether the peer has taken anything meanwhile."""
        loop: Any = self.loop
        left = self.transport.get_write_buffer_size()
        self._cutting = loop.call_later(seconds, self._look, left, seconds)

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        super().resume_writing()
        self._spare()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        super().connection_lost(exc)
        self._forget()
        self.is_lost = True
        self.was_reset = exc is not None or _has_failed(self.transport)
        on_lost, self.on_lost = self.on_lost, None
        if on_lost is not None:
            on_lost()

    @property
    def is_closing(self) -> bool:
        """True once the peer's end was read, or this end is closed."""
        closing: bool = self.transport.is_closing()
        return closing

    @property
    def has_whole_request(self) -> bool:
        """True once nothing more of the request comes."""
        return self.cycle is not None and not self.cycle.more_body

    def hold(self) -> None:
        """Keep what is written of the reply."""
        if self.cycle is not None and self._held is None:
            self._held = self.cycle.transport = _HeldWrites(self.transport)

    def flush(self) -> None:
        """Send what was kept."""
        held, self._held = self._held, None
        if held is not None:
            held.flush()
            if self.cycle is not None:
                self.cycle.transport = self.transport

    def cut(self) -> None:
        """End the connection amid a reply."""
        self.flush()
        self._expect_no_end()
        self.transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        self._expect_no_end()
        self.transport.abort()

    def _expect_no_end(self) -> None:
        if self.cycle is not None:
            self.cycle.disconnected = True  # or uvicorn logs that a reply has no end

    def _forget(self) -> None:
        """Look after the peer no more, and let go of what would hold this protocol."""
        self._spare()
        if self._expecting is not None:
            self._expecting.cancel()
            self._expecting = None
        gone: Any = None
        self.parser = self.cycle = gone

    def _spare(self) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
            self._cutting = None

    def _look(self, left: int, seconds: float) -> None:
        self._cutting = None
        if self.transport.get_write_buffer_size() < left:
            self._watch(seconds)
        else:
            self.transport.abort()
