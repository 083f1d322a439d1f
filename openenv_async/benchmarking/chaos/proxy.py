"""A TCP proxy that does to a connection what networks do.

``async with ChaosProxy(url) as proxy:`` then use ``proxy.url`` in place of ``url``. It knows
WebSocket frames well enough to act between messages and to swallow pings; what is not a WebSocket
is forwarded as it is read, each piece counting as a message. Everything random is drawn from
``seed``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

__all__ = ["ChaosProxy", "Direction"]

Direction = Literal["up", "down"]
"""``up``: from the client to the server."""

_DATA: Final = (0, 1, 2)
_PING_PONG: Final = (9, 10)
_RESET: Final = struct.pack("ii", 1, 0)


class ChaosProxy:
    """A proxy that forwards connections to ``upstream`` and breaks them on demand.

    Attributes that may be changed at any time:
        refusing: reset new connections as soon as they come.
        delay: seconds, least and most, by which each message is delayed.
        rate: bytes per second and direction; ``None`` for no limit.
        segment: bytes per write at most, each flushed by itself; 0 writes pieces whole.
        coalesce: seconds for which pieces are gathered into one write.
        swallow_pings: drop WebSocket pings and pongs.
        cut_rate: probability per message that its connection is reset, before or after it.
    Counters: ``connections``, ``cuts``, ``swallowed``, ``messages`` by direction.
    """

    def __init__(self, upstream: str, seed: int = 0) -> None:
        self._upstream = urlsplit(upstream)
        self.random = random.Random(seed)
        self.refusing = False
        self.delay: tuple[float, float] = (0.0, 0.0)
        self.rate: float | None = None
        self.segment = 0
        self.coalesce = 0.0
        self.swallow_pings = False
        self.cut_rate = 0.0
        self.connections = 0
        self.cuts = 0
        self.swallowed = 0
        self.messages: dict[Direction, int] = {"up": 0, "down": 0}
        self.links: set[_Link] = set()
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._triggers: list[_Trigger] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 20)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.flowing.set()
        for link in list(self.links):
            link.reset()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """The address to use instead of the server's."""
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        return urlunsplit((self._upstream.scheme, f"127.0.0.1:{port}", self._upstream.path, "", ""))

    # -- what may be done to the connections there are ----------------------------------------

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        links = list(self.links)
        for link in links:
            link.reset()
        self.cuts += len(links)
        return len(links)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Reset every connection, and each that comes, until the block ends."""
        self.refusing = True
        self.cut()
        try:
            yield
        finally:
            self.refusing = False

    def cut_after(
        self,
        direction: Direction,
        *,
        messages: int | None = None,
        size: int | None = None,
        forward: bool = True,
    ) -> None:
        """Reset the connection that carries the n-th message, or byte, from now.

        Args:
            direction: whose messages are counted.
            messages: how many, 1 for the next.
            size: how many bytes; the cut may be in the middle of a message.
            forward: whether the last message still goes through.
        """
        self._triggers.append(_Trigger(direction, messages, size, forward))

    def black_hole(self) -> None:
        """Keep the sockets of every connection and forward nothing any more.

        Data is taken and lost, nobody is told. New connections work.
        """
        for link in self.links:
            link.is_black_hole = True

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Hold everything back until the block ends; nothing is lost."""
        self.flowing.clear()
        try:
            yield
        finally:
            self.flowing.set()

    def half_close(self, direction: Direction) -> None:
        """Say to the receivers of one direction that nothing more will come (FIN)."""
        for link in self.links:
            link.half_close(direction)

    # -- inside -------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self.refusing:
                _reset(writer)
                return
            self.connections += 1
            try:
                host, port = self._upstream.hostname, self._upstream.port
                there = await asyncio.open_connection(host, port, limit=1 << 20)
            except OSError:
                _reset(writer)
                return
            await _Link(self, (reader, writer), there).run()
        except asyncio.CancelledError:
            _reset(writer)  # the stream's own callback would report a cancellation as an error
        finally:
            self._tasks.discard(task)

    def fired(self, direction: Direction, size: int) -> _Trigger | None:
        """The trigger that this message sets off."""
        for trigger in self._triggers:
            if trigger.direction == direction and trigger.count(size):
                self._triggers.remove(trigger)
                return trigger
        return None


class _Trigger:
    def __init__(
        self, direction: Direction, messages: int | None, size: int | None, forward: bool
    ) -> None:
        self.direction = direction
        self.forward = forward
        self.left: int | None = None
        self._messages = messages
        self._size = size

    def count(self, size: int) -> bool:
        """Count a message of ``size`` bytes; ``left`` is how much of the last may pass."""
        if self._messages is not None:
            self._messages -= 1
            return self._messages == 0
        assert self._size is not None
        self.left = min(size, self._size)
        self._size -= size
        return self._size <= 0


Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: ChaosProxy, client: Stream, server: Stream) -> None:
        self.proxy = proxy
        self.is_black_hole = False
        self.is_websocket = False
        self._writers: dict[Direction, asyncio.StreamWriter] = {"up": server[1], "down": client[1]}
        self._readers: dict[Direction, asyncio.StreamReader] = {"up": client[0], "down": server[0]}
        self._ended: set[Direction] = set()
        self._gathered: dict[Direction, bytearray] = {"up": bytearray(), "down": bytearray()}

    async def run(self) -> None:
        """Forward until both ends are done."""
        self.proxy.links.add(self)
        pumps = [asyncio.create_task(self._pump("up")), asyncio.create_task(self._pump("down"))]
        try:
            await asyncio.wait(pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            self.reset()

    def reset(self) -> None:
        """RST both ways; what is still buffered is lost."""
        self.proxy.links.discard(self)
        for writer in self._writers.values():
            _reset(writer)

    def half_close(self, direction: Direction) -> None:
        """FIN one way; what comes after it, or was still gathered, is lost."""
        self._ended.add(direction)
        self._gathered[direction].clear()
        with contextlib.suppress(OSError):
            self._writers[direction].write_eof()

    def _flush(self, direction: Direction) -> None:
        """Forward what was gathered."""
        gathered = self._gathered[direction]
        if gathered:
            self._writers[direction].write(bytes(gathered))
            gathered.clear()

    async def _pump(self, direction: Direction) -> None:
        proxy = self.proxy
        loop = asyncio.get_running_loop()
        gathered = self._gathered[direction]
        try:
            async for kind, piece in self._pieces(direction):
                await proxy.flowing.wait()
                if self.is_black_hole or direction in self._ended:
                    continue
                if kind == "ping" and proxy.swallow_pings:
                    proxy.swallowed += 1
                    continue
                if kind == "message":
                    proxy.messages[direction] += 1
                    if await self._faulty(direction, piece):
                        return
                if gathered or (proxy.coalesce and kind != "head"):
                    if not gathered:
                        loop.call_later(proxy.coalesce, self._flush, direction)
                    gathered += piece
                else:
                    await self._write(direction, piece)
            self._flush(direction)
            if not self.is_black_hole:
                self.half_close(direction)
        except (OSError, asyncio.IncompleteReadError):
            if not self.is_black_hole:
                self.reset()

    async def _faulty(self, direction: Direction, piece: bytes) -> bool:
        """Forward a message or not; return whether it was the last of its connection."""
        proxy = self.proxy
        forward: bool | None = None
        part = piece
        trigger = proxy.fired(direction, len(piece))
        if trigger is not None:
            forward = trigger.forward
            if trigger.left is not None:
                part = piece[: trigger.left]
        elif proxy.cut_rate and proxy.random.random() < proxy.cut_rate:
            forward = proxy.random.random() < 0.5
        low, high = proxy.delay
        if high:
            await asyncio.sleep(proxy.random.uniform(low, high))
        if forward is None:
            return False
        if forward and direction not in self._ended:
            writer = self._writers[direction]
            self._flush(direction)  # what came before it is not overtaken
            writer.write(part)
            await writer.drain()
            # The reset below would take with it what the receiver has not read yet.
            await asyncio.sleep(0.002)
        proxy.cuts += 1
        self.reset()
        return True

    async def _write(self, direction: Direction, data: bytes) -> None:
        proxy, writer = self.proxy, self._writers[direction]
        size = proxy.segment or len(data)
        for at in range(0, len(data), size):
            if direction in self._ended:
                return
            part = data[at : at + size]
            writer.write(part)
            await writer.drain()
            if proxy.rate is not None:
                await asyncio.sleep(len(part) / proxy.rate)
            elif proxy.segment:
                await asyncio.sleep(0)

    async def _pieces(self, direction: Direction) -> AsyncIterator[tuple[str, bytes]]:
        """Heads, messages and control frames as they come: (head | message | ping, bytes)."""
        reader = self._readers[direction]
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return
        if direction == "up" and b"upgrade: websocket" in head.lower():
            self.is_websocket = True
        if not self.is_websocket:
            yield "message", head
            while data := await reader.read(65536):
                yield "message", data
            return
        yield "head", head
        while True:
            try:
                start = await reader.readexactly(2)
            except asyncio.IncompleteReadError:
                return
            length = start[1] & 0x7F
            extra = {126: 2, 127: 8}.get(length, 0)
            more = await reader.readexactly(extra)
            if extra:
                length = int.from_bytes(more, "big")
            body = await reader.readexactly(length + (4 if start[1] & 0x80 else 0))
            opcode = start[0] & 0x0F
            kind = "message" if opcode in _DATA else "ping" if opcode in _PING_PONG else "head"
            yield kind, start + more + body


def _reset(writer: asyncio.StreamWriter) -> None:
    transport = writer.transport
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()
