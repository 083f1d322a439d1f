"""One shared connection per event loop and address, counted by its users."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Hashable

from openenv_async.client.connection import ClientConnection

__all__ = ["Dial", "SharedConnections", "shared_connections"]

Dial = Callable[[], Awaitable[ClientConnection]]


class _Entry:
    __slots__ = ("dialing", "key", "users")

    def __init__(self, key: Hashable, dialing: asyncio.Task[ClientConnection]) -> None:
        self.key = key
        self.dialing = dialing
        self.users = 0


class SharedConnections:
    """Connections of one event loop, by key. A connection closes with its last user."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}
        self._in_use: dict[ClientConnection, _Entry] = {}

    async def acquire(self, key: Hashable, dial: Dial) -> ClientConnection:
        """The live connection of ``key``, made by ``dial`` if there is none.

        Callers that come while it is being made wait for the same one. Each call must be paired
        with one ``release``.
        """
        while True:
            entry = self._entries.get(key)
            if entry is None or _broken(entry):
                entry = self._entries[key] = _Entry(key, asyncio.ensure_future(_run(dial)))
            entry.users += 1
            try:
                connection = await asyncio.shield(entry.dialing)
            except BaseException:
                await self._leave(entry)
                raise
            if connection.error is None:
                self._in_use[connection] = entry
                return connection
            entry.users -= 1

    async def _leave(self, entry: _Entry) -> None:
        """Count a caller out that got no connection; a dial that no caller wants is stopped."""
        entry.users -= 1
        if entry.users == 0:
            if self._entries.get(entry.key) is entry:
                del self._entries[entry.key]
            if not entry.dialing.done():
                entry.dialing.cancel()
                await asyncio.wait([entry.dialing])
            if (made := _made(entry)) is not None:
                await made.aclose()

    async def release(self, connection: ClientConnection) -> None:
        """Give a connection back; the last user closes it."""
        entry = self._in_use.get(connection)
        if entry is None:
            await connection.aclose()
            return
        entry.users -= 1
        if entry.users == 0:
            del self._in_use[connection]
            if self._entries.get(entry.key) is entry:
                del self._entries[entry.key]
            await connection.aclose()


async def _run(dial: Dial) -> ClientConnection:
    return await dial()


def _made(entry: _Entry) -> ClientConnection | None:
    """The connection of an entry, if dialling has made one."""
    dialing = entry.dialing
    if not dialing.done() or dialing.cancelled() or dialing.exception() is not None:
        return None
    return dialing.result()


def _broken(entry: _Entry) -> bool:
    made = _made(entry)
    return entry.dialing.done() and (made is None or made.error is not None)


_by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, SharedConnections] = (
    weakref.WeakKeyDictionary()
)


def shared_connections() -> SharedConnections:
    """Those of the running loop."""
    loop = asyncio.get_running_loop()
    shared = _by_loop.get(loop)
    if shared is None:
        shared = _by_loop[loop] = SharedConnections()
    return shared
