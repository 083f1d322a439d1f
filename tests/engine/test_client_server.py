"""A client and an engine joined by a wire that the test moves, repeats and cuts."""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter as Tally
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from openenv_async import EngineOptions, Environment, GenericEnvClient, Limits, Timeouts
from openenv_async.client.connection import ClientConnection
from openenv_async.engine import Engine
from openenv_async.errors import OpenEnvError, PayloadTooLarge
from openenv_async.protocol.frames import Reset, State, Step
from openenv_async.spec import EnvironmentSpec
from tests.helpers import Format, Wire, make_engine, settle


class Gated(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Notes every step it runs; a held one ends when its gate opens."""

    executed: ClassVar[Tally[int]] = Tally()
    gates: ClassVar[dict[int, asyncio.Event]] = {}

    def __init__(self) -> None:
        self.count = 0

    async def reset(self) -> dict[str, Any]:
        self.count = 0
        return {}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        nonce = action["nonce"]
        self.executed[nonce] += 1
        self.count += 1
        count = self.count
        if action["hold"]:
            self.gates[nonce] = asyncio.Event()
            await self.gates[nonce].wait()
        return {"nonce": nonce, "count": count}

    async def state(self) -> dict[str, Any]:
        return {"count": self.count}


class Wired(GenericEnvClient):
    """A client of a test's wire; all of them share its connection."""

    def __init__(self, wire: Wire) -> None:
        super().__init__("wire:")
        self.wire = wire

    async def _connect(self) -> ClientConnection:
        await self.wire.client.start()
        return self.wire.client

    def _key(self) -> Hashable:
        return id(self.wire)


class Joined(RuleBasedStateMachine):
    """Calls, cancellations, repeated frames and broken connections, in any order.

    Every step runs at most once, exactly once when its caller got a result, and whoever got a
    result got their own.
    """

    format: ClassVar[Format] = "msgpack"

    def __init__(self) -> None:
        super().__init__()
        Gated.executed.clear()
        Gated.gates.clear()
        self.loop = asyncio.new_event_loop()
        self.nonces = 0
        self.calls: dict[int, tuple[int, asyncio.Task[Any]]] = {}
        self.counts = [0, 0, 0]
        self.answered: set[int] = set()
        self.cancelled = 0
        self.seen: list[Any] = []
        self.run(self.begin())

    async def begin(self) -> None:
        timeouts = Timeouts(idle=None, step=None, lease=None, resume=600.0)
        self.engine = Engine(EnvironmentSpec(Gated), EngineOptions(timeouts=timeouts))
        self.wire = Wire(self.engine, self.format)
        self.clients = [Wired(self.wire) for _ in range(3)]
        for client in self.clients:
            await client.reset(timeout=math.inf)

    def run(self, main: Coroutine[Any, Any, Any]) -> Any:
        """Run ``main`` while the wire moves."""

        async def moving() -> Any:
            task = asyncio.ensure_future(main)
            async with asyncio.timeout(20):
                while not task.done():
                    await self.wire_pump()
            return await task

        return self.loop.run_until_complete(moving())

    async def wire_pump(self) -> None:
        wire = getattr(self, "wire", None)
        if wire is None:
            await asyncio.sleep(0)
        else:
            self.look(wire)
            await wire.pump()

    def look(self, wire: Wire) -> None:
        """Remember the requests under way, to repeat them."""
        for message in wire.pipe.to_server:
            frames = wire.pipe.server.codec.decode(message)
            self.seen += [frame for frame in frames if isinstance(frame, Step | Reset | State)]

    def turn(self, turns: int = 1, first: Callable[[], None] | None = None) -> None:
        async def some() -> None:
            if first is not None:
                first()
            for _ in range(turns):
                await settle()

        self.loop.run_until_complete(some())
        self.collect()

    def collect(self) -> None:
        for number, (nonce, task) in list(self.calls.items()):
            if not task.done():
                continue
            del self.calls[number]
            if task.cancelled():
                self.cancelled += 1
                continue
            observation = task.result().observation
            assert observation["nonce"] == nonce
            assert observation["count"] > self.counts[number]
            self.counts[number] = observation["count"]
            self.answered.add(nonce)

    @rule(number=st.integers(0, 2), hold=st.booleans())
    def step(self, number: int, hold: bool) -> None:
        if number in self.calls:
            return
        self.nonces += 1
        action = {"nonce": self.nonces, "hold": hold}
        task = self.loop.create_task(self.clients[number].step(action))
        self.calls[number] = (self.nonces, task)
        self.turn()

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.calls)))
        self.turn(1, lambda: _cancel(self.calls[number][1]))

    @precondition(lambda self: bool(Gated.gates))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        Gated.gates[data.draw(st.sampled_from(sorted(Gated.gates)))].set()
        self.turn()

    @rule(turns=st.integers(1, 3))
    def move(self, turns: int) -> None:
        async def moving() -> None:
            for _ in range(turns):
                await self.wire_pump()

        self.loop.run_until_complete(moving())
        self.collect()

    @rule()
    def move_up(self) -> None:
        self.look(self.wire)
        self.turn(2, self.wire.deliver_to_server)

    @rule()
    def move_down(self) -> None:
        self.turn(2, self.wire.deliver_to_client)

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """A frame that came already comes again."""
        frame = data.draw(st.sampled_from(self.seen[-10:]))
        pipe = self.wire.pipe
        if pipe.open and self.wire.client.up:
            pipe.to_server.append(pipe.server.codec.encode([frame]))
        self.turn()

    @rule()
    def cut(self) -> None:
        self.turn(1, self.wire.cut)

    @rule(number=st.integers(0, 2))
    def state(self, number: int) -> None:
        if number not in self.calls:
            state = self.run(self.clients[number].state(timeout=math.inf))
            assert state["count"] >= self.counts[number]
            self.collect()

    @rule(number=st.integers(0, 2))
    def reset(self, number: int) -> None:
        if number not in self.calls:
            self.run(self.clients[number].reset(timeout=math.inf))
            self.counts[number] = 0
            self.collect()

    @invariant()
    def nothing_ran_twice(self) -> None:
        assert all(times == 1 for times in Gated.executed.values())
        assert self.answered <= set(Gated.executed)

    def teardown(self) -> None:
        async def end() -> None:
            for _ in range(3):
                for gate in Gated.gates.values():
                    gate.set()
                await self.wire_pump()
            await asyncio.sleep(0.002)  # a client that comes back waits a little between tries

        give_up_at = time.monotonic() + 10
        while self.calls and time.monotonic() < give_up_at:
            self.loop.run_until_complete(end())
            self.collect()
        left = len(self.calls)
        for number, client in enumerate(self.clients):
            if number not in self.calls:
                self.nonces += 1
                action = {"nonce": self.nonces, "hold": False}
                result = self.run(client.step(action, timeout=math.inf))
                assert result.observation["nonce"] == self.nonces
            self.run(client.close())
        sessions = len(self.engine.sessions)
        self.loop.run_until_complete(self.engine.aclose())
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()
        assert left == 0, "a caller was never answered"
        assert sessions == 0, "a closed session stayed"
        self.nothing_ran_twice()


def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()


class JoinedJson(Joined):
    format = "json"


Joined.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
JoinedJson.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestJoined = Joined.TestCase
TestJoinedJson = JoinedJson.TestCase


# -- by hand ------------------------------------------------------------------------------


async def test_what_is_asked_in_one_turn_leaves_in_one_message() -> None:
    engine = make_engine(Gated)
    wire = Wire(engine)
    clients = [Wired(wire) for _ in range(5)]
    await driven(wire, asyncio.gather(*(client.reset() for client in clients)))
    steps = [
        asyncio.ensure_future(client.step({"nonce": number, "hold": False}))
        for number, client in enumerate(clients)
    ]
    await settle()
    assert len(wire.pipe.to_server) == 1
    wire.deliver_to_server()
    await settle()
    wire.deliver_to_client()
    assert [step.done() for step in steps] == [False] * 5
    await settle()
    assert [step.result().observation["nonce"] for step in steps] == [0, 1, 2, 3, 4]
    await driven(wire, asyncio.gather(*(client.close() for client in clients)))
    await engine.aclose()


async def driven(wire: Wire, main: Any) -> Any:
    task = asyncio.ensure_future(main)
    while not task.done():
        await wire.pump()
    return await task


async def test_a_lost_reply_is_sent_again_and_its_step_is_not_run_again() -> None:
    Gated.executed.clear()
    engine = make_engine(Gated)
    wire = Wire(engine)
    client = Wired(wire)
    await driven(wire, client.reset())
    step = asyncio.ensure_future(client.step({"nonce": 1, "hold": False}))
    await settle()
    wire.deliver_to_server()
    await settle()
    assert Gated.executed[1] == 1
    wire.cut()  # with the reply on it
    result = await driven(wire, step)
    assert result.observation == {"nonce": 1, "count": 1}
    assert Gated.executed[1] == 1
    assert wire.client.reconnects == 1
    await driven(wire, client.close())
    await engine.aclose()


async def test_text_that_cannot_be_encoded_fails_its_own_call_only() -> None:
    engine = make_engine(Gated)
    wire = Wire(engine)
    good, bad = Wired(wire), Wired(wire)
    await driven(wire, asyncio.gather(good.reset(), bad.reset()))
    failing = asyncio.ensure_future(bad.reset(episode_id="caf\udce9"))
    fine = asyncio.ensure_future(good.step({"nonce": 1, "hold": False}))
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    for _ in range(20):
        await wire.pump()
    done = failing.done() and fine.done()
    for task in (failing, fine):
        task.cancel()
    await asyncio.wait([failing, fine])
    await driven(wire, asyncio.gather(good.close(), bad.close()))
    await engine.aclose()
    assert done
    assert not errors
    assert fine.result().observation["nonce"] == 1
    assert isinstance(failing.exception(), OpenEnvError)


async def test_a_request_that_is_too_large_gives_its_number_back() -> None:
    engine = make_engine(Gated, options=EngineOptions(limits=Limits(max_message_size=10_000)))
    wire = Wire(engine)
    client = Wired(wire)
    await driven(wire, client.reset())
    for _ in range(3):
        with pytest.raises(PayloadTooLarge):
            await driven(wire, client.step({"nonce": 1, "hold": "x" * 20_000}))
    result = await driven(wire, client.step({"nonce": 2, "hold": False}))
    assert result.observation["count"] == 1
    await driven(wire, client.close())
    await engine.aclose()
