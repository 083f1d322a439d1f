"""The native WebSocket door: carries the messages of a ``NativeConnection`` over ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from math import inf
from typing import Any, Final

from openenv_async.engine import Engine, NativeConnection
from openenv_async.protocol.codec import frame_codec
from openenv_async.tracing import trace_of

__all__ = ["Message", "NativeSocket", "Receive", "Scope", "Send"]

_NORMAL_CLOSURE: Final = 1000
_BACKLOG: Final = 10_000
"""Frames that may wait for a peer that does not read before its requests wait too."""
_SLICE: Final = 16
"""Frames handled before the replies so far are sent."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class NativeSocket:
    """One WebSocket that speaks ``openenv.v1``.

    Replies that are ready when a message has been handled go out at once, in one message.
    Those that come later are gathered by a writer task: it wakes a loop turn after the first of
    them, so it takes all that became ready in between.
    """

    def __init__(
        self, engine: Engine, subprotocol: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._engine = engine
        self._subprotocol = subprotocol
        self._receive = receive
        self._send = send
        self._abort: Callable[[], None] | None = scope.get("extensions", {}).get("openenv.abort")
        self._task: asyncio.Task[None] | None = None
        self._is_cut = False
        self._sending = False
        self._room: asyncio.Future[None] | None = None
        self._stats = engine.stats
        self._waiter: asyncio.Future[None] | None = None
        codec = frame_codec(subprotocol, "server", engine.options.limits.max_message_size)
        self.connection = NativeConnection(engine, codec, self._wake, self._cut)
        self.connection.trace = trace_of(scope["headers"])

    async def run(self) -> None:
        """Accept and serve until the peer is gone."""
        await self._send({"type": "websocket.accept", "subprotocol": self._subprotocol})
        writer = asyncio.create_task(self._write(), name="openenv-writer")
        connection, receive, stats = self.connection, self._receive, self._stats
        self._task = asyncio.current_task()
        left = False
        try:
            while True:
                event = await receive()
                if event["type"] != "websocket.receive":
                    left = event.get("code") == _NORMAL_CLOSURE
                    return
                message = event.get("bytes")
                if message is None:
                    message = event["text"]
                stats.bytes_in += len(message)
                frames = connection.decode(message)
                at, stop = 0, len(frames)
                while at < stop:
                    # In slices, so that the client works on the first replies meanwhile.
                    at = connection.handle(frames, at, min(at + _SLICE, stop))
                    if connection.pending:
                        await self._flush_batch()
        except OSError:
            return  # the peer went away while we were sending
        except asyncio.CancelledError:
            if not self._is_cut:
                raise
            _uncancel()
        finally:
            connection.lost(left)
            writer.cancel()
            await asyncio.wait([writer])

    def _cut(self) -> None:
        """The peer is dead or does not read: end, whatever is being sent."""
        self._is_cut = True
        if self._abort is not None:
            self._abort()
        if self._task is not None:
            self._task.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._waiter = loop.create_future()
            if not self.connection.pending or self._sending:
                await self._waiter
            try:
                await self._flush()
            except OSError:
                return  # the reader learns of it by itself

    async def _flush_batch(self) -> None:
        """Send what is ready, from the reader; large payloads are left to the writer."""
        if not self._sending:
            await self._put(self.connection.take_batch())
        elif self.connection.backlog > _BACKLOG:
            # The peer asks and does not read: neither do we, until it does or is cut.
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        if self.connection.pending:
            self._wake()
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # timers that came due meanwhile stand behind the first one

    async def _flush(self) -> None:
        """Send everything, from the writer; others have the loop between two large pieces."""
        while self.connection.pending and not self._sending:
            await self._put(self.connection.take())
            if self.connection.pending:
                await asyncio.sleep(0)

    async def _put(self, messages: list[bytes]) -> None:
        self._sending = True
        self.connection.sending_since = self._engine.clock()
        try:
            for message in messages:
                self._stats.bytes_out += len(message)
                if self.connection.codec.text:
                    await self._send({"type": "websocket.send", "text": message.decode()})
                else:
                    await self._send({"type": "websocket.send", "bytes": message})
        finally:
            self._sending = False
            self.connection.sending_since = inf
            if self._room is not None and not self._room.done():
                self._room.set_result(None)


def _uncancel() -> None:
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
