"""One shared connection per event loop and address, counted by its users."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Hashable

from openenv_async.client.connection import Connection

__all__ = ["Dial", "SharedConnections", "shared_connections"]

Dial = Callable[[], Awaitable[Connection]]


class _Entry:
    __slots__ = ("dialing", "users")

    def __init__(self, dialing: asyncio.Task[Connection]) -> None:
        self.dialing = dialing
        self.users = 0


class SharedConnections:
    """Connections of one event loop, by key. A connection closes with its last user."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, _Entry] = {}

    async def acquire(self, key: Hashable, dial: Dial) -> Connection:
        """The live connection of ``key``, made by ``dial`` if there is none.

        Whoever comes while it is being made waits for the same one. Each call must be paired
        with one ``release``.
        """
        while True:
            entry = self._entries.get(key)
            if entry is None or _broken(entry):
                entry = _Entry(asyncio.ensure_future(_run(dial)))
                self._entries[key] = entry
            entry.users += 1
            if entry.dialing.done():
                return entry.dialing.result()
            try:
                connection = await asyncio.shield(entry.dialing)
            except BaseException:
                entry.users -= 1
                if entry.users == 0:
                    entry.dialing.cancel()
                    if self._entries.get(key) is entry:
                        del self._entries[key]
                raise
            if connection.error is None:
                return connection
            entry.users -= 1

    async def release(self, key: Hashable, connection: Connection) -> None:
        """Give a connection back; the last user closes it."""
        entry = self._entries.get(key)
        if entry is None or _made(entry) is not connection:
            if connection.error is None and connection.channel_count == 0:
                await connection.aclose()
            return
        entry.users -= 1
        if entry.users == 0:
            del self._entries[key]
            await connection.aclose()


async def _run(dial: Dial) -> Connection:
    return await dial()


def _made(entry: _Entry) -> Connection | None:
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
