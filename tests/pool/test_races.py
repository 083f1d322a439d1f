"""Races of a pool: cancellation at every await, and every order of turns.

A pool whose workers live in this process plays on a loop without sockets. After each scenario
nothing may be left: no slot, no session of a server, no connection, no task and no timer.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from openenv_async import EngineOptions, Environment
from openenv_async.errors import (
    ServerBusy,
    SessionClosed,
    WorkerDied,
    WorkerStartFailed,
)
from openenv_async.pool import EnvPool
from tests import in_memory
from tests.helpers import gather_all
from tests.in_memory import MemoryClient, MemoryProvider
from tests.scheduling import Interruption, PermutedLoop, cancel_at_every_await, explore


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.client.launch.dial", in_memory.dial)


@asynccontextmanager
async def a_pool(
    provider: MemoryProvider | None = None, **settings: Any
) -> AsyncIterator[tuple[EnvPool, MemoryProvider]]:
    """An open pool; it must hold nothing when the test is done with it."""
    provider = provider or MemoryProvider()
    settings = {"max_workers": 1, "sessions_per_worker": 1, "client": MemoryClient, **settings}
    async with EnvPool(provider, **settings) as pool:
        yield pool, provider
        await settled(pool, provider)
    assert provider.closed == 1
    assert provider.sessions == 0


async def settled(pool: EnvPool, provider: MemoryProvider) -> None:
    """Wait a moment for abandoned sessions to be closed; then nothing may be held."""
    await asyncio.sleep(0.5)
    now = pool.statistics()
    assert (now.sessions, now.waiting, provider.sessions) == (0, 0, 0)


async def play(pool: EnvPool, steps: int = 2) -> None:
    """One whole episode."""
    async with pool.session() as env:
        await env.reset(seed=1)
        for count in range(steps):
            assert (await env.step({})).observation["count"] == count + 1


async def step_on(env: Any) -> None:
    """Step until something is wrong."""
    for _ in range(10_000):
        await env.step({})


def test_every_caller_gets_a_slot_in_any_order() -> None:
    async def scenario() -> None:
        async with a_pool(max_workers=2, min_workers=2) as (pool, provider):
            await asyncio.gather(*[play(pool) for _ in range(5)])
            assert len(provider.started) == 2
            assert pool.statistics().sessions_leased == 5

    explore(40, scenario)


def test_opening_is_cancelled_at_every_await() -> None:
    async def scenario(interruption: Interruption) -> None:
        async with a_pool(connections=2) as (pool, provider):
            pool.session()  # the next has a connection of its own to dial
            env = pool.session()
            opening = await interruption(env.open())
            if not opening.cancelled():
                await env.close()
            await settled(pool, provider)
            await play(pool)  # there is just one slot
            await play(pool)

    assert cancel_at_every_await(scenario, seeds=(0, 3)) > 30


def test_a_waiter_is_cancelled_at_every_await_while_a_slot_comes_free() -> None:
    """The next in line gets the slot, even where the first was granted it in that very turn."""

    async def scenario(interruption: Interruption) -> None:
        async with a_pool() as (pool, _):
            holder = await pool.session()
            waiter = pool.session()

            async def later() -> None:
                await asyncio.sleep(0.01)
                await holder.close()

            next_in_line = asyncio.create_task(play(pool))
            freeing = asyncio.create_task(later())
            waiting = await interruption(waiter.open())
            if not waiting.cancelled():
                await waiter.close()
            await asyncio.gather(freeing, next_in_line)

    assert cancel_at_every_await(scenario, seeds=(0, 5)) > 20


def test_a_step_and_a_reset_are_cancelled_at_every_await() -> None:
    async def scenario(interruption: Interruption) -> None:
        async def episode() -> None:
            await env.reset()
            await env.step({})
            await env.state()

        async with a_pool() as (pool, _):
            async with pool.session() as env:
                await interruption(episode())
            await play(pool)

    assert cancel_at_every_await(scenario, seeds=(0, 2)) > 10


def test_giving_back_is_cancelled_at_every_await() -> None:
    async def scenario(interruption: Interruption) -> None:
        async with a_pool() as (pool, provider):
            env = await pool.session()
            await env.reset()
            await interruption(env.close())
            await asyncio.sleep(0.1)
            with pytest.raises(SessionClosed):
                await env.step({})
            await settled(pool, provider)
            await play(pool)

    assert cancel_at_every_await(scenario) > 5


class SlowToClose(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """An environment that takes a second to close."""

    async def reset(self) -> dict[str, Any]:
        return {}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return {}

    async def close(self) -> None:
        await asyncio.sleep(1.0)


def test_a_slot_is_free_again_when_the_session_is_closed_and_not_when_its_owner_gives_up() -> None:
    """Else the next one would be lent a slot that its server still needs."""

    async def scenario(interruption: Interruption) -> None:
        async with a_pool(MemoryProvider(SlowToClose)) as (pool, provider):
            env = await pool.session()
            await env.reset()
            await interruption(env.close())
            for _ in range(30):
                assert pool.statistics().sessions >= provider.sessions
                await asyncio.sleep(0.05)

    assert cancel_at_every_await(scenario) > 5


def test_opening_the_pool_is_cancelled_at_every_await_and_the_next_caller_opens_it() -> None:
    async def scenario(interruption: Interruption) -> None:
        provider = MemoryProvider()
        pool = EnvPool(provider, max_workers=1, client=MemoryClient)
        await interruption(pool.open())
        await play(pool)
        await pool.aclose()
        assert provider.closed == 1

    assert cancel_at_every_await(scenario, seeds=(0, 4)) > 3


def test_entering_the_pool_is_cancelled_at_every_await_and_leaves_nothing() -> None:
    async def scenario(interruption: Interruption) -> None:
        provider = MemoryProvider()
        pool = EnvPool(provider, max_workers=2, min_workers=2, client=MemoryClient)
        entering = await interruption(pool.__aenter__())
        if not entering.cancelled():
            await pool.aclose()
        await asyncio.sleep(1.0)
        assert provider.closed == 1  # and asserts that every worker was ended once

    assert cancel_at_every_await(scenario, seeds=(1,)) > 5


def test_closing_the_pool_is_cancelled_at_every_await_and_ends_everything_all_the_same() -> None:
    async def scenario(interruption: Interruption) -> None:
        provider = MemoryProvider()
        pool = EnvPool(provider, max_workers=1, sessions_per_worker=3, client=MemoryClient)
        held = await pool.session()
        await held.reset()
        opening = asyncio.create_task(pool.session().open())
        await interruption(pool.aclose())
        assert provider.closed == 1
        assert provider.sessions == 0
        with pytest.raises(SessionClosed):
            await held.step({})
        [opened] = await gather_all([opening])
        assert isinstance(opened, SessionClosed) or opened.connection.error is not None  # type: ignore[union-attr]
        await held.close()
        with pytest.raises(SessionClosed):
            await pool.session().open()

    assert cancel_at_every_await(scenario) > 5


def test_closing_does_not_wait_for_a_worker_that_starts() -> None:
    async def scenario() -> None:
        provider = MemoryProvider()
        pool = EnvPool(provider, max_workers=2, sessions_per_worker=1, client=MemoryClient)
        await pool.open()
        provider.start_seconds = 1000.0
        held = await pool.session()
        waiting = asyncio.create_task(pool.session(acquire_timeout=None).open())
        await asyncio.sleep(1.0)
        assert pool.statistics().starting == 1
        loop = asyncio.get_running_loop()
        start = loop.time()
        await pool.aclose()
        assert loop.time() - start < 5.0
        [end] = await gather_all([waiting])
        assert isinstance(end, SessionClosed)
        assert (provider.closed, len(provider.started)) == (1, 1)
        await held.close()

    explore(10, scenario)


def test_a_worker_dies_in_every_turn_and_each_caller_is_answered_once() -> None:
    """Opening goes to another worker; what is played ends with the death, and a reset goes on."""

    async def scenario(turn: int) -> None:
        async with a_pool(min_workers=1, sessions_per_worker=2) as (pool, provider):
            loop = asyncio.get_running_loop()
            assert isinstance(loop, PermutedLoop)
            loop.call_at_turn(loop.turns + turn, provider.started[0].die)
            outcomes = await gather_all([play(pool, 4) for _ in range(3)])
            assert all(isinstance(end, WorkerDied) or end is None for end in outcomes), outcomes
            loop.clock.advance(20.0)  # starts pause after an early death
            await play(pool)
            died = provider.started[0].exited.done()
            assert pool.statistics().workers_died == died

    for turn in range(1, 60, 2):
        explore((0, turn), partial(scenario, turn))


def test_a_session_goes_on_with_a_reset_whenever_its_worker_died() -> None:
    async def scenario(turn: int) -> None:
        async with a_pool() as (pool, provider), pool.session() as env:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, PermutedLoop)
            await env.reset()
            loop.call_at_turn(loop.turns + turn, provider.started[0].die)
            with pytest.raises(WorkerDied, match="exited with code 1"):
                await step_on(env)
            with pytest.raises(WorkerDied):
                await env.state()
            assert (await env.reset(seed=5)).observation["seed"] == 5
            assert (await env.step({})).observation["count"] == 1
            await env.close()

    for turn in range(1, 20):
        explore((0, turn), partial(scenario, turn))


def test_a_lease_is_refused_in_time_in_any_order() -> None:
    async def scenario() -> None:
        async with a_pool(acquire_timeout=2.0) as (pool, _):
            loop = asyncio.get_running_loop()
            async with pool.session() as env:
                await env.reset()
                start = loop.time()
                ends = await gather_all([play(pool) for _ in range(3)])
                assert loop.time() - start == pytest.approx(2.0)
                assert all(isinstance(end, ServerBusy) for end in ends), ends
            await play(pool)

    explore(20, scenario)


def test_a_slot_that_comes_free_when_the_time_is_over_is_lent_or_refused_but_not_lost() -> None:
    async def scenario() -> None:
        async with a_pool(acquire_timeout=2.0) as (pool, _):
            env = await pool.session()
            await env.reset()
            asyncio.get_running_loop().call_later(2.0, pool.spawn, env.close(), "closing")
            ends = await gather_all([play(pool) for _ in range(3)])
            assert all(end is None or isinstance(end, ServerBusy) for end in ends), ends
            await play(pool)

    explore(60, scenario)


def test_starts_that_fail_are_held_back_longer_each_time() -> None:
    """The delay doubles from half a second, give or take a quarter, up to half a minute."""

    async def scenario() -> None:
        provider = MemoryProvider()
        provider.failures = 11
        async with a_pool(provider, min_workers=0, acquire_timeout=300.0) as (pool, _):
            for _ in range(11):
                with pytest.raises(WorkerStartFailed):
                    await play(pool)
            await play(pool)
            pauses = [
                after - before - provider.start_seconds
                for before, after in itertools.pairwise(provider.asked)
            ]
            expected = [min(0.5 * 2**count, 30.0) for count in range(11)]
            for pause, target in zip(pauses, expected, strict=True):
                assert 0.75 * target - 1e-6 <= pause <= 1.25 * target + 1e-6, (pauses, expected)
            assert len({pause / target for pause, target in zip(pauses, expected, strict=True)}) > 5

    explore(5, scenario)


def test_a_worker_that_refused_a_session_rests_and_the_other_gets_the_next() -> None:
    """A server with fewer slots than the pool believes is asked again after its pause."""

    async def scenario() -> None:
        provider = MemoryProvider(options=EngineOptions(max_sessions=2, max_waiting=0))
        async with a_pool(provider, max_workers=2, min_workers=2, sessions_per_worker=2) as (
            pool,
            _,
        ):
            other = MemoryClient(provider.started[0].url)
            await other.reset()  # takes a slot that the pool believes in
            sessions = [pool.session() for _ in range(3)]
            await asyncio.gather(*[env.reset() for env in sessions])
            assert len({env.session_id for env in sessions}) == 3
            assert provider.sessions == 4
            with pytest.raises(ServerBusy):
                await pool.session(acquire_timeout=3.0).open()
            await other.close()
            async with pool.session(acquire_timeout=3.0) as late:
                await late.reset()
            for env in sessions:
                await env.close()

    explore(10, scenario)
