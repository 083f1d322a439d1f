"""The progress of a run: a bar on a terminal, a line now and then elsewhere.

Both are read from the summary at intervals of their own, so that a step or an episode costs them
nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from openenv_async.cli.output import console, echo
from openenv_async.telemetry.logs import MessageFormatter
from openenv_async.telemetry.terminal import plain_text, printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from openenv_async.rollouts import Summary

__all__ = [
    "Pace",
    "logs_above",
    "progress_bar",
    "progress_facts",
    "progress_line",
    "report_progress",
    "say_above",
]

LINE_INTERVAL: Final = 30.0
"""Seconds between two lines, where there is no terminal."""
_BAR_INTERVAL: Final = 0.25
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


def progress_bar(*, quiet: bool = False) -> Progress:
    """Return a progress bar on standard error; silent when that is not a terminal.

    Args:
        quiet: silent in any case.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TextColumn("{task.fields[failures]}", style="red", markup=False),
        console=console(stderr=True),
        disable=quiet or not sys.stderr.isatty(),
        refresh_per_second=4,
    )


@contextlib.asynccontextmanager
async def report_progress(
    summary: Summary,
    title: str,
    bar: Progress,
    *,
    quiet: bool = False,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[None]:
    """Show how a run goes for as long as the block lasts.

    Args:
        summary: is filled meanwhile.
        title: of the run.
        bar: gets a row; where it is silent a line is printed on standard error now and then.
        quiet: show nothing.
        sleep, clock: of the lines.
    """
    pace = Pace(clock)
    if quiet:
        showing = None
    elif bar.disable:
        showing = asyncio.create_task(_lines(summary, title, pace, sleep), name="openenv-progress")
    else:
        showing = asyncio.create_task(_row(summary, title, pace, bar), name="openenv-progress")
    try:
        yield
    finally:
        if showing is not None:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await showing


async def _lines(
    summary: Summary, title: str, pace: Pace, sleep: Callable[[float], Awaitable[object]]
) -> None:
    while True:
        await sleep(LINE_INTERVAL)
        pace.note(summary.episodes)
        echo(progress_line(printable(title), summary, pace), err=True)


async def _row(summary: Summary, title: str, pace: Pace, bar: Progress) -> None:
    task = bar.add_task(printable(title), total=summary.total, rate="", failures="")
    try:
        while True:
            await asyncio.sleep(_BAR_INTERVAL)
            _show(summary, pace, bar, task)
    finally:
        _show(summary, pace, bar, task)


def _show(summary: Summary, pace: Pace, bar: Progress, task: Any) -> None:
    pace.note(summary.episodes)
    rate, bad = progress_facts(summary, pace)
    bar.update(task, total=summary.total, completed=summary.episodes, rate=rate, failures=bad)


# -- what is said meanwhile -----------------------------------------------------------------------


class _AboveBar(logging.Handler):
    """Prints records above a bar."""

    def __init__(self, bar: Progress) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(MessageFormatter("%(levelname)s: %(message)s"))
        self._bar = bar

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say_above(self._bar, self.format(record).replace("WARNING", "warning", 1), "yellow")
        except Exception:
            self.handleError(record)


def say_above(bar: Progress, text: str, style: str = "") -> None:
    """Print a text on standard error, above the bar if one is shown."""
    if bar.disable:
        echo(text, err=True)
    else:
        bar.console.print(plain_text(text, style, lines=True), soft_wrap=True)


@contextlib.contextmanager
def logs_above(bar: Progress, *, quiet: bool = False) -> Iterator[None]:
    """Have warnings of this package's loggers printed above a bar; ``quiet``: not at all."""
    log = logging.getLogger("openenv_async")
    handler = logging.NullHandler() if quiet else _AboveBar(bar)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
