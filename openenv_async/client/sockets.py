"""The sockets of HTTP clients: one aiohttp session per event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Sockets"]


class Sockets:
    """One aiohttp session of one event loop, counted by its users.

    An asynchronous generator holds it: the loop closes those when it ends (``asyncio.run``
    does), so a client that nobody closed leaves no socket behind.
    """

    _open: Final[dict[tuple[asyncio.AbstractEventLoop, bool], Sockets]] = {}

    def __init__(self, loop: asyncio.AbstractEventLoop, trust_env: bool) -> None:
        self.loop = loop
        self.client: aiohttp.ClientSession
        self._trust_env = trust_env
        self._users = 0
        self._life = self._live()

    @classmethod
    async def acquire(cls, trust_env: bool) -> Sockets:
        """The sockets of the running loop; pair with ``release``.

        Args:
            trust_env: whether proxies of the environment variables apply.
        """
        key = (asyncio.get_running_loop(), trust_env)
        sockets = cls._open.get(key)
        if sockets is None:
            sockets = cls._open[key] = cls(*key)
            await anext(sockets._life)  # does not suspend
        sockets._users += 1
        return sockets

    async def release(self) -> None:
        """One user less; the last one closes. From any loop and thread."""
        if self.loop is asyncio.get_running_loop():
            await self._leave()
        elif self.loop.is_running():
            asyncio.run_coroutine_threadsafe(self._leave(), self.loop)
        else:
            self._users -= 1  # they closed with their loop, or wait for it to run again

    async def _leave(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._unlist()
            await self._life.aclose()

    def _unlist(self) -> None:
        """Whoever comes from now on, while these are closing, gets others."""
        key = (self.loop, self._trust_env)
        if self._open.get(key) is self:
            del self._open[key]

    async def _live(self) -> AsyncGenerator[None, None]:
        import aiohttp

        try:
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),  # sessions are named by header
                trust_env=self._trust_env,
            ) as self.client:
                yield
        finally:
            self._unlist()
