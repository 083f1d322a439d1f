"""Messages over a Unix socket between the server process and a worker process.

Each message is preceded by 4 fixed bytes and its length as 4 bytes, big-endian; anything else is
garbage that something in the process wrote, and ends the connection. Both ends are asyncio
protocols: what was sent in one loop turn leaves in one write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

__all__ = ["HEADER_SIZE", "MAX_PIPE_MESSAGE", "Pipe", "body_size"]

MAX_PIPE_MESSAGE: Final = 2**31
"""A longer announced message means that the other end writes garbage."""
_MARK: Final = b"\x93OE\x01"
HEADER_SIZE: Final = 8


def body_size(header: bytes) -> int | None:
    """The length that a header announces; ``None`` when it is none."""
    size = int.from_bytes(header[4:], "big")
    return size if header[:4] == _MARK and size <= MAX_PIPE_MESSAGE else None


class Pipe(asyncio.Protocol):
    """One end.

    Args:
        on_message: called with each message.
        on_lost: called once when the other end is gone or wrote garbage.
    """

    def __init__(self, on_message: Callable[[bytes], None], on_lost: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._buffer = bytearray()
        self._wanted = HEADER_SIZE
        self._in_body = False
        self.is_garbled = False
        self._transport: asyncio.Transport | None = None
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) - at >= self._wanted:
            part = bytes(buffer[at : at + self._wanted])
            at += self._wanted
            if self._in_body:
                self._in_body, self._wanted = False, HEADER_SIZE
                self._on_message(part)
            else:
                size = body_size(part)
                if size is None:
                    self.is_garbled = True
                    self.close()
                    return
                self._in_body, self._wanted = True, size
        del buffer[:at]

    @property
    def connected(self) -> bool:
        """Whether there is a transport to write to."""
        return self._transport is not None

    def send(self, message: bytes) -> None:
        """Write a message; nothing happens when the other end is gone."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(_MARK + len(message).to_bytes(4, "big") + message)

    def pause_writing(self) -> None:
        """Called by the loop."""
        self.paused = True

    def resume_writing(self) -> None:
        """Called by the loop."""
        self.paused = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self._on_lost()

    def close(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()
