"""Which episode comes next: its number, group, member, task and seed.

Rules:

- Episodes are numbered. Those of one group follow one another and share task and seed: number
  ``i`` is member ``i % size`` of group ``i // size``.
- An episode that is to be played again comes before new ones, with the task and seed that it had.
- Tasks are read ahead in a thread, by a bounded number of groups. While none is there, a worker
  waits for it (``ready``); ``take`` never does.
- An error of the tasks ends them: episodes that were begun are played to their end, then it is
  raised.
- A task is finished when every member of its group was handed to the reader. Tasks that are not
  finished at the end are given back to their source.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from openenv_async.errors import OpenEnvError
from openenv_async.rollouts.groups import baseline
from openenv_async.rollouts.sessions import close_client
from openenv_async.rollouts.tasks import Draw, TaskSource
from openenv_async.targets.sessions import TargetSessions
from openenv_async.types import Outcome, OutcomeStatus, Task

__all__ = ["Planned", "Schedule"]

_CHUNK: Final = 64
"""Tasks that a thread reads before it hands them over."""
_CHUNK_SECONDS: Final = 0.005
"""Seconds after which it hands over what it has."""
_NO_RESULT: Final = (OutcomeStatus.CANCELLED, OutcomeStatus.INFRA_ERROR)
"""Statuses of episodes that say nothing about their task."""


@dataclass(slots=True)
class Planned:
    """An episode that is to be played.

    Attributes:
        index: its number in its collection.
        group, member: which group it belongs to, and which of it; ``None`` without groups.
        task: what it is about.
        seed: for ``reset``; ``None``: the environment draws one, or the task has one.
        attempts: how often it was begun, this time included.
    """

    index: int
    group: int | None = None
    member: int | None = None
    task: Task | None = None
    seed: int | None = None
    attempts: int = 1


@dataclass(slots=True)
class _Group:
    """A group under way: its task, the members that were not handed over yet, and their returns."""

    draw: Draw
    left: int
    returns: list[float] = field(default_factory=list)
    is_unfinished: bool = False


class Schedule:
    """The episodes of one collection, in the order in which they begin.

    Args:
        episodes: how many; ``None``: as many as there are tasks, or without end.
        group_size: episodes of one task and seed; ``None``: there are no groups.
        seeds: of each group, or the first of consecutive ones.
        source: of the tasks.
        ahead: groups whose tasks are read ahead.
        wanted: tells whether an episode is played; ``None``: each is.
        known: the return of an episode that is not, if there is one.

    Attributes:
        total: episodes that there are, where known.
        error: what ended the tasks early.
        on_end: called when the tasks have come to their end.
    """

    def __init__(
        self,
        *,
        episodes: int | None,
        group_size: int | None = None,
        seeds: int | Sequence[int] | None = None,
        source: TaskSource | None = None,
        ahead: int = 8,
        wanted: Callable[[Planned], bool] | None = None,
        known: Callable[[Planned], float | None] = lambda planned: None,
    ) -> None:
        self.total = episodes
        self.error: BaseException | None = None
        self.on_end: Callable[[], object] = lambda: None
        self._grouped = group_size is not None or source is not None
        self._size = group_size or 1
        if seeds is None and self._size > 1:
            seeds = random.SystemRandom().getrandbits(31)
        self._seeds = seeds
        self._wanted = wanted
        self._known = known
        self._next = 0
        self._again: deque[Planned] = deque()
        self._task: Task | None = None
        self._groups: dict[int, _Group] = {}
        self._unfinished: list[Draw] = []
        self._tasks = None if source is None else _ReadAhead(source, ahead, self._tasks_changed)

    async def open(self, sessions: TargetSessions | None) -> None:
        """Read what is to be known of the tasks before the first episode.

        Args:
            sessions: of the environment, open: it may have own tasks, and tells the options of
                ``reset``.

        Raises:
            InvalidTasks: they cannot be read, or do not fit the environment.
        """
        if self._tasks is None:
            return
        left = await self._tasks.open(sessions)
        if left is not None:
            left *= self._size
            self.total = left if self.total is None else min(self.total, left)

    async def aclose(self) -> None:
        """Stop reading tasks, and give back what was not finished; idempotent."""
        if self._tasks is not None:
            groups = [self._groups[number].draw for number in sorted(self._groups)]
            unfinished, self._unfinished, self._groups = self._unfinished + groups, [], {}
            await self._tasks.aclose(unfinished)

    # -- which comes next ---------------------------------------------------------------------

    def seed(self, index: int) -> int | None:
        """Return the seed of an episode, by its number."""
        group = index // self._size
        if self._seeds is None or isinstance(self._seeds, int):
            return None if self._seeds is None else self._seeds + group
        return self._seeds[group]

    def left(self) -> bool:
        """Tell whether there are episodes to begin, or may still be."""
        if self._again:
            return True
        if self.total is not None and self._next >= self.total:
            return False
        return self._tasks is None or bool(self._next % self._size) or not self._tasks.is_over

    async def ready(self) -> bool:
        """Return true when an episode can be taken, false when there are none left."""
        while self.left():
            if self._again or self._tasks is None or self._next % self._size:
                return True
            if await self._tasks.ready():
                return True
        return False

    def take(self) -> Planned | None:
        """Return the next episode; ``None`` when there is none, or none yet."""
        if self._again:
            return self._again.popleft()
        while self.left():
            planned = self._new()
            if planned is None or self._wanted is None or self._wanted(planned):
                return planned
            self._member_ended(planned.index // self._size, None, self._known(planned))
        return None

    def find(self) -> bool:
        """Tell whether ``take`` has an episode now, past those that are not wanted."""
        planned = self.take()
        if planned is not None:
            self._again.appendleft(planned)
        return planned is not None

    def again(self, planned: Planned) -> None:
        """Have an episode played again."""
        planned.attempts += 1
        self._again.append(planned)

    def rest(self) -> Iterator[Planned]:
        """Yield all episodes that were not taken, when nothing is played any more.

        Of tasks that were not read yet only the ids are known.
        """
        while self._again:
            yield self._again.popleft()
        while (planned := self._new()) is not None:
            if self._wanted is None or self._wanted(planned):
                yield planned
        if self._tasks is None or self.total is None:
            return
        ids = iter(self._tasks.source.ids_left() or ())
        while self._next < self.total:
            if self._next % self._size == 0:
                named = next(ids, None)
                self._task = None if named is None else Task(named)
            planned = self._planned(self._next)
            if self._wanted is None or self._wanted(planned):
                yield planned

    def _new(self) -> Planned | None:
        """Return the next episode that was never taken."""
        index = self._next
        if self.total is not None and index >= self.total:
            return None
        if self._tasks is not None and index % self._size == 0:
            draw = self._tasks.take()
            if draw is None:
                return None
            self._groups[index // self._size] = _Group(draw, self._size)
            self._task = draw.task
        return self._planned(index)

    def _planned(self, index: int) -> Planned:
        self._next = index + 1
        task = self._task
        own = task is not None and "seed" in {**task.data, **task.private}
        seed = None if own else self.seed(index)
        if not self._grouped:
            return Planned(index, seed=seed)
        return Planned(index, index // self._size, index % self._size, task, seed)

    # -- what became of them ------------------------------------------------------------------

    def where(self, index: int) -> str | None:
        """Return the row of the task of an episode that was taken and not yet handed over."""
        group = self._groups.get(index // self._size)
        return None if group is None else group.draw.where

    def handed_over(self, outcome: Outcome) -> None:
        """Note that the reader was given an outcome."""
        if self._tasks is not None:
            self._member_ended(outcome.index // self._size, outcome)

    def done(self, index: int) -> None:
        """Note that the reader was given what came of a task, which has no outcome."""
        self._member_ended(index // self._size, None)

    def _member_ended(
        self, number: int, outcome: Outcome | None, known: float | None = None
    ) -> None:
        """Note the end of a member of a group; ``None``: it has no outcome."""
        group = self._groups.get(number)
        if group is None or self._tasks is None:
            return
        group.left -= 1
        if known is not None:
            group.returns.append(known)
        if outcome is not None:
            value = outcome.episode_return
            stale = bool(getattr(outcome.error, "detail", {}).get("stale"))
            if outcome.status in _NO_RESULT and not stale:
                group.is_unfinished = True
            elif value is not None and (outcome.status.usable or outcome.penalty is not None):
                group.returns.append(value)
        if group.left:
            return
        del self._groups[number]
        if group.is_unfinished:
            self._unfinished.append(group.draw)
            return
        self._tasks.source.finish(group.draw, baseline(group.returns))

    def _tasks_changed(self, error: BaseException | None) -> None:
        self.error = self.error or error
        if not self.left():
            self.on_end()


class _ReadAhead:
    """The tasks of a source, read in a thread before they are wanted."""

    def __init__(
        self, source: TaskSource, ahead: int, on_end: Callable[[BaseException | None], object]
    ) -> None:
        self.source = source
        self._ahead = ahead
        self._on_end = on_end
        self._read: deque[Draw] = deque()
        self._is_at_end = False
        self._is_closed = False
        self._lock = threading.Lock()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._reading: asyncio.Task[None] | None = None

    @property
    def is_over(self) -> bool:
        """True when all there are were taken."""
        return self._is_at_end and not self._read

    async def open(self, sessions: TargetSessions | None) -> int | None:
        """Prepare the source, and begin to read; return how many tasks there are, if known."""
        if sessions is not None:
            await _tell(self.source, sessions)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(_THREADS, self.source.prepare)
        left = await loop.run_in_executor(_THREADS, self.source.left)
        self._reading = asyncio.create_task(self._read_all(), name="openenv-tasks")
        return left

    async def aclose(self, unfinished: list[Draw]) -> None:
        """Stop; give back what was not taken and ``unfinished``, which comes first."""
        with self._lock:
            self._is_closed = True
            read = list(self._read)
            self._read.clear()
        self.source.give_back([*unfinished, *read])
        task, self._reading = self._reading, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def ready(self) -> bool:
        """Return true when a task can be taken, false when there are no more."""
        while not self._read and not self._is_at_end:
            self._news.clear()
            await self._news.wait()
        return bool(self._read)

    def take(self) -> Draw | None:
        """Return the next task, if one was read."""
        while self._read:
            draw = self._read.popleft()
            if len(self._read) < self._ahead:
                self._room.set()
            if self.source.is_retired(draw):
                self.source.give_back([draw])  # which will not give it again
                continue
            self.source.hand_out(draw)
            return draw
        return None

    async def _read_all(self) -> None:
        loop = asyncio.get_running_loop()
        error: BaseException | None = None
        while not self._is_at_end:
            self._room.clear()
            if len(self._read) >= self._ahead:
                await self._room.wait()
                continue
            count = min(self._ahead - len(self._read), _CHUNK)
            # The thread itself adds what it read: nothing is lost when this wait is cancelled.
            over, error = await loop.run_in_executor(_THREADS, self._read_some, count, loop)
            self._is_at_end = over
            self._news.set()
        self._on_end(error)

    def _read_some(
        self, count: int, loop: asyncio.AbstractEventLoop
    ) -> tuple[bool, BaseException | None]:
        """Read some tasks, in a thread; return whether they are at their end, and the error."""
        until = time.monotonic() + _CHUNK_SECONDS
        for _ in range(count):
            try:
                draw = self.source.draw()
            except Exception as exc:
                return True, exc
            if draw is None:
                return True, None
            with self._lock:
                if self._is_closed:
                    self.source.give_back([draw])
                    return True, None
                self._read.append(draw)
                if len(self._read) == 1:  # a worker may wait for it, and the next one be slow
                    loop.call_soon_threadsafe(self._news.set)
            if time.monotonic() >= until:
                break
        return False, None


async def _tell(source: TaskSource, sessions: TargetSessions) -> None:
    """Give a source what it needs of the environment: its splits, the options of ``reset``.

    Raises:
        InvalidTasks: there is no such split.
        OpenEnvError: no session could be opened to ask.
    """
    parts = list(source.parts())
    named = [part for part in parts if part.split is not None]
    if named:
        client = sessions.session()
        try:
            if hasattr(client, "open"):
                await client.open()
            for part in named:
                await part.load_split(client)
        finally:
            await close_client(client)
    asking = [part for part in parts if part.split is None and not part.is_single]
    options = await _reset_options(sessions) if asking else None
    if options is not None:
        for part in asking:
            part.take_options(options)


async def _reset_options(sessions: TargetSessions) -> frozenset[str] | None:
    """Return the options that ``reset`` has; ``None`` where nobody says, or it takes any."""
    try:
        schema = (await sessions.schema()).get("reset")
    except (OpenEnvError, OSError, TypeError, ValueError):  # such as an address that is not a URL
        return None
    if not isinstance(schema, dict) or schema.get("additionalProperties") is not False:
        return None
    properties = schema.get("properties")
    return frozenset(properties) if isinstance(properties, dict) else None


class _DaemonThreads(concurrent.futures.Executor):
    """A thread for each call. One that hangs in someone's iterable does not keep the process."""

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> concurrent.futures.Future[Any]:
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()

        def work() -> None:
            try:
                result = function(*args, **kwargs)
            except BaseException as exc:
                future.set_exception(exc)
            else:
                future.set_result(result)

        threading.Thread(target=work, name="openenv-tasks", daemon=True).start()
        return future


_THREADS: Final = _DaemonThreads()
