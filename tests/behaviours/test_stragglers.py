"""Stragglers do not hold the batch, and nothing that finished is lost."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from openenv_async import EnvClient, OutcomeStatus
from openenv_async.pool import EnvPool
from openenv_async.providers.process import ProcessProvider
from tests.behaviours.environments import Dict, Sleeper
from tests.helpers import until

ROOT = Path(__file__).parents[2]
STEP = 0.05
STRAGGLER = 17


class SlowEnv(EnvClient[Dict, Dict, Dict]):
    pass


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def policy(observation: Dict, turn: Any) -> Dict:
    """Four steps of 50 ms; those of one episode take 100 times as long."""
    return {"seconds": STEP * (100 if turn.index == STRAGGLER else 1)}


async def test_64_rollouts_on_4_workers_one_100_times_slower() -> None:
    """Shows 4: 63 at normal time, the one that is missing named, its slot used again."""
    provider = ProcessProvider(f"{Sleeper.__module__}:Sleeper", max_sessions=16)
    async with EnvPool(
        provider, client=SlowEnv, min_workers=4, max_workers=4, sessions_per_worker=16
    ) as pool:
        options: Any = {"max_steps": 4, "concurrency": 64}
        begun = time.perf_counter()
        outcomes = [
            o async for o in pool.collect(policy, 64, min_episodes=63, deadline=15, **options)
        ]
        took = time.perf_counter() - begun
        # The slow one would take 20 s, the others 0.2 s.
        assert took < 10
        by_index = {outcome.index: outcome for outcome in outcomes}
        assert sorted(by_index) == list(range(64))
        missing = [o for o in outcomes if not o.status.usable]
        assert [(o.index, o.status, o.episode_return) for o in missing] == [
            (STRAGGLER, OutcomeStatus.CANCELLED, None)
        ]
        # All 64 slots come free again: as many play at once.
        played = await asyncio.gather(*(pool.session(acquire_timeout=5).open() for _ in range(64)))
        assert pool.statistics().sessions == 64
        await asyncio.gather(*(env.close() for env in played))


async def test_the_deadline_is_kept_and_what_finished_is_there() -> None:
    provider = ProcessProvider(f"{Sleeper.__module__}:Sleeper")
    async with EnvPool(provider, client=SlowEnv) as pool:
        begun = time.perf_counter()
        outcomes = [o async for o in pool.collect(policy, 32, deadline=3, max_steps=4)]
        took = time.perf_counter() - begun
        assert 3 <= took < 10  # ± 0.1 s on a machine that does nothing else
        assert sorted(o.index for o in outcomes) == list(range(32))
        assert [o.index for o in outcomes if not o.status.usable] == [STRAGGLER]
        await until(lambda: pool.statistics().sessions == 0)
