"""Many deadlines, one heap, one timer.

Each watched item is in the heap once for its earliest look. Moving a deadline later, which every
finished step does, costs nothing: the item is looked at when its old time comes and put back. When
an earlier look is asked for, the later one stays and is used again when that time comes: so an item
with a short deadline for each step and a long one for its life has two entries, however many steps
it takes. Stale entries are taken out once they are half of the heap; of a small one, whenever an
item is forgotten. The owner of the clock and of the timer passes both in.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from math import inf
from typing import Any, Final, Protocol

from openenv_async.renamed import renamed_attributes

__all__ = ["Deadlines", "Timer", "Watched", "end_tasks", "wait_uncancelled"]

__getattr__ = renamed_attributes(__name__, {"outlast": "wait_uncancelled"})

_FEW: Final = 64
"""Stale entries that the heap may hold at any size."""
_AGAIN: Final = 1.0
"""Seconds after which a task that goes on is cancelled again."""


class Watched(Protocol):
    """An item with deadlines, hashable. ``scheduled`` belongs to the heap: start it at ``inf``."""

    scheduled: float

    def check(self, now: float) -> float | None:
        """Act on what is due; the next time to look, or ``None`` to be forgotten."""
        ...


class Timer(Protocol):
    """The handle that ``call_at`` returns."""

    def cancel(self) -> None: ...


class Deadlines:
    """Looks at each watched item when its time has come.

    Args:
        clock: seconds, monotonic.
        call_at: starts a timer that calls back at a time of that clock.
    """

    def __init__(
        self, clock: Callable[[], float], call_at: Callable[[float, Callable[[], None]], Timer]
    ) -> None:
        self._clock = clock
        self._call_at = call_at
        self._heap: list[tuple[float, int, Watched]] = []
        self._order = itertools.count()
        self._timer: Timer | None = None
        self._timer_at = inf
        self._stale = 0
        self._later: dict[Watched, float] = {}

    def watch(self, item: Watched, when: float) -> None:
        """Look at ``item`` no later than ``when``."""
        if when >= item.scheduled:
            return
        later, before = self._later, item.scheduled
        if before == inf and later and later.get(item, inf) <= when:
            item.scheduled = later.pop(item)  # it is in the heap
            return
        item.scheduled = when
        heapq.heappush(self._heap, (when, next(self._order), item))
        if before != inf and later.setdefault(item, before) != before:
            self._add_stale()
        if when < self._timer_at:
            self._arm(when)

    def forget(self, item: Watched) -> None:
        """Look at ``item`` no more, and let go of it: at once where few are watched, or soon."""
        if self._later.pop(item, None) is not None:
            self._add_stale()
        if item.scheduled == inf:
            return
        item.scheduled = inf
        self._add_stale()
        if self._stale and len(self._heap) <= _FEW:
            self._take_out()

    def _add_stale(self) -> None:
        """One more entry is for nothing; they are taken out when they are many."""
        self._stale += 1
        if self._stale > max(_FEW, len(self._heap) // 2):
            self._take_out()

    def _take_out(self) -> None:
        """Take the stale entries out."""
        self._stale = 0
        heap, later = self._heap, self._later
        heap[:] = [
            entry
            for entry in heap
            if entry[0] == entry[2].scheduled or entry[0] == later.get(entry[2])
        ]
        heapq.heapify(heap)

    def close(self) -> None:
        """Stop the timer and forget everything."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._timer_at = inf
        self._heap.clear()
        self._later.clear()

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._call_at(when, self._fire)

    def _fire(self) -> None:
        self._timer, self._timer_at = None, inf
        now = self._clock()
        heap = self._heap
        while heap and heap[0][0] <= now:
            when, _, item = heapq.heappop(heap)
            if when != item.scheduled:
                if self._later.get(item) == when:
                    del self._later[item]  # an earlier look will be done, and asks for the next
                else:
                    self._stale -= self._stale > 0
                continue
            item.scheduled = inf
            again = item.check(now)
            if again is not None:
                self.watch(item, max(again, now + 1e-3))
            elif item.scheduled == inf and self._later.pop(item, None) is not None:
                self._add_stale()
        if heap and heap[0][0] < self._timer_at:
            self._arm(heap[0][0])


async def end_tasks(*tasks: asyncio.Task[Any], seconds: float) -> None:
    """Cancel tasks and wait for their end, however often the caller is cancelled meanwhile.

    Those that run code which does not let cancellation through may not have ended then: see
    ``Task.done``. They were cancelled again each second.

    Args:
        tasks: their exceptions stay with them.
        seconds: to wait at most.
    """
    interrupted: asyncio.CancelledError | None = None
    until = asyncio.get_running_loop().time() + seconds
    for task in tasks:
        task.cancel()
    while waiting := [task for task in tasks if not task.done()]:
        left = until - asyncio.get_running_loop().time()
        if left <= 0:
            break
        try:
            _, pending = await asyncio.wait(waiting, timeout=min(left, _AGAIN))
        except asyncio.CancelledError as exc:
            interrupted = exc
        else:
            for task in pending:
                task.cancel()
    if interrupted is not None:
        raise interrupted


async def wait_uncancelled(*tasks: asyncio.Task[Any]) -> None:
    """Wait for tasks, however often the caller is cancelled meanwhile; then be cancelled.

    Their exceptions stay with the tasks.
    """
    interrupted: asyncio.CancelledError | None = None
    while waiting := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(waiting)
        except asyncio.CancelledError as exc:
            interrupted = exc
    if interrupted is not None:
        raise interrupted
