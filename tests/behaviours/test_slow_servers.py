"""Slow is not dead: a loaded server loses no session, and no client gives it up."""

from __future__ import annotations

import asyncio

from openenv_async import Timeouts
from tests.behaviours.environments import (
    Ledger,
    clients,
    gather,
    reconnects,
    served,
    served_process,
)
from tests.chaos import ChaosProxy


async def test_a_server_that_is_held_up_keeps_everybody() -> None:
    """Every step blocks the whole server; the lease is shorter than a round of them."""
    async with (
        served_process("CommandedInline", "--lease-timeout", "0.8") as (url, _),
        clients(url, 8) as made,
    ):
        await gather(c.reset() for c in made)
        for round_ in range(2):
            calls = [c.step({"do": "spin", "seconds": 0.25}) for c in made]
            results = await asyncio.wait_for(gather(calls), 30)
            assert [r.observation["steps"] for r in results] == [round_ + 1] * 8
        assert reconnects(made) == 0


async def test_a_slow_network_is_not_a_dead_one() -> None:
    """Each message takes most of a lease; many are under way."""
    async with (
        served(Ledger, timeouts=Timeouts(lease=1.0)) as (url, engine),
        ChaosProxy(url) as proxy,
        clients(proxy.url, 8) as made,
    ):
        await gather(c.reset() for c in made)
        proxy.delay = (0.2, 0.3)
        for round_ in range(3):
            results = await gather(c.step({"n": round_}) for c in made)
            assert [r.observation["count"] for r in results] == [round_ + 1] * 8
        proxy.delay = (0.0, 0.0)
        assert reconnects(made) == engine.stats.cut == 0


async def test_a_pause_within_the_lease_is_only_latency() -> None:
    async with (
        served(Ledger, timeouts=Timeouts(lease=3.0)) as (url, engine),
        ChaosProxy(url) as proxy,
        clients(proxy.url, 8) as made,
    ):
        await gather(c.reset() for c in made)
        with proxy.pause():
            calls = asyncio.ensure_future(gather(c.step({"n": 0}) for c in made))
            done, _ = await asyncio.wait([calls], timeout=1.0)
            assert not done
        assert [r.observation["count"] for r in await calls] == [1] * 8
        assert reconnects(made) == engine.stats.cut == 0


async def test_a_client_that_doubts_a_connection_does_not_leave() -> None:
    """It dials again; what the server still finds on the old one must not end its sessions."""
    async with (
        served(Ledger) as (url, engine),
        clients(url, 4) as made,
    ):
        await gather(c.reset() for c in made)
        connection = made[0].connection
        assert connection is not None
        now = asyncio.get_running_loop().time()
        connection.doubt(now + 1.0, now)
        for round_ in range(2):
            results = await gather(c.step({"n": round_}) for c in made)
            assert [r.observation["count"] for r in results] == [round_ + 1] * 4
        assert reconnects(made) >= 1
        assert engine.stats.opened == 4
