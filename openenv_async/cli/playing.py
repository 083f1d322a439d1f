"""Episodes played with a progress bar and a file, for ``rollout`` and ``demo``."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from openenv_async.cli.again import show_commands
from openenv_async.cli.output import console, echo
from openenv_async.cli.progress import logs_above, report_progress
from openenv_async.event_loop import loop_factory

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

    from openenv_async.pool import EnvPool
    from openenv_async.rollouts import AsyncWriter, RunFolder, Source, Stop, Summary

__all__ = ["interruption", "output_tails", "play", "run", "show"]

_INTERRUPTED: Final = 130
_SHOW_CURSOR: Final = b"\x1b[?25h"
_TAIL_LINES: Final = 20
"""Lines of a worker that are shown."""
_TAILS: Final = 4
"""Workers whose lines are."""

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main``, on uvloop where it is installed.

    Ctrl-C, or SIGTERM, cancels it, and what it began is closed; asked again while that lasts, the
    process ends at once.
    """
    with _interruptible() as interrupts, asyncio.Runner(loop_factory=loop_factory()) as runner:
        try:
            return runner.run(interrupts.watched(main))
        except asyncio.CancelledError:
            if not interrupts.count:
                raise
            # Tasks that are cancelled now are not errors that asyncio should log with a traceback.
            runner.get_loop().set_exception_handler(lambda loop, context: None)
            raise KeyboardInterrupt from None


class _Interrupts:
    """The signals that ask a command to end, from the first one on.

    Attributes:
        count: how many came.
    """

    def __init__(self) -> None:
        self.count = 0
        self._cancel: Callable[[], object] | None = None

    async def watched(self, main: Coroutine[Any, Any, T]) -> T:
        """Run ``main`` so that the first signal cancels it."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self._cancel = functools.partial(loop.call_soon_threadsafe, task.cancel)
        if self.count:  # it came before there was a task
            self._cancel()
        return await main

    def __call__(self, number: int, frame: object) -> None:
        """Take a signal."""
        self.count += 1
        if self.count > 1:
            # Threads and tasks that are left would be told of, each with a traceback.
            if os.isatty(2):
                os.write(2, _SHOW_CURSOR)  # which a bar hides
            os.write(2, b"interrupted again: left before all was closed\n")
            os._exit(_INTERRUPTED)
        if self._cancel is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: it ends anyway
                self._cancel()


@contextlib.contextmanager
def _interruptible() -> Iterator[_Interrupts]:
    """Have signals counted that are not ignored, as a shell has SIGINT be in the background."""
    interrupts = _Interrupts()
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[int(number)] = signal.signal(number, interrupts)
    try:
        yield interrupts
    finally:
        for ours, handler in before.items():
            signal.signal(ours, handler)


async def play(
    source: Source,
    policy: Callable[..., Any] | None,
    *,
    episodes: int | None,
    out: Path | None,
    bar: Progress,
    title: str,
    quiet: bool = False,
    summary: Summary | None = None,
    run: RunFolder | None = None,
    **options: Any,
) -> Summary:
    """Play episodes on a server or a pool; write them to ``out`` and return the sums.

    Each episode is written as it ends. One that cannot be written is counted, and costs no other.

    Args:
        source, policy, episodes, options: as for ``collect``.
        out: the file.
        bar: shows the progress.
        title: of the run.
        quiet: show neither progress nor warnings.
        summary: is filled; bring one to read it if this is cancelled.
        run: keeps the outcomes, instead of a file.
    """
    from openenv_async.errors import InvalidTasks, RunError
    from openenv_async.rollouts import Stop, Summary, collect
    from openenv_async.types import OutcomeStatus

    stop = Stop()
    if summary is None:
        summary = Summary(episodes)
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(logs_above(bar, quiet=quiet))
        await stack.enter_async_context(report_progress(summary, title, bar, quiet=quiet))
        writer: AsyncWriter | None = None
        if out is not None:
            writer = await stack.enter_async_context(_writer(out, summary))
        stream = collect(
            source,
            policy,
            episodes=episodes,
            summary=summary,
            record=writer is not None or run is not None,
            run=run,
            stop=stop,
            **options,
        )

        async def take_all() -> None:
            async with contextlib.aclosing(stream):
                async for outcome in stream:
                    if writer is not None:
                        await writer.write_soon(outcome)

        try:
            await _to_its_end(take_all(), stop)
        except (RunError, InvalidTasks):
            raise
        except Exception:
            # That the policy failed in every episode, or each task was refused, is in the summary.
            statuses = summary.statuses
            told = statuses[OutcomeStatus.POLICY_ERROR] + statuses[OutcomeStatus.TASK_ERROR]
            if not told or told < summary.episodes:
                raise
    return summary


@contextlib.asynccontextmanager
async def _writer(out: Path, summary: Summary) -> AsyncIterator[AsyncWriter]:
    """Open the writer of a file, and close it; the summary has what could not be written.

    Raises:
        click.ClickException: the file cannot be made.
    """
    from openenv_async.rollouts import AsyncWriter, open_writer

    try:
        writer = AsyncWriter(open_writer(out), on_error=summary.add_unwritten)
    except OSError as exc:
        raise click.ClickException(f"{out} cannot be written: {exc}") from exc
    try:
        yield writer
    finally:
        try:
            await writer.aclose()
        except OSError as exc:  # a Parquet file is joined of its parts, and the disk is full
            summary.unfinished_reason = str(exc)


async def _to_its_end(reading: Coroutine[Any, Any, None], stop: Stop) -> None:
    """Read a collection in a task of its own, so that an interrupt loses nothing that has ended."""
    task = asyncio.create_task(reading, name="openenv-reading")
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        if not stop():
            task.cancel()  # it has not begun to play
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error from None
        raise
    await task


def show(table: Table, summary: Summary, tails: dict[str, str]) -> None:
    """Print a summary's table, its failures, and what the environments wrote last."""
    shown_on = console()
    shown_on.print(table)
    failures = summary.failure_table()
    if failures is not None:
        shown_on.print(failures)
    show_commands(summary.failure_reasons)
    for warning in summary.warnings:
        times = f" ({warning.count:,} times)" if warning.count > 1 else ""
        echo(f"warning: {warning.message}{times}")
    for name, tail in itertools.islice(tails.items(), _TAILS):
        echo(f"the last lines of {name}:\n{tail}", err=True)
    if len(tails) > _TAILS:
        left = len(tails) - _TAILS
        echo(f"{left} more workers wrote something: --json has all of them", err=True)


def interruption(summary: Summary, out: Path | None) -> str:
    """Return the line that tells what an interrupted run leaves."""
    total = "" if summary.total is None else f" of {summary.total:,}"
    ended = f"interrupted after {summary.episodes:,}{total} episodes"
    if out is None:
        return f"{ended}; without --out nothing of them is kept"
    return f"{ended}, which are in {out}; those that were under way are not"


async def output_tails(pool: EnvPool) -> dict[str, str]:
    """Return the last lines of each worker that wrote any, by its name."""
    from openenv_async.endpoints.redaction import redacted

    tails: dict[str, str] = {}
    for worker in pool.workers:
        lines = redacted(await worker.log_tail()).splitlines()
        if len(lines) > _TAIL_LINES:  # what begins in the middle, such as a traceback, says so
            lines = ["…", *lines[-_TAIL_LINES:]]
        if lines:
            tails[worker.name] = "\n".join(lines)
    return tails
