"""Full means wait: a queue with a depth, a deadline and a name for the setting to raise."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from openenv_async import Timeouts
from openenv_async.errors import DeadlineExceeded, ServerBusy
from tests.behaviours.environments import Sleeper, client, gather, outcomes, served
from tests.chaos import ChaosProxy
from tests.helpers import until


async def test_200_episodes_on_a_cap_of_50_all_finish() -> None:
    peak = 0
    async with served(Sleeper, max_sessions=50, max_waiting=200) as (url, engine):

        async def episode() -> None:
            nonlocal peak
            one = client(url)
            await one.reset()
            peak = max(peak, engine.active)
            for _ in range(3):
                await one.step({"seconds": 0.01})
            await one.close()

        await asyncio.wait_for(gather(episode() for _ in range(200)), 30)
        assert peak == 50
        assert engine.stats.peak_sessions == 50
        assert engine.stats.opened == engine.stats.closed == 200
        assert engine.stats.refused == 0
        assert not engine.sessions


async def test_first_come_first_served_with_a_visible_place() -> None:
    order: list[int] = []
    async with served(Sleeper, max_sessions=1, max_waiting=8) as (url, engine):
        first = client(url)
        await first.open()

        async def wait(number: int) -> None:
            one = client(url)
            await one.open()
            order.append(number)
            await one.close()

        waiting = []
        for number in range(8):
            waiting.append(asyncio.ensure_future(wait(number)))
            await until(lambda: engine.waiting == len(waiting))
        channels = first.connection._channels.values()  # type: ignore[union-attr]
        await until(lambda: sum(c.waiting is not None for c in channels) == 8)
        assert [c.waiting for c in channels if c.waiting] == [(n, n) for n in range(1, 9)]
        with pytest.raises(ServerBusy) as caught:
            await client(url).open()
        detail = caught.value.detail
        assert (detail["limit"], detail["active"], detail["depth"]) == (1, 1, 8)
        assert detail["setting"] == "max_sessions"
        assert detail["retry_after"] > 0
        assert caught.value.retryable
        assert "--max-sessions" in str(caught.value)
        await first.close()
        await gather(waiting)
        assert order == list(range(8))


async def test_waiting_has_a_deadline() -> None:
    async with served(Sleeper, max_sessions=1, max_waiting=4) as (url, engine):
        first = client(url)
        await first.open()
        begun = time.monotonic()
        late = client(url, timeouts=Timeouts(open=0.3))
        with pytest.raises((ServerBusy, DeadlineExceeded)) as caught:
            await late.open()
        assert 0.3 <= time.monotonic() - begun < 1.5
        assert caught.value.detail.get("setting") == "max_sessions"
        assert engine.waiting == 0
        await first.close()
        assert not engine.sessions


async def test_who_goes_away_leaves_the_queue() -> None:
    """A client that died while it waited holds no place, and nothing is built for it."""
    times = Timeouts(resume=0.3, open=30.0)
    async with (
        served(Sleeper, timeouts=times, max_sessions=1, max_waiting=4) as (url, engine),
        ChaosProxy(url) as proxy,
    ):
        first = client(url)
        await first.open()
        dead = [asyncio.ensure_future(client(proxy.url).open()) for _ in range(3)]
        await until(lambda: engine.waiting == 3)
        with proxy.outage():
            await until(lambda: engine.waiting == 0, seconds=3)
            await outcomes(dead)
        assert engine.stats.opened == 1
        alive = asyncio.ensure_future(client(url).open())
        await until(lambda: engine.waiting == 1)
        await first.close()
        await (await alive).close()
        assert not engine.sessions


async def test_who_comes_back_keeps_his_place() -> None:
    async with (
        served(Sleeper, max_sessions=1, max_waiting=4) as (url, engine),
        ChaosProxy(url) as proxy,
    ):
        first = client(url)
        await first.open()
        order: list[str] = []

        async def wait(name: str, where: str) -> None:
            one = client(where)
            await one.open()
            order.append(name)
            await one.close()

        blinking = asyncio.ensure_future(wait("blinking", proxy.url))
        await until(lambda: engine.waiting == 1)
        steady = asyncio.ensure_future(wait("steady", url))
        await until(lambda: engine.waiting == 2)
        proxy.cut()
        await until(lambda: engine.stats.resumed == 1)
        await first.close()
        await gather([blinking, steady])
        assert order == ["blinking", "steady"]


async def test_a_cancelled_open_leaves_the_queue() -> None:
    async with served(Sleeper, max_sessions=1, max_waiting=4) as (url, engine):
        first = client(url)
        await first.open()
        opening: asyncio.Future[Any] = asyncio.ensure_future(client(url).open())
        await until(lambda: engine.waiting == 1)
        opening.cancel()
        await until(lambda: engine.waiting == 0)
        await first.close()
        assert engine.stats.opened == 1
