"""A pool seen from other threads, and from a process that was forked."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from typing import Any

import pytest

from openenv_async import serve
from openenv_async.pool import EnvPool
from openenv_async.pool.scheduler import Scheduler, Seconds
from tests.pool.workers import CountingEnv, LoopProvider
from tests.rollouts.environments import Counting, Move, Seen


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """The threads that read a scheduler."""
    found: list[threading.Thread] = []
    read = Scheduler.seconds_at

    def noting(scheduler: Scheduler, now: float) -> Seconds:
        found.append(threading.current_thread())
        return read(scheduler, now)

    monkeypatch.setattr(Scheduler, "seconds_at", noting)
    return found


async def test_another_thread_reads_in_a_turn_of_the_loop(
    readers: list[threading.Thread],
) -> None:
    async with EnvPool(LoopProvider()) as pool, pool.session():
        assert (await asyncio.to_thread(pool.statistics)).sessions == 1
        assert pool.statistics().sessions == 1
        assert set(readers) == {threading.current_thread()}


async def test_a_loop_that_gives_no_turn_is_read_as_it_stands(
    readers: list[threading.Thread], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openenv_async.pool.pool._TURN", 0.01)
    found: list[int] = []
    async with EnvPool(LoopProvider()) as pool, pool.session():
        readers.clear()
        reader = threading.Thread(target=lambda: found.append(pool.statistics().sessions))
        reader.start()
        reader.join(30)  # the loop waits for who waits for the loop
        assert found == [1]
        assert readers == [reader]
        await asyncio.sleep(0)  # the turn that came too late reads no more
        assert readers == [reader]


def test_the_loop_has_ended() -> None:
    async def play() -> EnvPool:
        async with EnvPool(LoopProvider()) as pool, pool.session() as env:
            await env.reset()
        return pool

    assert asyncio.run(play()).statistics().sessions_leased == 1


def _play(pool: EnvPool, results: Any) -> None:
    async def play() -> tuple[Any, ...]:
        async with pool.session() as env:
            seen = (await env.reset(seed=3)).observation
            ready, tasks = pool.statistics().ready, {t.get_name() for t in asyncio.all_tasks()}
        await pool.aclose()
        return seen, ready, "openenv-pool-upkeep" in tasks

    results.put(asyncio.run(play()))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_an_inherited_pool_is_opened_anew() -> None:
    """The copy in a forked process knows its servers and looks after them, as any other."""
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    async with (
        serve(Counting) as url,
        EnvPool.from_url(url, client=CountingEnv) as pool,
        pool.session() as env,
    ):
        await env.reset(seed=1)
        child = context.Process(target=_play, args=(pool, results))
        child.start()
        await asyncio.to_thread(child.join, 60)
        child.kill()
        assert child.exitcode == 0
        assert results.get() == (Seen(0, 3), 1, True)
        assert pool.statistics().sessions == 1
        await env.step(Move(1))
