"""The runner: one result for each check, whatever the check raises."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from openenv_async.checks.registry import Check, CheckFailed, Result, Skipped
from openenv_async.checks.runner import Runner
from openenv_async.errors import ConnectFailed, EnvironmentRaised


def raising(error: BaseException | None, name: str = "promise") -> Check:
    async def call(subject: Any) -> None:
        assert subject == "subject"
        if error is not None:
            raise error

    return Check(name, "", call, "behaviour", "look here")


async def result_of(error: BaseException | None) -> Result:
    return await Runner(5.0).run(raising(error), "subject", "server")


async def test_a_check_that_returns_has_passed() -> None:
    assert await result_of(None) == Result("promise", "server", "passed")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (CheckFailed("two  spaces\nand a line"), "two spaces and a line"),
        (TimeoutError("no answer"), "no answer"),
        (ConnectFailed("refused"), "the server is gone: refused"),
        (EnvironmentRaised("broken"), "EnvironmentRaised: broken"),
        (KeyError("field"), "KeyError: 'field'"),
        (ExceptionGroup("tasks", [CheckFailed("the first"), CheckFailed("other")]), "the first"),
    ],
)
async def test_a_check_that_raises_has_failed(error: BaseException, reason: str) -> None:
    assert await result_of(error) == Result("promise", "server", "failed", reason, "look here")


@pytest.mark.parametrize("error", [Skipped("not here"), ExceptionGroup("", [Skipped("not here")])])
async def test_a_check_that_cannot_be_made_is_skipped(error: BaseException) -> None:
    assert await result_of(error) == Result("promise", "server", "skipped", "not here")


async def test_a_check_may_not_take_for_ever() -> None:
    async def call(subject: Any) -> None:
        await asyncio.Event().wait()

    check = Check("promise", "", call, "folder", "be quick")
    result = await Runner(0.01).run(check, None, "folder")
    assert result.reason == "it took more than 0.01 s"
    assert result.remedy == "be quick"


async def test_cancelling_the_runner_is_no_finding() -> None:
    runner = Runner(5.0)
    task = asyncio.create_task(runner.run(raising(asyncio.CancelledError()), "subject", ""))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert runner.results == []


def caused(message: str) -> CheckFailed:
    failure = CheckFailed(f"step() failed: {message}")
    failure.__cause__ = EnvironmentRaised(message)
    return failure


async def test_a_call_that_failed_in_an_earlier_check_is_told_once() -> None:
    runner = Runner(5.0)
    first = await runner.run(raising(caused("broken"), "first"), "subject", "server")
    again = await runner.run(raising(caused("broken"), "again"), "subject", "server")
    other = await runner.run(raising(caused("torn"), "other"), "subject", "server")
    assert first.remedy == "look here"
    assert again.remedy == "mend what first found: the same call failed here"
    assert other.remedy == "look here"


async def test_a_skipped_check_explains_no_later_failure() -> None:
    runner = Runner(5.0)
    runner.skip([raising(None, "first")], "server", "step() failed: broken")
    result = await runner.run(raising(caused("broken"), "second"), "subject", "server")
    assert result.remedy == "look here"


async def test_results_are_kept_and_shown_as_they_come() -> None:
    shown: list[Result] = []
    on_result: Callable[[Result], None] = shown.append
    runner = Runner(5.0, on_result)
    calls: list[Awaitable[Result]] = [runner.run(raising(None), "subject", "http")]
    for call in calls:
        await call
    runner.skip([raising(None, "one"), raising(None, "two")], "folder", "no folder")
    assert [(each.name, each.status, each.reason) for each in shown] == [
        ("promise", "passed", ""),
        ("one", "skipped", "no folder"),
        ("two", "skipped", "no folder"),
    ]
    assert runner.results == shown
