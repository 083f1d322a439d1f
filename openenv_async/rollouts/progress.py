"""The progress of a run in Python: in a notebook a bar, in a terminal a line, else a log's lines.

The summary is read at intervals of its own, so that a step or an episode costs nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from openenv_async.deadlines import wait_uncancelled
from openenv_async.notebook import progress
from openenv_async.rollouts.summary import Summary
from openenv_async.telemetry.terminal import printable

__all__ = ["LINE_INTERVAL", "Pace", "progress_facts", "progress_line", "shown_progress"]

LINE_INTERVAL: Final = 30.0
"""Seconds between two lines, where there is no terminal."""
_REFRESH: Final = 0.25
_WINDOW: Final = 60.0
"""Seconds that the pace is measured over."""


class Pace:
    """Episodes a second of late, and how long the rest will take.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque([(clock(), 0)])

    def note(self, episodes: int) -> None:
        """Note how many have ended by now."""
        now = self._clock()
        self._seen.append((now, episodes))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _WINDOW:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """Episodes a second; ``None`` before any has ended."""
        (begun, before), (now, after) = self._seen[0], self._seen[-1]
        return (after - before) / (now - begun) if now > begun and after > before else None

    def left(self, episodes: int) -> float | None:
        """Return the seconds that as many take; ``None``: not known yet."""
        rate = self.rate
        return None if rate is None else episodes / rate


def progress_facts(summary: Summary, pace: Pace) -> tuple[str, str]:
    """Return what is good to know of a run, and what is not good to see; each may be empty."""
    facts = []
    rate = pace.rate
    if rate is not None:
        facts.append(f"{rate:,.1f} episodes/s" if rate < 100 else f"{rate:,.0f} episodes/s")
    if summary.total is not None and summary.episodes < summary.total:
        left = pace.left(summary.total - summary.episodes)
        if left is not None:
            facts.append(f"{_duration(left)} left")
    if summary.running:
        facts.append(f"{summary.running:,} running")
    if summary.return_mean is not None:
        facts.append(f"mean return {summary.return_mean:.3g}")
    if summary.model_calls:
        facts.append(f"{summary.model_calls:,} model calls, {summary.model_tokens:,} tokens")
    bad = []
    if summary.failures:
        bad.append(f"{summary.failures:,} failed")
    if summary.mistakes:
        bad.append(f"{summary.mistakes:,} mistakes")
    if summary.waste is not None and summary.waste >= 0.001:
        bad.append(f"{summary.waste:.1%} wasted")
    if summary.unwritten:
        bad.append(f"{summary.unwritten:,} not written")
    return ", ".join(facts), ", ".join(bad)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def progress_line(title: str, summary: Summary, pace: Pace) -> str:
    """Return a line of where a run is."""
    of = "" if summary.total is None else f" of {summary.total:,}"
    parts = [f"{summary.episodes:,}{of} episodes", *filter(None, progress_facts(summary, pace))]
    return f"{title}: {', '.join(parts)}"


@contextlib.asynccontextmanager
async def shown_progress(summary: Summary) -> AsyncIterator[None]:
    """Show how a run goes for as long as the block lasts.

    A notebook gets a bar that needs no widgets, a terminal a line of standard error that is
    written over, anything else a line there now and then and one at the end.
    """
    pace = Pace()
    show, interval = _display()

    async def watch() -> None:
        while True:
            await asyncio.sleep(interval)
            pace.note(summary.episodes)
            with contextlib.suppress(OSError):
                show(summary, pace, False)

    watching = asyncio.create_task(watch(), name="openenv-progress")
    try:
        yield
    finally:
        watching.cancel()
        await wait_uncancelled(watching)
        pace.note(summary.episodes)
        with contextlib.suppress(OSError):  # the terminal is gone, the run is not
            show(summary, pace, True)


def _display() -> tuple[Callable[[Summary, Pace, bool], None], float]:
    """Return what shows a summary here, and after how many seconds it is shown again."""
    notebook = _notebook_display()
    if notebook is not None:
        return notebook, _REFRESH
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    return (_over, _REFRESH) if is_terminal else (_below, LINE_INTERVAL)


def _notebook_display() -> Callable[[Summary, Pace, bool], None] | None:
    """Return what shows a bar in the cell that runs; ``None`` where there is no notebook."""
    module = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    if shell is None or not hasattr(shell, "kernel"):  # IPython in a terminal
        return None
    from IPython.display import HTML, display  # type: ignore[import-not-found, unused-ignore]

    shown: Any = None

    def show(summary: Summary, pace: Pace, is_last: bool) -> None:
        nonlocal shown
        told = ", ".join(filter(None, progress_facts(summary, pace)))
        bar = HTML(progress("", summary.episodes, summary.total, told))
        if shown is None:
            shown = display(bar, display_id=True)
        else:
            shown.update(bar)

    return show


def _over(summary: Summary, pace: Pace, is_last: bool) -> None:
    line = printable(progress_line("collect", summary, pace))
    line = line[: shutil.get_terminal_size().columns - 1]  # one that wraps is not written over
    sys.stderr.write(f"\r\x1b[K{line}" + ("\n" if is_last else ""))
    sys.stderr.flush()


def _below(summary: Summary, pace: Pace, is_last: bool) -> None:
    if sys.stderr is not None:
        sys.stderr.write(printable(progress_line("collect", summary, pace)) + "\n")
        sys.stderr.flush()
