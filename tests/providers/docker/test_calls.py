"""Calls to an Engine: deadlines, further attempts, the breaker."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from aiodocker import DockerError

from openenv_async.providers.docker import calls as module
from openenv_async.providers.docker.calls import (
    Breaker,
    Calls,
    EngineError,
    NoSuchContainer,
    NoSuchImage,
)


def test_the_breaker_holds_after_many_failures_in_a_row() -> None:
    breaker = Breaker(failures=3, pause=1.0, longest=4.0)
    for now in (0.0, 0.0):
        breaker.failed(now)
    breaker.succeeded()
    for _ in range(3):
        assert breaker.hold(0.0) == 0.0
        breaker.failed(0.0)
    assert breaker.hold(0.0) == 1.0
    assert breaker.hold(1.0) == 0.0
    for hold, begun in ((2.0, 1.0), (4.0, 3.0), (4.0, 7.0)):
        for _ in range(3):
            breaker.failed(begun)
        assert breaker.hold(begun) == hold
    breaker.succeeded()
    assert breaker.hold(7.0) == 0.0


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_PAUSE", 0.0001)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.0002)
    monkeypatch.setattr(random, "uniform", lambda low, high: high)


def calls(max_calls: int = 4) -> Calls:
    return Calls(
        lambda cause: "nobody answers",
        max_calls=max_calls,
        redact=lambda text: text.replace("secret", "***"),
    )


class Script:
    """An Engine's answers, one for each attempt; the last for all that follow."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.attempts = 0

    async def __call__(self) -> object:
        answer = self.answers[min(self.attempts, len(self.answers) - 1)]
        self.attempts += 1
        if isinstance(answer, BaseException):
            raise answer
        if answer == "hang":
            await asyncio.Event().wait()
        return answer


@pytest.mark.parametrize("status", [409, 429, 500, 502, 503, 504])
async def test_a_transient_failure_is_tried_again(status: int) -> None:
    script = Script(DockerError(status, "busy"), ConnectionResetError(), "hang", "done")
    assert await calls().do("look", script, 10.0, attempt=0.05) == "done"
    assert script.attempts == 4


@pytest.mark.parametrize("status", [400, 401, 403, 501])
async def test_another_refusal_is_final(status: int) -> None:
    script = Script(DockerError(status, "no\n secret"))
    with pytest.raises(EngineError, match=r"^could not look: no \*\*\*$") as caught:
        await calls().do("look", script, 10.0)
    assert script.attempts == 1
    assert not caught.value.retryable


@pytest.mark.parametrize("words", module._FOR_GOOD)
async def test_a_start_that_would_fail_again_is_not_tried_again(words: str) -> None:
    script = Script(DockerError(500, f"OCI: {words.upper()}"))
    with pytest.raises(EngineError):
        await calls().do("start it", script, 10.0)
    assert script.attempts == 1


async def test_a_404_is_what_the_caller_says() -> None:
    for missing in (NoSuchContainer, NoSuchImage):
        with pytest.raises(missing, match="could not look: gone"):
            await calls().do("look", Script(DockerError(404, "gone")), 10.0, missing=missing)


async def test_there_are_twelve_attempts() -> None:
    script = Script(DockerError(500, "busy"))
    with pytest.raises(EngineError, match="could not look: busy"):
        await calls().do("look", script, 10.0)
    assert script.attempts == 12


async def test_a_lost_connection_says_so() -> None:
    with pytest.raises(EngineError, match=r"broke off \(ConnectionResetError\)") as caught:
        await calls().do("look", Script(ConnectionResetError()), 10.0)
    assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_an_engine_that_does_not_answer_in_time() -> None:
    with pytest.raises(EngineError, match="did not answer in time"):
        await calls().do("look", Script("hang"), 0.05, attempt=0.02)


async def test_what_is_not_wanted_any_more_is_not_tried_again() -> None:
    script = Script(DockerError(500, "busy"))
    with pytest.raises(EngineError):
        await calls().do("create", script, 10.0, wanted=lambda: script.attempts < 3)
    assert script.attempts == 3


async def test_few_calls_at_once() -> None:
    made, going, most = calls(max_calls=2), 0, 0

    async def once() -> None:
        nonlocal going, most
        going += 1
        most = max(most, going)
        await asyncio.sleep(0)
        going -= 1

    call: Callable[[], Awaitable[None]] = once
    await asyncio.gather(*(made.do("look", call, 10.0) for _ in range(10)))
    assert most == 2


async def test_failures_reach_the_breaker_and_success_resets_it() -> None:
    made = calls()
    made.breaker = Breaker(failures=2, pause=5.0)
    with pytest.raises(EngineError):
        await made.do("look", Script(DockerError(500, "busy")), 10.0)
    now = asyncio.get_running_loop().time()
    assert made.breaker.hold(now) > 0
    await made.do("look", Script("done"), 10.0)
    assert made.breaker.hold(now) == 0.0
