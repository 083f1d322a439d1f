"""A request that comes from the reader wakes its session's task at once, whatever the task is at.

The reader is a callback of the loop, not a task; so are the calls here that go through
``from_reader``. The tests of ``test_tasks`` send from their own task, and so through the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import itertools
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar, TypeVar

import pytest

from openenv_async import Environment
from openenv_async.engine import Engine
from openenv_async.engine.executors.tasks import _Slot, call_of_task
from openenv_async.protocol.frames import (
    Begun,
    Cancel,
    Close,
    Closed,
    Observation,
    Open,
    Reset,
    Step,
)
from openenv_async.testing import ManualClock
from tests.helpers import Peer, make_engine, pack, settle, token, unpack

T = TypeVar("T")


class Scripted(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Steps run what the test put into ``plan``."""

    made: ClassVar[list[Scripted]] = []
    plan: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        self.task = asyncio.current_task()
        self.is_closed = False
        self.made.append(self)

    async def reset(self) -> dict[str, Any]:
        return {}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        assert asyncio.current_task() is self.task
        call = self.plan.get(action.get("do", ""))
        return dict(action) if call is None else (await call(self) or {})

    async def close(self) -> None:
        assert asyncio.current_task() is self.task
        self.is_closed = True


@pytest.fixture(autouse=True)
def plan() -> dict[str, Any]:
    Scripted.made.clear()
    Scripted.plan.clear()
    return Scripted.plan


async def from_reader(call: Callable[[], T]) -> T:
    """Return what ``call`` returns in a callback of the loop, where no task is the current one."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        assert asyncio.current_task() is None
        try:
            done.set_result(call())
        except BaseException as exc:
            done.set_exception(exc)

    loop.call_soon(run)
    return await done


async def answers(peer: Peer, *frames: Any) -> list[Any]:
    """The frames that answer a message before its reader gives the loop back."""

    def send() -> list[Any]:
        peer.send(*frames)
        return peer.take()

    return await from_reader(send)


@contextlib.asynccontextmanager
async def started(
    sessions: int = 1, clock: ManualClock | None = None, **options: Any
) -> AsyncIterator[tuple[Engine, Peer]]:
    engine = make_engine(Scripted, clock=clock, **options)
    peer = Peer(engine)
    for number in range(1, sessions + 1):
        assert isinstance(await peer.begin(number), Begun)
    yield engine, peer
    await engine.aclose()


def step(seq: int, action: Any, channel: int = 1, **fields: Any) -> Step:
    return Step(channel, seq, seq - 1, pack(action), **fields)


async def test_steps_that_wait_for_nothing_are_answered_with_their_message() -> None:
    async with started(sessions=50) as (_, peer):
        asked = [step(2, {"n": number}, channel=number) for number in range(1, 51)]
        replies = await answers(peer, *asked)
        assert [(reply.channel, unpack(reply.payload)["n"]) for reply in replies] == [
            (number, number) for number in range(1, 51)
        ]
        assert isinstance(await answers(peer, Close(1, 3)), list)


async def test_every_kind_of_request_is_answered_so() -> None:
    async with started() as (engine, peer):
        [begun] = await answers(peer, Reset(1, 2, 1))
        [observed] = await answers(peer, step(3, {"n": 1}))
        [closed] = await answers(peer, Close(1, 4))
        assert [type(each) for each in (begun, observed, closed)] == [Begun, Observation, Closed]
        assert Scripted.made[0].is_closed
        assert not engine.sessions


async def test_what_waits_is_answered_later_and_others_are_not_held_up(
    plan: dict[str, Any],
) -> None:
    gates = [asyncio.Event() for _ in range(3)]

    async def wait(env: Scripted) -> dict[str, Any]:
        number = Scripted.made.index(env)
        await gates[number].wait()
        return {"n": number}

    plan["wait"] = wait
    async with started(sessions=3) as (_, peer):
        assert await answers(peer, *(step(2, {"do": "wait"}, n) for n in (1, 2, 3))) == []
        for number in (2, 0, 1):
            gates[number].set()
            reply = await peer.next()
            assert (reply.channel, unpack(reply.payload)) == (number + 1, {"n": number})


async def test_a_session_keeps_its_context_and_the_reader_its_own(plan: dict[str, Any]) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    async def count(env: Any) -> dict[str, Any]:
        variable.set(variable.get() + 1)
        return {"n": variable.get(), "session": call_of_task.get().id[-1]}

    plan["count"] = count
    async with started(sessions=2) as (_, peer):
        seen = []
        for seq in (2, 3):
            replies = await answers(
                peer, step(seq, {"do": "count"}, 1), step(seq, {"do": "count"}, 2)
            )
            seen += [unpack(reply.payload) for reply in replies]
        assert [each["n"] for each in seen] == [1, 1, 2, 2]
        assert [each["session"] for each in seen] == [token(1)[-1], token(2)[-1]] * 2
    assert variable.get() == 0
    with pytest.raises(LookupError):
        await from_reader(lambda: call_of_task.get())


async def test_an_exception_is_the_reply_and_the_reader_goes_on(plan: dict[str, Any]) -> None:
    class Panic(BaseException):
        pass

    async def fail(env: Any) -> None:
        raise Panic("in the first slice")

    plan["fail"] = fail
    async with started(sessions=2) as (_, peer):
        failed, fine = await answers(peer, step(2, {"do": "fail"}, 1), step(2, {}, 2))
        assert failed.code == "environment_raised"
        assert isinstance(fine, Observation)
        assert [type(each) for each in await answers(peer, step(3, {}))] == [Observation]


# -- cancellation in each state -------------------------------------------------------------------


async def hang(env: Any) -> None:
    await asyncio.Event().wait()


async def test_a_cancel_right_behind_its_request_finds_the_call_running(
    plan: dict[str, Any],
) -> None:
    seen: list[str] = []

    async def tidy(env: Any) -> None:
        seen.append("began")
        try:
            await hang(env)
        finally:
            seen.append("ended")

    plan["tidy"] = tidy
    async with started() as (_, peer):
        await answers(peer, step(2, {"do": "tidy"}), Cancel(1, 2))
        assert (await peer.next()).code == "cancelled"
        assert seen == ["began", "ended"]
        assert len(await answers(peer, step(3, {}))) == 1


async def test_a_cancel_of_what_is_answered_is_nothing() -> None:
    async with started() as (_, peer):
        replies = await answers(peer, step(2, {}), Cancel(1, 2), step(3, {}))
        assert [type(reply) for reply in replies] == [Observation, Observation]


async def test_a_close_behind_a_running_step_stops_it(plan: dict[str, Any]) -> None:
    plan["hang"] = hang
    async with started() as (engine, peer):
        assert await answers(peer, step(2, {"do": "hang"}), Close(1, 3)) == []
        assert (await peer.next()).code == "cancelled"
        assert isinstance(await peer.next(), Closed)
        assert not engine.sessions
        assert Scripted.made[0].is_closed


async def test_an_idle_task_that_its_environment_cancels_goes_on() -> None:
    """Cancelled before the request, in its loop turn, and with one on its way through the loop."""
    async with started() as (_, peer):
        task = Scripted.made[0].task
        assert task is not None
        task.cancel()
        await settle()
        assert len(await answers(peer, step(2, {}))) == 1

        def both() -> list[Any]:
            task.cancel()
            peer.send(step(3, {}))
            return peer.take()

        assert await from_reader(both) == []  # it is being woken already
        assert isinstance(await peer.next(), Observation)
        peer.send(step(4, {}))  # from this task, so through the loop
        task.cancel()
        assert isinstance(await peer.next(), Observation)
        assert task.cancelling() == 0


async def test_a_cancel_frame_while_the_request_goes_through_the_loop(
    plan: dict[str, Any],
) -> None:
    plan["hang"] = hang
    async with started() as (_, peer):
        peer.send(step(2, {"do": "hang"}), Cancel(1, 2))
        assert (await peer.next()).code == "cancelled"
        [reply] = await answers(peer, step(3, {"n": 3}))
        assert unpack(reply.payload) == {"n": 3}  # and not the request that was cancelled


async def test_a_deadline_stops_a_call_that_began_in_the_reader(plan: dict[str, Any]) -> None:
    plan["hang"] = hang
    clock = ManualClock()
    async with started(clock=clock) as (_, peer):
        assert await answers(peer, step(2, {"do": "hang"}, timeout=5.0)) == []
        clock.advance(5.1)
        assert (await peer.next()).code == "deadline_exceeded"
        assert len(await answers(peer, step(3, {}))) == 1


async def test_closing_the_engine_ends_tasks_that_wait_for_a_request() -> None:
    before = asyncio.all_tasks()
    async with started(sessions=3) as (_, peer):
        await answers(peer, step(2, {}))
        assert len(asyncio.all_tasks()) > len(before)
    assert asyncio.all_tasks() == before
    assert all(env.is_closed for env in Scripted.made)


# -- nested delivery, fairness, what is left ------------------------------------------------------


async def test_a_step_that_steps_another_session_waits_its_turn(plan: dict[str, Any]) -> None:
    """Inside an environment its own task is the current one: the other is woken by the loop."""
    inner = make_engine(Scripted)
    other = Peer(inner)
    await other.begin()

    async def nested(env: Any) -> dict[str, Any]:
        other.send(step(2, {"n": 7}))
        assert other.take() == []
        reply = await other.next()
        return {"inner": unpack(reply.payload)["n"]}

    plan["nested"] = nested
    async with started() as (_, peer):
        assert await answers(peer, step(2, {"do": "nested"})) == []
        assert unpack((await peer.next()).payload) == {"inner": 7}
    await inner.aclose()


async def test_requests_that_wait_for_a_cancelled_call_come_after_it(plan: dict[str, Any]) -> None:
    plan["hang"] = hang
    async with started() as (_, peer):
        assert await answers(peer, step(2, {"do": "hang"}), Cancel(1, 2), step(3, {"n": 3})) == []
        first, second = await peer.next(), await peer.next()
        assert (first.seq, first.code) == (2, "cancelled")
        assert (second.seq, unpack(second.payload)) == (3, {"n": 3})


async def test_a_call_that_yields_lets_the_rest_of_a_large_message_begin(
    plan: dict[str, Any],
) -> None:
    """No session runs twice before the last of the message has run once."""
    order: list[int] = []

    async def turns(env: Scripted) -> None:
        for _ in range(3):
            order.append(Scripted.made.index(env))
            await asyncio.sleep(0)

    plan["turns"] = turns
    async with started(sessions=40) as (_, peer):
        await answers(peer, *(step(2, {"do": "turns"}, n) for n in range(1, 41)))
        for _ in range(40):
            assert isinstance(await peer.next(), Observation)
    assert order == [*range(40)] * 3


async def test_the_openings_that_wait_are_built_one_in_a_turn_of_the_loop() -> None:
    engine = make_engine(Scripted)
    peer = Peer(engine)
    opens = [Open(number, token(number), token(number + 1000)) for number in (1, 2, 3)]
    await answers(peer, *opens)
    built = [len(Scripted.made)]
    while len(Scripted.made) < 3:
        await asyncio.sleep(0)
        built.append(len(Scripted.made))
    assert all(after - before <= 1 for before, after in itertools.pairwise(built))
    await engine.aclose()


async def test_nothing_of_a_session_stays_when_it_is_closed() -> None:
    async with started() as (_, peer):
        env = weakref.ref(Scripted.made.pop())
        assert isinstance((await answers(peer, Close(1, 2)))[0], Closed)
    gc.collect()
    assert env() is None


# -- the task's own wake-up -----------------------------------------------------------------------


async def test_a_session_whose_task_tells_no_wake_up_goes_through_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing of asyncio's own is relied on: without it a request takes one turn more."""
    monkeypatch.setattr(_Slot, "learn_wake", lambda slot: None)
    async with started() as (_, peer):
        assert await answers(peer, step(2, {"n": 2})) == []
        assert unpack((await peer.next()).payload) == {"n": 2}
        assert isinstance(await peer.stepped(3, {}), Observation)


async def test_the_wake_up_of_a_task_is_the_same_for_every_future() -> None:
    async with started() as (engine, peer):
        await answers(peer, step(2, {}))
        session = engine.sessions[token(1)]
        slot: Any = session.slot
        first = slot.wake
        assert first is not None
        for seq in range(3, 6):
            assert len(await answers(peer, step(seq, {}))) == 1
            [(wake, context)] = slot.inbox._callbacks
            assert (wake, context) == (first, slot.context)
