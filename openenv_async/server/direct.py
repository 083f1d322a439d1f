"""Uvicorn's WebSocket, from which native messages go straight to the session engine.

ASGI costs a message a queue, the wake-up of a task, and reading stopped and begun again; one
session alone would spend more on these than on its step. The handshake, control frames, closing
and every other WebSocket stay as uvicorn has them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request
from websockets.protocol import State

from openenv_async.protocol.websocket_frames import CutsFrames, data_frame
from openenv_async.server.transport import TransportUser

__all__ = ["DirectWebSocket"]


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
        """As uvicorn's; the application runs after it, and finds what this offers."""
        super().handle_connect(event)
        scope: Any = getattr(self, "scope", None)
        if scope is not None:
            scope["extensions"]["openenv.transport"] = self
            scope["extensions"]["openenv.abort"] = self.transport.abort
            scope["extensions"]["openenv.refused"] = self._refused
            scope["extensions"]["openenv.ping"] = self._ping

    def _ping(self, lease: float) -> None:
        """Ping the peer, and end the connection when it has not answered for ``lease`` seconds."""
        self.ping_interval, self.ping_timeout = lease / 3, lease * 2 / 3
        self.start_keepalive()

    def _refused(self) -> None:
        """The application answered with a status: uvicorn takes that for a mistake."""
        self.handshake_complete = True

    def send_receive_event_to_app(self) -> None:
        """As uvicorn's, past its queue where there is somebody to take the message."""
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
