"""Uvicorn's HTTP, of which silent peers are cut, and one that speaks TLS is named.

Uvicorn hands a whole reply to the transport and waits for nobody to read it: a peer that never
does would keep the reply, and its connection, for ever. So would one that never sends the rest of
a request.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from uvicorn.protocols.http.auto import AutoHTTPProtocol

__all__ = ["http_protocol"]

log = logging.getLogger("openenv_async.server")

_TLS_HANDSHAKE: Final = b"\x16\x03"
"""The beginning of the first record of TLS (RFC 8446, section 5.1), and of no HTTP request."""


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


class _DirectHTTP(AutoHTTPProtocol):  # type: ignore[misc,valid-type]  # it is chosen at run time
    write_timeout: float | None = None
    connect_timeout: float | None = None
    _received = 0
    _cutting: asyncio.TimerHandle | None = None
    _expecting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Expect a request."""
        super().connection_made(transport)
        if self.connect_timeout is not None:
            self._expect(self.connect_timeout)

    def _expect(self, seconds: float) -> None:
        """Look again whether the peer has sent anything meanwhile."""
        loop: Any = self.loop
        seen = self.cycle, self._received
        self._expecting = loop.call_later(seconds, self._look_for_request, seconds, seen)

    def _look_for_request(self, seconds: float, seen: tuple[Any, int]) -> None:
        self._expecting = None
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return  # it is a WebSocket's by now
        cycle, received = seen
        if self.cycle is not cycle:
            is_silent = False
        elif cycle is None:  # no head has come yet
            is_silent = True
        elif self._received != received:
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
        self._received += 1
        if self._received == 1 and data.startswith(_TLS_HANDSHAKE):
            log.warning(
                "a client spoke https or wss to this http port: give it an http:// address, or"
                " serve a certificate (--ssl-certfile; ssl_certfile=)"
            )
            self.send_400_response("This port speaks http, not https.")
            return
        super().data_received(data)

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
        self._spare()
        if self._expecting is not None:
            self._expecting.cancel()
            self._expecting = None
        super().connection_lost(exc)

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
