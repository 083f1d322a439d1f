"""Sync environments in threads: of a pool that is shared, or the main one of a worker process.

Jobs of one loop turn lie in one queue; a thread takes them one after the other and posts its
results with a single wake-up of the loop. So short steps cost one hand-over per batch. When a
job blocks, the others must not wait behind it: a timer looks whether the queue moves and adds
threads, doubling, until each job has one or the limit is reached.

A thread cannot be stopped. One whose job passed its deadline is abandoned: it leaves the pool,
its result is dropped, it closes the environment and ends when the job does.

In a worker process the one thread may be the main thread, which is lent to the pool: jobs run one
after the other, and nothing replaces it while an abandoned job runs.

Environments are constructed by threads of their own, so that no constructor takes the processor
from calls and the event loop:

- Constructors that compute run a few at a time, one where there are few cores: each further one
  would compete with the event loop for the interpreter. After each there is a pause, in which
  others get their turn.
- Constructors that wait, for a subprocess or a network, run side by side: threads are added while
  those there are use no processor time.

The rows of a column frame are one job, from which several threads may take rows (``rows``).

With ``owns_thread`` a session has a thread to itself for its life, its constructor included.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, cast

from openenv_async.endpoints.lent_socket import SocketMessages
from openenv_async.engine.executors.borrowing import PipeLoan, RowConnection
from openenv_async.engine.executors.rows import RowJobs
from openenv_async.engine.interfaces import Call, RowBatch
from openenv_async.engine.requests import (
    Codecs,
    RunnerReply,
    RunnerRequest,
    Unfinished,
    failed,
    operation,
)
from openenv_async.errors import ResourceLimit, ServerBusy
from openenv_async.protocol.frames import Close, Closed, Open

__all__ = [
    "COSTLY",
    "LONGEST_PAUSE",
    "PAUSE",
    "BuilderPool",
    "Job",
    "MainThreadExecutor",
    "ThreadExecutor",
    "ThreadPool",
]

log = logging.getLogger("openenv_async.engine")

_LOOK: Final = 0.002
"""Seconds after which a queue that has not moved gets more threads."""
_POST: Final = 0.0005
"""Seconds for which a thread gathers results before it wakes the loop."""
_MOST_AT_ONCE: Final = 64
"""Threads started per look, so that starting them does not block the loop."""
_IDLE: Final = 30.0
"""Seconds after which an idle thread ends."""
COSTLY: Final = 0.001
"""Seconds of computing above which a constructor does not run on the event loop."""
PAUSE: Final = 0.25
"""The pause after a constructor, as a part of the time that it took."""
LONGEST_PAUSE: Final = 0.05
"""Seconds of that pause at most."""
_BUILDER_LOOK: Final = 0.01
"""Seconds between two looks whether more threads are to construct."""
_WAITING: Final = 0.05
"""The part of a core below which threads count as waiting."""


class Job:
    """A request of a session that a thread is to run."""

    __slots__ = ("abandoned", "call", "codecs", "done", "reply", "request")

    def __init__(self, call: Call, request: RunnerRequest, codecs: Codecs) -> None:
        self.call = call
        self.request = request
        self.codecs = codecs
        self.reply: RunnerReply | Unfinished | None = None
        self.abandoned = False
        self.done = False


class _Beat:
    """A stand-in for a session, to learn that a thread takes jobs."""

    def __init__(self, answer: Callable[[], None]) -> None:
        self._answer = answer
        self.runner = self

    def handle(self, request: RunnerRequest, codecs: Codecs) -> RunnerReply:
        return Closed(0, 0)

    def complete(self, request: RunnerRequest, reply: RunnerReply) -> None:
        self._answer()


class ThreadPool:
    """Threads that run the jobs of one executor. Made and closed on the loop.

    Args:
        loop: where results are delivered.
        limit: threads at most, abandoned ones not counted.
        name: prefix of the threads' names.
        look: seconds after which a queue that has not moved gets more threads.
        idle: seconds after which an idle thread ends; ``None``: never.
        lent: its one thread is whichever calls ``work``; none is started.
        after_call: called in the thread after each call of an environment.

    Attributes:
        stuck: abandoned jobs that have not ended.
        calling: a job runs on the thread that is lent.
        taken: jobs and rows that threads have begun.
        lock: guards what threads and the loop decide together.
        loan: of the messages that one of the threads reads itself, if one does.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limit: int,
        name: str,
        *,
        look: float | None = None,
        idle: float | None = None,
        lent: bool = False,
        after_call: Callable[[], None] | None = None,
    ) -> None:
        self._loop = loop
        self._after_call = after_call
        self._handle: Callable[[Job], RunnerReply | Unfinished] = (
            _handle if after_call is None else self._handle_in_worker
        )
        self._limit = 1 if lent else limit
        self._name = name
        self._look_every = _LOOK if look is None else look
        self._rest_time = -1.0 if idle is None else idle
        self._lent = lent
        self.stuck = 0
        self.calling = False
        self._jobs: deque[Job] = deque()
        self._results: deque[Job] = deque()
        self.lock = threading.Lock()
        self._threads = 1 if lent else 0
        # A lock for each idle thread, which waits to get it. The last is woken first: its core
        # still has what environments need. One queue for all would wake every thread in turn.
        self._idle: list[threading.Lock] = []
        self._posted = False
        self.taken = 0
        self._seen = 0
        self._look: asyncio.TimerHandle | None = None
        self._kick: asyncio.Handle | None = None
        self._closed = False
        self._rows: list[RowJobs] = []
        self.loan: PipeLoan | None = None
        self._borrower: threading.Lock | None = None

    def submit(self, job: Job) -> None:
        """Queue a job; the threads are woken once at the end of this loop turn."""
        self._jobs.append(job)
        if self._kick is None:
            self._kick = self._loop.call_soon(self._wake_for_batch)

    def submit_rows(self, batch: RowBatch) -> RowJobs:
        """Queue the rows of a column frame."""
        rows = RowJobs(batch, self, self._after_call)
        self._rows.append(rows)
        self.submit(rows.job())
        return rows

    def take_loan(self, loan: PipeLoan) -> None:
        """Have a thread take up a loan."""
        self.loan = loan
        self._wake(1)

    def borrowed_rows(self, batch: RowBatch) -> tuple[RowJobs, Job]:
        """Return rows as a job that is not queued; called by the thread that is to run it."""
        rows = RowJobs(batch, self, self._after_call)
        slot = self, rows
        for call in batch.calls:
            call.slot = slot
        return rows, rows.job()

    def keep_rows(self, rows: RowJobs) -> None:
        """Watch over rows that a thread runs already."""
        self._rows.append(rows)
        self._look_soon()

    @staticmethod
    def job_of(taker: Call, codecs: Codecs) -> Job:
        """Return the job of what takes rows."""
        return Job(taker, Close(0, 0), codecs)

    def _wake_for_batch(self) -> None:
        self._kick = None
        with self.lock:
            # A thread goes idle under this lock after a last look at the queue.
            wanted = bool(self._idle) or self._threads == 0
        if wanted:
            self._wake(1)
        self._look_soon()

    def _look_soon(self) -> None:
        if self._look is None:
            self._seen = self.taken
            self._look = self._loop.call_later(self._look_every, self._look_after)

    def _look_after(self) -> None:
        """Add threads while jobs wait; stop looking when none does."""
        self._look = None
        self._deliver()  # a thread may hold results back and be in a long job since
        for rows in self._rows:
            rows.hand_over()
        self._forget_rows()
        waiting = len(self._jobs) + sum(rows.waiting for rows in self._rows)
        if not (waiting or self._rows) or self._closed:
            return
        moved = self.taken - self._seen
        self._seen = self.taken
        if moved < waiting and self._may_grow():
            busy = max(1, self._threads - len(self._idle))
            self._share_rows(min(waiting, busy, _MOST_AT_ONCE))
            self._wake(min(waiting, busy, _MOST_AT_ONCE))
        elif not self._lent:
            found = [job for rows in self._rows for job in rows.behind_stuck()]
            self._jobs.extend(found)  # the others move, and would never come to these
            self._wake(min(len(found), _MOST_AT_ONCE))
        self._look = self._loop.call_later(self._look_every, self._look_after)

    def _share_rows(self, wanted: int) -> None:
        """Queue jobs of the rows that wait, until there are as many as threads are woken."""
        for rows in () if self._lent else self._rows:
            more = wanted - len(self._jobs)
            if more > 0:
                self._jobs.extend(rows.shared(more))

    def _forget_rows(self) -> None:
        """Count the rows that were taken, and look no more at batches that are over."""
        self.taken += sum(rows.moved() for rows in self._rows)
        self._rows = [rows for rows in self._rows if not rows.is_over]

    def _may_grow(self) -> bool:
        """Return whether a queue that has not moved gets more threads."""
        return True

    def _wake(self, count: int) -> None:
        with self.lock:
            reuse = [self._idle.pop() for _ in range(min(count, len(self._idle)))]
            new = min(count - len(reuse), self._limit - self._threads)
            self._threads += new
        for wake in reuse:
            wake.release()
        for left in range(new, 0, -1):
            try:
                threading.Thread(target=self.work, name=self._name, daemon=True).start()
            except RuntimeError as exc:  # the system gives no more
                with self.lock:
                    self._threads -= left
                    stuck = self._threads == 0
                log.warning("%d threads of %s could not be started: %s", left, self._name, exc)
                if stuck:
                    self._refuse_all(exc)
                return

    def _refuse_all(self, exc: RuntimeError) -> None:
        """Refuse the jobs that wait, which no thread will take."""
        while self._jobs:
            job = self._jobs.popleft()
            error = ResourceLimit(
                f"no thread could be started: {exc}; close sessions, or raise what the system"
                " allows (threads, memory)"
            )
            job.call.complete(job.request, failed(job.request, error, job.codecs.format))

    def work(self) -> None:
        """Run jobs until the pool closes or this thread is no longer needed."""
        jobs, results = self._jobs, self._results
        handle = self._handle
        clock = time.perf_counter
        wake = threading.Lock()
        wake.acquire()
        job: Job | None
        while True:
            begun = clock()
            while True:
                try:
                    job = jobs.popleft()
                except IndexError:
                    break
                self.taken += 1
                job.reply = handle(job)
                with self.lock:
                    job.done = True
                    abandoned = job.abandoned
                if abandoned:
                    _handle(Job(job.call, Close(0, 0), job.codecs))
                    with self.lock:
                        self.stuck -= 1
                    if not self._lent:
                        return  # this thread was replaced already
                    continue
                loan = self.loan
                if loan is not None and loan.completes(job):
                    continue
                results.append(job)
                if clock() - begun > _POST:
                    self._post()
                    begun = clock()
            job = None  # a thread that rests keeps no session
            self._post()
            if not self._rest(wake):
                return

    def _handle_in_worker(self, job: Job) -> RunnerReply | Unfinished:
        try:
            self.calling = True
            reply = job.call.runner.handle(job.request, job.codecs)
            self.calling = False
        except BaseException as exc:
            self.calling = False
            reply = job.call.runner.raised(job.request, exc, job.codecs)
        assert self._after_call is not None
        self._after_call()
        return reply

    def _rest(self, wake: threading.Lock) -> bool:
        """Wait for work; ``False`` when this thread is to end."""
        with self.lock:
            if self._jobs:
                return True
            if self._closed:
                self._threads -= 1
                return False
            loan = self._loan_of(wake)
            if loan is None:
                self._idle.append(wake)
        if loan is not None:
            job = loan.next_job()
            if job is not None:
                self._jobs.appendleft(job)
            return True
        if not wake.acquire(timeout=self._rest_time):
            with self.lock:
                if wake in self._idle:
                    self._idle.remove(wake)
                    self._threads -= 1
                    return False
            wake.acquire()  # it was woken in this moment
        return True

    def _loan_of(self, wake: threading.Lock) -> PipeLoan | None:
        """Return the loan that a thread without work has, or takes up now; under the lock."""
        loan = self.loan
        if loan is None or loan.ended or (loan.taken and self._borrower is not wake):
            return None
        loan.taken, self._borrower = True, wake
        return loan

    def _post(self) -> None:
        if self._results and not self._posted:
            self._posted = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._posted = False
        results = self._results
        while results:
            job = results.popleft()
            if not job.abandoned:
                assert job.reply is not None
                job.call.complete(job.request, job.reply)
        self._look_no_more()

    def _look_no_more(self) -> None:
        """End the looks when there is nothing to look at: one would disturb the next batch."""
        if self._look is None or self._jobs:
            return
        with self.lock:
            busy = self._threads - len(self._idle)
        self._forget_rows()
        if not (busy or self._rows or self._results):
            self._look.cancel()
            self._look = None

    def beat(self, answer: Callable[[], None]) -> None:
        """Call ``answer`` on the loop when a thread has come to it in the queue."""
        beat = cast(Call, _Beat(answer))
        self.submit(Job(beat, Close(0, 0), cast(Codecs, None)))

    def withdraw(self, job: Job) -> bool:
        """Take back a job that no thread has begun, if it is one; it is answered soon."""
        try:
            self._jobs.remove(job)
        except ValueError:
            return False
        self.answer_withdrawn(job.call, job.request, job.codecs)
        return True

    def answer_withdrawn(self, call: Call, request: RunnerRequest, codecs: Codecs) -> None:
        """Answer a request, soon, that was taken back before a thread began it."""
        if call.interrupted == "deadline":
            reply: RunnerReply = failed(request, self._busy(request), codecs.format)
        else:
            reply = call.interruption(request)
        self._loop.call_soon(call.complete, request, reply)

    def _busy(self, request: RunnerRequest) -> ServerBusy:
        return ServerBusy(
            f"all {self._limit} threads were busy for as long as {operation(request)}() may"
            " take: raise --max-threads (max_threads) or lower --max-sessions",
            limit=self._limit,
            setting="max_threads",
            phase=operation(request),
        )

    def abandon(self, job: Job) -> None:
        """Stop waiting for a job.

        A thread in it is replaced unless it is lent, and closes the environment.
        """
        try:
            self._jobs.remove(job)
            running = False  # it had not begun
        except ValueError:
            running = self.leave(job, job.call)
        if running:
            self.replace()
        else:
            job.abandoned = True
            self.close_for(job.call, job.codecs)

    def leave(self, job: Job, call: Call) -> bool:
        """Leave a thread to its job, after which it closes the environment of a call.

        Returns:
            ``False`` if the job is done.
        """
        with self.lock:
            if job.done:
                return False
            job.abandoned = True
            job.call = call
            self.stuck += 1
            if not self._lent:
                self._threads -= 1
        return True

    def replace(self) -> None:
        """Wake a thread in the place of one that was left, if jobs wait."""
        if self._jobs and not self._lent:
            self._wake(1)

    def close_for(self, call: Call, codecs: Codecs) -> None:
        """Close the environment of a call that is waited for no more."""
        self.submit(Job(call, Close(0, 0), codecs))

    def close(self) -> None:
        """Let every thread end after its job."""
        self._closed = True
        for handle in (self._look, self._kick):
            if handle is not None:
                handle.cancel()
        self._look = self._kick = None
        with self.lock:
            idle, self._idle = self._idle, []
        for wake in idle:
            wake.release()  # it looks for jobs once more, and ends


def _handle(job: Job) -> RunnerReply | Unfinished:
    try:
        return job.call.runner.handle(job.request, job.codecs)
    except BaseException as exc:
        return job.call.runner.raised(job.request, exc, job.codecs)


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
        super().__init__(loop, limit, f"{name}-build", look=_BUILDER_LOOK, idle=idle)
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
        if elapsed > 10 * _BUILDER_LOOK or self._pausing:  # nothing to tell it by
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


class ThreadExecutor:
    """Threads that run sync environments.

    Args:
        loop: the engine's.
        limit: threads at most, and as many that construct.
        cls: the environment class; with ``owns_thread`` each session gets a thread of its own.
        look, after_call: as for ``ThreadPool``.

    Attributes:
        batches: of rows that came since the last other request, or loan.
    """

    timed = True
    direct = False

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
        self.batches = 0

    def lend(
        self,
        connection: RowConnection,
        lend: Callable[[], SocketMessages | None],
        send: Callable[[bytes], None],
    ) -> bool:
        """Let a thread read and answer the messages of a connection while only batches come.

        Args:
            connection: of the messages; no request of it is under way.
            lend: lends the messages of its pipe.
            send: sends one when that is over.

        Returns:
            Whether one does.
        """
        if self._pool.loan is not None or self.stuck:
            return False
        messages = lend()
        if messages is None:
            return False

        def ended(unsent: list[bytes]) -> None:
            self.batches = 0
            for message in unsent:
                send(message)

        self._pool.take_loan(PipeLoan(connection, messages, self._pool, ended))
        return True

    @property
    def is_lent(self) -> bool:
        """Return whether a thread has the messages of the connection."""
        loan = self._pool.loan
        return loan is not None and not loan.ended

    def start(self, call: Call, request: RunnerRequest) -> None:
        """Queue the request for a thread."""
        self.batches = 0
        job = Job(call, request, call.codecs)
        if not self._owned:
            pool = self._pool if type(request) is not Open else self._builders
        elif call.slot is None:
            # Without a time of idleness: the same thread for the session's life.
            pool = ThreadPool(self._loop, 1, self._name, after_call=self._after_call)
            self._pools.add(pool)
        else:
            assert isinstance(call.slot, tuple)
            pool = call.slot[0]
        call.slot = (pool, job)
        pool.submit(job)
        if self._owned and isinstance(request, Close):
            self._loop.call_soon(self._release, pool)

    def start_rows(self, batch: RowBatch) -> None:
        """Queue rows for a thread, which takes them one after the other."""
        if self._owned or len(batch.calls) == 1:
            for call, request in zip(batch.calls, batch.requests, strict=True):
                self.start(call, request)
            return
        self.batches += 1
        slot = self._pool, self._pool.submit_rows(batch)
        for call in batch.calls:
            call.slot = slot

    def leave(self, call: Call) -> None:
        """The session runs elsewhere from now on: end the thread that it has to itself."""
        slot = call.slot
        if self._owned and isinstance(slot, tuple):
            self._release(slot[0])

    def _release(self, pool: ThreadPool) -> None:
        pool.close()
        self._pools.discard(pool)

    def credited(self, call: Call, units: int) -> None:
        """Sync environments do not stream."""

    def interrupt(self, call: Call) -> bool:
        """A thread cannot be asked to stop; a call that has none yet can."""
        slot = call.slot
        if not isinstance(slot, tuple):
            return False
        pool, job = slot
        return job.withdraw(call) if isinstance(job, RowJobs) else pool.withdraw(job)

    def abandon(self, call: Call) -> None:
        """Leave the thread to itself."""
        slot = call.slot
        assert isinstance(slot, tuple)
        pool, job = slot
        if isinstance(job, RowJobs):
            job.abandon(call)
        else:
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
    """One thread without an event loop that runs sync environments one after the other.

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
