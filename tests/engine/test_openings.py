"""Opening costly sessions: off the loop, one after the other, with turns for who is there."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from typing import Any, ClassVar

import pytest

from openenv_async import Environment
from openenv_async.engine import Engine
from openenv_async.environment import Isolation
from openenv_async.protocol.frames import Begun, Failed, Observation, Open, Opened
from tests.behaviours.environments import client, served
from tests.engine.neighbours import PreparedNeighbour
from tests.helpers import Peer, make_engine, token, until

Dict = dict[str, Any]
COST = 0.03


def compute(seconds: float) -> None:
    """Use the processor for so long, without ever giving the interpreter away for longer."""
    ends = time.thread_time() + seconds
    while time.thread_time() < ends:
        pass


class Costly(Environment[Dict, Dict, Dict]):
    """Computes in its constructor; notes where and when."""

    isolation: ClassVar[Isolation | None] = "inline"
    cost: ClassVar[float] = COST
    wait: ClassVar[float] = 0.0
    threads: ClassVar[list[int]] = []
    building: ClassVar[int] = 0
    most: ClassVar[int] = 0
    log: ClassVar[list[str]] = []
    closed: ClassVar[int] = 0
    lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        cls = type(self)
        with cls.lock:
            cls.building += 1
            cls.most = max(cls.most, cls.building)
            cls.threads.append(threading.get_ident())
        compute(cls.cost)
        time.sleep(cls.wait)
        with cls.lock:
            cls.building -= 1
            cls.log.append("built")

    def reset(self) -> Dict:
        return {}

    def step(self, action: Dict) -> Dict:
        self.log.append("step")
        return {"thread": threading.get_ident()}

    def close(self) -> None:
        type(self).closed += 1


def fresh(base: type, **changes: Any) -> Any:
    """A class with counts of its own."""
    own = {"threads": [], "building": 0, "most": 0, "log": [], "closed": 0}
    return type("Costly", (base,), {**own, **changes})


async def beside_openings(env: Any, count: int) -> tuple[Engine, list[float]]:
    """Open ``count`` sessions beside one that steps; how long its steps took."""
    engine = make_engine(env)
    peer, other = Peer(engine), Peer(engine)
    assert isinstance(await peer.begin(1), Begun)
    env.log.clear()
    other.send(*(Open(n, token(n), token(n)) for n in range(2, count + 2)))
    took, seq, opened = [], 2, 0
    while opened < count:
        begun = time.perf_counter()
        assert isinstance(await peer.stepped(seq, {}), Observation)
        took.append(time.perf_counter() - begun)
        seq += 1
        await asyncio.sleep(0.001)
        frames = other.take()
        assert all(isinstance(frame, Opened) for frame in frames)
        opened += len(frames)
    await engine.aclose()
    return engine, took


@pytest.mark.parametrize("isolation", ["inline", "thread"])
async def test_costly_constructors_run_one_at_a_time_beside_steps(isolation: str) -> None:
    env = fresh(Costly, isolation=isolation)
    count = 12
    _, took = await beside_openings(env, count)
    here = threading.get_ident()
    assert here not in env.threads[1:]
    assert env.most <= max(1, (os.cpu_count() or 1) // 4)
    # Between two constructors a step: nobody waits for more than one of them.
    log = "".join("b" if each == "built" else "s" for each in env.log)
    assert "bbbb" not in log, log
    assert len(took) >= count


async def test_costly_async_constructors_leave_turns_to_others() -> None:
    class Async(Costly):
        isolation: ClassVar[Isolation | None] = None

        async def step(self, action: Dict) -> Dict:  # type: ignore[override]
            self.log.append("step")
            return {}

    env = fresh(Async)
    await beside_openings(env, 8)
    log = "".join("b" if each == "built" else "s" for each in env.log)
    assert "bb" not in log, log
    assert set(env.threads) == {threading.get_ident()}  # an async environment lives on the loop


@pytest.mark.parametrize("declared", [{"owns_thread": True}, {"thread_safe": False}])
async def test_who_needs_one_thread_is_constructed_on_it(declared: Dict) -> None:
    env = fresh(Costly, **declared)
    await beside_openings(env, 3)
    assert set(env.threads) == {threading.get_ident()}


async def test_a_cheap_constructor_stays_on_the_loop() -> None:
    env = fresh(Costly, cost=0.0)
    await beside_openings(env, 5)
    assert set(env.threads) == {threading.get_ident()}


async def test_constructors_that_wait_run_side_by_side() -> None:
    env = fresh(Costly, isolation="thread", cost=0.0, wait=0.5)
    begun = time.monotonic()
    await beside_openings(env, 30)
    assert env.most >= 10
    assert time.monotonic() - begun < 10  # one after the other: 15 s


async def test_an_inline_opening_past_its_deadline_is_given_up() -> None:
    env = fresh(Costly)
    engine = make_engine(env, interrupt_grace=0.1)
    peer = Peer(engine)
    assert isinstance(await peer.begin(1), Begun)
    env.wait = 1.0
    peer.send(Open(2, token(2), token(2), timeout=0.2), Open(3, token(3), token(3), timeout=0.4))
    first, second = await peer.next(), await peer.next()
    assert isinstance(first, Failed)
    assert isinstance(second, Failed)
    assert {first.code, second.code} <= {"deadline_exceeded", "server_busy"}
    assert list(engine.sessions) == [token(1)]
    assert isinstance(await peer.stepped(2, {}), Observation)
    await until(lambda: env.building == 0)
    await until(lambda: env.closed >= 1)  # what was constructed too late is closed
    await engine.aclose()


async def test_what_sessions_share_is_loaded_once_in_each_process_that_serves() -> None:
    PreparedNeighbour.prepared.clear()
    for workers, sessions in ((None, 7), (2, 4)):
        async with served(PreparedNeighbour, workers=workers, max_sessions=7) as (url, _):
            one, other = client(url), client(url)
            for each in (one, other):
                await each.reset()
                assert (await each.step({})).observation["prepared"] == [sessions]
                await each.close()
    assert PreparedNeighbour.prepared == [7]  # not here where workers do it
