"""Mistakes of a policy: told, ended by rule or raised, and each in the record."""

from __future__ import annotations

import asyncio
import inspect
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest

from openenv_async import (
    Environment,
    GenericEnvClient,
    OutcomeStatus,
    StepResult,
    connect_in_process,
    rollout,
    serve,
)
from openenv_async.errors import DeadlineExceeded, InvalidAction, UnreadableReply
from openenv_async.rollouts import (
    Turn,
    collect_all,
    open_writer,
    read_trajectories,
    stream,
    stream_groups,
)
from openenv_async.rollouts.groups import is_kept
from openenv_async.rollouts.run import Rollout
from openenv_async.types import ModelCall, Outcome, Task


class Door(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Opens at the third knock; a kick is refused."""

    isolation = "inline"
    knocks: ClassVar[list[int]] = []

    def reset(self, wood: str = "oak") -> dict[str, Any]:
        if wood == "glass":
            from openenv_async.errors import InvalidOption

            raise InvalidOption("glass breaks")
        self.count = 0
        return {"count": 0, "wood": wood}

    def step(self, action: dict[str, Any]) -> StepResult[dict[str, Any]]:
        if action.get("do") == "kick":
            raise InvalidAction("knock instead", **action.get("detail", {}))
        self.count += 1
        self.knocks.append(self.count)
        return StepResult({"count": self.count}, 1.0, self.count == 3)


class StrictDoor(Door):
    invalid_action_reward = -2.0


KNOCK: dict[str, Any] = {"do": "knock"}
KICK: dict[str, Any] = {"do": "kick"}


class Scripted:
    """Says what its script has for the next turn; the script of an index, or of all."""

    corrects_mistakes = True

    def __init__(self, script: list[Any]) -> None:
        self.script = script
        self.told: list[Any] = []

    def for_episode(self, index: int) -> Any:
        left = iter(self.script)

        def decide(observation: Any, turn: Turn) -> Any:
            self.told.append((turn.t, observation["count"], turn.mistake and turn.mistake.message))
            said = next(left, KNOCK)
            turn.model_calls.append(ModelCall(reply={"role": "assistant", "content": str(said)}))
            if isinstance(said, str):
                raise UnreadableReply("write JSON", reply=said)
            if isinstance(said, BaseException):
                raise said
            return said

        return decide


async def play(policy: Any, env: type = Door, **options: Any) -> Outcome:
    async with connect_in_process(env) as client:
        return await rollout(client, policy, **options)


async def test_a_policy_that_corrects_mistakes_is_told_and_goes_on() -> None:
    policy = Scripted([KNOCK, KICK, "hm", KNOCK, KNOCK])
    outcome = await play(policy)
    assert (outcome.status, outcome.steps, outcome.mistakes) == (OutcomeStatus.COMPLETED, 3, 2)
    assert (outcome.episode_return, outcome.penalty, outcome.invalid_action) == (3.0, None, False)
    assert policy.told == [
        (0, 0, None),
        (1, 1, None),
        (1, 1, "knock instead"),
        (1, 1, "write JSON"),
        (2, 2, None),
    ]
    assert outcome.trajectory is not None
    recorded = outcome.trajectory.transitions
    assert [(step.t, step.action) for step in recorded] == [
        (0, KNOCK),
        (1, KICK),
        (1, "hm"),
        (1, KNOCK),
        (2, KNOCK),
    ]
    assert [step.mistake and step.mistake.kind for step in recorded] == [
        None,
        "refused_action",
        "unreadable_reply",
        None,
        None,
    ]
    assert [step.mistake.code for step in recorded if step.mistake] == [
        "invalid_action",
        "unreadable_reply",
    ]
    assert [len(step.model_calls) for step in recorded] == [1] * 5
    assert [step.observation["count"] for step in recorded] == [0, 1, 1, 1, 2]
    assert outcome.trajectory.mistakes == 2
    assert [step.reward for step in recorded] == [1.0, None, None, 1.0, 1.0]


@pytest.mark.parametrize("most", [1, 2, 3])
async def test_so_many_mistakes_in_a_row_end_the_episode(most: int) -> None:
    policy = Scripted([KNOCK, *[KICK] * (most - 1), KNOCK, *[KICK] * most])
    outcome = await play(policy, max_mistakes=most)
    assert outcome.status is OutcomeStatus.INVALID_ACTION
    assert outcome.invalid_action
    assert not outcome.status.usable
    assert (outcome.steps, outcome.mistakes) == (2, 2 * most - 1)
    assert (outcome.episode_return, outcome.penalty) == (2.0, None)
    assert isinstance(outcome.error, InvalidAction)


@pytest.mark.parametrize(
    ("env", "detail", "penalty"),
    [
        (Door, {}, None),
        (Door, {"reward": -1}, -1.0),
        (StrictDoor, {}, -2.0),
        (StrictDoor, {"reward": 0.5}, 0.5),
        (Door, {"reward": math.nan}, None),
        (Door, {"reward": "much"}, None),
    ],
)
async def test_an_ending_has_the_penalty_of_the_environment_or_none(
    env: type, detail: dict[str, Any], penalty: float | None
) -> None:
    kick = {**KICK, "detail": detail}
    outcome = await play(lambda o, turn: KNOCK if turn.t == 0 else kick, env, on_mistake="end")
    assert outcome.status is OutcomeStatus.INVALID_ACTION
    assert (outcome.steps, outcome.mistakes, outcome.penalty) == (1, 1, penalty)
    assert outcome.episode_return == 1.0 + (penalty or 0.0)
    assert outcome.trajectory is not None
    assert outcome.trajectory.transitions[-1].reward == penalty
    first = await play(lambda o: kick, env, on_mistake="end")
    assert first.episode_return == penalty  # nothing was given: no zero is made of it


async def test_an_action_of_the_wrong_type_has_the_penalty_too() -> None:
    class Typed(StrictDoor, Environment[dict[str, int], dict[str, Any], dict[str, Any]]):
        pass

    outcome = await play(lambda o: {"do": "knock"}, Typed, on_mistake="end")
    assert (outcome.status, outcome.penalty) == (OutcomeStatus.INVALID_ACTION, -2.0)


async def test_a_mistake_is_raised_where_nobody_corrects_it() -> None:
    with pytest.raises(InvalidAction, match="knock instead"):
        await play(lambda o: KICK)
    with pytest.raises(UnreadableReply):
        await play(Scripted(["hm"]), on_mistake="raise")
    with pytest.raises(ValueError, match="on_mistake must be one of tell, end, raise, got 'ask'"):
        await play(lambda o: KICK, on_mistake="ask")
    with pytest.raises(ValueError, match="max_mistakes must be at least 1"):
        await play(lambda o: KICK, max_mistakes=0)


async def test_among_many_a_mistake_costs_its_own_episode_and_no_other() -> None:
    def policy(observation: Any, turn: Turn) -> Any:
        if turn.index % 3 == 1:
            return KICK
        if turn.index % 3 == 2:
            raise SystemExit(3)
        return KNOCK

    outcomes = await collect_all(Door, policy, episodes=30, concurrency=7)
    assert [o.status for o in outcomes] == [
        OutcomeStatus.COMPLETED,
        OutcomeStatus.POLICY_ERROR,
        OutcomeStatus.POLICY_ERROR,
    ] * 10
    assert [o.episode_return for o in outcomes] == [3.0, None, None] * 10
    ended = await collect_all(Door, policy, episodes=30, concurrency=7, on_mistake="end")
    assert [o.status for o in ended[:3]] == [
        OutcomeStatus.COMPLETED,
        OutcomeStatus.INVALID_ACTION,
        OutcomeStatus.POLICY_ERROR,
    ]


@pytest.mark.parametrize("pending", [False, True])
@pytest.mark.parametrize("error", [GeneratorExit, SystemExit, BaseException])
async def test_what_ends_programs_ends_its_own_episode(
    error: type[BaseException], pending: bool
) -> None:
    async def later() -> Any:
        await asyncio.sleep(0)
        raise error

    def policy(observation: Any, turn: Turn) -> Any:
        if turn.index != 1 or turn.t != 1:
            return KNOCK
        if pending:
            return later()
        raise error

    outcomes = await collect_all(Door, policy, episodes=4, concurrency=2)
    failed = [o.index for o in outcomes if o.status is OutcomeStatus.POLICY_ERROR]
    assert failed == [1]
    assert type(outcomes[1].error) is error


def test_a_rollout_that_its_loop_left_behind_is_closed_quietly() -> None:
    class Client:
        async def reset(self) -> StepResult[Any]:
            return StepResult({"count": 0})

        async def step(self, action: Any) -> StepResult[Any]:
            raise NotImplementedError

    async def leave() -> Any:
        waits = asyncio.Event()

        async def never(observation: Any) -> Any:
            waits.set()
            await asyncio.get_running_loop().create_future()

        task = asyncio.create_task(Rollout(never, strict=False).play(Client()))
        await waits.wait()
        return task

    loop = asyncio.new_event_loop()
    try:
        task = loop.run_until_complete(leave())
    finally:
        loop.close()
    playing = task.get_coro()
    task._log_destroy_pending = False
    playing.close()
    assert inspect.getcoroutinestate(playing) == inspect.CORO_CLOSED
    assert not task.done()  # the policy's own GeneratorExit would have been an outcome


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("action", "recorded"),
    [
        ({"do": "\ud800"}, r"{'do': '\ud800'}"),  # half of a character
        ({"do": object}, "{'do': <class 'object'>}"),
        (UnreadableReply("not \ud800", reply="\udfff and \ud800"), r"\udfff and \ud800"),
    ],
)
async def test_what_cannot_be_recorded_of_a_mistake_is_shown_and_costs_no_episode(
    action: Any, recorded: str, suffix: str, tmp_path: Path
) -> None:
    async with serve(Door) as url:
        policy: Any = Scripted([action, KNOCK, KNOCK, KNOCK])
        [outcome] = await collect_all(lambda: GenericEnvClient(url), policy, episodes=1)
    assert (outcome.status, outcome.mistakes) == ("completed", 1)
    path = tmp_path / f"episodes.{suffix}"
    with open_writer(path) as writer:
        writer.write(outcome)
    [read] = read_trajectories(path)
    assert [step.action for step in read.transitions] == [recorded, KNOCK, KNOCK, KNOCK]


async def test_a_session_goes_on_after_a_mistake() -> None:
    policy: Any = Scripted([KICK] * 3)
    async with connect_in_process(Door) as client:
        outcomes = [await rollout(client, policy) for _ in range(3)]
    assert {o.status for o in outcomes} == {OutcomeStatus.INVALID_ACTION}


async def test_what_a_group_counts_is_the_trainers_choice() -> None:
    def policy(observation: Any, turn: Turn) -> Any:
        return KICK if turn.index % 2 and turn.t else KNOCK

    async def returns(env: type, **options: Any) -> list[float | None]:
        async with stream_groups(
            env, policy, group_size=4, groups=1, on_mistake="end", **options
        ) as groups:
            [group] = [group async for group in groups]
        assert group.mask == [value is not None for value in group.returns]
        return group.returns

    assert await returns(Door) == [3.0, None, 3.0, None]
    assert await returns(Door, invalid_actions="keep") == [3.0, 1.0, 3.0, 1.0]
    assert await returns(StrictDoor) == [3.0, -1.0, 3.0, -1.0]
    assert await returns(StrictDoor, invalid_actions="mask") == [3.0, None, 3.0, None]
    with pytest.raises(ValueError, match="invalid_actions must be 'keep' or 'mask'"):
        stream(Door, policy, invalid_actions="drop")  # type: ignore[call-overload]  # the point


async def test_a_decision_has_a_deadline_of_its_own() -> None:
    async def slow(observation: Any, turn: Turn) -> Any:
        if turn.index == 1 and turn.t == 1:
            await asyncio.sleep(3600)
        return KNOCK

    outcomes = await collect_all(Door, slow, episodes=3, policy_timeout=0.2)
    assert [o.status for o in outcomes] == [
        OutcomeStatus.COMPLETED,
        OutcomeStatus.POLICY_ERROR,
        OutcomeStatus.COMPLETED,
    ]
    error = outcomes[1].error
    assert isinstance(error, DeadlineExceeded)
    assert error.detail["field"] == "policy"
    assert "0.2 s for the action after step 1" in error.message


async def test_an_episode_that_is_late_says_whom_it_waited_for() -> None:
    async def slow(observation: Any) -> Any:
        await asyncio.sleep(3600)

    outcome = await play(slow, timeout=0.1)
    assert outcome.status is OutcomeStatus.TIMEOUT
    assert isinstance(outcome.error, DeadlineExceeded)
    assert outcome.error.phase == "policy"
    assert outcome.error.message.endswith("the end of it in the policy")


# -- tasks --------------------------------------------------------------------------------------


async def begun(task: Task, policy: Any, **options: Any) -> Outcome:
    async with connect_in_process(Door) as client:
        return await Rollout(policy, task=task, **options).play(client)


async def test_a_task_gives_its_columns_to_reset_and_its_public_part_to_the_policy() -> None:
    seen: list[Any] = []

    def policy(observation: Any, turn: Turn) -> Any:
        seen.append((observation.get("wood"), turn.task))
        return KNOCK

    task = Task("a1", {}, {"wood": "birch"}, "train")
    outcome = await begun(task, policy, max_steps=1)
    assert seen == [("birch", Task("a1", {}, {}, "train"))]
    assert outcome.task is task
    assert outcome.trajectory is not None
    assert (outcome.trajectory.task_id, outcome.trajectory.task) == ("a1", {})
    assert outcome.trajectory.reset_options is None  # the answer is in no record
    assert "birch" not in repr(outcome.trajectory.task)
    public = await begun(Task("a2", {"wood": "birch"}), policy, max_steps=1)
    assert public.trajectory is not None
    assert public.trajectory.reset_options == {"wood": "birch"}


@pytest.mark.parametrize("data", [{"wood": "glass"}, {"metal": "iron"}])
async def test_a_task_that_reset_refuses_is_an_outcome_that_names_it(data: Any) -> None:
    outcome = await begun(Task("a3", data), lambda o: KNOCK)
    assert outcome.status is OutcomeStatus.TASK_ERROR
    assert not outcome.status.usable
    assert outcome.error is not None
    assert outcome.error.detail["task"] == "a3"  # type: ignore[attr-defined]  # an OpenEnvError


@pytest.mark.parametrize(
    ("env", "detail", "penalty"),
    [
        (Door, {}, None),
        (Door, {"reward": -1.5}, -1.5),
        (StrictDoor, {}, -2.0),
        (StrictDoor, {"reward": -1.5}, -1.5),
        (StrictDoor, {"reward": None}, None),
    ],
)
async def test_an_unreadable_reply_has_the_environments_penalty_or_the_policys(
    env: type, detail: dict[str, Any], penalty: float | None
) -> None:
    outcome = await play(
        Scripted([KNOCK, UnreadableReply("no JSON", reply="hm", **detail)]), env, on_mistake="end"
    )
    assert (outcome.status, outcome.unreadable) == (OutcomeStatus.INVALID_ACTION, 1)
    assert outcome.penalty == penalty
    assert outcome.episode_return == 1.0 + (penalty or 0.0)
    assert is_kept(outcome) == (penalty is not None)


async def test_the_seconds_of_a_mistake_are_those_of_who_took_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr("openenv_async.rollouts.run.time.perf_counter", lambda: now)

    class SlowDoor(Door):
        def step(self, action: dict[str, Any]) -> StepResult[dict[str, Any]]:
            nonlocal now
            now += 1.0
            return super().step(action)

    class Slow(Scripted):
        def for_episode(self, index: int) -> Any:
            decide = super().for_episode(index)

            def slowly(observation: Any, turn: Turn) -> Any:
                nonlocal now
                now += 0.25
                return decide(observation, turn)

            return slowly

    policy: Any = Slow([KICK, "nonsense"])
    played = Rollout(policy)
    async with connect_in_process(SlowDoor) as client:
        outcome = await played.play(client)
    assert outcome.trajectory is not None
    timings = [step.timings for step in outcome.trajectory.transitions]
    both = {"policy": 0.25, "environment": 1.0, "model": 0.0}
    assert timings == [both, {"policy": 0.25, "model": 0.0}, both, both, both]
    assert (played.policy_seconds, played.environment_seconds) == (5 * 0.25, 4 * 1.0)
