"""Races of an engine: calls that end when they are stopped, free capacity, a blocked loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar

import pytest

from openenv_async import EngineOptions, Environment, Timeouts
from openenv_async.errors import (
    DeadlineExceeded,
    OpenEnvError,
    ServerBusy,
    SessionClosed,
)
from tests.helpers import Counter, gather_all
from tests.in_memory import MemoryClient, MemoryServer
from tests.scheduling import Interruption, PermutedLoop, cancel_at_every_await, explore


class Sleeper(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Its steps sleep; it knows how many began, ended and were cancelled, and who is alive."""

    began: ClassVar[int]
    ended: ClassVar[int]
    cancelled: ClassVar[int]
    alive: ClassVar[int]

    def __init__(self) -> None:
        type(self).alive += 1

    async def reset(self) -> dict[str, Any]:
        return {}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        cls = type(self)
        cls.began += 1
        try:
            await asyncio.sleep(action["seconds"])
        except asyncio.CancelledError:
            cls.cancelled += 1
            await asyncio.sleep(action.get("clean_up", 0.0))
            raise
        cls.ended += 1
        return {"ended": cls.ended}

    async def close(self) -> None:
        type(self).alive -= 1


def sleeper() -> type[Sleeper]:
    """A class of its own, with counts of its own."""
    return type("Sleeper", (Sleeper,), {"began": 0, "ended": 0, "cancelled": 0, "alive": 0})


@asynccontextmanager
async def a_server(env: Any = Counter, **options: Any) -> AsyncIterator[MemoryServer]:
    """A server that must hold nothing when the test is done with it."""
    server = MemoryServer(env, EngineOptions(**{"timeouts": Timeouts(resume=2.0), **options}))
    try:
        yield server
        await asyncio.sleep(3.0)
        engine = server.engine
        assert (len(engine.sessions), engine.active, engine.waiting) == (0, 0, 0)
    finally:
        await server.aclose()


def the_loop() -> PermutedLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, PermutedLoop)
    return loop


# -- calls that are stopped -----------------------------------------------------------------


def test_a_step_that_ends_in_the_turn_of_its_deadline_is_answered_once() -> None:
    answered = expired = 0

    async def scenario() -> None:
        nonlocal answered, expired
        env_class = sleeper()
        async with a_server(env_class) as server, MemoryClient(server.url) as env:
            await env.reset()
            try:
                first = await env.step({"seconds": 1.0}, timeout=1.0)
            except DeadlineExceeded:
                expired += 1
            else:
                answered += 1
                assert first.observation == {"ended": 1}
            ended = env_class.ended
            assert (await env.step({"seconds": 0.5})).observation == {"ended": ended + 1}
            assert env_class.began == 2
            assert env_class.ended + env_class.cancelled == 2
        assert env_class.alive == 0

    explore(80, scenario)
    assert answered
    assert expired


def test_a_step_is_cancelled_in_every_turn_and_the_next_waits_for_its_end() -> None:
    async def scenario(interruption: Interruption) -> None:
        env_class = sleeper()
        async with a_server(env_class) as server, MemoryClient(server.url) as env:
            await env.reset()
            await interruption(env.step({"seconds": 1.0, "clean_up": 0.1}))
            await env.step({"seconds": 0.0})
            assert env_class.ended + env_class.cancelled == env_class.began
        assert env_class.alive == 0

    assert cancel_at_every_await(scenario, seeds=range(6)) > 30


def test_a_step_that_is_cancelled_when_it_ends_leaves_no_cancellation_behind() -> None:
    async def scenario() -> None:
        env_class = sleeper()
        async with a_server(env_class) as server, MemoryClient(server.url) as env:
            await env.reset()
            stepping = asyncio.create_task(env.step({"seconds": 1.0}))
            the_loop().call_later(1.0, stepping.cancel)
            await gather_all([stepping])
            await env.step({"seconds": 0.5})
            await env.reset()
            await env.step({"seconds": 0.5})
            assert env_class.ended + env_class.cancelled == 3
            assert env_class.cancelled <= 1

    explore(60, scenario)


def test_an_environment_that_cleans_up_longer_than_the_grace_is_given_up_and_closed() -> None:
    async def scenario(clean_up: float) -> None:
        env_class = sleeper()
        async with (
            a_server(env_class, interrupt_grace=0.5) as server,
            MemoryClient(server.url) as env,
        ):
            await env.reset()
            start = the_loop().time()
            with pytest.raises(DeadlineExceeded):
                await env.step({"seconds": 9.0, "clean_up": clean_up}, timeout=1.0)
            assert the_loop().time() - start <= 1.5 + 1e-6
            await asyncio.sleep(1.0)
            [end] = await gather_all([env.step({"seconds": 0.0})])
            assert isinstance(end, SessionClosed) or clean_up <= 0.5, end
            await env.reset()
            await env.step({"seconds": 0.0})
        assert env_class.alive == 0

    for clean_up in (0.4, 0.5, 0.6):
        explore(15, partial(scenario, clean_up))


def test_a_session_closes_in_every_turn_of_a_step() -> None:
    async def scenario(turn: int) -> None:
        env_class = sleeper()
        async with a_server(env_class) as server:
            env = MemoryClient(server.url)
            await env.reset()
            stepping = asyncio.create_task(env.step({"seconds": 0.001}))
            closed = asyncio.Event()
            the_loop().call_at_turn(the_loop().turns + turn, closed.set)
            timer = the_loop().call_later(0.01, closed.set)
            await closed.wait()
            timer.cancel()
            await env.close()
            [end] = await gather_all([stepping])
            assert isinstance(end, SessionClosed) or end.observation == {"ended": 1}, end  # type: ignore[union-attr]
        assert env_class.alive == 0

    for turn in range(1, 20):
        explore((0, turn), partial(scenario, turn))


# -- capacity -------------------------------------------------------------------------------


def test_sessions_wait_for_capacity_first_come_first_served() -> None:
    async def scenario() -> None:
        order: list[int] = []

        async def play(server: MemoryServer, number: int) -> None:
            await asyncio.sleep(number * 0.1)
            async with MemoryClient(server.url) as env:
                order.append(number)
                await env.reset()
                await asyncio.sleep(1.0)
                await env.step({})

        async with a_server(max_sessions=2, max_waiting=4) as server:
            await asyncio.gather(*[play(server, number) for number in range(6)])
            assert order == sorted(order)
            assert server.engine.stats.opened == 6

    explore(30, scenario)


def test_a_waiting_session_is_cancelled_in_every_turn_and_the_next_gets_its_place() -> None:
    async def scenario(interruption: Interruption) -> None:
        async with a_server(max_sessions=1, max_waiting=4) as server:
            first = MemoryClient(server.url)
            await first.reset()
            waiting = MemoryClient(server.url)

            async def next_in_line() -> None:
                await asyncio.sleep(0.005)
                async with MemoryClient(server.url) as env:
                    await env.reset()
                    await env.step({})

            async def leave() -> None:
                await asyncio.sleep(0.01)
                await first.close()

            others = [asyncio.create_task(next_in_line()), asyncio.create_task(leave())]
            opening = await interruption(waiting.open())
            if not opening.cancelled():
                await waiting.close()
            await asyncio.gather(*others)
            async with MemoryClient(server.url) as env:
                await env.reset()

    assert cancel_at_every_await(scenario, seeds=(0, 1, 2, 3)) > 30


def test_capacity_that_comes_free_when_the_wait_is_over_is_given_or_refused() -> None:
    async def scenario() -> None:
        async with a_server(max_sessions=1, max_waiting=2) as server:
            first = MemoryClient(server.url)
            await first.reset()
            late = MemoryClient(server.url, timeouts=Timeouts(open=1.0))
            opening = asyncio.create_task(late.open())
            await asyncio.sleep(1.0)
            await first.close()
            [end] = await gather_all([opening])
            assert end is late or isinstance(end, ServerBusy | DeadlineExceeded), end
            await late.close()
            async with MemoryClient(server.url) as env:
                await env.reset()

    explore(60, scenario)


def test_openings_are_cancelled_in_every_turn_while_others_are_opened() -> None:
    async def scenario(interruption: Interruption) -> None:
        env_class = sleeper()
        async with a_server(env_class) as server:
            others = [MemoryClient(server.url) for _ in range(3)]
            openings = [asyncio.create_task(env.reset()) for env in others]
            env = MemoryClient(server.url)
            await interruption(env.reset())
            await asyncio.gather(*openings)
            await asyncio.gather(*[other.step({"seconds": 0.1}) for other in others])
            for other in (*others, env):
                await other.close()
        assert env_class.alive == 0

    assert cancel_at_every_await(scenario, seeds=(0, 1, 2)) > 20


def test_the_engine_is_closed_in_every_turn_and_every_call_is_answered() -> None:
    async def scenario(turn: int) -> None:
        env_class = sleeper()
        async with a_server(env_class, max_sessions=2, max_waiting=2) as server:

            async def play() -> None:
                async with MemoryClient(server.url) as env:
                    await env.reset()
                    while True:
                        await env.step({"seconds": 0.0})

            playing = [asyncio.create_task(play()) for _ in range(4)]
            closed = asyncio.Event()
            the_loop().call_at_turn(the_loop().turns + turn, closed.set)
            await closed.wait()
            await server.engine.aclose()
            server.cut()
            for end in await gather_all(playing):
                assert isinstance(end, OpenEnvError), end
                assert not isinstance(end, DeadlineExceeded), end
        assert env_class.alive == 0

    for turn in range(1, 60, 2):
        explore((0, turn), partial(scenario, turn))


def test_what_ignores_its_cancellation_is_cancelled_once_more_when_the_engine_closes() -> None:
    ended: list[int] = []

    class Stubborn(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
        async def reset(self) -> dict[str, Any]:
            return {}

        async def step(self, action: dict[str, Any]) -> dict[str, Any]:
            for _ in range(2):  # of its deadline, and when it is abandoned
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(1000.0)
            try:
                await asyncio.sleep(1000.0)
            finally:
                ended.append(1)
            return {}

    async def scenario() -> None:
        ended.clear()
        async with a_server(Stubborn, close_grace=1.0) as server:
            env = MemoryClient(server.url)
            await env.reset()
            with pytest.raises(DeadlineExceeded):
                await env.step({}, timeout=1.0)
            await asyncio.sleep(5.0)
            assert not ended
            await env.close()
        assert ended == [1]

    explore(5, scenario)


# -- a loop that was blocked ----------------------------------------------------------------


def test_a_reply_that_is_there_when_the_loop_goes_on_is_better_than_a_deadline() -> None:
    async def scenario() -> None:
        async with a_server(sleeper()) as server, MemoryClient(server.url) as env:
            await env.reset()
            stepping = asyncio.create_task(env.step({"seconds": 0.5}, timeout=1.0))
            await asyncio.sleep(0.1)
            the_loop().clock.advance(4.0)  # as environments that are called from the loop do
            assert (await stepping).observation == {"ended": 1}
            assert server.engine.stats.timeouts == 0

    explore(40, scenario)


def test_a_deadline_is_postponed_once_however_often_the_loop_is_blocked() -> None:
    async def scenario() -> None:
        async with a_server(sleeper()) as server, MemoryClient(server.url) as env:
            await env.reset()
            loop = the_loop()
            start = loop.time()
            stepping = asyncio.create_task(env.step({"seconds": 500.0}, timeout=1.0))
            blocked = 0
            while not stepping.done():
                await asyncio.sleep(0.2)
                loop.clock.advance(1.0)  # each time for longer than the deadline
                blocked += 1
                assert blocked < 8
            with pytest.raises(DeadlineExceeded):
                await stepping
            assert loop.time() - start < 6.0
            assert server.engine.stats.timeouts == 1

    explore(40, scenario)
