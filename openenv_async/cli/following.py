"""The lines that the workers of a run write, shown while it goes on."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from openenv_async.cli.progress import say_above

if TYPE_CHECKING:
    from rich.progress import Progress

    from openenv_async.pool import EnvPool
    from openenv_async.providers.base import Worker

__all__ = ["following", "prefixed"]

_LOOK_INTERVAL: Final = 0.25
"""Seconds after which a worker that was started is noticed."""
_SETTLE: Final = 0.1
"""Seconds that the last lines have to arrive in."""
_FACTS: Final = re.compile(r" (session_id|episode_id|worker|env)=(\S+)")


def prefixed(worker: str, line: str) -> str:
    """Return a line with the worker before it, and the session and episode that it names."""
    facts = dict(_FACTS.findall(line))
    ids = [facts[name] for name in ("session_id", "episode_id") if name in facts]
    if ids:
        line = _FACTS.sub("", line)
    return f"{' '.join([worker, *ids])} | {line}"


@contextlib.asynccontextmanager
async def following(pool: EnvPool, bar: Progress) -> AsyncIterator[None]:
    """Print what the pool's workers write for as long as the block lasts."""
    watching = asyncio.create_task(_watch(pool, bar), name="openenv-logs")
    try:
        yield
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(_SETTLE)
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def _watch(pool: EnvPool, bar: Progress) -> None:
    async with contextlib.AsyncExitStack() as stack:
        known: set[str] = set()
        while True:
            for worker in pool.workers:
                if worker.name not in known:
                    known.add(worker.name)
                    await stack.enter_async_context(_shown(worker, bar))
            await asyncio.sleep(_LOOK_INTERVAL)


def _shown(worker: Worker, bar: Progress) -> contextlib.AbstractAsyncContextManager[None]:
    return worker.following(lambda line: say_above(bar, prefixed(worker.name, line)))
