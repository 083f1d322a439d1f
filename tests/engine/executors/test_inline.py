"""Inline calls happen at once; a constructor that computes for long goes to a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from openenv_async import Environment
from openenv_async.engine.executors.inline import InlineExecutor
from openenv_async.engine.executors.threads import COSTLY
from openenv_async.environment import Isolation
from openenv_async.protocol.frames import Begun, Closed, Failed, Observation, Opened
from tests.engine.executors.calls import LooseCall
from tests.helpers import until

Dict = dict[str, Any]


class Quick(Environment[Dict, Dict, Dict]):
    """Notes the threads of its calls; computes for ``cost`` in its constructor."""

    isolation: ClassVar[Isolation | None] = "inline"
    cost: ClassVar[float] = 0.0
    gate: ClassVar[threading.Event | None] = None
    threads: ClassVar[list[int]] = []
    closed: ClassVar[int] = 0

    def __init__(self) -> None:
        type(self).threads.append(threading.get_ident())
        end = time.thread_time() + self.cost
        while time.thread_time() < end:
            pass
        if self.gate is not None and threading.current_thread() is not threading.main_thread():
            self.gate.wait(10)

    def reset(self) -> Dict:
        return {}

    def step(self, action: Dict) -> Dict:
        if action.get("fail"):
            raise KeyboardInterrupt
        return {}

    def close(self) -> None:
        type(self).closed += 1


class Costly(Quick):
    cost = 4 * COSTLY


class CostlyAtHome(Costly):
    """Wants its constructor on the thread of its calls."""

    thread_safe: ClassVar[bool] = False


class CostlyOwner(Costly):
    owns_thread: ClassVar[bool] = True


@pytest.fixture(autouse=True)
def fresh() -> None:
    for cls in (Quick, Costly, CostlyAtHome, CostlyOwner):
        cls.threads, cls.closed = [], 0
        cls.gate = None


@pytest.fixture
async def executors() -> AsyncIterator[Any]:
    made: list[InlineExecutor] = []

    def make(cls: Any) -> InlineExecutor:
        made.append(InlineExecutor(asyncio.get_running_loop(), 4, cls))
        return made[-1]

    yield make
    for executor in made:
        await executor.aclose()


async def replied(call: LooseCall) -> None:
    await until(lambda: bool(call.replies))


async def test_calls_are_answered_before_start_returns(executors: Any) -> None:
    call = LooseCall(Quick, executors(Quick))
    call.open()
    assert isinstance(call.take(), Opened)
    call.reset()
    assert isinstance(call.take(), Begun)
    call.step({})
    assert isinstance(call.take(), Observation)
    call.step({"fail": True})  # what ends programs is the environment's failure here
    assert call.take().code == "environment_raised"
    call.close()
    assert isinstance(call.take(), Closed)
    assert Quick.threads == [threading.get_ident()]
    assert call.watched == []


async def test_an_exception_that_the_runner_lets_through_is_answered(executors: Any) -> None:
    class Broken:
        spec, raised = None, None

        def handle(self, request: Any, codecs: Any) -> Any:
            raise KeyboardInterrupt

    call = LooseCall(Quick, executors(Quick))
    broken: Any = Broken()
    broken.raised = call.runner.raised
    call.runner = broken
    call.open()
    assert "KeyboardInterrupt" in call.take().message
    call.reset()
    assert "KeyboardInterrupt" in call.take().message


async def test_after_a_costly_constructor_the_next_runs_in_a_thread(executors: Any) -> None:
    executor = executors(Costly)
    first, second, third = (LooseCall(Costly, executor) for _ in range(3))
    first.open()
    assert isinstance(first.take(), Opened)
    assert first.watched == []
    second.open()
    assert second.replies == []
    assert second.watched == [second.current]
    await until(lambda: bool(second.replies))
    assert isinstance(second.take(), Opened)
    third.open()
    await until(lambda: bool(third.replies))
    here = threading.get_ident()
    assert Costly.threads[0] == here
    assert here not in Costly.threads[1:]
    second.reset()
    assert isinstance(second.take(), Begun)  # its other calls are on the loop


async def test_a_constructor_that_became_cheap_returns_to_the_loop(executors: Any) -> None:
    executor = executors(Costly)
    LooseCall(Costly, executor).open()
    Costly.cost = 0.0
    try:
        for _ in range(2):  # in threads, where it is found to be cheap
            call = LooseCall(Costly, executor)
            call.open()
            await replied(call)
        call = LooseCall(Costly, executor)
        call.open()
        assert isinstance(call.take(), Opened)
        assert Costly.threads[-1] == threading.get_ident()
    finally:
        Costly.cost = 4 * COSTLY


@pytest.mark.parametrize("cls", [CostlyAtHome, CostlyOwner])
async def test_a_class_that_needs_one_thread_is_constructed_on_it(executors: Any, cls: Any) -> None:
    executor = executors(cls)
    for _ in range(2):
        call = LooseCall(cls, executor)
        call.open()
        assert isinstance(call.take(), Opened)
    assert set(cls.threads) == {threading.get_ident()}


async def test_a_cheap_class_is_constructed_on_the_loop(executors: Any) -> None:
    executor = executors(Quick)
    for _ in range(3):
        call = LooseCall(Quick, executor)
        call.open()
        assert isinstance(call.take(), Opened)


async def test_an_opening_that_no_thread_has_begun_can_be_taken_back(executors: Any) -> None:
    executor = executors(Costly)
    LooseCall(Costly, executor).open()
    call = LooseCall(Costly, executor)
    assert executor.interrupt(call) is False  # nothing runs
    call.open()
    assert executor.interrupt(call) is True
    await until(lambda: bool(call.replies))
    assert isinstance(call.take(), Failed)
    assert len(Costly.threads) == 1
    assert executor.interrupt(call) is False


async def test_an_abandoned_opening_closes_its_environment(executors: Any) -> None:
    executor = executors(Costly)
    LooseCall(Costly, executor).open()
    Costly.gate = threading.Event()
    call = LooseCall(Costly, executor)
    executor.abandon(call)  # nothing to abandon
    call.open()
    await until(lambda: len(Costly.threads) == 2)
    assert executor.interrupt(call) is False  # it has begun
    executor.abandon(call)
    Costly.gate.set()
    await until(lambda: Costly.closed == 1)
    assert call.replies == []


async def test_a_request_that_is_no_opening_is_never_interrupted(executors: Any) -> None:
    executor = executors(Costly)
    LooseCall(Costly, executor).open()
    call = LooseCall(Costly, executor)
    call.open()
    await until(lambda: bool(call.replies))
    call.take()
    call.reset()
    assert executor.interrupt(call) is False
    executor.abandon(call)
    executor.leave(call)
    executor.credited(call, 1)
    call.step({})
    await asyncio.sleep(0.02)
    assert Costly.closed == 0
