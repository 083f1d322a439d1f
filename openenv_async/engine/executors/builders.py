"""Construction of environments off the event loop, without taking the processor from the others.

Rules:

- Constructors that compute run a few at a time, one where there are few cores: each further one
  would compete with the event loop for the interpreter. After each there is a pause, in which
  others get their turn.
- Constructors that wait, for a subprocess or a network, run side by side: threads are added while
  those there are use no processor time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import Final

from openenv_async.engine.executors.thread_pool import Job, ThreadPool
from openenv_async.engine.requests import RunnerReply, RunnerRequest, Unfinished
from openenv_async.errors import ServerBusy

__all__ = ["COSTLY", "LONGEST_PAUSE", "PAUSE", "BuilderPool"]

COSTLY: Final = 0.001
"""Seconds of computing above which a constructor does not run on the event loop."""
_LOOK: Final = 0.01
_IDLE: Final = 30.0
PAUSE: Final = 0.25
"""The pause after a constructor, as a part of what it took."""
LONGEST_PAUSE: Final = 0.05
_WAITING: Final = 0.05
"""Threads that use less than this part of a core are waiting."""


class BuilderPool(ThreadPool):
    """Threads that construct environments.

    Args:
        loop, limit, name, idle: as for ``ThreadPool``.

    Attributes:
        cost: seconds of computing that the last constructor took.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limit: int, name: str, idle: float = _IDLE
    ) -> None:
        super().__init__(loop, limit, f"{name}-build", look=_LOOK, idle=idle)
        self.cost = 0.0
        self._computing = max(1, (os.cpu_count() or 1) // 4)
        self._clocks: dict[int, int] = {}
        self._resume_at = 0.0
        self._pausing = 0
        self._looked_at = self._used = 0.0
        self._was_waiting = False
        self._plain = self._handle
        self._handle = self._build

    def work(self) -> None:
        """Work as ``ThreadPool.work`` does, with a clock of what the thread computes."""
        ident = threading.get_ident()
        with contextlib.suppress(AttributeError, OSError):  # not on every system
            self._clocks[ident] = time.pthread_getcpuclockid(ident)
        try:
            super().work()
        finally:
            self._clocks.pop(ident, None)

    def _build(self, job: Job) -> RunnerReply | Unfinished:
        pause = self._resume_at - time.monotonic()
        if pause > 0:
            self._pausing += 1
            time.sleep(pause)
            self._pausing -= 1
        begun = time.thread_time()
        try:
            return self._plain(job)
        finally:
            self.cost = cost = time.thread_time() - begun
            if cost > COSTLY:
                self._resume_at = time.monotonic() + min(cost * PAUSE, LONGEST_PAUSE)

    def _may_grow(self) -> bool:
        """Return whether the threads there are wait instead of computing."""
        now, used = time.monotonic(), 0.0
        for clock in list(self._clocks.values()):
            with contextlib.suppress(OSError):  # the thread has just ended
                used += time.clock_gettime(clock)
        elapsed, computed = now - self._looked_at, used - self._used
        self._looked_at, self._used = now, used
        if elapsed > 10 * _LOOK or self._pausing:  # nothing to tell it by
            self._was_waiting = False
            return False
        before, self._was_waiting = (
            self._was_waiting,
            computed < (self._computing - 1 + _WAITING) * elapsed,
        )
        return before and self._was_waiting  # once may be the system's scheduling

    def _busy(self, request: RunnerRequest) -> ServerBusy:
        return ServerBusy(
            "the sessions that were opened before took for as long as open() may take: open"
            " fewer at once, or raise Timeouts.open",
            field="open",
            phase="open",
        )
