"""Sync code never blocks the loop, constructors and close included."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar

from openenv_async import EngineOptions, Environment, GenericEnvClient, serve

SESSIONS = 128
SECONDS = 1.0


class Blocking(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Every call blocks its thread."""

    threads: ClassVar[set[int]] = set()

    def _block(self) -> None:
        self.threads.add(threading.get_ident())
        time.sleep(SECONDS)

    def __init__(self) -> None:
        self._block()

    def reset(self) -> dict[str, Any]:
        self._block()
        return {}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self._block()
        return {}

    def state(self) -> dict[str, Any]:
        self._block()
        return {}

    def close(self) -> None:
        self._block()


@contextlib.asynccontextmanager
async def watched_loop() -> AsyncIterator[list[float]]:
    """The longest time for which this loop, which is the server's too, did not run."""
    lag = [0.0]

    async def watch() -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.005)
            lag[0] = max(lag[0], time.perf_counter() - begun - 0.005)

    task = asyncio.create_task(watch())
    try:
        yield lag
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_every_call_of_all_sessions_at_once() -> None:
    longest = SECONDS
    for _ in range(3):  # a loop that calls or awaits a thread stands still each time
        longest = min(longest, await one_round())
        if longest < SECONDS:
            break
    assert longest < SECONDS, f"the loop stood still for {longest:.3f} s"
    assert len(Blocking.threads) >= SESSIONS
    assert threading.get_ident() not in Blocking.threads


async def one_round() -> float:
    """Every call once; the longest time for which the loop stood still, in seconds."""
    options = EngineOptions(max_sessions=SESSIONS)
    async with serve(Blocking, options=options) as url, watched_loop() as lag:
        clients = [GenericEnvClient(url) for _ in range(SESSIONS)]
        calls: dict[str, Callable[[GenericEnvClient], Awaitable[Any]]] = {
            "open": lambda env: env.open(),
            "reset": lambda env: env.reset(),
            "step": lambda env: env.step({}),
            "state": lambda env: env.state(),
            "close": lambda env: env.close(),
        }
        for what, call in calls.items():
            begun = time.perf_counter()
            await asyncio.gather(*(call(env) for env in clients))
            elapsed = time.perf_counter() - begun
            # One after the other would be 128 s; the default executor's threads, 4 s or more.
            assert elapsed < SECONDS + 10, f"{what} of {SESSIONS} sessions took {elapsed:.2f} s"
        return lag[0]
