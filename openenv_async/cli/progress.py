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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from openenv_async.cli.output import console, echo
from openenv_async.rollouts.progress import LINE_INTERVAL, Pace, progress_facts, progress_line
from openenv_async.telemetry.logs import MessageFormatter
from openenv_async.telemetry.terminal import plain_text, printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from openenv_async.rollouts import Summary

__all__ = [
    "logs_above",
    "progress_bar",
    "report_progress",
    "say_above",
]

_BAR_INTERVAL: Final = 0.25


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
