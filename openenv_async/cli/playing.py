"""What ``rollout`` and ``demo`` share: playing episodes with a progress bar and a file."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

    from openenv_async.rollouts import Source, Summary

__all__ = ["play", "progress_bar", "run"]

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main``, on uvloop if it is installed."""
    factory: Any = None
    if importlib.util.find_spec("uvloop") is not None:
        from uvloop import new_event_loop as factory
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def progress_bar() -> Progress:
    """A progress bar on standard error; silent when that is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("[red]{task.fields[failures]}"),
        console=Console(stderr=True),
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
    """Play episodes on a server or a pool; what happened goes to ``out``, the sums are returned."""
    from openenv_async.rollouts import Summary, collect, open_writer

    summary = Summary(episodes)
    task = bar.add_task(title, total=episodes, rate="", failures="")

    def show(summary: Summary) -> None:
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
            on_progress=None if bar.disable else show,
            summary=summary,
            record=writer is not None,
            **options,
        )
        async with contextlib.aclosing(stream):
            async for outcome in stream:
                if writer is not None:
                    writer.write(outcome)
    return summary
