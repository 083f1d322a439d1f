"""The messages of a worker's pipe, lent to the thread that runs its environments.

A batch of rows that the loop reads, a thread runs and the loop answers costs three wake-ups, which
take as long as the rows of a quick environment. While nothing but such batches comes, the thread
reads and answers them itself.

Rules:

- A loan begins after some batches in a row, while no request is under way in the worker. From then
  on the loop leaves the connection and its sessions alone; the thread has them to itself, but
  while it runs rows.
- Anything that is not a batch whose rows all run together ends the loan: the loop takes it, with
  every byte that was read too far. So does a reply that is not one to all rows.
- Rows that take long are the loop's: it ends the loan while the thread runs them, and what the
  thread ends with is delivered as that of any job. So a row that hangs delays nothing else.
- The loan changes hands with its lock held.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from openenv_async.endpoints.lent_socket import SocketMessages
from openenv_async.engine.interfaces import RowBatch

if TYPE_CHECKING:
    from openenv_async.engine.executors.rows import RowJobs
    from openenv_async.engine.executors.threads import Job, ThreadPool

__all__ = ["PipeLoan", "RowConnection"]

_LONG: Final = 0.05
"""Seconds after which the loop takes back the messages from a thread that runs rows."""
_REST: Final = 1.0
"""Seconds without a message after which a thread gives them back."""


class RowConnection(Protocol):
    """The connection whose messages are lent."""

    def begin_rows(self, message: bytes) -> RowBatch | None:
        """Begin the rows of a message that is one column frame, if all run together."""
        ...

    def take(self) -> list[bytes]:
        """Return the messages that are to be sent."""
        ...


class PipeLoan:
    """A loan of the messages, made on the loop; a thread of a pool takes it up once.

    Args:
        connection: reads and answers what comes.
        messages: of its pipe.
        pool: whose thread borrows them.
        on_end: called on the loop when everything is the loop's again, with messages to be sent.

    Attributes:
        ended: whether it is over: the loop has the messages, or will have them in the next turn.
        taken: whether a thread has taken it up.
    """

    def __init__(
        self,
        connection: RowConnection,
        messages: SocketMessages,
        pool: ThreadPool,
        on_end: Callable[[list[bytes]], None],
    ) -> None:
        self._connection = connection
        self._messages = messages
        self._pool = pool
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._rows: RowJobs | None = None
        self._job: Job | None = None
        self._seen: Job | None = None
        self._unread: list[bytes | memoryview | str] = []
        self._unsent: list[bytes] = []
        self.ended = False
        self.taken = False
        self._timer = self._loop.call_later(_LONG, self._look)

    # -- the thread -----------------------------------------------------------------------------

    def next_job(self) -> Job | None:
        """Wait for the next batch and return it as a job; ``None`` when the loan is over."""
        if self.ended:
            return None
        message: bytes | memoryview | None = None
        with contextlib.suppress(OSError):  # the loop finds the same
            message = self._messages.receive(_REST)
        with self._lock:
            whole = None if message is None else bytes(message)
            batch = None if whole is None else self._connection.begin_rows(whole)
            if batch is None:
                if whole is not None:
                    self._unread.append(whole)
                self._end()
                return None
            self._rows, self._job = self._pool.borrowed_rows(batch)
            return self._job

    def completes(self, job: Job) -> bool:
        """Answer the job that ``next_job`` returned; ``False`` if the loop is to deliver it."""
        with self._lock:
            if self.ended or job is not self._job:
                return False
            rows, self._rows, self._job = self._rows, None, None
            assert rows is not None
            if not rows.completed_whole(job):
                self._rows = rows
                self._end()
                return False
            self._unsent = self._connection.take()
            try:
                while self._unsent:
                    self._messages.send(self._unsent.pop(0))
            except OSError:  # the loop writes the rest, or finds the pipe gone
                self._end()
            return True

    def _end(self) -> None:
        """End the loan; with the lock held."""
        self.ended = True
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._finish)

    # -- the loop -------------------------------------------------------------------------------

    def _look(self) -> None:
        """Take the messages back from a thread that runs the same rows as at the last look."""
        if self._lock.acquire(blocking=False):
            if self._job is not None and self._job is self._seen and not self.ended:
                self.ended = True
            self._seen = self._job
            self._lock.release()
            if self.ended:
                self._finish()
                return
        self._timer = self._loop.call_later(_LONG, self._look)

    def _finish(self) -> None:
        if self._pool.loan is not self:
            return
        self._timer.cancel()
        rows, self._rows = self._rows, None
        self._pool.loan = None
        if rows is not None:
            self._pool.keep_rows(rows)
        self._messages.end(self._unread, False)
        self._on_end(self._unsent)
