"""Sync environments in the shared pool of threads."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from openenv_async import Environment
from openenv_async.engine import Engine
from openenv_async.protocol.frames import Begun, Cancel, Close, Closed, Failed, Observation, Step
from openenv_async.testing import ManualClock
from tests.helpers import Peer, make_engine, pack, settle, token, unpack, until


class Threaded(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Waits at its gate when told to; notes the threads that called it."""

    isolation = "thread"
    gate: ClassVar[threading.Event] = threading.Event()
    made: ClassVar[list[Threaded]] = []
    running: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        self.threads = {threading.get_ident()}
        self.count = 0
        self.closed = threading.Event()
        self.made.append(self)

    def reset(self) -> dict[str, Any]:
        self.threads.add(threading.get_ident())
        return {}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.threads.add(threading.get_ident())
        self.count += 1
        if action.get("wait"):
            self.running.add(id(self))
            assert self.gate.wait(30)
            self.running.discard(id(self))
        if action.get("panic"):
            raise Panic("in Rust")
        if action.get("exit"):
            raise SystemExit(3)
        return {"count": self.count}

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed.set()


class Owning(Threaded):
    """Wants one thread for all its calls."""

    owns_thread = True


class Panic(BaseException):
    """What an extension module may raise."""


@pytest.fixture(autouse=True)
def gate() -> threading.Event:
    Threaded.gate = threading.Event()
    Threaded.made.clear()
    Threaded.running.clear()
    return Threaded.gate


@contextlib.asynccontextmanager
async def started(
    env: Any = Threaded, sessions: int = 1, clock: ManualClock | None = None, **options: Any
) -> AsyncIterator[tuple[Engine, Peer]]:
    engine = make_engine(env, clock=clock, **options)
    peer = Peer(engine)
    for number in range(1, sessions + 1):
        begun = await peer.begin(number)
        assert isinstance(begun, Begun), begun
    yield engine, peer
    Threaded.gate.set()
    await engine.aclose()


def threads() -> set[threading.Thread]:
    """Those of every pool: ones of an earlier test may still be ending, so tests count new ones."""
    return {thread for thread in threading.enumerate() if "openenv-" in thread.name}


async def test_calls_come_from_threads_and_never_from_the_loop() -> None:
    async with started() as (engine, peer):
        reply = await peer.stepped(2, {})
        assert unpack(reply.payload) == {"count": 1}
        peer.send(Close(1, 3))
        assert isinstance(await peer.next(), Closed)
        assert not engine.sessions
    [env] = Threaded.made
    assert threading.get_ident() not in env.threads
    assert env.closed.is_set()


async def test_a_reply_does_not_wait_for_a_call_that_blocks_behind_it(
    gate: threading.Event,
) -> None:
    async with started(sessions=3) as (_, peer):
        for seq in range(2, 7):  # one thread takes both, the short one first
            peer.send(Step(1, seq, seq - 1, pack({})), Step(2, seq, seq - 1, pack({"wait": 1})))
            async with asyncio.timeout(5):
                assert (await peer.next()).channel == 1
            gate.set()
            assert (await peer.next()).channel == 2
            gate.clear()


async def test_many_that_block_run_at_once(gate: threading.Event) -> None:
    count = 40
    async with started(sessions=count) as (_, peer):
        for number in range(1, count + 1):
            peer.step(2, {"wait": 1}, number)
        await until(lambda: len(Threaded.running) == count)
        gate.set()
        replies = [await peer.next() for _ in range(count)]
        assert all(isinstance(reply, Observation) for reply in replies)


async def test_short_steps_share_threads() -> None:
    async with started(sessions=50) as (_, peer):
        before = threads()
        for seq in range(2, 12):
            peer.send(*(Step(number, seq, 0, pack({})) for number in range(1, 51)))
            for _ in range(50):
                assert isinstance(await peer.next(), Observation)
        assert len(threads() - before) <= 2


async def test_the_limit_of_threads_is_kept(gate: threading.Event) -> None:
    async with started(sessions=6, max_threads=3) as (_, peer):
        for number in range(1, 7):
            peer.step(2, {"wait": 1}, number)
        await until(lambda: len(Threaded.running) == 3)
        await asyncio.sleep(0.02)  # time for a fourth that must not come
        assert len(Threaded.running) == 3
        gate.set()
        for _ in range(6):
            assert isinstance(await peer.next(), Observation)


async def test_a_cancel_cannot_stop_a_thread_and_the_next_call_waits(
    gate: threading.Event,
) -> None:
    async with started() as (_, peer):
        peer.step(2, {"wait": 1})
        await until(lambda: Threaded.running)
        peer.send(Cancel(1, 2))
        peer.step(3, {})
        await settle()
        assert peer.take() == []
        gate.set()
        first, second = await peer.next(), await peer.next()
        assert [first.seq, second.seq] == [2, 3]
        assert unpack(second.payload) == {"count": 2}


async def test_a_hung_call_is_given_up_and_its_thread_replaced(gate: threading.Event) -> None:
    clock = ManualClock()
    async with started(sessions=2, clock=clock, max_threads=1) as (engine, peer):
        peer.step(2, {"wait": 1}, 1, timeout=5.0)
        await until(lambda: Threaded.running)
        peer.step(2, {}, 2, timeout=0)
        await settle()
        assert peer.take() == []  # the only thread hangs
        clock.advance(5.1)
        first, second = await peer.next(), await peer.next()
        assert (first.channel, first.seq, first.code) == (1, 2, "deadline_exceeded")
        assert (second.channel, second.seq, second.code) == (1, 0, "session_closed")
        assert isinstance(await peer.next(), Observation)  # a new thread took it
        assert list(engine.sessions) == [token(2)]
        env = Threaded.made[0]
        assert not env.closed.is_set()
        gate.set()
        await until(env.closed.is_set)


async def test_a_job_that_never_began_is_taken_back(gate: threading.Event) -> None:
    clock = ManualClock()
    async with started(sessions=2, clock=clock, max_threads=1) as (_, peer):
        peer.step(2, {"wait": 1}, 1, timeout=0)
        await until(lambda: Threaded.running)
        peer.step(2, {}, 2, timeout=5.0)
        await settle()
        clock.advance(5.1)
        refused = await peer.next()
        assert (refused.channel, refused.code) == (2, "server_busy")
        assert peer.detail(refused)["setting"] == "max_threads"
        gate.set()
        assert isinstance(await peer.next(), Observation)
        assert Threaded.made[1].count == 0  # nothing ran, so the session is as good as before
        assert isinstance(await peer.stepped(3, {}, 2), Observation)


async def test_the_loop_is_free_while_everything_blocks(gate: threading.Event) -> None:
    async with started(sessions=20) as (_, peer):
        for number in range(1, 21):
            peer.step(2, {"wait": 1}, number)
        await until(lambda: len(Threaded.running) == 20)
        longest = 0.0
        for _ in range(50):
            begun = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - begun)
        assert longest < 0.5
        gate.set()
        for _ in range(20):
            await peer.next()


async def test_panics_and_exits_are_errors_and_cost_no_thread() -> None:
    async with started(max_threads=1) as (_, peer):
        for seq, action, raised in ((2, {"panic": 1}, "Panic"), (3, {"exit": 1}, "SystemExit")):
            reply = await peer.stepped(seq, action)
            assert isinstance(reply, Failed)
            assert peer.detail(reply)["raised"] == raised
        assert isinstance(await peer.stepped(4, {}), Observation)


async def test_an_owned_thread_makes_every_call() -> None:
    async with started(Owning, sessions=4) as (_, peer):
        for seq in range(2, 6):
            for number in range(1, 5):
                assert isinstance(await peer.stepped(seq, {}, number), Observation)
        for number in range(1, 5):
            peer.send(Close(number, 6))
        for _ in range(4):
            assert isinstance(await peer.next(), Closed)
    assert [len(env.threads) for env in Threaded.made] == [1, 1, 1, 1]
    assert len(set.union(*(env.threads for env in Threaded.made))) == 4


async def test_an_owned_thread_stays_the_same_however_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    from openenv_async.engine.executors import threads as module

    monkeypatch.setattr(module, "_IDLE", 0.02)
    async with started(Owning) as (_, peer):
        [env] = Threaded.made
        before = threads()
        async with started() as (_, other):  # a session that shares threads: they end
            assert isinstance(await other.stepped(2, {}), Observation)
            assert threads() - before
            await until(lambda: threads() <= before)
        assert isinstance(await peer.stepped(2, {}), Observation)
        assert len(env.threads) == 1


async def test_an_owned_thread_that_hangs_is_left_alone(gate: threading.Event) -> None:
    clock = ManualClock()
    async with started(Owning, sessions=2, clock=clock) as (_, peer):
        peer.step(2, {"wait": 1}, 1, timeout=5.0)
        await until(lambda: Threaded.running)
        clock.advance(5.1)
        assert (await peer.next()).code == "deadline_exceeded"
        assert (await peer.next()).code == "session_closed"
        assert isinstance(await peer.stepped(2, {}, 2), Observation)
        env = Threaded.made[0]
        gate.set()
        await until(env.closed.is_set)
        assert len(env.threads) == 1


async def test_threads_end_with_the_engine() -> None:
    before = threads()
    async with started(sessions=10) as (_, peer):
        for number in range(1, 11):
            peer.step(2, {}, number)
        for _ in range(10):
            await peer.next()
        assert threads() - before
    await until(lambda: threads() <= before)


async def test_idle_threads_end_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    from openenv_async.engine.executors import threads as module

    monkeypatch.setattr(module, "_IDLE", 0.02)
    before = threads()
    async with started() as (_, peer):
        await until(lambda: threads() <= before)
        assert isinstance(await peer.stepped(2, {}), Observation)  # a new one was made


async def test_a_constructor_that_blocks_holds_up_nobody(gate: threading.Event) -> None:
    class Slow(Threaded):
        def __init__(self) -> None:
            super().__init__()
            if len(self.made) == 1:
                self.running.add(id(self))
                assert self.gate.wait(30)

    engine = make_engine(Slow)
    peer = Peer(engine)
    opening = asyncio.ensure_future(peer.open(1))
    await until(lambda: Threaded.running)
    other = Peer(engine)
    assert isinstance(await other.begin(2), Begun)
    gate.set()
    await opening
    await engine.aclose()
