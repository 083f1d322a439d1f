"""Sync environments in threads: of a pool that is shared, or the main one of a worker process.

A session's environment is constructed by the threads of ``builders``, because constructors compute
for long; the pool of the other calls is told in ``thread_pool``. With ``owns_thread`` a session has
a thread to itself for its life, its constructor included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from openenv_async.engine.executors.builders import BuilderPool
from openenv_async.engine.executors.thread_pool import Job, ThreadPool
from openenv_async.engine.requests import RunnerRequest
from openenv_async.engine.session import Session
from openenv_async.protocol.frames import Close, Open

__all__ = ["MainThreadExecutor", "ThreadExecutor"]

_IDLE: Final = 30.0
"""Seconds after which an idle thread ends."""


class ThreadExecutor:
    """Runs sync environments in threads.

    Args:
        loop: the engine's.
        limit: threads at most, and as many that construct.
        cls: the environment class; with ``owns_thread`` each session gets a thread of its own.
        look, after_call: as for ``ThreadPool``.
    """

    timed = True

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: int,
        cls: type,
        look: float | None = None,
        after_call: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._after_call = after_call
        self._name = f"openenv-{cls.__name__}"
        self._owned = bool(getattr(cls, "owns_thread", False))
        self._pool = ThreadPool(
            loop, limit, self._name, look=look, idle=_IDLE, after_call=after_call
        )
        self._builders: ThreadPool = BuilderPool(loop, limit, self._name, _IDLE)
        self._pools: set[ThreadPool] = {self._pool, self._builders}
        self._left: list[ThreadPool] = []

    def start(self, session: Session, request: RunnerRequest) -> None:
        """Queue the request for a thread."""
        job = Job(session, request, session.codecs)
        if not self._owned:
            pool = self._pool if type(request) is not Open else self._builders
        elif session.slot is None:
            # Without a time of idleness: the same thread for the session's life.
            pool = ThreadPool(self._loop, 1, self._name, after_call=self._after_call)
            self._pools.add(pool)
        else:
            assert isinstance(session.slot, tuple)
            pool = session.slot[0]
        session.slot = (pool, job)
        pool.submit(job)
        if self._owned and isinstance(request, Close):
            self._loop.call_soon(self._release, pool)

    def leave(self, session: Session) -> None:
        """The session runs elsewhere from now on: end the thread that it has to itself."""
        slot = session.slot
        if self._owned and isinstance(slot, tuple):
            self._release(slot[0])

    def _release(self, pool: ThreadPool) -> None:
        pool.close()
        self._pools.discard(pool)

    def credited(self, session: Session, units: int) -> None:
        """Sync environments do not stream."""

    def interrupt(self, session: Session) -> bool:
        """A thread cannot be asked to stop; a call that has none yet can."""
        slot = session.slot
        return isinstance(slot, tuple) and slot[0].withdraw(slot[1])

    def abandon(self, session: Session) -> None:
        """Leave the thread to itself."""
        slot = session.slot
        assert isinstance(slot, tuple)
        pool, job = slot
        pool.abandon(job)
        if self._owned:
            self._release(pool)
            self._left.append(pool)

    @property
    def stuck(self) -> int:
        """Abandoned calls that have not ended."""
        self._left = [pool for pool in self._left if pool.stuck]
        return sum(pool.stuck for pool in (self._pool, self._builders, *self._left))

    def beat(self, answer: Callable[[], None]) -> None:
        """Call ``answer`` at once: a blocked thread blocks no other."""
        answer()

    async def aclose(self) -> None:
        """End the idle threads; a thread in a job ends with it (they are daemons)."""
        for pool in list(self._pools):
            self._release(pool)


class MainThreadExecutor(ThreadExecutor):
    """Runs sync environments one after the other on one thread that has no event loop.

    Args:
        loop: the engine's, which runs on another thread.
        cls: the environment class.
        after_call: as for ``ThreadPool``.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, cls: type, after_call: Callable[[], None]
    ) -> None:
        super().__init__(loop, 1, cls)
        self._owned = False  # there is only one
        self._pool = ThreadPool(loop, 1, self._name, lent=True, after_call=after_call)
        self._builders = self._pool
        self._pools = {self._pool}

    def work(self) -> None:
        """Run the calls on the thread of the caller, until the engine has ended."""
        self._pool.work()

    @property
    def calling(self) -> bool:
        """Return whether a call runs: what interrupts the thread otherwise is meant for none."""
        return self._pool.calling

    def beat(self, answer: Callable[[], None]) -> None:
        """Call ``answer`` on the loop once the thread takes the next call."""
        self._pool.beat(answer)
