"""Resume: an episode outlives its socket; a lost one is said to be lost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from openenv_async import Limits, Timeouts
from openenv_async.errors import SessionClosed, SessionLost
from tests.behaviours.environments import (
    Ledger,
    LedgerAsync,
    LedgerThread,
    client,
    clients,
    gather,
    outcomes,
    reconnects,
    served,
    served_process,
)
from tests.chaos import ChaosProxy
from tests.helpers import until


@pytest.mark.parametrize("env", [Ledger, LedgerThread, LedgerAsync])
async def test_an_outage_under_200_sessions_is_only_latency(env: Any) -> None:
    executed = env.executed if hasattr(env, "executed") else Ledger.executed
    executed.clear()
    async with served(env) as (url, engine), ChaosProxy(url, seed=4) as proxy:
        made = [client(proxy.url, share=f"c{n % 8}") for n in range(200)]
        await gather(c.reset(label=str(n)) for n, c in enumerate(made))
        ending = asyncio.Event()
        seen: list[list[int]] = [[] for _ in made]

        async def play(n: int) -> None:
            while not ending.is_set():
                result = await made[n].step({"n": len(seen[n])})
                assert result.observation["n"] == len(seen[n])
                seen[n].append(result.observation["count"])
                await asyncio.sleep(0)

        playing = [asyncio.create_task(play(n)) for n in range(len(made))]
        await until(lambda: min(map(len, seen)) >= 3)
        with proxy.outage():
            assert proxy.cuts == 8
            stopped = time.monotonic()
            await until(lambda: time.monotonic() - stopped > 1.0)  # the outage is what it is
            during = [len(steps) for steps in seen]
            assert not any(task.done() for task in playing)
        await until(lambda: all(len(s) > d + 3 for s, d in zip(seen, during, strict=True)))
        ending.set()
        await gather(playing)
        for n, steps in enumerate(seen):
            assert steps == list(range(1, len(steps) + 1))
            assert executed[str(n)] == list(range(len(steps)))
        assert reconnects(made) == 8
        assert engine.stats.resumed == 200
        assert engine.stats.opened == 200
        await gather(c.close() for c in made)
        assert not engine.sessions


async def test_a_restarted_server_is_a_lost_session_and_reset_goes_on() -> None:
    async with served_process("Ledger", "--port", "0") as (url, process):
        port = url.rsplit(":", 1)[1]
        made = [client(url, share=f"c{n % 5}") for n in range(40)]
        await gather(c.reset() for c in made)
        for n in range(3):
            await gather(c.step({"n": n}) for c in made)
        process.kill()
        await process.wait()
        calls = [asyncio.ensure_future(c.step({"n": 3})) for c in made]
        begun = time.monotonic()
        async with served_process("Ledger", "--port", port) as (again, _):
            assert again == url
            results = await outcomes(calls)
            assert time.monotonic() - begun < 10
            for result in results:
                assert isinstance(result, SessionLost)
                assert result.detail["last_acknowledged_step"] == 3
                assert result.session_id
            lost = await outcomes(c.step({"n": 4}) for c in made)
            assert all(isinstance(result, SessionLost) for result in lost)
            await gather(c.reset() for c in made)
            first = await gather(c.step({"n": 0}) for c in made)
            assert all(result.observation["count"] == 1 for result in first)
            await gather(c.close() for c in made)


async def test_away_for_longer_than_resume_is_lost() -> None:
    async with (
        served(Ledger, timeouts=Timeouts(resume=0.3)) as (url, engine),
        ChaosProxy(url) as proxy,
    ):
        one = client(proxy.url)
        await one.reset()
        await one.step({"n": 1})
        with proxy.outage():
            await until(lambda: not engine.sessions)
            assert engine.stats.abandoned == 1
        with pytest.raises(SessionLost) as caught:
            await one.step({"n": 2})
        assert caught.value.detail["last_acknowledged_step"] == 1
        await one.reset()
        assert (await one.step({"n": 0})).observation["count"] == 1
        await one.close()


async def test_without_resume_a_lost_socket_closes_the_session() -> None:
    async with (
        served(Ledger, timeouts=Timeouts(resume=None)) as (url, engine),
        ChaosProxy(url) as proxy,
        clients(proxy.url, 4) as made,
    ):
        await gather(c.reset() for c in made)
        proxy.cut()
        await until(lambda: not engine.sessions)
        results = await outcomes(c.step({"n": 0}) for c in made)
        assert all(isinstance(result, ConnectionError | SessionClosed) for result in results)


async def test_a_client_that_was_congested_comes_back() -> None:
    """The writer that waits for room belongs to one transport, not to the next."""
    async with (
        served(Ledger, limits=Limits(max_message_size=256 << 20)) as (url, _),
        ChaosProxy(url) as proxy,
        clients(proxy.url, 4, limits=Limits(max_message_size=256 << 20)) as made,
    ):
        await gather(c.reset() for c in made)
        connection = made[0].connection
        assert connection is not None
        with proxy.pause():
            calls = [asyncio.ensure_future(c.step({"n": 1, "pad": "x" * (24 << 20)})) for c in made]
            await until(lambda: connection.outbox.blocked is not None)
            proxy.cut()
        results = await asyncio.wait_for(gather(calls), 20)
        assert [result.observation["count"] for result in results] == [1] * 4


async def test_a_silent_network_costs_one_late_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What swallows every byte and tells nobody is found when an answer is overdue."""
    monkeypatch.setattr("openenv_async.client.channel.BACKSTOP", 0.5)
    Ledger.executed.clear()
    async with (
        served(Ledger) as (url, engine),
        ChaosProxy(url) as proxy,
        clients(proxy.url, 8) as made,
    ):
        await gather(c.reset(label=str(n)) for n, c in enumerate(made))
        proxy.black_hole()
        results = await gather(c.step({"n": 7}, timeout=0.2) for c in made)
        assert [result.observation["count"] for result in results] == [1] * 8
        assert all(steps == [7] for steps in Ledger.executed.values())
        assert reconnects(made) == 1
        assert engine.stats.resumed == 8


async def test_a_connection_that_dies_as_it_is_made_is_made_again() -> None:
    async with served(Ledger) as (url, _), ChaosProxy(url) as proxy:
        for number in range(1, 4):
            one = client(proxy.url)
            await one.reset()
            # The n-th message of the server on the next connection: welcome, opened, a reply.
            proxy.cut()
            proxy.cut_after("down", messages=number, forward=False)
            begun = time.monotonic()
            assert (await one.step({"n": 1})).observation["count"] == 1
            assert time.monotonic() - begun < 3
            await one.close()
