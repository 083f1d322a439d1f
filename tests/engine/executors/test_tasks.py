"""Async environments: one task each, which builds, calls and closes them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from openenv_async import Environment, Timeouts
from openenv_async.engine import Engine
from openenv_async.engine.executors.tasks import (
    TaskExecutor,
    _SessionTask,
    _Slot,
    call_of_task,
)
from openenv_async.errors import SessionClosed
from openenv_async.protocol.frames import (
    Begun,
    Cancel,
    Close,
    Closed,
    Credit,
    Failed,
    Observation,
    Open,
    Opened,
    Partial,
    State,
    StateIs,
    Step,
)
from openenv_async.testing import ConformanceEnvironment, ManualClock
from tests.engine.executors.calls import HandLoop, LooseCall
from tests.helpers import Peer, make_engine, pack, settle, token, unpack, until


class Scripted(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Steps run what the test put into ``plan``; notes where it was called from."""

    made: ClassVar[list[Scripted]] = []
    plan: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self.seen_tasks = [asyncio.current_task()]
        self.closed = asyncio.Event()
        self.group = asyncio.TaskGroup()
        self.made.append(self)

    async def reset(self) -> dict[str, Any]:
        self.seen_tasks.append(asyncio.current_task())
        return {}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.seen_tasks.append(asyncio.current_task())
        call = self.plan.get(action.get("do", ""))
        return {} if call is None else (await call(self) or {})

    async def close(self) -> None:
        self.seen_tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        self.closed.set()


@pytest.fixture(autouse=True)
def plan() -> dict[str, Any]:
    Scripted.made.clear()
    Scripted.plan.clear()
    return Scripted.plan


@contextlib.asynccontextmanager
async def started(
    env: Any = Scripted, clock: ManualClock | None = None, **options: Any
) -> AsyncIterator[tuple[Engine, Peer]]:
    engine = make_engine(env, clock=clock, **options)
    peer = Peer(engine)
    begun = await peer.begin()
    assert isinstance(begun, Begun), begun
    yield engine, peer
    await engine.aclose()


async def test_one_task_builds_calls_and_closes() -> None:
    async with started() as (engine, peer):
        assert isinstance(await peer.stepped(2, {}), Observation)
        peer.send(State(1, 3), Close(1, 4))
        busy_or_state, closed = await peer.next(), await peer.next()
        del busy_or_state
        assert isinstance(closed, Closed | StateIs)
    [env] = Scripted.made
    assert len(set(env.seen_tasks)) == 1
    assert env.seen_tasks[0] is not asyncio.current_task()
    assert env.closed.is_set()
    assert not engine.sessions


async def test_an_environment_may_hold_a_task_group_across_calls(plan: dict[str, Any]) -> None:
    seen: list[int] = []

    class Holding(Scripted):
        async def reset(self) -> dict[str, Any]:
            self.queue: asyncio.Queue[int] = asyncio.Queue()
            await self.group.__aenter__()
            self.worker = self.group.create_task(self.work())
            return {}

        async def work(self) -> None:
            while True:
                seen.append(await self.queue.get())

        async def step(self, action: dict[str, Any]) -> dict[str, Any]:
            if action.get("hang"):
                await asyncio.Event().wait()
            await self.queue.put(action["n"])
            await asyncio.sleep(0)
            return {}

        async def close(self) -> None:
            self.worker.cancel()
            await self.group.__aexit__(None, None, None)
            self.closed.set()

    async with started(Holding) as (_, peer):
        await peer.stepped(2, {"n": 1})
        peer.step(3, {"hang": 1}, ack=2)
        await settle()
        peer.send(Cancel(1, 3))
        assert (await peer.next()).code == "cancelled"
        await peer.stepped(4, {"n": 2})
    assert Scripted.made[0].closed.is_set()
    assert seen == [1, 2]


async def test_context_variables_last_from_call_to_call(plan: dict[str, Any]) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def count(env: Any) -> dict[str, Any]:
        variable.set(variable.get() + 1)
        return {"n": variable.get()}

    plan["count"] = count
    async with started() as (_, peer):
        for number in (1, 2, 3):
            reply = await peer.stepped(number + 1, {"do": "count"})
            assert unpack(reply.payload) == {"n": number}
    assert variable.get() == 0


async def test_a_cancel_stops_the_call_and_nothing_of_it_stays(plan: dict[str, Any]) -> None:
    async def hang(env: Any) -> None:
        await asyncio.Event().wait()

    async def look(env: Any) -> dict[str, Any]:
        task = asyncio.current_task()
        assert task is not None
        await asyncio.sleep(0)  # would be cancelled by what was left
        return {"cancelling": task.cancelling()}

    plan.update(hang=hang, look=look)
    async with started() as (_, peer):
        seq = 2
        for _ in range(3):
            peer.step(seq, {"do": "hang"})
            await settle()
            peer.send(Cancel(1, seq), Cancel(1, seq))
            assert (await peer.next()).code == "cancelled"
            reply = await peer.stepped(seq + 1, {"do": "look"})
            assert unpack(reply.payload) == {"cancelling": 0}
            seq += 2


async def test_a_cancel_in_the_message_of_its_request(plan: dict[str, Any]) -> None:
    """It came before the task had taken the request, ended the task, and nobody was answered."""

    async def hang(env: Any) -> None:
        await asyncio.Event().wait()

    plan["hang"] = hang
    async with started() as (_, peer):
        peer.send(Step(1, 2, 0, pack({"do": "hang"})), Cancel(1, 2), Step(1, 3, 0, pack({})))
        first, second = await peer.next(), await peer.next()
        assert (first.seq, first.code) == (2, "cancelled")
        assert isinstance(second, Observation)


async def test_a_close_in_the_message_of_its_request(plan: dict[str, Any]) -> None:
    async with started() as (engine, peer):
        peer.send(Step(1, 2, 0, pack({})), Close(1, 3))
        first, second = await peer.next(), await peer.next()
        assert (first.seq, first.code) == (2, "cancelled")
        assert second == Closed(1, 3)
        assert not engine.sessions
    assert Scripted.made[0].closed.is_set()


async def test_an_environment_that_finishes_on_cancellation(plan: dict[str, Any]) -> None:
    """What it returns after having caught the cancellation is its result."""

    async def finish(env: Any) -> dict[str, Any]:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return {"saved": True}
        return {}

    plan["finish"] = finish
    async with started() as (_, peer):
        peer.step(2, {"do": "finish"})
        await settle()
        peer.send(Cancel(1, 2))
        assert unpack((await peer.next()).payload) == {"saved": True}
        assert isinstance(await peer.stepped(3, {}), Observation)


async def test_a_cancelled_task_of_the_environments_own(plan: dict[str, Any]) -> None:
    """Nobody asked for it, so it is the environment's error; it used to end the session's task."""

    async def fails(env: Any) -> None:
        inner = asyncio.ensure_future(asyncio.Event().wait())
        asyncio.get_running_loop().call_soon(inner.cancel)
        await inner

    plan["fails"] = fails
    async with started() as (_, peer):
        reply = await peer.stepped(2, {"do": "fails"})
        assert reply.code == "environment_raised"
        assert peer.detail(reply)["raised"] == "CancelledError"
        assert isinstance(await peer.stepped(3, {}), Observation)


class Panic(BaseException):
    """What an extension module may raise."""


async def test_what_is_no_exception_is_an_error_too(plan: dict[str, Any]) -> None:
    async def panic(env: Any) -> None:
        raise Panic("in Rust")

    plan["panic"] = panic
    async with started() as (_, peer):
        reply = await peer.stepped(2, {"do": "panic"})
        assert peer.detail(reply)["raised"] == "Panic"
        assert isinstance(await peer.stepped(3, {}), Observation)


async def test_a_deadline_stops_the_call(plan: dict[str, Any]) -> None:
    async def hang(env: Any) -> None:
        await asyncio.Event().wait()

    plan["hang"] = hang
    clock = ManualClock()
    async with started(clock=clock) as (engine, peer):
        peer.step(2, {"do": "hang"}, timeout=5.0)
        await settle()
        clock.advance(5.1)
        reply = await peer.next()
        assert reply.code == "deadline_exceeded"
        assert isinstance(await peer.stepped(3, {}), Observation)
        assert len(engine.sessions) == 1


async def test_a_call_that_ignores_its_deadline_is_given_up_and_closed_when_it_ends(
    plan: dict[str, Any],
) -> None:
    release = asyncio.Event()

    async def stubborn(env: Any) -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    plan["stubborn"] = stubborn
    clock = ManualClock()
    async with started(clock=clock) as (engine, peer):
        peer.step(2, {"do": "stubborn"}, timeout=5.0)
        await settle()
        clock.advance(6.0)
        first, second = await peer.next(), await peer.next()
        assert (first.seq, first.code) == (2, "deadline_exceeded")
        assert (second.seq, second.code) == (0, "session_closed")
        assert not engine.sessions
        await peer.open(2)
        env = Scripted.made[0]
        assert not env.closed.is_set()
        release.set()
        async with asyncio.timeout(10):
            await env.closed.wait()
        assert peer.take() == []


async def test_closing_the_engine_ends_every_task(plan: dict[str, Any]) -> None:
    release = asyncio.Event()

    async def stubborn(env: Any) -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    plan["stubborn"] = stubborn
    before = asyncio.all_tasks()
    async with started(close_grace=0.05) as (_, peer):
        peer.step(2, {"do": "stubborn"}, timeout=0)
        await settle()
        asyncio.get_running_loop().call_later(0.2, release.set)
    assert asyncio.all_tasks() == before


async def test_close_is_called_once(plan: dict[str, Any]) -> None:
    calls: list[int] = []

    class Once(Scripted):
        async def close(self) -> None:
            calls.append(1)
            raise RuntimeError("close failed")

    engine = make_engine(Once)
    peer = Peer(engine)
    await peer.begin()
    peer.send(Close(1, 2))
    reply = await peer.next()
    assert isinstance(reply, Failed)
    assert reply.code == "environment_raised"
    assert not engine.sessions
    await engine.aclose()
    assert calls == [1]


async def test_a_stream_waits_for_credit_and_is_cancelled_while_it_waits() -> None:
    engine = make_engine(ConformanceEnvironment)
    peer = Peer(engine)
    await peer.begin()
    peer.step(2, {"command": "stream", "count": 5}, credit=2)
    seen = [await peer.next(), await peer.next()]
    await settle(20)
    assert peer.take() == []
    peer.send(Credit(1, 2, 1))
    seen.append(await peer.next())
    await settle(20)
    assert peer.take() == []
    assert all(isinstance(frame, Partial) for frame in seen)
    peer.send(Cancel(1, 2))
    assert (await peer.next()).code == "cancelled"
    peer.send(State(1, 3))
    state = await peer.next()
    assert unpack(state.payload)["cancelled"] == 1
    await engine.aclose()


async def test_open_failures() -> None:
    class Unbuildable(Scripted):
        def __init__(self) -> None:
            raise OSError("no licence")

    engine = make_engine(Unbuildable)
    peer = Peer(engine)
    reply = await peer.open()
    assert reply.code == "environment_start_failed"
    assert not engine.sessions
    opened = await peer.open(1)
    assert opened.code == "environment_start_failed"  # the channel was free again
    await engine.aclose()


async def test_two_loops() -> None:
    engine = make_engine(Scripted)
    peer = Peer(engine)
    assert isinstance(await peer.open(), Opened)

    def elsewhere() -> None:
        async def use() -> None:
            with pytest.raises(RuntimeError, match="another event loop"):
                engine.open(None, None)  # type: ignore[arg-type]  # it does not get that far

        asyncio.run(use())

    await asyncio.to_thread(elsewhere)
    await engine.aclose()
    await engine.aclose()


async def test_an_engine_that_never_ran_can_be_closed() -> None:
    await Engine(make_engine(Scripted).spec).aclose()


async def test_parked_sessions_go_on(plan: dict[str, Any]) -> None:
    release = asyncio.Event()

    async def wait(env: Any) -> dict[str, Any]:
        await release.wait()
        return {"done": 1}

    plan["wait"] = wait
    async with started(timeouts=Timeouts(resume=30.0)) as (engine, peer):
        peer.step(2, {"do": "wait"})
        peer.connection.lost()
        release.set()
        session = engine.sessions[token(1)]
        await until(lambda: session.current is None)
        other = Peer(engine)
        opened = await other.open(1, resume=True)
        assert opened == Opened(1, True, 2)
        other.step(2, {"do": "wait"})
        assert unpack((await other.next()).payload) == {"done": 1}


# -- openings, on a loop that the test moves --------------------------------------------------


def opening(executor: TaskExecutor) -> LooseCall:
    """One more session that waits to be built."""
    call = LooseCall(Scripted, executor)
    call.slot = _Slot(asyncio.get_running_loop().create_future())
    executor._openings.append((call, Open(1, token(1), token(2))))
    return call


def is_handed(call: LooseCall) -> bool:
    slot: Any = call.slot
    return bool(slot.inbox.done())


async def test_sessions_are_built_one_in_a_turn() -> None:
    loop = HandLoop()
    any_loop: Any = loop
    executor = TaskExecutor(any_loop)
    calls = [opening(executor) for _ in range(3)]

    def built() -> list[bool]:
        return [is_handed(call) for call in calls]

    executor._open_next()
    assert (built(), executor._is_opening) == ([True, False, False], True)
    assert loop.turn() == 1
    assert built() == [True, True, False]
    calls[2].dead = SessionClosed("it was abandoned meanwhile")
    calls.append(opening(executor))
    assert loop.turn() == 1
    assert built() == [True, True, False, True]
    assert loop.turn() == 1
    assert (executor._is_opening, loop.soon, loop.timers) == (False, [], [])


@pytest.mark.parametrize(
    ("cost", "pause"), [(0.0009, None), (0.001, 0.00025), (0.04, 0.01), (1.0, 0.05)]
)
async def test_a_pause_follows_what_took_long_to_build(cost: float, pause: float | None) -> None:
    loop = HandLoop()
    any_loop: Any = loop
    loop.now = 0.0  # so that sums with it are exact
    executor = TaskExecutor(any_loop)
    _, second = opening(executor), opening(executor)
    executor._open_next()
    loop.now = cost
    loop.turn()
    assert is_handed(second) == (pause is None)
    if pause is not None:
        assert loop.later() == [pytest.approx(pause)]
        assert is_handed(second)
    loop.now = 9.0
    loop.turn()
    assert loop.timers == []  # nothing waits for a pause


# -- what a small change would break ------------------------------------------------------------


async def test_credit_that_comes_twice_at_once_is_no_harm() -> None:
    engine = make_engine(ConformanceEnvironment)
    peer = Peer(engine)
    await peer.begin()
    peer.step(2, {"command": "stream", "count": 4}, credit=1)
    seen = [await peer.next()]
    await settle(20)
    peer.send(Credit(1, 2, 1), Credit(1, 2, 1))
    seen += [await peer.next(), await peer.next()]
    await settle(20)
    assert peer.take() == []
    peer.send(Credit(1, 2, 5))
    seen += [await peer.next(), await peer.next()]
    assert [type(frame) for frame in seen] == [Partial] * 4 + [Observation]
    peer.send(Credit(1, 2, 5))  # nothing streams any more
    assert isinstance(await peer.stepped(3, {"command": "echo"}), Observation)
    await engine.aclose()


async def test_calls_that_do_not_stop_are_counted_until_they_end(plan: dict[str, Any]) -> None:
    release = asyncio.Event()

    async def stubborn(env: Any) -> None:
        while not release.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await release.wait()

    plan["stubborn"] = stubborn
    clock = ManualClock()
    async with started(clock=clock) as (engine, peer):
        executor = engine._executor
        assert isinstance(executor, TaskExecutor)
        assert executor.stuck == 0
        peer.step(2, {"do": "stubborn"}, timeout=5.0)
        await settle()
        clock.advance(6.0)
        assert (await peer.next()).code == "deadline_exceeded"
        assert executor.stuck == 1
        release.set()
        await until(lambda: not executor.stuck)
        assert executor._tasks == set()
        answers: list[int] = []
        executor.beat(lambda: answers.append(1))
        assert answers == [1]


async def test_an_opening_cannot_be_cancelled_and_what_has_no_task_neither() -> None:
    executor = TaskExecutor(asyncio.get_running_loop())

    class Call:
        slot: Any = None
        current: Any = None

    call: Any = Call()
    executor.credited(call, 1)
    executor.abandon(call)
    assert executor.interrupt(call) is False
    call.slot = _Slot(asyncio.get_running_loop().create_future())
    assert executor.interrupt(call) is False
    task: Any = asyncio.ensure_future(asyncio.Event().wait())
    call.slot.task = task
    call.current = Open(1, token(1), token(2))
    assert executor.interrupt(call) is False
    assert not task.cancelling()
    call.current = None
    assert executor.interrupt(call) is True
    assert task.cancelling() == 1
    await asyncio.wait([task])


async def test_no_session_cancels_the_task_of_another_that_lives() -> None:
    class Call:
        dead: Any = None

    async def sleep() -> None:
        await asyncio.Event().wait()

    mine, other = Call(), Call()
    call: Any = mine
    task = _SessionTask(sleep(), asyncio.get_running_loop(), call)
    by: Any = other

    def cancel() -> bool:
        call_of_task.set(by)
        return task.cancel()

    assert contextvars.copy_context().run(cancel) is False
    assert not task.cancelling()
    assert not task.is_over
    mine.dead = "gone"
    assert contextvars.copy_context().run(cancel) is True
    mine.dead, by = None, mine
    assert contextvars.copy_context().run(cancel) is True
    assert task.cancel() is True  # of no session
    assert task.cancelling() == 3
    await asyncio.wait([task])
