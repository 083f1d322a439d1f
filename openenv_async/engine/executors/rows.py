"""The rows of a column frame in threads: each thread takes one row after the other.

Rules:

- One thread runs all rows, as long as it moves; the pool sends more threads to those that wait
  when it does not.
- A row that was abandoned costs no other one: what is finished is handed over at once, and the rows
  that wait are run by another thread.
- A row is claimed, withdrawn and abandoned under the pool's lock: it is never run after it was
  answered by another way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, cast

from openenv_async.engine.interfaces import Call, RowBatch
from openenv_async.engine.requests import Codecs, RunnerReply
from openenv_async.engine.rows import RowReplies

if TYPE_CHECKING:
    from openenv_async.engine.executors.threads import Job, ThreadPool

__all__ = ["RowJobs"]


class RowJobs:
    """The rows of a batch in the threads of a pool. Made and called on the loop.

    Args:
        batch: the rows.
        pool: whose threads run them.
        after_row: called in the thread after each row.

    Attributes:
        waiting: rows that no thread has taken.
    """

    __slots__ = ("_takers", "after_row", "batch", "pool", "waiting")

    def __init__(
        self, batch: RowBatch, pool: ThreadPool, after_row: Callable[[], None] | None
    ) -> None:
        self.batch = batch
        self.pool = pool
        self.after_row = after_row
        self.waiting = deque(range(len(batch.calls)))
        self._takers: list[_Taker] = []

    def job(self, most: int | None = None) -> Job:
        """Return a job that takes rows for as long as there are any, or so many at most."""
        taker = _Taker(self, most or len(self.waiting))
        self._takers.append(taker)
        return taker.job

    @property
    def is_over(self) -> bool:
        """Return whether every row was run, or is waited for no more."""
        return not self._takers and not self.waiting

    def hand_over(self) -> None:
        """Complete the rows that are finished, while threads run others."""
        for replies in self.batch.finished():
            self.batch.complete(replies)

    def withdraw(self, call: Call) -> bool:
        """Take back the row of a session that no thread has begun, if it is one."""
        row = self._row_of(call)
        with self.pool.lock:
            if row not in self.waiting:
                return False
            self.waiting.remove(row)
        self.pool.answer_withdrawn(call, self.batch.requests[row], self.batch.codecs)
        return True

    def abandon(self, call: Call) -> None:
        """Stop waiting for the row of a session; its environment is closed in time."""
        row, pool = self._row_of(call), self.pool
        self.hand_over()
        with pool.lock:
            taker = next((each for each in self._takers if each.row == row), None)
            if taker is not None:
                self._takers.remove(taker)
                pool.leave(taker.job, call)
            elif row in self.waiting:
                self.waiting.remove(row)
        if taker is None:
            pool.close_for(call, self.batch.codecs)
        elif self.waiting:
            pool.submit(self.job())
        pool.replace()

    def completed(self, taker: _Taker, replies: RowReplies) -> None:
        """Take what a thread ends with."""
        self._takers.remove(taker)
        self.batch.complete(replies)

    def _row_of(self, call: Call) -> int:
        return next(row for row, each in enumerate(self.batch.calls) if each is call)


class _Taker:
    """A thread's part in the rows; stands in for a session, as the ``call`` of a job.

    Attributes:
        row: the row that it runs.
        job: the job that it is.
    """

    __slots__ = ("_most", "_rows", "_taken", "job", "row", "runner")

    def __init__(self, rows: RowJobs, most: int) -> None:
        self._rows = rows
        self._most = most
        self._taken: list[int] = []
        self.row: int | None = None
        self.runner = self
        self.job = rows.pool.job_of(cast(Call, self), rows.batch.codecs)

    def handle(self, request: Any, codecs: Codecs) -> RowReplies:
        """Run rows."""
        return self._rows.batch.run(self._claims(), self._most)

    def _claims(self) -> Iterator[int]:
        rows, job, taken = self._rows, self.job, self._taken
        pool, waiting, after_row = rows.pool, rows.waiting, rows.after_row
        lock, most = pool.lock, self._most
        while True:
            with lock:
                if job.abandoned or not waiting or len(taken) == most:
                    self.row = None
                    return
                self.row = row = waiting.popleft()
                pool.taken += 1
            taken.append(row)
            yield row
            if after_row is not None:
                after_row()

    def raised(self, request: Any, exc: BaseException, codecs: Codecs) -> RowReplies:
        """Answer what cannot have been: rows that ended by more than their own errors."""
        calls, requests = self._rows.batch.calls, self._rows.batch.requests
        failed: list[tuple[int, Any]] = [
            (row, calls[row].runner.raised(requests[row], exc, codecs)) for row in self._taken
        ]
        return RowReplies(others=failed)

    def complete(self, request: Any, replies: RunnerReply | RowReplies) -> None:
        """Hand over the replies; on the loop."""
        self._rows.completed(self, cast(RowReplies, replies))
