"""Removing containers: each once, to its end."""

from __future__ import annotations

import asyncio
import logging

import pytest

from openenv_async.errors import ProviderError
from openenv_async.providers.docker.removals import Removals
from tests.providers.docker.fake_engine import FakeEngine


class Told:
    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.gone: list[str] = []
        self.suspected = 0
        self.removals = Removals(self.engine.client(), self.gone.append, self.suspect)

    def suspect(self) -> None:
        self.suspected += 1


async def test_a_container_is_removed_once() -> None:
    told = Told()
    told.engine.held.clear()
    told.removals.begin("a")
    told.removals.begin("a")
    assert "a" in told.removals
    assert "b" not in told.removals
    told.engine.held.set()
    await told.removals.end("a")
    assert (told.engine.removed, told.gone, told.suspected) == (["a"], ["a"], 0)
    await asyncio.sleep(0)
    assert "a" not in told.removals
    await told.removals.end("a")


async def test_all_are_waited_for() -> None:
    told = Told()
    for name in "abc":
        told.removals.begin(name)
    await told.removals.all()
    assert sorted(told.gone) == ["a", "b", "c"]


async def test_one_that_cannot_be_removed_is_logged_and_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = Told()
    told.engine.failure = ProviderError("no answer")
    with caplog.at_level(logging.ERROR):
        told.removals.begin("a")
        await told.removals.end("a")
    assert told.gone == ["a"]
    assert "the container a could not be removed: no answer" in caplog.text


async def test_the_answer_to_create_is_waited_for() -> None:
    told = Told()
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    creating = asyncio.ensure_future(asyncio.wait_for(answer, None))
    told.removals.begin("a", creating)
    for _ in range(5):
        await asyncio.sleep(0)
    assert told.engine.removed == []
    answer.set_result("id")
    await told.removals.end("a")
    assert (told.engine.removed, told.suspected) == (["a"], 0)


@pytest.mark.parametrize("end", ["cancel", "error"])
async def test_a_container_may_still_appear_when_create_was_not_answered(end: str) -> None:
    told = Told()
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def create() -> str:
        return await answer

    creating = asyncio.create_task(create())
    await asyncio.sleep(0)
    if end == "cancel":
        creating.cancel()
    else:
        answer.set_exception(ProviderError("lost"))
    told.removals.begin("a", creating)
    await told.removals.end("a")
    assert (told.gone, told.suspected) == (["a"], 1)


async def test_a_cancelled_caller_does_not_stop_it() -> None:
    told = Told()
    told.engine.held.clear()
    told.removals.begin("a")
    caller = asyncio.create_task(told.removals.end("a"))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done(), "it waits for the removal all the same"
    told.engine.held.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert told.engine.removed == ["a"]


async def test_a_removal_that_is_cancelled_tries_once_more() -> None:
    told = Told()
    told.engine.held.clear()
    told.removals.begin("a")
    await asyncio.sleep(0)
    [task] = told.removals._tasks.values()
    task.cancel()
    await asyncio.sleep(0)
    told.engine.held.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (told.engine.removed, told.gone) == (["a"], ["a"])
