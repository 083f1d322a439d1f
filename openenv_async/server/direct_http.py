"""Uvicorn's HTTP, of which a peer that does not read is cut, and one that speaks TLS is named.

Uvicorn hands a whole reply to the transport and waits for nobody to read it: a peer that never
does would keep the reply, and its connection, for ever.
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


def http_protocol(write_timeout: float | None) -> type[asyncio.Protocol]:
    """A protocol class for uvicorn.

    Args:
        write_timeout: seconds after which a peer that takes no data is cut; ``None``: never.
    """
    return type("DirectHTTP", (_DirectHTTP,), {"write_timeout": write_timeout})


class _DirectHTTP(AutoHTTPProtocol):  # type: ignore[misc,valid-type]  # it is chosen at run time
    write_timeout: float | None = None
    _has_data = False
    _cutting: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        """Receive as uvicorn does, but for the first bytes."""
        if not self._has_data:
            self._has_data = True
            if data.startswith(_TLS_HANDSHAKE):
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
