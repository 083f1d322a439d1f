"""A deterministic event loop for tests of races: the order of turns is drawn from a seed.

Rules of ``PermutedLoop``:

- No sockets, no threads, no waiting: time stands still while anything can run, and jumps to the
  next timer when nothing can.
- Tasks that could go on do so in an order drawn from the seed. Plain callbacks keep the order in
  which they were scheduled, which asyncio promises, but any task may come between two of them.
  Timers that are due at one time fire in an order drawn from the seed.
- Seed 0 keeps asyncio's own order.
- When nothing can run any more, no timer is left and the scenario has not ended, it is a
  ``Deadlock``, with the stack of every task that waits.

``run`` plays one scenario and fails when it leaves a task, a timer or an error that nobody
retrieved. ``explore`` plays it under many seeds. ``cancel_at_every_await`` cancels a coroutine at
each of its awaits: as soon as it waits, and in the turn in which it is given what it waits for;
then in each turn of the loop, which reaches the awaits of tasks that it waits for; and once more
while it cleans up.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import heapq
import io
import random
import types
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from typing import Any, Literal, TypeVar

from openenv_async.testing import ManualClock

__all__ = [
    "Deadlock",
    "Interruption",
    "LeftBehind",
    "PermutedLoop",
    "cancel_at_every_await",
    "explore",
    "run",
]

T = TypeVar("T")

When = Literal["waiting", "granted", "turn"]

_MAX_TURNS = 200_000
_CLEAN_UP_TURNS = 12
"""Turns after the first cancellation in which the second comes, at most."""


class Deadlock(AssertionError):
    """Nothing can run any more, or it runs for ever; the message has every task's stack."""


class LeftBehind(AssertionError):
    """A scenario ended, and something of it goes on, or an error of it was never retrieved."""


class _First:
    """A callback that runs before all others that are ready."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback = callback

    def __call__(self, *_: object) -> None:
        self._callback()


class PermutedLoop(asyncio.BaseEventLoop):
    """An event loop without I/O whose ready queue is permuted by a seed.

    Args:
        seed: of the order; 0 for asyncio's own.
        max_turns: callbacks after which it counts as a deadlock.

    Attributes:
        clock: the time; moved on by a scenario, it is a loop that was blocked for so long.
        turns: callbacks run so far.
        reported: what the loop's exception handler was told.
    """

    _ready: collections.deque[asyncio.Handle]
    _scheduled: list[asyncio.TimerHandle]
    _timer_cancelled_count: int
    _stopping: bool

    def __init__(self, seed: int = 0, max_turns: int = _MAX_TURNS) -> None:
        super().__init__()
        self.seed = seed
        self.clock = ManualClock()
        self.turns = 0
        self.reported: list[dict[str, Any]] = []
        self.random = random.Random(seed)
        self._max_turns = max_turns
        self._at_turns: dict[int, Callable[[], object]] = {}
        reported = self.reported
        self.set_exception_handler(lambda _, context: reported.append(context))

    def time(self) -> float:
        """Seconds of the loop's own clock."""
        return self.clock.now

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        """Timers that would still fire."""
        return [handle for handle in self._scheduled if not handle.cancelled()]

    def call_at_turn(self, turn: int, callback: Callable[[], object]) -> None:
        """Call back before the callback of that number is run."""
        self._at_turns[turn] = callback

    def run_in_executor(  # type: ignore[override]  # one class of futures is enough
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run what is meant for a thread in a turn of its own."""
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except Exception as exc:
                future.set_exception(exc)
            else:
                future.set_result(result)

        self.call_soon(work)
        return future

    def run_until_idle(self) -> None:
        """Run all that can run without time moving on."""
        while self._ready:
            self.call_soon(self.stop)
            self.run_forever()

    def _write_to_self(self) -> None:
        """Do nothing: this loop never sleeps."""

    def _process_events(self, event_list: object) -> None:
        """Do nothing: the loop has no I/O."""

    def _run_once(self) -> None:
        if not self._ready:
            self._move_on()
        self._take_due()
        if not self._ready:
            return  # the timer that was next has been cancelled by another clock's
        self.turns += 1
        if self.turns > self._max_turns:
            raise Deadlock(f"no end after {self._max_turns} turns\n{_stacks(self)}")
        if (hook := self._at_turns.pop(self.turns, None)) is not None:
            hook()
        handle = self._next()
        if not handle.cancelled():
            handle._run()

    def _move_on(self) -> None:
        """Let time jump to the next timer."""
        self._drop_cancelled()
        if not self._scheduled:
            raise Deadlock(f"nothing can run any more\n{_stacks(self)}")
        self.clock.advance(max(0.0, self._scheduled[0].when() - self.clock.now))

    def _take_due(self) -> None:
        due = []
        self._drop_cancelled()
        while self._scheduled and self._scheduled[0].when() <= self.clock.now:
            due.append(self._pop_timer())
            self._drop_cancelled()
        if self.seed:
            self.random.shuffle(due)
        self._ready.extend(due)

    def _drop_cancelled(self) -> None:
        while self._scheduled and self._scheduled[0].cancelled():
            self._timer_cancelled_count -= 1
            self._pop_timer()

    def _pop_timer(self) -> asyncio.TimerHandle:
        handle = heapq.heappop(self._scheduled)
        handle._scheduled = False  # type: ignore[attr-defined]  # as the loop of asyncio does
        return handle

    def _next(self) -> asyncio.Handle:
        ready = self._ready
        for index, handle in enumerate(ready):
            if isinstance(_callback_of(handle), _First):
                del ready[index]
                return handle
        if not self.seed:
            return ready.popleft()
        index = self.random.randrange(len(ready))
        if not _is_task(ready[index]):  # the first of those that keep their order
            index = next(at for at, handle in enumerate(ready) if not _is_task(handle))
        handle = ready[index]
        del ready[index]
        return handle


def _callback_of(handle: asyncio.Handle) -> object:
    return handle._callback  # type: ignore[attr-defined]  # None once it was cancelled


def _is_task(handle: asyncio.Handle) -> bool:
    return isinstance(getattr(_callback_of(handle), "__self__", None), asyncio.Task)


def _stacks(loop: asyncio.AbstractEventLoop) -> str:
    """The stack of every task that is not done."""
    text = io.StringIO()
    for task in sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name()):
        task.print_stack(file=text)
    return text.getvalue()


def run(
    scenario: Callable[[], Coroutine[Any, Any, T]],
    seed: int = 0,
    *,
    max_turns: int = _MAX_TURNS,
) -> T:
    """Play one scenario on a loop of its own.

    Raises:
        Deadlock: it can go on no more.
        LeftBehind: it ended, but a task or timer goes on, or an error was never retrieved.
    """
    loop = PermutedLoop(seed, max_turns)
    try:
        result = loop.run_until_complete(scenario())
        loop.run_until_idle()
        loop.run_until_complete(loop.shutdown_asyncgens())
        _check_nothing_left(loop)
        return result
    except BaseException:
        _abandon(loop)
        raise
    finally:
        loop.close()


def _check_nothing_left(loop: PermutedLoop) -> None:
    if asyncio.all_tasks(loop):
        raise LeftBehind(f"tasks go on after the scenario\n{_stacks(loop)}")
    if loop.timers:
        raise LeftBehind(f"timers were not cancelled: {loop.timers}")
    if loop.reported:
        raise _unretrieved(loop.reported)


def _unretrieved(reported: list[dict[str, Any]]) -> LeftBehind:
    error = LeftBehind(f"the loop was told: {reported}")
    error.__cause__ = reported[0].get("exception")
    return error


def _abandon(loop: PermutedLoop) -> None:
    """End the tasks of a scenario that failed, as far as they let themselves be ended."""
    for _ in range(3):
        for task in asyncio.all_tasks(loop):
            task.cancel()
        with contextlib.suppress(Deadlock):
            loop.turns = 0
            loop.run_until_idle()
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is told already


def explore(
    seeds: int | Iterable[int],
    scenario: Callable[[], Coroutine[Any, Any, object]],
    *,
    max_turns: int = _MAX_TURNS,
) -> None:
    """Play a scenario under every seed; a failure names the seed that plays it again.

    Args:
        seeds: the seeds, or how many from 0 on.
        scenario: makes the coroutine, anew for each.
        max_turns: of each.
    """
    for seed in range(seeds) if isinstance(seeds, int) else seeds:
        with _noted(f"played again by run(scenario, seed={seed})"):
            run(scenario, seed, max_turns=max_turns)
    gc.collect()


@contextlib.contextmanager
def _noted(note: str) -> Iterator[None]:
    try:
        yield
    except BaseException as exc:
        exc.add_note(note)
        raise


class Interruption:
    """Cancel one coroutine at one of its awaits, and perhaps again at one of its clean-up.

    A scenario calls it with the coroutine: ``task = await interruption(pool.acquire(...))``.

    Args:
        at: the number of the await, or of the loop's turn since it began, from 1.
        when: as soon as it waits, in the turn in which it is given what it waits for, or in that
            turn of the loop.
        again: the number of the await or turn after the first cancellation; 0 for none.

    Attributes:
        thrown: cancellations that reached the coroutine.
        places: where it waited when they were sent.
    """

    def __init__(self, at: int, when: When = "waiting", again: int = 0) -> None:
        self.at = at
        self.when = when
        self.again = again
        self.thrown = 0
        self.places: list[str] = []
        self._waits = 0
        self._waits_since = 0
        self._task: asyncio.Task[Any] | None = None
        self._coroutine: Any = None

    def __repr__(self) -> str:
        again = f", again={self.again}" if self.again else ""
        return f"Interruption({self.at}, {self.when!r}{again}) at {' and '.join(self.places)}"

    async def __call__(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """The task of the coroutine, done.

        Raises:
            AssertionError: it did not end as cancelled although it was.
        """
        assert self._task is None, "one interruption is for one coroutine"
        task = self._task = asyncio.ensure_future(self._drive(coroutine))
        self._coroutine = coroutine
        await asyncio.wait([task])
        if self.thrown and not task.cancelled():
            error = AssertionError(f"a cancellation was swallowed: {self!r}: {task!r}")
            error.__cause__ = task.exception()
            raise error
        return task

    async def _drive(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return await self._watched(coroutine)

    @types.coroutine
    def _watched(self, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        error: BaseException | None = None
        if self.when == "turn":
            self._send_after(self.at)
        while True:
            try:
                waited = coroutine.send(None) if error is None else coroutine.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            if self.when != "turn":
                self._count(waited)
            error = None
            try:
                yield waited
            except asyncio.CancelledError as exc:
                self.thrown += 1
                error = exc
                if self.when == "turn" and self.thrown == 1 and self.again:
                    self._send_after(self.again)
            except BaseException as exc:
                error = exc

    def _count(self, waited: asyncio.Future[Any] | None) -> None:
        """One more await; cancel the task there if it is the one."""
        self._waits += 1
        self._waits_since += self.thrown == 1
        is_first = self._waits == self.at
        if not is_first and not (self.again and self._waits_since == self.again):
            return
        if not is_first:
            self._waits_since += 1  # it is sent once
        task = self._task
        assert task is not None
        self.places.append(_place(self._coroutine))
        if self.when == "granted" and waited is not None:
            waited.add_done_callback(_First(task.cancel))
        else:
            task.cancel()

    def _send_after(self, turns: int) -> None:
        """Cancel the task in a later turn, wherever it waits then."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, PermutedLoop)
        loop.call_at_turn(loop.turns + turns, self._send)

    def _send(self) -> None:
        task = self._task
        if task is not None and not task.done():
            self.places.append(_place(self._coroutine))
            task.cancel()


def _place(coroutine: Any) -> str:
    """Return the innermost frame in which a coroutine waits."""
    place, inner = "?", coroutine
    while inner is not None:
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "ag_frame", None)
        if frame is not None:
            place = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
        inner = getattr(inner, "cr_await", None) or getattr(inner, "ag_await", None)
    return place


def cancel_at_every_await(
    scenario: Callable[[Interruption], Coroutine[Any, Any, object]],
    *,
    seeds: Iterable[int] = (0, 1, 2),
    twice: bool = True,
    max_awaits: int = 500,
) -> int:
    """Play a scenario once for each await of the coroutine that it gives to the interruption.

    Args:
        scenario: sets up, awaits ``interruption(coroutine)``, and checks what is left.
        seeds: each is played with all of them.
        twice: cancel also a second time, at each await of the clean-up.
        max_awaits: beyond which the coroutine counts as endless.

    Returns:
        How often the scenario was played with a cancellation that reached the coroutine.
    """
    played = 0
    whens: tuple[When, ...] = ("waiting", "granted", "turn")
    for seed in seeds:
        chosen = random.Random(seed)
        for when in whens:
            for at in range(1, max_awaits):
                reached = _interrupted(scenario, seed, Interruption(at, when))
                if not reached.places:
                    break  # it ended before
                played += reached.thrown
                if not twice or not reached.thrown:
                    continue
                if when == "turn":
                    again = chosen.randint(1, _CLEAN_UP_TURNS)
                    played += _interrupted(scenario, seed, Interruption(at, when, again)).thrown > 1
                    continue
                for again in range(1, max_awaits):
                    both = _interrupted(scenario, seed, Interruption(at, when, again))
                    if len(both.places) < 2:
                        break
                    played += both.thrown > 1
            else:
                raise AssertionError(f"more than {max_awaits} awaits")
    gc.collect()
    return played


def _interrupted(
    scenario: Callable[[Interruption], Coroutine[Any, Any, object]],
    seed: int,
    interruption: Interruption,
) -> Interruption:
    try:
        run(lambda: scenario(interruption), seed)
    except BaseException as exc:
        exc.add_note(f"{interruption!r}, seed {seed}")
        raise
    return interruption
