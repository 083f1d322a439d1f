"""Workers that die, starts that fail and callers that are cancelled, all at once."""

from __future__ import annotations

import asyncio
import random

import pytest

from openenv_async.errors import OpenEnvError
from openenv_async.pool import EnvPool
from tests.helpers import gather_all, until
from tests.pool.workers import CountingEnv, LoopProvider
from tests.rollouts.environments import Move


async def play(pool: EnvPool, rng: random.Random) -> int:
    """One caller: some episodes on one environment; what it meets must be one of our errors."""
    done = 0
    async with pool.session() as env:
        for _ in range(rng.randrange(1, 4)):
            try:
                seed = rng.randrange(1000)
                first = await env.reset(seed=seed)
                assert first.observation.seed == seed
                for total in (1, 2, 3):
                    result = await env.step(Move(1))
                    assert result.observation.total == total
                done += 1
            except OpenEnvError:
                continue
    return done


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_or_left_and_nothing_hangs(seed: int) -> None:
    rng = random.Random(seed)
    provider = LoopProvider()
    async with EnvPool(
        provider, client=CountingEnv, max_workers=3, sessions_per_worker=4, idle_ttl=0.02
    ) as pool:
        players = [
            asyncio.create_task(play(pool, random.Random(f"{seed}/{number}")))
            for number in range(120)
        ]
        while not all(player.done() for player in players):
            await asyncio.sleep(rng.random() * 0.01)
            kind = rng.randrange(12)
            alive = [worker for worker in provider.started if not worker.exited.done()]
            if kind == 0 and alive:
                rng.choice(alive).die()
            elif kind == 1:
                provider.failures = 1
            elif kind < 6:
                rng.choice(players).cancel()
        results = await gather_all(players)
        assert all(isinstance(r, int | OpenEnvError | asyncio.CancelledError) for r in results)
        await until(lambda: pool.statistics().sessions == provider.sessions == 0)
        assert pool.statistics().waiting == 0
        provider.failures = 0
        envs = await asyncio.gather(*(pool.session().open() for _ in range(12)))
        assert pool.statistics().sessions == 12
        await asyncio.gather(*(env.close() for env in envs))
    assert all(worker.closed for worker in provider.started)
    now = pool.statistics()
    assert (now.ready, now.starting, now.draining, now.sessions) == (0, 0, 0, 0)
    assert now.workers_started <= len(provider.started)  # some died before they answered
