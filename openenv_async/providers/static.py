"""StaticProvider: servers that somebody else runs, found by URL, by DNS or by a callable.

A worker is an address while it is used. Nothing is started or stopped; an address that is not
found any more is let go when its last session has ended.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import itertools
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Self, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from openenv_async.endpoints.addresses import Address, checked_addresses
from openenv_async.errors import DeadlineExceeded, ProviderError
from openenv_async.providers.base import Provider, Worker

__all__ = ["Address", "Finder", "StaticProvider", "StaticWorker"]

Finder: TypeAlias = Callable[[], "Iterable[Address] | Awaitable[Iterable[Address]]"]
"""A function that gives the addresses as they are now; may be async. A sync one may block: it has a
thread.
"""

_REST: Final = 1.0
"""Seconds for which an address is not given again whose server failed."""
_numbers = itertools.count(1)


class StaticWorker(Worker):
    """One address while it is in use."""

    def __init__(self, provider: StaticProvider, url: str, token: str | None) -> None:
        super().__init__(f"static-{next(_numbers)} ({url})", url, token=token)
        self._provider = provider

    async def aclose(self) -> None:
        """Give the address back."""
        self._provider._give_back(self)


class StaticProvider(Provider):
    """A provider of addresses, each to one worker at a time, the longest unused first.

    The address of a server that went away, or did not answer, rests for a second.

    Args:
        addresses: URLs, or pairs of URL and token; or one callable that gives them.
        token: access token of the servers that bring none of their own.
        refresh_interval: seconds for which what a callable or DNS said is believed.
    """

    name = "static"
    owns_workers = False

    def __init__(
        self,
        *addresses: Address | Finder,
        token: str | None = None,
        refresh_interval: float = 0.25,
    ) -> None:
        if not addresses:
            raise ValueError("no address: give URLs or a callable that finds them")
        finder = addresses[0]
        self._find: Finder | None = None
        self._addresses: list[Address] = []
        if callable(finder):
            if len(addresses) > 1:
                raise ValueError("give either URLs or one callable that finds them")
            self._find = finder
        else:
            self._addresses = checked_addresses(addresses, "the addresses")
        self._token = token
        self._refresh_interval = refresh_interval
        self._forget_all()

    @classmethod
    def from_dns(
        cls, url: str, *, token: str | None = None, refresh_interval: float = 0.25
    ) -> Self:
        """One worker per address that the host name of ``url`` has, looked up again and again.

        Raises:
            ValueError: it is https, whose certificates are for names and not for addresses.
        """
        if urlsplit(url).scheme not in ("http", "ws"):
            raise ValueError(f"{url!r} cannot be spread over its addresses: only http and ws can")
        return cls(_Lookup(url), token=token, refresh_interval=refresh_interval)

    def _forget_all(self) -> None:
        self._known: dict[str, str | None] = {}
        self._used: dict[str, StaticWorker] = {}
        self._given_at: dict[str, int] = {}
        self._resting: dict[str, float] = {}
        self._turns = itertools.count(1)
        self._fresh_until = float("-inf")
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._refreshing: asyncio.Task[None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The settings; which address is used is each process's own affair."""
        settings = ("_find", "_addresses", "_token", "_refresh_interval")
        return {name: getattr(self, name) for name in settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget_all()

    async def room(self) -> int | None:
        """Return the number of unused addresses; look them up again when it is time."""
        await self._refresh()
        return len(self._free())

    async def start(self, *, timeout: float | None = None) -> StaticWorker:
        """The address that was unused for longest.

        Raises:
            ProviderError: all are in use, there is none, or they cannot be found.
            DeadlineExceeded: they were not found within ``timeout``.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._refresh()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the addresses were not found within {timeout:g} s", phase="connect"
            ) from None
        free = self._free()
        if not free:
            raise ProviderError(
                f"all {len(self._known)} addresses are in use"
                if self._known
                else "there is no address to play at"
            )
        url = min(free, key=lambda url: self._given_at.get(url, 0))
        self._given_at[url] = next(self._turns)
        worker = self._used[url] = StaticWorker(self, url, self._known[url])
        return worker

    def _free(self) -> list[str]:
        now = time.monotonic()
        rested = [url for url, until in self._resting.items() if until <= now]
        for url in rested:
            del self._resting[url]
        return [url for url in self._known if url not in self._used and url not in self._resting]

    def _give_back(self, worker: StaticWorker) -> None:
        if self._used.get(worker.url) is worker:
            del self._used[worker.url]
            if worker.is_failing:
                self._resting[worker.url] = time.monotonic() + _REST

    async def _refresh(self) -> None:
        """Have the addresses as they are now; concurrent callers wait for one look-up."""
        if time.monotonic() < self._fresh_until:
            return
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._look_up(), name="openenv-addresses")
            self._refreshing.add_done_callback(self._looked_up)
        await asyncio.shield(self._refreshing)

    def _looked_up(self, task: asyncio.Task[None]) -> None:
        self._refreshing = None
        if not task.cancelled():
            task.exception()  # its callers were told

    async def _look_up(self) -> None:
        try:
            found = self._addresses if self._find is None else await self._ask(self._find)
            addresses = [found] if isinstance(found, str) else found
            known = dict(self._pair(address) for address in addresses)
        except Exception as exc:
            if not self._known:
                raise ProviderError(f"the addresses cannot be found: {exc}") from exc
            # those that were known stay: a name server's trouble is not theirs
        else:
            self._known = known
            for url, worker in self._used.items():
                worker.leaving = url not in self._known
        fixed = self._find is None
        self._fresh_until = float("inf") if fixed else time.monotonic() + self._refresh_interval

    async def _ask(self, find: Finder) -> Iterable[Address]:
        if inspect.iscoroutinefunction(find):
            made: Iterable[Address] = await find()
            return made
        if self._thread is None:
            self._thread = concurrent.futures.ThreadPoolExecutor(1, "openenv-addresses")
        found = await asyncio.get_running_loop().run_in_executor(self._thread, find)
        return await found if inspect.isawaitable(found) else found

    def _pair(self, address: Address) -> tuple[str, str | None]:
        url, token = (address, None) if isinstance(address, str) else address
        return url, self._token if token is None else token

    async def aclose(self) -> None:
        """Give every address back, and end the thread of look-ups."""
        self._used.clear()
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False)


class _Lookup:
    """The URLs of all addresses that a URL's host name has; blocks."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self) -> Sequence[str]:
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port or 80
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
        return [
            urlunsplit(parts._replace(netloc=f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"))
            for ip in addresses
        ]
