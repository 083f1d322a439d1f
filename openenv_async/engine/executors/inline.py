"""Sync environments that promise short calls: called straight from the reader.

The promise does not cover the constructor. One that computes for long runs off the loop, unless the
class is not safe in threads or wants one thread for all its calls.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from openenv_async.engine.executors.threads import COSTLY, BuilderPool, Job
from openenv_async.engine.interfaces import Call
from openenv_async.engine.requests import RunnerReply, RunnerRequest, Unfinished
from openenv_async.protocol.frames import Open

__all__ = ["InlineExecutor"]


class InlineExecutor:
    """Calls with no task, no thread and no await, so a slow one delays every session.

    Steps are called by the session itself.

    Args:
        loop: the engine's.
        limit: threads that construct environments, at most.
        cls: the environment class.
    """

    timed = False
    direct = True

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int, cls: type) -> None:
        self._builders = BuilderPool(loop, limit, f"openenv-{cls.__name__}")
        self._stays: bool = getattr(cls, "owns_thread", False) or not getattr(
            cls, "thread_safe", True
        )
        self._is_costly = False

    def start(self, call: Call, request: RunnerRequest) -> None:
        """Run it now, or give it to a builder."""
        if type(request) is Open:
            self._open(call, request)
            return
        try:
            reply = call.runner.handle(request, call.codecs)
        except BaseException as exc:
            reply = call.runner.raised(request, exc, call.codecs)
        call.complete(request, reply)

    def _open(self, call: Call, request: Open) -> None:
        if self._is_costly:
            self._is_costly = self._builders.cost > COSTLY / 2
            job = call.slot = Job(call, request, call.codecs)
            self._builders.submit(job)
            call.watch(request)  # unlike other calls it can be late
            return
        begun = time.thread_time()
        reply: RunnerReply | Unfinished
        try:
            reply = call.runner.handle(request, call.codecs)
        except BaseException as exc:
            reply = call.runner.raised(request, exc, call.codecs)
        cost = time.thread_time() - begun
        if cost > COSTLY and not self._stays:
            self._is_costly, self._builders.cost = True, cost
        call.complete(request, reply)

    def leave(self, call: Call) -> None:
        """Nothing is held for a call."""

    def credited(self, call: Call, units: int) -> None:
        """Sync environments do not stream."""

    def interrupt(self, call: Call) -> bool:
        """Take an opening back that no builder has begun; nothing else ever runs meanwhile."""
        job = _opening(call)
        return job is not None and self._builders.withdraw(job)

    def abandon(self, call: Call) -> None:
        """Leave a builder to itself; it closes the environment."""
        job = _opening(call)
        if job is not None:
            self._builders.abandon(job)

    async def aclose(self) -> None:
        """End the builders; one in a constructor ends with it."""
        self._builders.close()


def _opening(call: Call) -> Job | None:
    job: Any = call.slot
    return job if isinstance(job, Job) and isinstance(call.current, Open) else None
