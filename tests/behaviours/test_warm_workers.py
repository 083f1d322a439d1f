"""Warm workers are acquired at once, and ending one delays nobody."""

from __future__ import annotations

import asyncio
import statistics
import time

from openenv_async.pool import EnvPool
from openenv_async.pool.scheduler import ProviderRules, Scheduler
from openenv_async.providers.base import Worker
from tests.helpers import until
from tests.pool.workers import LoopProvider, LoopWorker


async def test_acquiring_a_warm_environment_takes_milliseconds() -> None:
    async with EnvPool.from_env("echo") as pool:
        taken = []
        for _ in range(50):
            begun = time.perf_counter()
            env = await pool.session()
            taken.append(time.perf_counter() - begun)
            await env.reset()
            await env.close()
    assert statistics.median(taken) < 0.05


class StubbornProvider(LoopProvider):
    """Its workers take for ever to end, until they are let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = asyncio.Event()
        self.ending = 0

    async def start(self, *, timeout: float | None = None) -> LoopWorker:
        worker = await super().start(timeout=timeout)
        aclose = worker.aclose

        async def slowly() -> None:
            self.ending += 1
            await self.may_end.wait()
            await aclose()

        worker.aclose = slowly  # type: ignore[method-assign]  # it is this worker's own
        return worker


async def test_the_next_episode_does_not_wait_for_the_end_of_a_worker() -> None:
    provider = StubbornProvider()
    async with EnvPool(provider, sessions_per_worker=1, max_workers=1, max_uses=1) as pool:
        seen: list[Worker] = []
        for _ in range(3):
            async with asyncio.timeout(10), pool.session() as env:
                await env.reset()
                worker = pool.worker_of(env)
                assert worker is not None
                seen.append(worker)
        assert len(set(seen)) == 3
        await until(lambda: provider.ending >= 2)
        provider.may_end.set()


def test_a_worker_is_refilled_before_it_is_missed() -> None:
    scheduler = Scheduler([ProviderRules(8, 1)], warm_workers=2)
    for worker, _ in scheduler.plan(0.0).starts:
        scheduler.ready(worker, 0.0)
    for _ in range(2):
        scheduler.ask()
    plan = scheduler.plan(1.0)
    assert (len(plan.grants), len(plan.starts)) == (2, 2)
