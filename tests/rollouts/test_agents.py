"""Episodes that an agent plays by itself: every end of them, and their record."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import httpx
import pytest

from openenv_async import EnvPool, OutcomeStatus, collect, rollout, serve
from openenv_async.client.agent_lease import AgentLease
from openenv_async.errors import (
    AgentFailed,
    EnvironmentRaised,
    InvalidAction,
    ResponderFailed,
    ResponderUnavailable,
)
from openenv_async.gateway import Budget
from openenv_async.rollouts import RunFolder, Turn, collect_all, stream, stream_groups
from openenv_async.rollouts.agents import NO_ACTION, ModelUse, TimedCall
from openenv_async.types import ModelCall
from tests.helpers import until
from tests.rollouts.environments import Counting, Move, RaisesInStep, Seen, Unrewarded
from tests.server.mcp.agent import STATELESS, Agent

Play = Callable[[AgentLease[Any, Any], Turn], Awaitable[Any]]


@dataclass
class Scripted:
    """An agent that is a function of its lease and turn."""

    script: Play
    gateway: Any = None
    budget: Any = None
    submit: Any = NO_ACTION
    grace: float = 10.0
    use: ModelUse = field(default_factory=ModelUse)
    ended: int = 0

    async def play(self, lease: AgentLease[Any, Any], turn: Turn) -> Mapping[str, Any]:
        try:
            await self.script(lease, turn)
        finally:
            self.ended += 1
        return {"said": "done"}

    def used(self, lease: AgentLease[Any, Any]) -> ModelUse:
        return self.use


async def over_mcp(lease: AgentLease[Any, Any], *amounts: int) -> None:
    assert lease.mcp is not None
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {lease.mcp.token}"}) as http:
        agent = Agent(http, STATELESS, lease.mcp.url)
        for amount in amounts:
            await agent.call("step", amount=amount)


def steps(*amounts: int) -> Play:
    async def play(lease: AgentLease[Any, Any], turn: Turn) -> None:
        await over_mcp(lease, *amounts)

    return play


async def never_ends(lease: AgentLease[Any, Any], turn: Turn) -> None:
    await over_mcp(lease, 3)
    await asyncio.Event().wait()


async def stream_of(agent: Scripted) -> AsyncIterator[Any]:
    async with stream(Counting, agent=agent, episodes=1, failures=True) as episodes:
        with contextlib.suppress(AgentFailed):  # of all of its episodes, raised after them
            async for episode in episodes:
                yield episode.outcome


async def outcome_of(agent: Scripted, env: Any = Counting, **options: Any) -> Any:
    [outcome] = await collect_all(env, agent=agent, episodes=1, **options)
    return outcome


async def test_the_environment_ends_the_episode_and_gives_the_reward() -> None:
    outcome = await outcome_of(Scripted(steps(1, 2)), seeds=5)
    assert (outcome.status, outcome.episode_return, outcome.steps) == ("completed", 3.0, 2)
    trajectory = outcome.trajectory
    assert trajectory.seed == 5
    first, last = trajectory.transitions
    assert (first.observation, first.action) == (Seen(0, 5), Move(1))
    assert (last.observation.total, last.action, last.terminated) == (1, Move(2), True)
    assert trajectory.final_observation.total == 3
    assert trajectory.extra["agent"] == {"ended": "left", "said": "done", "calls": 0, "tokens": 0}
    assert first.timings["policy"] > 0


async def test_steps_of_a_function_are_the_same_record() -> None:
    async def play(lease: AgentLease[Any, Any], turn: Turn) -> None:
        result = turn.result
        while not result.done:
            result = await lease.step(Move(1))

    outcome = await outcome_of(Scripted(play))
    assert (outcome.status, outcome.episode_return, outcome.steps) == ("completed", 3.0, 3)


async def test_an_episode_that_is_left_open_is_truncated_with_its_return() -> None:
    outcome = await outcome_of(Scripted(steps(1)))
    assert (outcome.status, outcome.episode_return) == ("truncated", 1.0)
    outcome = await outcome_of(Scripted(steps()))
    assert (outcome.status, outcome.episode_return, outcome.steps) == ("truncated", None, 0)


async def test_an_episode_that_is_left_open_is_finished_by_the_callers_action() -> None:
    outcome = await outcome_of(Scripted(steps(1), submit=Move(2)))
    assert (outcome.status, outcome.episode_return, outcome.steps) == ("completed", 3.0, 2)
    assert outcome.trajectory.transitions[-1].action == Move(2)
    assert outcome.trajectory.extra["agent"]["submitted"]


async def test_max_steps_ends_the_agents_turn() -> None:
    taken: list[str] = []

    async def play(lease: AgentLease[Any, Any], turn: Turn) -> None:
        assert lease.mcp is not None
        address = lease.mcp
        await over_mcp(lease, 1, 1)
        await until(lambda: lease.mcp is None)
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {address.token}"}) as http:
            agent = Agent(http, STATELESS, address.url)
            refused = await agent.send("tools/call", {"name": "step", "arguments": {"amount": 1}})
            taken.append(str(refused.status_code))

    outcome = await outcome_of(Scripted(play), max_steps=2)
    assert (outcome.status, outcome.episode_return, outcome.steps) == ("truncated", 2.0, 2)
    assert taken == ["401"]


async def test_a_function_that_goes_on_after_max_steps_changes_nothing() -> None:
    async def play(lease: AgentLease[Any, Any], turn: Turn) -> None:
        while True:
            await lease.step(Move(1))

    outcome = await outcome_of(Scripted(play, submit=Move(2)), max_steps=2)
    assert (outcome.status, outcome.episode_return, outcome.steps) == ("truncated", 2.0, 2)


async def test_an_agent_that_goes_on_after_the_end_is_stopped() -> None:
    agent = Scripted(never_ends, grace=0.05)
    outcome = await outcome_of(agent)
    assert (outcome.status, outcome.episode_return) == ("completed", 3.0)
    assert outcome.trajectory.extra["agent"]["ended"] == "stopped"
    assert agent.ended == 1


async def test_an_agent_is_stopped_at_the_episodes_deadline() -> None:
    async def waits(lease: AgentLease[Any, Any], turn: Turn) -> None:
        await over_mcp(lease, 1)
        await asyncio.Event().wait()

    agent = Scripted(waits)
    outcome = await outcome_of(agent, timeout=2.0)
    assert (outcome.status, outcome.episode_return) == ("timeout", None)
    assert agent.ended == 1


async def test_an_agent_that_fails_is_no_reward_of_zero() -> None:
    async def fails(lease: AgentLease[Any, Any], turn: Turn) -> None:
        await over_mcp(lease, 1)
        if turn.index == 0:
            raise LookupError("lost its way")

    first, second = await collect_all(Counting, agent=Scripted(fails), episodes=2)
    assert (first.status, first.episode_return) == ("policy_error", None)
    assert "lost its way" in str(first.error)
    assert second.status == "truncated"
    with pytest.raises(LookupError, match="lost its way"):
        await outcome_of(Scripted(fails))


async def test_an_agent_that_fails_after_the_end_changes_nothing() -> None:
    async def fails(lease: AgentLease[Any, Any], turn: Turn) -> None:
        await over_mcp(lease, 3)
        raise LookupError("lost its way")

    outcome = await outcome_of(Scripted(fails))
    assert (outcome.status, outcome.episode_return) == ("completed", 3.0)
    assert outcome.trajectory.extra["agent"]["ended"] == "failed"


async def test_a_call_that_failed_for_good_is_an_infrastructure_failure() -> None:
    failure = ResponderUnavailable("the engine is gone")
    agent = Scripted(steps(1), use=ModelUse(failures=[(time.time(), failure)]))
    outcome = await outcome_of(agent)
    assert (outcome.status, outcome.episode_return) == ("infra_error", None)
    assert isinstance(outcome.error, ResponderFailed)
    # one that is begun after the end costs nothing
    late = Scripted(steps(3), use=ModelUse(failures=[(time.time() + 3600, failure)]))
    assert (await outcome_of(late)).status == "completed"


async def test_a_spent_budget_truncates_also_where_the_agent_fails_by_it() -> None:
    async def fails(lease: AgentLease[Any, Any], turn: Turn) -> None:
        await over_mcp(lease, 1)
        raise LookupError("its model says nothing more")

    outcome = await outcome_of(Scripted(fails, use=ModelUse(spent="all its 3 calls")))
    assert (outcome.status, outcome.episode_return) == ("truncated", 1.0)
    assert outcome.trajectory.extra["agent"]["ended"] == "spent"


async def test_an_environment_that_fails_in_a_step_fails_the_episode() -> None:
    outcome = await outcome_of(Scripted(steps(1, 1, 1)), RaisesInStep)
    assert (outcome.status, outcome.episode_return) == ("env_error", None)
    assert isinstance(outcome.error, EnvironmentRaised)
    outcome = await outcome_of(Scripted(steps(3)), Unrewarded)
    assert (outcome.status, outcome.episode_return) == ("completed", None)


async def test_calls_of_the_model_stand_with_their_steps() -> None:
    use: list[TimedCall] = []

    async def play(lease: AgentLease[Any, Any], turn: Turn) -> None:
        for number, amount in enumerate((1, 2)):
            for name in ("thinks", "acts"):
                call = ModelCall(reply={"role": "assistant", "content": f"{name} {number}"})
                use.append(TimedCall(call, time.time()))
            await over_mcp(lease, amount)
            await lease.changed(number)
        call = ModelCall(reply={"role": "assistant", "content": "sums up"}, seconds=0.5)
        use.append(TimedCall(call, time.time()))

    outcome = await outcome_of(Scripted(play, use=ModelUse(calls=use, tokens=17)))
    said = [
        [call.reply["content"] for call in transition.model_calls]
        for transition in outcome.trajectory.transitions
    ]
    assert said == [["thinks 0", "acts 0"], ["thinks 1", "acts 1", "sums up"]]
    assert outcome.trajectory.transitions[-1].timings["model"] == 0.5
    assert outcome.trajectory.extra["agent"]["calls"] == 5
    assert outcome.trajectory.extra["agent"]["tokens"] == 17


async def test_calls_of_the_model_are_kept_without_a_step() -> None:
    call = ModelCall(reply={"role": "assistant", "content": "I do not know"}, completion_ids=[7])
    agent = Scripted(steps(), use=ModelUse(calls=[TimedCall(call, time.time())]))
    outcome = await outcome_of(agent)
    assert (outcome.status, outcome.steps) == ("truncated", 0)
    [kept] = outcome.trajectory.extra["agent"]["model_calls"]
    assert (kept["reply"], kept["completion_ids"]) == (call.reply, [7])


async def test_groups_tasks_and_run_folders_work_as_with_policies(tmp_path: Any) -> None:
    rows = tmp_path / "tasks.jsonl"
    rows.write_text("".join(json.dumps({"id": f"t{n}", "goal": n}) + "\n" for n in (1, 2, 3)))
    told: list[Any] = []

    async def play(lease: AgentLease[Any, Any], turn: Turn) -> None:
        assert turn.task is not None
        assert lease.task is not None
        told.append((turn.task.id, lease.task.data["goal"]))
        await over_mcp(lease, turn.task.data["goal"])

    async def played(episodes: list[int] | None) -> list[Any]:
        return await collect_all(
            Counting,
            agent=Scripted(play),
            tasks=str(rows),
            group_size=2,
            run=str(tmp_path / "run"),
            concurrency=2,
            only=episodes,
        )

    assert [outcome.group for outcome in await played([0, 1])] == [0, 0]
    rest = await played(None)
    assert [(outcome.index, outcome.episode_return) for outcome in rest] == [
        (2, 2.0),
        (3, 2.0),
        (4, 3.0),
        (5, 3.0),
    ]
    assert told == [("t1", 1), ("t1", 1), ("t2", 2), ("t2", 2), ("t3", 3), ("t3", 3)]
    kept = [outcome.trajectory for outcome in RunFolder.view(tmp_path / "run").outcomes()]
    assert len(kept) == 6
    assert all(each is not None and each.extra["agent"]["said"] == "done" for each in kept)


async def test_an_agent_plays_one_episode() -> None:
    outcome = await rollout(Counting, agent=Scripted(steps(1, 2)), seed=5)
    assert (outcome.status, outcome.episode_return, outcome.steps) == ("completed", 3.0, 2)
    assert outcome.trajectory is not None
    assert outcome.trajectory.extra["agent"]["said"] == "done"

    async def fails(lease: AgentLease[Any, Any], turn: Turn) -> None:
        raise LookupError("lost its way")

    with pytest.raises(LookupError, match="lost its way"):
        await rollout(Counting, agent=Scripted(fails))
    with pytest.raises(ValueError, match="it takes no policy"):
        await rollout(Counting, lambda observation: 1, agent=Scripted(fails))


async def test_an_agent_plays_a_stream_and_its_groups() -> None:
    agent = Scripted(steps(1, 2))
    async with stream(Counting, agent=agent, episodes=3, seed=7, concurrency=2) as episodes:
        played = [episode async for episode in episodes]
    assert sorted(episode.outcome.index for episode in played) == [0, 1, 2]
    assert all(episode.usable and episode.episode_return == 3.0 for episode in played)
    async with serve(Counting) as url, EnvPool.of(url) as pool:
        async with pool.stream_groups(agent=agent, group_size=2, groups=2) as groups:
            assert [group.returns for group in [each async for each in groups]] == [[3.0, 3.0]] * 2
        assert (await pool.rollout(agent=agent)).episode_return == 3.0
        assert len(await pool.group(agent=agent, episodes=2)) == 2
    assert agent.ended == 10
    with pytest.raises(ValueError, match="it takes no policy"):
        stream(Counting, lambda observation: 1, agent=agent)
    with pytest.raises(ValueError, match="it takes no on_mistake"):
        stream_groups(Counting, agent=agent, group_size=2, on_mistake="end")
    with pytest.raises(ValueError, match=r"max_staleness needs .* an agent with one"):
        stream(Counting, agent=agent, max_staleness=0)


@dataclass
class Versioned(Scripted):
    """An agent whose weights have versions."""

    version: int = 4


async def test_each_step_of_an_agent_notes_the_version_of_its_weights() -> None:
    async def learns(lease: AgentLease[Any, Any], turn: Turn) -> None:
        await over_mcp(lease, 1)
        await lease.changed(0)
        await until(lambda: len(lease.taken) == 1)
        agent.version += 1
        await over_mcp(lease, 1)
        await until(lambda: len(lease.taken) == 2)
        await over_mcp(lease, 1)

    agent = Versioned(learns)
    async with stream(Counting, agent=agent, episodes=1, max_staleness=2) as episodes:
        [episode] = [episode async for episode in episodes]
    trajectory = episode.outcome.trajectory
    assert trajectory is not None
    assert len(episode.versions) == episode.outcome.steps == 3
    assert (episode.versions[0], episode.versions[-1]) == (4, 5)
    assert tuple(trajectory.policy_versions) == episode.versions
    assert not episode.stale


async def test_an_agent_whose_weights_are_too_old_is_stopped() -> None:
    async def learns(lease: AgentLease[Any, Any], turn: Turn) -> None:
        agent.version += 2 * (turn.index == 0)
        await over_mcp(lease, 1)
        if turn.index:
            await over_mcp(lease, 2)
        else:
            await asyncio.Event().wait()

    agent = Versioned(learns)
    async with stream(
        Counting, agent=agent, episodes=2, max_staleness=1, failures=True, concurrency=1
    ) as episodes:
        played = [episode async for episode in episodes]
    assert [episode.outcome.index for episode in played] == [1]
    assert episodes.stale == 1
    assert agent.ended == 2


@pytest.mark.parametrize("by", ["mcp", "function"])
async def test_what_the_environment_refuses_of_an_agent_is_a_mistake(by: str) -> None:
    async def errs(lease: AgentLease[Any, Any], turn: Turn) -> None:
        if by == "function":
            with pytest.raises(InvalidAction):
                await lease.step({"amount": "much"})
            await lease.step(Move(3))
            return
        assert lease.mcp is not None
        async with httpx.AsyncClient(
            headers={"authorization": f"Bearer {lease.mcp.token}"}
        ) as http:
            agent = Agent(http, STATELESS, lease.mcp.url)
            for amount in ("much", 3):
                await agent.send("tools/call", {"name": "step", "arguments": {"amount": amount}})

    for _ in range(2):  # each episode by itself
        outcome = await outcome_of(Scripted(errs))
        assert (outcome.status, outcome.steps, outcome.mistakes) == ("completed", 1, 1)
        assert outcome.trajectory.mistakes == 1


async def test_a_mistake_after_the_last_step_is_counted() -> None:
    async def errs(lease: AgentLease[Any, Any], turn: Turn) -> None:
        assert lease.mcp is not None
        async with httpx.AsyncClient(
            headers={"authorization": f"Bearer {lease.mcp.token}"}
        ) as http:
            agent = Agent(http, STATELESS, lease.mcp.url)
            amounts: list[Any] = [1, "much", [], None]
            for amount in amounts:
                await agent.send("tools/call", {"name": "step", "arguments": {"amount": amount}})

    outcome = await outcome_of(Scripted(errs))
    assert (outcome.status, outcome.steps, outcome.mistakes) == ("truncated", 1, 3)


@pytest.mark.parametrize("is_over", [True, False])
async def test_an_agent_that_lets_no_cancellation_through_is_left_behind(
    is_over: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("openenv_async.rollouts.agents._ENDING", 0.1)
    let_go = asyncio.Event()

    async def stubborn(lease: AgentLease[Any, Any], turn: Turn) -> None:
        await over_mcp(lease, 3 if is_over else 1)
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    agent = Scripted(stubborn, grace=0.05, budget=Budget(seconds=1.0))
    try:
        async with asyncio.timeout(20):
            [outcome] = [each async for each in stream_of(agent)]
    finally:
        let_go.set()
        await until(lambda: agent.ended == 1)
    assert outcome.trajectory.extra["agent"]["ended"] == "stuck"
    if is_over:
        assert (outcome.status, outcome.episode_return) == ("completed", 3.0)
    else:
        assert outcome.status == "policy_error"
        assert isinstance(outcome.error, AgentFailed)
        assert "let asyncio.CancelledError through" in str(outcome.error)
    assert "did not end within 0.1 s of being cancelled" in caplog.text


async def test_a_rollout_ends_in_time_whose_agent_lets_no_cancellation_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("openenv_async.rollouts.agents._ENDING", 0.1)
    let_go = asyncio.Event()

    async def stubborn(lease: AgentLease[Any, Any], turn: Turn) -> None:
        while not let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await let_go.wait()

    agent = Scripted(stubborn)
    try:
        async with asyncio.timeout(20):
            assert (await outcome_of(agent, timeout=0.2)).status == "timeout"
    finally:
        let_go.set()
        await until(lambda: agent.ended == 1)


async def test_what_no_agent_heeds_is_refused() -> None:
    agent = Scripted(steps(1))
    for options, error in (
        ({"policy": lambda observation: 1}, ValueError),
        ({"on_mistake": "end"}, ValueError),
        ({"policy_timeout": 1.0}, ValueError),
    ):
        with pytest.raises(error, match="plays by itself"):
            collect(Counting, agent=agent, episodes=1, **options)
    with pytest.raises(TypeError, match="an agent plays episodes by play"):
        collect(Counting, agent=cast(Any, "codex"), episodes=1)
    with pytest.raises(TypeError, match="an agent is not a policy: give it by its name, agent="):
        collect(Counting, cast(Any, agent), episodes=1)
    with pytest.raises(TypeError, match="a policy is a callable"):
        collect(Counting, episodes=1)
    assert OutcomeStatus.TRUNCATED.usable
