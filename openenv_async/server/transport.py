"""The transport of one native WebSocket's messages: any ASGI server, or a more direct one."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, Protocol

from openenv_async.protocol.codec import WireMessage

__all__ = ["AsgiTransport", "Message", "Receive", "Scope", "Send", "Transport", "TransportUser"]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


_HIGH_WATER: Final = 64 * 1024
"""Bytes that may wait to be sent before the peer counts as one that reads too slowly."""


class TransportUser(Protocol):
    """The receiver of what a transport reads; called on the loop, it never raises."""

    def take(self, message: WireMessage) -> None: ...

    def congestion(self, congested: bool) -> None: ...


class Transport(Protocol):
    """A carrier of messages both ways.

    A server may offer one in the scope, as the extension ``openenv.transport``. Messages that it
    hands to its user do not come from ``receive``; all else does, and the end of the connection.
    """

    @property
    def congested(self) -> bool:
        """True if the peer reads slower than we write; what is written all the same is kept."""
        ...

    def attach(self, user: TransportUser) -> None:
        """Begin, right before the connection is accepted."""
        ...

    def write(self, message: bytes, text: bool) -> None:
        """Send a message soon; nothing happens when the connection is gone."""
        ...

    def hold(self) -> None:
        """Read no more than is underway, until ``release``."""
        ...

    def release(self) -> None: ...

    async def settled(self) -> None:
        """Awaited between two messages that ``receive`` gave."""
        ...

    def abort(self, task: asyncio.Task[None]) -> None:
        """End at once, whatever is being sent; ``task`` is the one that waits in ``receive``."""
        ...

    async def aclose(self) -> None:
        """The user is gone."""
        ...


class AsgiTransport:
    """The transport over ASGI's ``send``: one message at a time, of which each may have to wait."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._user: TransportUser | None = None
        self._writer: asyncio.Task[None] | None = None
        self._out: deque[tuple[bytes, bool]] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._size = 0
        self._sending = False
        self.congested = False

    def attach(self, user: TransportUser) -> None:
        """Begin; a task sends what is written outside the reader."""
        self._user = user
        self._writer = asyncio.create_task(self._write(), name="openenv-writer")

    def write(self, message: bytes, text: bool) -> None:
        """Send a message soon."""
        self._out.append((message, text))
        self._size += len(message)
        self._news.set()
        if self._size > _HIGH_WATER:
            self._tell(True)

    def hold(self) -> None:
        """``settled`` waits until ``release``."""
        self._room.clear()

    def release(self) -> None:
        """See ``hold``."""
        self._room.set()

    async def settled(self) -> None:
        """Send what the last message led to, without the writer's loop turn."""
        await self._flush()
        await self._room.wait()

    def abort(self, task: asyncio.Task[None]) -> None:
        """End the reader; ASGI has no more to offer."""
        task.cancel()

    async def aclose(self) -> None:
        """Stop sending."""
        self._user = None
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.wait([self._writer])

    async def _write(self) -> None:
        with contextlib.suppress(OSError):  # the reader learns of it by itself
            while True:
                await self._news.wait()
                self._news.clear()
                await self._flush()

    async def _flush(self) -> None:
        if self._sending or not self._out:
            return
        self._sending = True
        self._tell(True)
        try:
            while self._out:
                message, text = self._out.popleft()
                self._size -= len(message)
                if text:
                    await self._send({"type": "websocket.send", "text": message.decode()})
                else:
                    await self._send({"type": "websocket.send", "bytes": message})
        finally:
            self._sending = False
            self._tell(False)

    def _tell(self, congested: bool) -> None:
        if congested == self.congested:
            return
        self.congested = congested
        if self._user is not None:
            self._user.congestion(congested)
