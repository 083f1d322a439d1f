"""A gateway as a process of its own, until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
from collections.abc import Callable
from typing import Any

from openenv_async.engine.collector import paced_collector
from openenv_async.engine.resources import raise_descriptors
from openenv_async.event_loop import loop_factory
from openenv_async.gateway.gateway import Gateway
from openenv_async.gateway.journal import Fsync, Journal
from openenv_async.server.run import on_signals

__all__ = ["run_gateway"]


def run_gateway(
    engines: Any,
    *,
    journal: str | os.PathLike[str] | None = None,
    fsync: Fsync = "second",
    retention: float | None = None,
    max_journal_size: int | None = None,
    repair_journal: bool = False,
    drain: float = 30.0,
    on_listening: Callable[[Gateway], None] | None = None,
    uvloop: bool | None = None,
    **settings: Any,
) -> None:
    """Run a gateway until SIGTERM or SIGINT, which let calls that run end; a second one hurries.

    Args:
        engines: as for ``Gateway``.
        journal: a folder.
        fsync, retention: as for ``Journal.open``.
        max_journal_size, repair_journal: as ``max_size`` and ``repair`` there.
        drain: seconds that calls are given to end after a signal.
        on_listening: called once it listens.
        uvloop: whether to run on uvloop; ``None``: where it is installed.
        settings: as for ``Gateway``.

    Raises:
        OSError: the address cannot be had.
        JournalFailed: the journal cannot be opened.
        ResponderFailed: no engine answers as it has to.
    """
    raise_descriptors()

    async def main() -> None:
        stopping, hurrying = asyncio.Event(), asyncio.Event()

        def stop() -> None:
            if stopping.is_set():
                hurrying.set()
            stopping.set()

        async with contextlib.AsyncExitStack() as stack:
            kept = None
            if journal is not None:
                kept = await stack.enter_async_context(
                    Journal.open(
                        os.fspath(journal),
                        fsync=fsync,
                        retention=retention,
                        max_size=max_journal_size,
                        repair=repair_journal,
                    )
                )
            gateway = await stack.enter_async_context(Gateway(engines, journal=kept, **settings))
            on_signals(asyncio.get_running_loop(), stop)
            gc.collect()
            gc.freeze()  # what was imported need not be walked while calls come and go
            with paced_collector(lambda: gateway.running):
                if on_listening is not None:
                    on_listening(gateway)
                await stopping.wait()
                await _drained(gateway, drain, hurrying)

    with asyncio.Runner(loop_factory=loop_factory(uvloop)) as runner:
        runner.run(main())


async def _drained(gateway: Gateway, seconds: float, hurrying: asyncio.Event) -> None:
    """Let the calls of a gateway end, for so long and until it has to hurry."""
    draining = asyncio.ensure_future(gateway.drain(seconds))
    hurried = asyncio.ensure_future(hurrying.wait())
    try:
        await asyncio.wait([draining, hurried], return_when=asyncio.FIRST_COMPLETED)
    finally:
        draining.cancel()
        hurried.cancel()
