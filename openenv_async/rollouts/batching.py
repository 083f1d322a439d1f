"""A policy that decides for many episodes at once: one call of the model per batch.

Rules:

- A batch is called as soon as the model is free and there are ``max_batch`` observations, or the
  first of them has waited ``max_wait``. Later observations wait for the
  next batch.
- Keep more episodes than one batch takes, and the environments step while the model works.
- A synchronous function runs in threads of the policy's own. They take the next batch by
  themselves: a busy loop does not keep the model waiting.
- An error of the function is raised to every episode of that batch.
- Actions are copied before the next call: a function may fill one buffer again and again.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Self

from openenv_async.rollouts.checking import check_count
from openenv_async.rollouts.policies import Turn
from openenv_async.rollouts.record import snapshot

__all__ = ["BatchedPolicy"]

_MAX_BATCH: Final = 128


class _Asked(NamedTuple):
    observation: Any
    turn: Turn | None
    future: asyncio.Future[Any]


class BatchedPolicy:
    """A policy that calls ``fn`` once with the observations of up to ``max_wait`` seconds.

    It belongs to one event loop. Close it (``async with``, or ``aclose``) when its rollouts have
    ended: it owns threads.

    Args:
        fn: takes a list of observations, gives as many actions; sync or async. With
            ``turns=True`` it takes a list of ``Turn`` besides.
        max_wait: seconds that the first observation of a batch waits for others.
        max_batch: observations at most; with as many the call is made at once.
        max_calls: calls at a time, for a function that can serve several.
        turns: whether ``fn`` wants turns.

    Attributes:
        calls: batches that were called.
        decisions: observations in them.
    """

    def __init__(
        self,
        fn: Callable[..., Sequence[Any] | Awaitable[Sequence[Any]]],
        *,
        max_wait: float = 0.005,
        max_batch: int = _MAX_BATCH,
        max_calls: int = 1,
        turns: bool = False,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"fn must be callable, got {fn!r}")
        max_batch = check_count("max_batch", max_batch)
        max_calls = check_count("max_calls", max_calls)
        if not max_wait >= 0:
            raise ValueError(f"max_wait must be a number of seconds, got {max_wait!r}")
        self._fn: Callable[..., Any] = fn
        self._is_async = inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(
            getattr(fn, "__call__", None)  # noqa: B004  # an instance with an async __call__
        )
        self._max_wait = max_wait
        self._max_batch = max_batch
        self._max_calls = max_calls
        self._turns = turns
        self._lock = threading.Condition()
        self._waiting: list[_Asked] = []
        self._oldest = 0.0
        self._threads: list[threading.Thread] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = 0
        self._busy = 0.0
        self._busy_since = 0.0
        self._closed = False
        self._threads_left = 0
        self._all_left: asyncio.Future[None] | None = None
        self.calls = 0
        self.decisions = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    def busy_time(self) -> float:
        """Return the seconds in which the function ran, the call that runs now included."""
        with self._lock:
            now = time.perf_counter()
            return self._busy + (now - self._busy_since if self._running else 0.0)

    def __call__(self, observation: Any, turn: Turn | None = None) -> asyncio.Future[Any]:
        """Return the action, once a batch with this observation was called."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_exception(RuntimeError("this policy was closed"))
            return future
        if not self._is_async and not self._threads:
            self._start_threads()
        with self._lock:
            if not self._waiting:
                self._oldest = time.perf_counter()
            self._waiting.append(_Asked(observation, turn, future))
            count = len(self._waiting)
            if not self._is_async and (count == 1 or count % self._max_batch == 0):
                self._lock.notify()
        if self._is_async and (count == 1 or count >= self._max_batch):
            self._look()
        return future

    def _take(self) -> list[_Asked]:
        """Take the next batch, if one is due; the rest begins to wait now."""
        batch = self._waiting[: self._max_batch]
        del self._waiting[: self._max_batch]
        self._oldest = time.perf_counter()
        return [asked for asked in batch if not asked.future.cancelled()]

    def _arguments(self, batch: list[_Asked]) -> list[list[Any]]:
        arguments: list[list[Any]] = [[asked.observation for asked in batch]]
        if self._turns:
            arguments.append([asked.turn for asked in batch])
        return arguments

    def _began(self, batch: list[_Asked]) -> None:
        """Count a call; the lock is held."""
        self.calls += 1
        self.decisions += len(batch)
        if not self._running:
            self._busy_since = time.perf_counter()
        self._running += 1

    def _ended(self) -> None:
        """Count the end of a call; the lock is held."""
        self._running -= 1
        if not self._running:
            self._busy += time.perf_counter() - self._busy_since

    # -- a synchronous function: threads ------------------------------------------------------

    def _start_threads(self) -> None:
        loop = asyncio.get_running_loop()
        self._all_left = loop.create_future()
        self._threads_left = self._max_calls
        for number in range(self._max_calls):
            thread = threading.Thread(
                target=self._work, args=(loop,), name=f"openenv-policy-{number}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        """Call batches until the policy is closed."""
        while (batch := self._next_batch()) is not None:
            made: Any = None
            error: BaseException | None = None
            try:
                made = _kept(self._fn(*self._arguments(batch)))
            except BaseException as exc:
                error = exc
            with self._lock:
                self._ended()
            if loop.is_closed():
                return
            loop.call_soon_threadsafe(_answer, batch, made, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(self._thread_left)

    def _next_batch(self) -> list[_Asked] | None:
        """Wait for the next batch; ``None`` when the policy is closed."""
        with self._lock:
            while not self._closed:
                left: float | None = None
                if self._waiting:
                    left = self._oldest + self._max_wait - time.perf_counter()
                    if left <= 0 or len(self._waiting) >= self._max_batch:
                        batch = self._take()
                        if batch:
                            self._began(batch)
                            return batch
                        continue
                self._lock.wait(left)
            return None

    def _thread_left(self) -> None:
        self._threads_left -= 1
        if not self._threads_left and self._all_left is not None and not self._all_left.done():
            self._all_left.set_result(None)

    # -- an asynchronous one: tasks -----------------------------------------------------------

    def _look(self) -> None:
        """Call the batches that are due, as far as the function is free."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self._running < self._max_calls and not self._closed:
            left = self._oldest + self._max_wait - time.perf_counter()
            if left > 0 and len(self._waiting) < self._max_batch:
                self._timer = asyncio.get_running_loop().call_later(left, self._look)
                return
            batch = self._take()
            if batch:
                self._began(batch)
                task = asyncio.create_task(self._call(batch), name="openenv-policy")
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _call(self, batch: list[_Asked]) -> None:
        made: Any = None
        error: BaseException | None = None
        try:
            made = _kept(await self._fn(*self._arguments(batch)))
        except asyncio.CancelledError:
            for asked in batch:
                asked.future.cancel()
            raise
        except Exception as exc:
            error = exc
        finally:
            self._ended()
        self._look()  # before the answers, whose episodes would come first
        _answer(batch, made, error)

    async def aclose(self) -> None:
        """Cancel the waiting episodes, wait for the calls that run, end the threads; idempotent."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, []
            self._lock.notify_all()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for asked in waiting:
            asked.future.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        if self._all_left is not None:
            await asyncio.shield(self._all_left)


def _kept(made: Any) -> Any:
    """Copy each action that a function gave; anything but a batch is returned as it is."""
    return [snapshot(action) for action in made] if isinstance(made, Iterable) else made


def _answer(batch: list[_Asked], made: Any, error: BaseException | None) -> None:
    """Give every episode of a batch its action, or all of them the error."""
    actions: list[Any] = []
    if error is None:
        try:
            actions = list(made)
        except TypeError as exc:
            error = exc
        else:
            if len(actions) != len(batch):
                error = ValueError(
                    f"the policy gave {len(actions)} actions for {len(batch)} observations"
                )
    if isinstance(error, StopIteration):  # which no future takes
        error = RuntimeError("the policy raised StopIteration")
    for number, asked in enumerate(batch):
        if asked.future.done():
            continue
        if error is None:
            asked.future.set_result(actions[number])
        else:
            asked.future.set_exception(error)
            asked.future.exception()  # a cancelled episode does not ask
