"""The owner's lease: an owned server ends by itself when its owner no longer shows up.

Rules:

- Any request that the guard lets through renews the lease, and so does every open connection.
- Time counts only while this process runs: a container that was paused, or a machine that slept,
  has heard nobody because it could not. An event loop that was blocked likewise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

__all__ = ["OwnerLease"]

log = logging.getLogger("openenv_async.server")

_TICK: Final = 0.5


class OwnerLease:
    """The watch over one server's owner.

    Args:
        server: an ``HTTPEnvServer``, or several as one.
        seconds: without a sign of the owner, after which the server has to end.
        expired: called once, then.
    """

    def __init__(self, server: Any, seconds: float, expired: Callable[[], None]) -> None:
        if seconds <= 0:
            raise ValueError("an owner's lease is a positive number of seconds")
        self._server = server
        self._seconds = seconds
        self._expired = expired
        self._task = asyncio.create_task(self._watch(), name="openenv-owner-lease")

    async def aclose(self) -> None:
        """Stop watching."""
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        server = self._server
        server.is_visited()  # what was before does not count
        unheard = 0.0
        while unheard < self._seconds:
            since = loop.time()
            await asyncio.sleep(_TICK)
            if server.is_visited():
                unheard = 0.0
            else:
                unheard += min(loop.time() - since, 2 * _TICK)
        log.warning("nobody renewed the owner's lease for %g s: shutting down", self._seconds)
        self._expired()
