"""Exactly-once steps: cuts before and after each message, and no step lost or repeated."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from openenv_async import HTTPEnvClient
from openenv_async.errors import ConnectFailed, ConnectionLost
from tests.behaviours.environments import (
    Ledger,
    LedgerAsync,
    LedgerStream,
    LedgerThread,
    client,
    gather,
    reconnects,
    served,
)
from tests.chaos import ChaosProxy

SESSIONS = 16
STEPS = 125


def no_fault_run(actions: list[int]) -> list[dict[str, Any]]:
    env = Ledger()
    env.reset("no fault")
    return [env.step({"n": n}) for n in actions]


@pytest.fixture(autouse=True)
def fresh_ledgers() -> None:
    Ledger.executed.clear()
    LedgerThread.executed.clear()


@pytest.mark.parametrize("format", ["msgpack", "json"])
@pytest.mark.parametrize("env", [Ledger, LedgerThread, LedgerAsync])
async def test_random_cuts(env: Any, format: str) -> None:
    rng = random.Random(13)
    scripts = [[rng.randrange(1000) for _ in range(STEPS)] for _ in range(SESSIONS)]
    async with served(env) as (url, engine), ChaosProxy(url, seed=13) as proxy:
        made = [client(proxy.url, share=False, subprotocol=f"openenv.v1.{format}") for _ in scripts]
        await gather(c.reset(label=str(n)) for n, c in enumerate(made))
        proxy.cut_rate = 0.05

        async def play(number: int) -> list[Any]:
            one = made[number]
            return [(await one.step({"n": n})).observation for n in scripts[number]]

        replies = await asyncio.wait_for(gather(play(n) for n in range(SESSIONS)), 60)
        proxy.cut_rate = 0.0
        for number, script in enumerate(scripts):
            assert Ledger.executed[str(number)] == script
            expected = no_fault_run(script)
            for reply in expected:
                del reply["reward"]
            assert [
                {key: reply[key] for key in ("n", "count", "digest")} for reply in replies[number]
            ] == expected
        assert reconnects(made) > SESSIONS
        assert engine.stats.duplicates > 0
        assert engine.stats.steps == SESSIONS * STEPS
        await gather(c.close() for c in made)


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_each_side_of_each_message(direction: Any, forward: bool) -> None:
    """Request lost, request taken and reply lost, reply received and connection lost after it."""
    async with served(Ledger) as (url, engine), ChaosProxy(url) as proxy:
        one = client(proxy.url)
        await one.reset(label="one")
        for n in range(20):
            proxy.cut_after(direction, messages=1, forward=forward)
            assert (await one.step({"n": n})).observation["count"] == n + 1
        assert Ledger.executed["one"] == list(range(20))
        assert engine.stats.steps == 20
        await one.close()


async def test_a_cut_in_the_middle_of_a_message() -> None:
    async with served(Ledger) as (url, _), ChaosProxy(url, seed=2) as proxy:
        one = client(proxy.url)
        await one.reset(label="one")
        for n in range(30):
            direction = proxy.random.choice(["up", "down"])
            proxy.cut_after(direction, size=proxy.random.randrange(1, 30))  # type: ignore[arg-type]
            pad = "x" * 100
            assert (await one.step({"n": n, "pad": pad})).observation["count"] == n + 1
        assert Ledger.executed["one"] == list(range(30))
        await one.close()


async def test_split_coalesced_throttled_and_delayed_segments_change_nothing() -> None:
    async with served(Ledger) as (url, _), ChaosProxy(url, seed=3) as proxy:
        made = [client(proxy.url, share=f"c{n % 2}") for n in range(8)]
        await gather(c.reset(label=str(n)) for n, c in enumerate(made))

        async def play(number: int, start: int) -> None:
            for n in range(start, start + 10):
                result = await made[number].step({"n": n})
                assert result.observation["count"] == n + 1

        for round_, (attribute, value) in enumerate(
            [("segment", 7), ("coalesce", 0.01), ("delay", (0.0, 0.01)), ("rate", 200_000.0)]
        ):
            before = getattr(proxy, attribute)
            setattr(proxy, attribute, value)
            await gather(play(n, round_ * 10) for n in range(8))
            setattr(proxy, attribute, before)
        for n in range(8):
            assert Ledger.executed[str(n)] == list(range(40))
        assert proxy.connections == 2
        await gather(c.close() for c in made)


@pytest.mark.parametrize("direction", ["up", "down"])
async def test_half_closed(direction: Any) -> None:
    async with served(Ledger) as (url, _), ChaosProxy(url) as proxy:
        one = client(proxy.url)
        await one.reset(label="one")
        for n in range(3):
            proxy.half_close(direction)
            result = await asyncio.wait_for(one.step({"n": n}), 10)
            assert result.observation["count"] == n + 1
        assert Ledger.executed["one"] == [0, 1, 2]
        await one.close()


async def test_streams_across_cuts() -> None:
    """Partial observations come once each, in order, and then the one final observation."""
    async with served(LedgerStream) as (url, engine), ChaosProxy(url, seed=5) as proxy:
        one = client(proxy.url)
        await one.reset(label="one")
        for n in range(8):
            proxy.cut_rate = 0.04
            async with contextlib.aclosing(one.stream_step({"n": n, "partials": 400})) as stream:
                items = [item.observation async for item in stream]
            proxy.cut_rate = 0.0
            assert [item["index"] for item in items[:-1]] == list(range(400))
            assert items[-1]["count"] == n + 1
        assert Ledger.executed["one"] == list(range(8))
        assert reconnects([one]) > 0
        assert engine.stats.steps == 8
        await one.close()


@pytest.mark.parametrize("messages", range(1, 6))
async def test_credit_that_was_lost_is_given_again(messages: int) -> None:
    """Every grant is cancelled once; a stream that counted it as given would stop for ever."""
    async with served(LedgerStream) as (url, _), ChaosProxy(url) as proxy:
        one = client(proxy.url)
        await one.reset(label="one")
        count = 0

        async def watch() -> None:
            nonlocal count
            async with contextlib.aclosing(one.stream_step({"n": 1, "partials": 640})) as stream:
                async for _ in stream:
                    count += 1
                    if count % 32 == 31:
                        # The message after this one is the grant.
                        proxy.cut_after("up", messages=messages, forward=False)

        await asyncio.wait_for(watch(), 20)
        assert count == 641
        proxy._triggers.clear()
        await one.close()


async def test_http_repeats_run_once() -> None:
    """The same over HTTP, where a request that stays lost is told, and a new one goes on."""
    rng = random.Random(7)
    async with served(LedgerThread) as (url, engine), ChaosProxy(url, seed=7) as proxy:
        made: list[HTTPEnvClient[Any, Any, Any]] = [HTTPEnvClient(proxy.url) for _ in range(4)]
        for number, one in enumerate(made):
            await one.reset(label=str(number))
        proxy.cut_rate = 0.04
        unsure = 0

        async def play(number: int) -> list[int]:
            nonlocal unsure
            sent = []
            for n in [rng.randrange(1000) for _ in range(150)]:
                try:
                    result = await made[number].step({"n": n})
                except (ConnectionLost, ConnectFailed):
                    unsure += 1
                    continue
                assert result.observation["n"] == n
                sent.append(n)
            return sent

        sent = await asyncio.wait_for(gather(play(n) for n in range(4)), 60)
        proxy.cut_rate = 0.0
        total = 0
        for number, steps in enumerate(sent):
            done = iter(LedgerThread.executed[str(number)])
            assert all(n in done for n in steps)  # in this order, each once
            total += len(steps)
        executed = sum(map(len, LedgerThread.executed.values()))
        assert total <= executed <= total + unsure
        assert engine.stats.duplicates > 0
        for one in made:
            await one.close()
