"""Processes that environments in a worker left behind, found by the worker's mark and ended.

A worker leads a process group, which is killed with it. A child that made a session of its own
(``setsid``) is in none of its parent's groups and outlives it, but has inherited an environment
variable with the worker's mark. Without ``/proc`` only the group is ended; a child
that was given other environment variables and a session of its own is not found either.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
from typing import Final

from openenv_async.guard import end_where

__all__ = ["MARK_VARIABLE", "Sweeper", "end_marked", "new_mark"]

MARK_VARIABLE: Final = "OPENENV_WORKER_MARK"


def new_mark() -> str:
    """A mark that no other worker has."""
    return secrets.token_hex(16)


def end_marked(marks: set[str]) -> int:
    """Kill every other process whose environment variables bear one of ``marks``.

    Returns:
        How many were killed.
    """
    wanted = {f"{MARK_VARIABLE}={mark}".encode() for mark in marks}
    return end_where(wanted.__contains__)


class Sweeper:
    """The search for what dead workers left, off the loop; those that die together share one."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._running = False

    async def sweep(self, mark: str) -> None:
        """Return when no process bears ``mark``."""
        loop = asyncio.get_running_loop()
        done = self._waiting[mark] = loop.create_future()
        if not self._running:
            self._start(loop)
        await done

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting, {}
        self._running = True

        def search() -> None:
            try:
                end_marked(set(batch))
            finally:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    loop.call_soon_threadsafe(finish)

        def finish() -> None:
            self._running = False
            for done in batch.values():
                if not done.done():
                    done.set_result(None)
            if self._waiting:
                self._start(loop)

        try:
            threading.Thread(target=search, name="openenv-sweeper", daemon=True).start()
        except RuntimeError:  # the system gives no thread
            search()
