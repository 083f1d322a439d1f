"""Races of a client: cancellation at every await, a network that fails in any turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from openenv_async import EngineOptions, Timeouts
from openenv_async.client.launch import launch
from openenv_async.client.pooling import shared_connections
from openenv_async.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    OpenEnvError,
    SessionClosed,
    SessionLost,
    TransportError,
    WorkerStartFailed,
)
from tests import in_memory
from tests.helpers import Counter, gated, gather_all
from tests.in_memory import MemoryClient, MemoryProvider, MemoryServer, MemoryWorker
from tests.scheduling import Interruption, PermutedLoop, cancel_at_every_await, explore


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.client.launch.dial", in_memory.dial)


@asynccontextmanager
async def a_server(env: Any = Counter, **options: Any) -> AsyncIterator[MemoryServer]:
    """A server that must hold nothing when the test is done with it."""
    server = MemoryServer(env, EngineOptions(**{"timeouts": Timeouts(resume=2.0), **options}))
    try:
        yield server
        await asyncio.sleep(3.0)  # a session whose closing was lost ends when it is not resumed
        assert (len(server.engine.sessions), server.open_transports) == (0, 0)
        shared = shared_connections()
        assert (shared._entries, shared._in_use) == ({}, {})
    finally:
        await server.aclose()


async def play(env: MemoryClient, steps: int = 3) -> None:
    await env.reset(seed=1)
    for count in range(steps):
        assert (await env.step({})).observation["count"] == count + 1


async def play_once(server: MemoryServer, steps: int = 3) -> None:
    async with MemoryClient(server.url) as env:
        await play(env, steps)


def test_opening_is_cancelled_at_every_await() -> None:
    async def scenario(interruption: Interruption) -> None:
        async with a_server() as server:
            env = MemoryClient(server.url)
            await interruption(env.open())
            await play(env)  # the first use opens it, as if nothing had been
            await env.close()

    assert cancel_at_every_await(scenario) > 20


def test_closing_is_cancelled_at_every_await_and_leaves_nothing() -> None:
    async def scenario(interruption: Interruption) -> None:
        async with a_server() as server:
            env = MemoryClient(server.url)
            await play(env)
            await interruption(env.close())
            await env.close()
            with pytest.raises(SessionClosed):
                await env.step({})

    assert cancel_at_every_await(scenario) > 5


def test_the_first_caller_of_a_shared_dial_is_cancelled_and_the_others_get_it() -> None:
    async def scenario(interruption: Interruption) -> None:
        async with a_server() as server:
            first = MemoryClient(server.url)
            others = [asyncio.create_task(play_once(server)) for _ in range(2)]
            opening = await interruption(first.open())
            await asyncio.gather(*others)
            assert server.dials <= 2
            await first.close()
            assert opening.done()

    assert cancel_at_every_await(scenario) > 20


def test_a_worker_whose_start_is_cancelled_at_any_await_is_ended() -> None:
    async def scenario(interruption: Interruption) -> None:
        provider = MemoryProvider()
        launching = await interruption(launch(provider, timeout=5.0))
        if not launching.cancelled():
            assert [worker.closed for worker in provider.started] == [0]
            await launching.result().aclose()
        assert all(worker.closed == 1 for worker in provider.started)

    assert cancel_at_every_await(scenario) > 10


def test_a_worker_that_does_not_answer_in_time_or_dies_is_ended() -> None:
    class Unreachable(MemoryProvider):
        async def start(self, *, timeout: float | None = None) -> MemoryWorker:
            worker = await super().start()
            worker.server.reachable = False
            return worker

    class Dying(Unreachable):
        async def start(self, *, timeout: float | None = None) -> MemoryWorker:
            worker = await super().start()
            asyncio.get_running_loop().call_later(1.0, worker.die)
            return worker

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        provider = Unreachable()
        with pytest.raises(DeadlineExceeded, match="did not answer within"):
            await launch(provider, timeout=3.0)
        assert loop.time() - start == pytest.approx(3.0)
        assert [worker.closed for worker in provider.started] == [1]
        start = loop.time()
        provider = Dying()
        with pytest.raises(WorkerStartFailed, match="exited with code 1"):
            await launch(provider, timeout=3.0)
        assert loop.time() - start < 1.5
        assert [worker.closed for worker in provider.started] == [1]

    explore(10, scenario)


def test_a_shared_dial_that_nobody_wants_any_more_is_given_up() -> None:
    async def scenario() -> None:
        async with a_server() as server:
            server.latency = 100.0
            loop = asyncio.get_running_loop()
            start = loop.time()
            openings = [asyncio.create_task(MemoryClient(server.url).open()) for _ in range(3)]
            await asyncio.sleep(1.0)
            for opening in openings:
                opening.cancel()
            ends = await gather_all(openings)
            assert all(isinstance(end, asyncio.CancelledError) for end in ends)
            assert loop.time() - start == pytest.approx(1.0)
            assert server.dials == 1
            server.latency = 0.01
            await play_once(server)

    explore(20, scenario)


def test_a_shared_dial_that_fails_fails_for_each_and_the_next_dials_again() -> None:
    async def scenario() -> None:
        async with a_server() as server:
            server.reachable = False
            ends = await gather_all([MemoryClient(server.url).open() for _ in range(3)])
            assert all(isinstance(end, ConnectFailed) for end in ends)
            server.reachable = True
            await play_once(server)

    explore(20, scenario)


def test_calls_that_come_at_once_wait_for_one_opening_whose_caller_is_cancelled() -> None:
    async def scenario(interruption: Interruption) -> None:
        async with a_server() as server:
            env = MemoryClient(server.url)
            states = [asyncio.create_task(open_too(env)) for _ in range(2)]
            await interruption(env.open())
            assert await asyncio.gather(*states) == [env.session_id] * 2
            assert len(server.engine.sessions) == 1
            await env.close()

    async def open_too(env: MemoryClient) -> str | None:
        await asyncio.sleep(0)
        await env.open()
        return env.session_id

    assert cancel_at_every_await(scenario) > 20


def test_a_step_is_cancelled_at_every_await_and_done_once() -> None:
    async def scenario(interruption: Interruption) -> None:
        async with a_server() as server, MemoryClient(server.url) as env:
            await env.reset()
            await interruption(env.step({}))
            count = (await env.step({})).observation["count"]
            assert count in (1, 2)
            assert (await env.state())["count"] == count

    assert cancel_at_every_await(scenario) > 5


def test_the_network_fails_in_every_turn_and_each_step_is_taken_once() -> None:
    async def scenario(turn: int) -> None:
        async with a_server() as server, MemoryClient(server.url) as env:
            await env.reset()
            loop = asyncio.get_running_loop()
            assert isinstance(loop, PermutedLoop)
            for fault in (turn, turn + 3, turn + 20):
                loop.call_at_turn(loop.turns + fault, server.cut)
            session = env.session_id
            await play(env, steps=12)
            assert env.session_id == session
            assert env.connection is not None
            assert env.connection.reconnects >= 1

    for turn in range(1, 25):
        explore((0, turn), partial(scenario, turn))


def test_the_network_fails_in_every_turn_of_an_opening() -> None:
    async def scenario(turn: int) -> None:
        async with a_server() as server:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, PermutedLoop)
            loop.call_at_turn(loop.turns + turn, server.cut)
            env = MemoryClient(server.url)
            [end] = await gather_all([env.open()])
            assert not isinstance(end, BaseException) or isinstance(end, TransportError), end
            await play(env)
            await env.close()

    for turn in range(1, 30):
        explore((0, turn), partial(scenario, turn))


def test_closing_while_the_connection_comes_back_is_cancelled_at_every_await() -> None:
    async def scenario(interruption: Interruption) -> None:
        async with a_server() as server:
            env = MemoryClient(server.url)
            await play(env)
            server.cut()
            await asyncio.sleep(0.005)  # it dials again by now
            await interruption(env.close())
            await env.close()
            await asyncio.sleep(0.2)

    assert cancel_at_every_await(scenario) > 5


def test_a_connection_is_closed_in_every_turn_while_it_comes_back() -> None:
    """Calls that wait meet the error, nothing dials on, and the transport is closed."""

    async def scenario(turn: int) -> None:
        env_class, gate = gated()
        async with a_server(env_class, timeouts=Timeouts(resume=0.3)) as server:
            env = MemoryClient(server.url)
            await env.reset()
            connection = env.connection
            assert connection is not None
            stepping = asyncio.create_task(env.step({}))
            await gate.entered.wait()
            server.cut()
            loop = asyncio.get_running_loop()
            assert isinstance(loop, PermutedLoop)
            closed = asyncio.Event()
            loop.call_at_turn(loop.turns + turn, closed.set)
            timer = loop.call_later(0.15, closed.set)
            await closed.wait()
            timer.cancel()
            await connection.aclose()
            [end] = await gather_all([stepping])
            assert isinstance(end, SessionClosed), end
            assert not connection.up
            await env.close()
            gate.opened.set()

    for turn in range(1, 25):
        explore((0, turn), partial(scenario, turn))


def test_a_session_is_resumed_or_lost_in_the_turn_in_which_its_time_ends() -> None:
    """Either the step goes on where it was, or the error says so and a reset begins anew."""
    resumed = lost = 0

    async def scenario(ttl: float) -> None:
        nonlocal resumed, lost
        async with a_server(timeouts=Timeouts(resume=ttl)) as server:
            server.latency = 0.25
            async with MemoryClient(server.url) as env:
                await play(env)
                server.cut()
                try:
                    after = await env.step({})
                except SessionLost:
                    lost += 1
                    assert len(server.engine.sessions) == 0
                    assert (await env.reset(seed=2)).observation["seed"] == 2
                else:
                    resumed += 1
                    assert after.observation["count"] == 4

    for ttl in (0.2, 0.25, 0.2500001, 0.26, 0.3):
        explore(15, partial(scenario, ttl))
    assert resumed
    assert lost


def test_the_server_goes_away_in_every_turn_and_every_call_ends() -> None:
    async def scenario(turn: int) -> None:
        async with a_server(timeouts=Timeouts(resume=1.0)) as server:
            env = MemoryClient(server.url)
            await env.reset()
            loop = asyncio.get_running_loop()
            assert isinstance(loop, PermutedLoop)
            gone = asyncio.Event()
            loop.call_at_turn(loop.turns + turn, gone.set)

            async def leave() -> None:
                await gone.wait()
                await server.aclose()

            leaving = asyncio.create_task(leave())
            with pytest.raises(OpenEnvError) as raised:
                await step_on(env)
            assert isinstance(raised.value, SessionLost | ConnectionLost | SessionClosed) or (
                raised.value.code == "going_away"
            ), raised.value
            await leaving
            await env.close()

    for turn in range(1, 12):
        explore((0, turn), partial(scenario, turn))


async def step_on(env: MemoryClient) -> None:
    while True:
        await env.step({})
