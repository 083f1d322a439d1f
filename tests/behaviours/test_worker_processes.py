"""Many cores, one address: exact caps, and a worker's death is its sessions' alone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter

from openenv_async.errors import EnvironmentDied, ServerBusy
from tests.behaviours.environments import (
    Commanded,
    CommandedProcess,
    LedgerAsync,
    client,
    clients,
    gather,
    outcomes,
    served,
)
from tests.helpers import until

SESSIONS = 160


async def test_kill_9_of_one_of_four_workers() -> None:
    async with (
        served(CommandedProcess, workers=4, max_sessions=SESSIONS) as (url, engine),
        clients(url, SESSIONS) as made,
    ):
        pids = [r.observation["pid"] for r in await gather(c.reset() for c in made)]
        assert sorted(Counter(pids).values()) == [SESSIONS // 4] * 4
        victim = pids[0]
        concerned = [c for c, pid in zip(made, pids, strict=True) if pid == victim]
        others = [c for c, pid in zip(made, pids, strict=True) if pid != victim]
        stepping = [asyncio.ensure_future(c.step({"do": "sleep", "seconds": 0.01})) for c in others]
        dying = [asyncio.ensure_future(c.step({"do": "sleep", "seconds": 60})) for c in concerned]
        await asyncio.sleep(0)
        at = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        errors = await outcomes(dying)
        noticed = time.monotonic() - at
        assert noticed < 2.0
        for error in errors:
            assert isinstance(error, EnvironmentDied)
            assert error.exit_code == -signal.SIGKILL
            assert error.retryable
        results = await gather(stepping)
        assert {r.observation["steps"] for r in results} == {1}
        assert engine.active == SESSIONS - len(concerned)
        begun = await gather(c.reset() for c in concerned)
        assert time.monotonic() - at < 5.0  # replaced, and everybody is back
        new = {r.observation["pid"] for r in begun}
        assert victim not in new
        assert len((set(pids) | new) - {victim}) == 4
        assert engine.active == SESSIONS
        results = await gather(c.step({}) for c in made)
        assert len(results) == SESSIONS


async def test_caps_are_exact_over_all_workers() -> None:
    async with served(Commanded, workers=3, max_sessions=20) as (url, engine):
        made = [client(url) for _ in range(60)]
        results = await outcomes(c.open() for c in made)
        refused = [r for r in results if isinstance(r, BaseException)]
        assert len(refused) == 40
        assert all(isinstance(r, ServerBusy) for r in refused)
        assert engine.active == engine.stats.peak_sessions == 20
        await gather(c.close() for c in made)
        assert engine.active == 0


async def test_async_environments_in_workers() -> None:
    async with served(LedgerAsync, workers=2) as (url, _), clients(url, 20) as made:
        await gather(c.reset(label=str(n)) for n, c in enumerate(made))
        for n in range(30):
            results = await gather(c.step({"n": n}) for c in made)
            assert {r.observation["count"] for r in results} == {n + 1}


async def test_every_worker_dies_and_the_server_lives() -> None:
    async with served(CommandedProcess, workers=2) as (url, engine), clients(url, 8) as made:
        for _ in range(2):
            begun = await gather(c.reset() for c in made)
            for pid in {r.observation["pid"] for r in begun}:
                os.kill(pid, signal.SIGKILL)
            await until(lambda: engine.active == 0, seconds=3)
            errors = await outcomes(c.step({}) for c in made)
            assert all(isinstance(error, EnvironmentDied) for error in errors)
