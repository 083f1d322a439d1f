"""What is idle ends, what fails is replaced once, and the seconds of workers are told."""

from __future__ import annotations

import asyncio
import time

import pytest

from openenv_async.pool import EnvPool
from tests.helpers import until
from tests.pool.workers import CountingEnv, LoopProvider


async def test_one_failure_in_a_group_of_8_starts_exactly_one_worker() -> None:
    provider = LoopProvider()
    async with EnvPool(
        provider, client=CountingEnv, sessions_per_worker=1, min_workers=8, max_workers=8
    ) as pool:
        envs = await asyncio.gather(*(pool.session().open() for _ in range(8)))
        assert len(provider.started) == 8
        provider.started[3].die()
        victim = next(env for env in envs if pool.worker_of(env) is provider.started[3])
        await until(lambda: pool.statistics().workers_died == 1)
        await victim.reset()  # goes on elsewhere
        await until(lambda: pool.statistics().ready == 8)
        assert len(provider.started) == 9
        await asyncio.gather(*(env.close() for env in envs))
        assert len(provider.started) == 9
        assert [worker.closed for worker in provider.started] == [0, 0, 0, 1, 0, 0, 0, 0, 0]


async def test_idle_workers_end_and_old_ones_are_replaced() -> None:
    provider = LoopProvider()
    async with EnvPool(
        provider, sessions_per_worker=1, max_workers=4, min_workers=0, idle_ttl=0.1
    ) as pool:
        envs = await asyncio.gather(*(pool.session().open() for _ in range(4)))
        await asyncio.gather(*(env.close() for env in envs))
        await until(lambda: all(worker.closed for worker in provider.started))
        assert pool.statistics().ready == 0
        async with pool.session() as env:
            await env.reset()
        assert len(provider.started) == 5
    provider = LoopProvider()
    async with EnvPool(provider, max_lifetime=0.2) as pool, pool.session() as env:
        await env.reset()
        await until(lambda: len(provider.started) == 2)
        assert provider.started[0].closed == 0  # it is still played on
        await env.close()
        await until(lambda: provider.started[0].closed == 1)


async def test_a_run_tells_the_seconds_used_idle_and_wasted() -> None:
    provider = LoopProvider()
    begun = time.perf_counter()
    async with EnvPool(provider, min_workers=2, max_workers=2) as pool:
        async with pool.session() as env:
            await env.reset()
            await asyncio.sleep(0.2)
        env = await pool.session()
        await asyncio.sleep(0.1)
        provider.started[0].die()
        await until(lambda: pool.statistics().ready == 2)
        await env.close()
    took = time.perf_counter() - begun
    seconds = pool.statistics().seconds
    assert seconds.used >= 0.2
    assert seconds.wasted >= 0.1
    assert seconds.idle >= 0.2  # the second worker, all the time
    assert seconds.starting > 0
    assert seconds.total <= 2 * took + 1e-6
    assert seconds.total == pytest.approx(
        seconds.used + seconds.idle + seconds.starting + seconds.wasted
    )
