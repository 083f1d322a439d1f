"""What a pool has and has done, in numbers."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from openenv_async.pool.scheduler import Seconds

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["PoolStatistics", "read_between_turns"]

_TURN: Final = 1.0
"""Seconds to wait for a turn of the loop."""


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A pool at one moment.

    Attributes:
        ready, starting, draining: workers now; draining ones take no more sessions.
        capacity: slots of the ready ones.
        sessions: slots that are held.
        waiting: callers that wait for one.
        sessions_leased: slots given so far.
        workers_started, starts_failed, workers_died, workers_ended: so far; those that ended
            did so because the pool wanted it.
        peak_workers: most workers at once, starting ones included.
        seconds: of all workers together: starting, used, idle, wasted.
    """

    ready: int
    starting: int
    draining: int
    capacity: int
    sessions: int
    waiting: int
    sessions_leased: int
    workers_started: int
    starts_failed: int
    workers_died: int
    workers_ended: int
    peak_workers: int
    seconds: Seconds

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def add_to(self, table: Table) -> None:
        """Rows for a table of two columns."""
        table.add_row("workers started", f"{self.workers_started:,}")
        for name in ("starts_failed", "workers_died"):
            if count := getattr(self, name):
                table.add_row(name.replace("_", " "), f"{count:,}")
        for name in ("used", "idle", "starting", "wasted"):
            table.add_row(f"worker seconds {name}", f"{getattr(self.seconds, name):.1f}")


def read_between_turns(
    loop: asyncio.AbstractEventLoop, read: Callable[[], PoolStatistics]
) -> PoolStatistics:
    """A reading of what ``loop`` changes, from any thread: never in the middle of a change.

    A loop that gives no turn for a second is busy with other code than the pool's, whose turns
    are short: then it is read as it stands.
    """
    if _runs_here(loop) or not loop.is_running():
        return read()
    reading: concurrent.futures.Future[PoolStatistics] = concurrent.futures.Future()

    def take_turn() -> None:
        if reading.set_running_or_notify_cancel():
            reading.set_result(read())

    try:
        loop.call_soon_threadsafe(take_turn)
    except RuntimeError:  # it was closed meanwhile
        return read()
    try:
        return reading.result(_TURN)
    except TimeoutError:
        reading.cancel()
        return read()


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
