"""The rows of a column frame in threads: each thread takes one row after the other.

Rules:

- One thread runs all rows, as long as it moves; the pool sends more threads to those that wait
  when it does not. They get part of what waits behind each row that runs.
- A row that was abandoned costs no other one: what is finished is handed over at once, and the rows
  that wait are run by another thread.
- A row belongs to what took it out of the queue that it waits in: to a thread, which runs it, or to
  the loop, which withdraws it or gives it to another thread. To take one out is one step of the
  interpreter, so a row costs no lock. A row of a thread that waits no more is run, or was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
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
    """

    __slots__ = ("_seen", "_takers", "after_row", "batch", "pool")

    def __init__(
        self, batch: RowBatch, pool: ThreadPool, after_row: Callable[[], None] | None
    ) -> None:
        self.batch = batch
        self.pool = pool
        self.after_row = after_row
        self._takers: list[_Taker] = []
        self._seen = len(batch.calls)

    def job(self, rows: Sequence[int] | None = None) -> Job:
        """Return a job that takes these rows, or all."""
        taker = _Taker(self, range(len(self.batch.calls)) if rows is None else rows)
        self._takers.append(taker)
        return taker.job

    @property
    def waiting(self) -> int:
        """Rows that no thread has taken."""
        return sum(len(taker.waiting) for taker in self._takers)

    def moved(self) -> int:
        """Return how many rows wait no more since this was asked last."""
        before, self._seen = self._seen, self.waiting
        return before - self._seen

    def shared(self, count: int) -> list[Job]:
        """Return so many jobs, or fewer, for rows that wait in those there are."""
        found = [taker for taker in self._takers if taker.waiting]
        left = self.waiting // (len(found) + count)  # for a thread that may come to it soon
        rows = sorted(row for taker in found for row in taker.taken_back(left))
        share = max(1, -(-len(rows) // count))
        return [self.job(rows[at : at + share]) for at in range(0, len(rows), share)]

    def behind_stuck(self) -> list[Job]:
        """Return a job for the rows behind those that have run since the last look, if any do."""
        rows = [row for taker in self._takers if taker.is_stuck() for row in taker.taken_back()]
        return [self.job(sorted(rows))] if rows else []

    @property
    def is_over(self) -> bool:
        """Return whether every row was run, or is waited for no more."""
        return not self._takers

    def hand_over(self) -> None:
        """Complete the rows that are finished, while threads run others."""
        for replies in self.batch.finished():
            self.batch.complete(replies)

    def withdraw(self, call: Call) -> bool:
        """Take back the row of a session that no thread has begun, if it is one."""
        row = self._row_of(call)
        if not any(taker.withdraw(row) for taker in self._takers):
            return False
        self.pool.answer_withdrawn(call, self.batch.requests[row], self.batch.codecs)
        return True

    def abandon(self, call: Call) -> None:
        """Stop waiting for the row of a session; its environment is closed in time."""
        row, pool, codecs = self._row_of(call), self.pool, self.batch.codecs
        if any(taker.withdraw(row) for taker in self._takers):
            pool.close_for(call, codecs)
            return
        taker = next((each for each in self._takers if row in each.rows), None)
        # With nothing to take, its thread runs the last row that it took, or none.
        rest = [] if taker is None else taker.taken_back()
        self.hand_over()
        if rest:
            pool.submit(self.job(rest))
        if taker is None or taker.rows[-1] != row or not pool.leave(taker.job, call):
            pool.close_for(call, codecs)  # the row is run
            return
        self._takers.remove(taker)
        pool.replace()

    def completed(self, taker: _Taker, replies: RowReplies) -> None:
        """Take what a thread ends with."""
        self._takers.remove(taker)
        self.batch.complete(replies)

    def completed_whole(self, job: Job) -> bool:
        """Answer all rows by what a thread ends with, in that thread, if it is one reply to them.

        Nothing else may use their connection meanwhile.
        """
        replies = cast(RowReplies, job.reply)
        if not self.batch.complete_whole(replies):
            return False
        self._takers.clear()
        return True

    def _row_of(self, call: Call) -> int:
        return next(row for row, each in enumerate(self.batch.calls) if each is call)


class _Taker:
    """A thread's part in the rows; stands in for a session, as the ``call`` of a job.

    Attributes:
        rows: those that are its own, in the order that it runs them; the loop's alone.
        waiting: those of them that it has not taken.
        job: the job that it is.
    """

    __slots__ = ("_batch", "_begun", "_seen", "_taken", "job", "rows", "runner", "waiting")

    def __init__(self, batch: RowJobs, rows: Sequence[int]) -> None:
        self._batch = batch
        self.rows = list(rows)
        self.waiting = deque(rows)
        self._taken: list[int] = []
        self._begun = False
        self._seen = -1
        self.runner = self
        self.job = batch.pool.job_of(cast(Call, self), batch.batch.codecs)

    def is_stuck(self) -> bool:
        """Return whether its thread has taken no row since this was asked last; on the loop."""
        before, self._seen = self._seen, len(self.waiting) if self._begun else -1
        return before == self._seen > 0

    def withdraw(self, row: int) -> bool:
        """Take back a row, if it waits here; on the loop."""
        try:
            self.waiting.remove(row)
        except ValueError:
            return False
        self.rows.remove(row)
        return True

    def taken_back(self, left: int = 0) -> list[int]:
        """Take back the rows that wait here, but so many; on the loop."""
        rows: list[int] = []
        while len(self.waiting) > left:
            try:
                row = self.waiting.pop()
            except IndexError:  # the thread took the last one meanwhile
                break
            self.rows.remove(row)
            rows.append(row)
        return rows[::-1]

    def handle(self, request: Any, codecs: Codecs) -> RowReplies:
        """Run rows."""
        self._begun = True
        return self._batch.batch.run(self._claims(), len(self.rows))

    def _claims(self) -> Iterator[int]:
        take, taken, after_row = self.waiting.popleft, self._taken, self._batch.after_row
        while True:
            try:
                row = take()
            except IndexError:
                return
            taken.append(row)
            yield row
            if after_row is not None:
                after_row()

    def raised(self, request: Any, exc: BaseException, codecs: Codecs) -> RowReplies:
        """Answer what cannot have been: rows that ended by more than their own errors."""
        calls, requests = self._batch.batch.calls, self._batch.batch.requests
        failed: list[tuple[int, Any]] = [
            (row, calls[row].runner.raised(requests[row], exc, codecs)) for row in self._taken
        ]
        return RowReplies(others=failed)

    def complete(self, request: Any, replies: RunnerReply | RowReplies) -> None:
        """Hand over the replies; on the loop."""
        self._batch.completed(self, cast(RowReplies, replies))
