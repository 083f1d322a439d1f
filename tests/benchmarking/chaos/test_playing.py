"""The sessions of a run: they play, and audit what they played."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from openenv_async.benchmarking.chaos import playing as module
from openenv_async.benchmarking.chaos.playing import LoadSession, Run
from openenv_async.client.env import GenericEnvClient
from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentRaised,
    InvalidAction,
    OpenEnvError,
    SessionLost,
)

TEXT = {"type": "object", "properties": {"say": {"type": "string"}}, "required": ["say"]}
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


class FakeClient:
    """A session that executes steps, or does what ``script`` says for the n-th of them.

    ``script`` maps a step's number to an error, ``"twice"``, ``"skip"`` or ``"swap"``.
    """

    def __init__(self, run: Run, script: dict[int, Any] | None = None, steps: int = 30) -> None:
        self.run = run
        self.script = script or {}
        self.steps = steps
        self.taken = 0
        self.episode: Any = None

    async def reset(self) -> Any:
        self.episode = SimpleNamespace(step_count=0)
        return SimpleNamespace(done=False)

    async def step(self, action: Any) -> Any:
        self.taken += 1
        if self.taken >= self.steps:
            self.run.stopped.set()
        what = self.script.get(self.taken)
        if isinstance(what, OpenEnvError):
            raise what
        self.episode.step_count += {"twice": 2, "skip": 0}.get(str(what), 1)
        said = "chaos-9-1." if what == "swap" else action.get("say", "")
        return SimpleNamespace(done=False, observation={"said": said})

    async def state(self) -> Any:
        return {}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda seconds: sleep(0))


async def played(
    script: dict[int, Any] | None = None, schema: Any = TEXT, steps: int = 30
) -> module.Run:
    run = Run(schema, 1)
    client = FakeClient(run, script, steps)
    await LoadSession(run, 1, cast(GenericEnvClient, client)).play()
    return run


@pytest.mark.parametrize("steps", [1, 19, 20, 21, 45])
async def test_every_step_is_seen_and_executed_once(steps: int) -> None:
    run = await played(steps=steps)
    audit = run.audit
    assert audit.passed
    assert (audit.seen, audit.executed, audit.checked_by_name) == (steps, steps, steps)
    assert (audit.episodes, audit.unaudited, audit.unsure) == (1, 0, 0)
    assert run.latencies.count == steps


async def test_an_episode_ends_after_200_steps() -> None:
    audit = (await played(steps=201)).audit
    assert (audit.episodes, audit.seen, audit.executed) == (2, 201, 201)


async def test_a_step_that_runs_twice_is_repeated() -> None:
    audit = (await played({5: "twice"})).audit
    assert (audit.repeated, audit.lost, audit.passed) == (1, 0, False)


async def test_a_reply_without_a_step_is_lost() -> None:
    audit = (await played({5: "skip"})).audit
    assert (audit.repeated, audit.lost, audit.passed) == (0, 1, False)


async def test_a_reply_of_another_request_is_mismatched() -> None:
    audit = (await played({5: "swap"})).audit
    assert (audit.mismatched, audit.checked_by_name, audit.passed) == (1, 29, False)


async def test_a_step_past_its_deadline_may_have_run_once() -> None:
    audit = (await played({5: DeadlineExceeded("late")})).audit
    assert (audit.unsure, audit.seen, audit.executed, audit.passed) == (1, 29, 29, True)
    audit = (await played({5: DeadlineExceeded("late"), 6: "twice"})).audit
    assert (audit.repeated, audit.passed) == (0, True)


async def test_an_action_that_the_environment_refuses_is_no_step() -> None:
    audit = (await played({5: EnvironmentRaised("no")})).audit
    assert (audit.unsure, audit.seen, audit.executed, audit.passed) == (0, 29, 29, True)


async def test_a_lost_session_says_so_and_what_it_saw_is_not_audited() -> None:
    audit = (await played({25: SessionLost("gone")})).audit
    assert audit.typed_lost == {"session_lost": 1}
    assert (audit.unaudited, audit.episodes) == (4, 2)
    assert audit.seen == 20 + 5
    assert audit.passed


async def test_another_error_says_nothing_of_the_session() -> None:
    audit = (await played({25: InvalidAction("no")})).audit
    assert audit.untyped == {"invalid_action": 1}
    assert not audit.passed


async def test_actions_without_text_are_not_checked_by_name() -> None:
    audit = (await played(schema=NUMBER)).audit
    assert (audit.checked_by_name, audit.mismatched, audit.passed) == (0, 0, True)


def test_actions_are_drawn_from_the_seed() -> None:
    first, second = Run(TEXT, 3), Run(TEXT, 3)
    assert [first.action() for _ in range(5)] == [second.action() for _ in range(5)]
    assert first.action()[1] == "say"
    assert Run(NUMBER, 3).action()[1] is None
    assert Run({"type": "string"}, 3).action()[1] is None
