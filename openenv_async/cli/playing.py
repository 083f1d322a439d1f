"""Episodes played with a progress bar and a file, for ``rollout`` and ``demo``."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from openenv_async.cli.output import console, echo
from openenv_async.telemetry.terminal import printable

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

    from openenv_async.pool import EnvPool
    from openenv_async.rollouts import Source, Summary

__all__ = ["output_tails", "play", "progress_bar", "run", "show"]

_TAIL_LINES: Final = 20
"""Lines of a worker that are shown."""
_TAILS: Final = 4
"""Workers whose lines are."""

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main``, on uvloop if it is installed.

    Ctrl-C cancels it, and what it began is closed; asked again while that lasts, the process
    ends at once.
    """
    factory: Any = None
    if importlib.util.find_spec("uvloop") is not None:
        from uvloop import new_event_loop as factory
    runner = asyncio.Runner(loop_factory=factory)
    try:
        return runner.run(main)
    except KeyboardInterrupt:
        # Tasks that are cancelled now are not errors that asyncio should log with a traceback.
        runner.get_loop().set_exception_handler(lambda loop, context: None)
        raise
    finally:
        try:
            runner.close()
        except KeyboardInterrupt:
            # Threads and tasks that are left would be told of, each with a traceback.
            echo("interrupted again: left before all was closed", err=True)
            os._exit(130)


def progress_bar() -> Progress:
    """Return a progress bar on standard error; silent when that is not a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failures]}", style="red", markup=False),
        console=console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


async def play(
    source: Source,
    policy: Callable[..., Any],
    *,
    episodes: int,
    out: Path | None,
    bar: Progress,
    title: str,
    **options: Any,
) -> Summary:
    """Play episodes on a server or a pool; write them to ``out`` and return the sums.

    Each episode is written as it ends. One that cannot be written is counted, and costs no other.
    """
    from openenv_async.errors import InvalidModel
    from openenv_async.rollouts import Summary, collect, open_writer
    from openenv_async.types import OutcomeStatus

    summary = Summary(episodes)
    task = bar.add_task(printable(title), total=episodes, rate="", failures="")

    def progress(summary: Summary) -> None:
        rate = summary.steps_per_second
        bar.update(
            task,
            completed=summary.episodes,
            rate="" if rate is None else f"{rate:,.0f} steps/s",
            failures=f"{summary.failures} failed" if summary.failures else "",
        )

    with contextlib.ExitStack() as stack:
        writer = None if out is None else stack.enter_context(open_writer(out))
        stream = collect(
            source,
            policy,
            episodes=episodes,
            on_progress=None if bar.disable else progress,
            summary=summary,
            record=writer is not None,
            **options,
        )
        try:
            async with contextlib.aclosing(stream):
                async for outcome in stream:
                    try:
                        if writer is not None:
                            writer.write(outcome)
                    except (InvalidModel, OSError) as exc:
                        summary.add_unwritten(exc)
        except Exception:
            # That the policy failed in every episode is in the summary.
            if summary.statuses[OutcomeStatus.POLICY_ERROR] < episodes:
                raise
    return summary


def show(table: Table, summary: Summary, tails: dict[str, str]) -> None:
    """Print a summary's table, its failures, and what the environments wrote last."""
    shown_on = console()
    shown_on.print(table)
    failures = summary.failure_table()
    if failures is not None:
        shown_on.print(failures)
    for name, tail in itertools.islice(tails.items(), _TAILS):
        echo(f"the last lines of {name}:\n{tail}", err=True)
    if len(tails) > _TAILS:
        left = len(tails) - _TAILS
        echo(f"{left} more workers wrote something: --json has all of them", err=True)


async def output_tails(pool: EnvPool) -> dict[str, str]:
    """Return the last lines of each worker that wrote any, by its name."""
    tails: dict[str, str] = {}
    for worker in pool.workers:
        lines = (await worker.log_tail()).splitlines()
        if len(lines) > _TAIL_LINES:  # what begins in the middle, such as a traceback, says so
            lines = ["…", *lines[-_TAIL_LINES:]]
        if lines:
            tails[worker.name] = "\n".join(lines)
    return tails
