"""Sync environments that promise short calls: called straight from the reader.

A constructor is no part of the promise. One that computes for long runs off the loop, unless the
class is not safe in threads or wants one thread for all its calls.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from openenv_async.engine.executors.builders import COSTLY, BuilderPool
from openenv_async.engine.executors.thread_pool import Job
from openenv_async.engine.expiry import timeout_of
from openenv_async.engine.requests import RunnerReply, RunnerRequest, Unfinished
from openenv_async.engine.session import Session
from openenv_async.protocol.frames import Open

__all__ = ["InlineExecutor"]


class InlineExecutor:
    """No task, no thread, no await. A slow call delays every session: that is the promise.

    Args:
        loop: the engine's.
        limit: threads that construct environments, at most.
        cls: the environment class.
    """

    timed = False

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: int, cls: type) -> None:
        self._builders = BuilderPool(loop, limit, f"openenv-{cls.__name__}")
        self._stays: bool = getattr(cls, "owns_thread", False) or not getattr(
            cls, "thread_safe", True
        )
        self._is_costly = False

    def start(self, session: Session, request: RunnerRequest) -> None:
        """Run it now, or give it to a builder."""
        if type(request) is Open:
            self._open(session, request)
            return
        try:
            reply = session.runner.handle(request, session.codecs)
        except BaseException as exc:
            reply = session.raised(request, exc)
        session.complete(request, reply)

    def _open(self, session: Session, request: Open) -> None:
        if self._is_costly:
            self._is_costly = self._builders.cost > COSTLY / 2
            job = session.slot = Job(session, request, session.codecs)
            self._builders.submit(job)
            timeout = timeout_of(session, request)
            if timeout is not None:  # unlike other calls it can be late
                session.due = session.engine.clock() + timeout
                session.engine.deadlines.watch(session, session.due)
            return
        begun = time.thread_time()
        reply: RunnerReply | Unfinished
        try:
            reply = session.runner.handle(request, session.codecs)
        except BaseException as exc:
            reply = session.raised(request, exc)
        cost = time.thread_time() - begun
        if cost > COSTLY and not self._stays:
            self._is_costly, self._builders.cost = True, cost
        session.complete(request, reply)

    def leave(self, session: Session) -> None:
        """Nothing is held for a session."""

    def credited(self, session: Session, units: int) -> None:
        """Sync environments do not stream."""

    def interrupt(self, session: Session) -> bool:
        """Take an opening back that no builder has begun; nothing else ever runs meanwhile."""
        job = _opening(session)
        return job is not None and self._builders.withdraw(job)

    def abandon(self, session: Session) -> None:
        """Leave a builder to itself; it closes the environment."""
        job = _opening(session)
        if job is not None:
            self._builders.abandon(job)

    async def aclose(self) -> None:
        """End the builders; one in a constructor ends with it."""
        self._builders.close()


def _opening(session: Session) -> Job | None:
    job: Any = session.slot
    return job if isinstance(job, Job) and isinstance(session.current, Open) else None
