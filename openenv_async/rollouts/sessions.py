"""The sessions of one ``collect``: opened where there is room, closed whatever happens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from openenv_async.errors import CallerError, OpenEnvError, ServerBusy
from openenv_async.rollouts.checking import check_client
from openenv_async.rollouts.summary import Summary

__all__ = ["Sessions"]

log = logging.getLogger("openenv_async.rollouts")

_OPEN_WAIT: Final = 60.0
"""Seconds to wait for capacity at most while no session of ours is open."""


class Sessions:
    """Opens clients and closes them.

    Args:
        factories: make the clients, in turn.
        wanted: whether there is still something to play; else nobody waits for a session.
        summary: counts the refusals of servers that are full.
    """

    def __init__(
        self, factories: list[Callable[[], Any]], wanted: Callable[[], bool], summary: Summary
    ) -> None:
        self._factories = factories
        self._wanted = wanted
        self._summary = summary
        self._open_count = 0
        self._openers: set[asyncio.Task[None]] = set()

    async def open(self, number: int) -> tuple[Any, BaseException | None]:
        """An open client, or why there is none; neither when nothing is left to play.

        While the server is full this waits: for as long as sessions of ours are at work,
        otherwise for a bounded time.

        Args:
            number: says which of the factories makes it.

        Raises:
            CallerError: it may not be opened at all.
            TypeError: what was made is no client.
        """
        make = self._factories[number % len(self._factories)]
        clock = asyncio.get_running_loop().time
        since = clock()
        while self._wanted():
            client = make()
            check_client(client, "collect()")
            try:
                if hasattr(client, "open"):
                    await self._open(client)
            except ServerBusy as exc:
                await self._dispose(client)
                since = clock() if self._open_count else since
                if clock() - since >= _OPEN_WAIT:
                    return None, exc
                if not self._summary.refused:
                    log.info("waiting for capacity: %s", exc.message)
                self._summary.refused += 1
                await asyncio.sleep(min(float(exc.detail.get("retry_after") or 1.0), 1.0))
            except CallerError:
                await self._dispose(client)
                raise
            except (OpenEnvError, OSError) as exc:
                await self._dispose(client)
                return None, exc
            except BaseException:
                await self._dispose(client)
                raise
            else:
                self._open_count += 1
                return client, None
        return None, None

    async def _open(self, client: Any) -> None:
        """Open it; ``give_up`` cancels this."""
        task = asyncio.current_task()
        assert task is not None
        self._openers.add(task)
        try:
            await client.open()
        finally:
            self._openers.discard(task)

    def give_up(self) -> None:
        """Cancel the workers that wait for a session: nobody needs one any more."""
        for task in self._openers:
            task.cancel()

    async def close(self, client: Any) -> None:
        """Close an open client."""
        self._open_count -= 1
        await self._dispose(client)

    async def _dispose(self, client: Any) -> None:
        close = getattr(client, "close", None)
        if close is not None:
            try:
                await close()
            except OpenEnvError as exc:
                log.info("a session did not close: %s", exc)
