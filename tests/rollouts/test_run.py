"""One rollout: every way it can end is an outcome, and none invents a return."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from openenv_async import (
    EnvClient,
    OutcomeStatus,
    StepResult,
    Timeouts,
    connect,
    rollout,
    serve,
)
from openenv_async.errors import (
    ConnectFailed,
    DeadlineExceeded,
    EnvironmentRaised,
    EnvironmentStartFailed,
    InvalidAction,
    InvalidObservation,
    InvalidOption,
    OpenEnvError,
    OperationCancelled,
    PayloadTooLarge,
    QuotaReached,
    SessionClosed,
    SessionNotFound,
    TransportError,
)
from openenv_async.rollouts import Reservoir, Trajectory, Turn
from openenv_async.rollouts.run import PolicyFailed, Rollout, status_of
from tests.rollouts.environments import (
    CannotStart,
    Counting,
    Hanging,
    Move,
    RaisesInReset,
    RaisesInStep,
    Seen,
    Truncating,
    Unrewarded,
)
from tests.scheduling import run


def one(observation: Seen) -> Move:
    return Move(1)


class CountingEnv(EnvClient[Move, Seen, dict[str, Any]]):
    pass


class TooManySteps(BaseException):
    """No outcome is made of it."""


@pytest.mark.parametrize("end", ["terminated", "truncated", "max_steps", "nan"])
async def test_no_step_is_taken_after_the_last(end: str) -> None:
    class Ending:
        steps = 0

        async def reset(self) -> StepResult[int]:
            return StepResult(0)

        async def step(self, action: int) -> StepResult[int]:
            self.steps += 1
            if self.steps > 2:
                raise TooManySteps
            result = StepResult(self.steps, 1.0)
            if self.steps == 2:
                result.terminated, result.truncated = end == "terminated", end == "truncated"
                result.reward = float("nan") if end == "nan" else 1.0
            return result

    decided = 0

    def policy(observation: int) -> int:
        nonlocal decided
        decided += 1
        if decided > 2:
            raise TooManySteps
        return 1

    env = Ending()
    outcome = await rollout(env, policy, max_steps=2 if end == "max_steps" else None)
    assert (outcome.steps, env.steps, outcome.index) == (2, 2, 0)
    assert (
        outcome.status
        is {
            "terminated": OutcomeStatus.COMPLETED,
            "truncated": OutcomeStatus.TRUNCATED,
            "max_steps": OutcomeStatus.TRUNCATED,
            "nan": OutcomeStatus.ENV_ERROR,
        }[end]
    )


async def test_no_step_is_taken_after_one_that_failed() -> None:
    class Failing:
        steps = 0

        async def reset(self) -> StepResult[int]:
            return StepResult(0)

        async def step(self, action: int) -> StepResult[int]:
            self.steps += 1
            if self.steps > 1:
                raise TooManySteps
            raise TransportError("gone")

    env = Failing()
    outcome = await rollout(env, lambda observation: 1)
    assert (outcome.status, outcome.steps, env.steps) == (OutcomeStatus.INFRA_ERROR, 0, 1)


def test_the_time_of_an_episode_ends_it_wherever_it_waits() -> None:
    class Slow(Rewarding):
        async def step(self, action: Any) -> StepResult[int]:
            await asyncio.sleep(1.0)
            return await super().step(action)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        outcome = await rollout(Slow(*[1.0] * 9), counting, timeout=3.5)
        assert loop.time() - begun == 3.5
        assert (outcome.status, outcome.steps) == (OutcomeStatus.TIMEOUT, 3)
        assert outcome.episode_return is None
        assert isinstance(outcome.error, DeadlineExceeded)
        assert "its timeout of 3.5 s" in outcome.error.message
        assert outcome.error.detail["seconds"] == 3.5
        played = await rollout(Slow(1.0, 1.0), counting, timeout=2.5)
        assert (played.status, played.episode_return) == (OutcomeStatus.COMPLETED, 2.0)

    run(scenario)


async def test_a_completed_episode_has_its_return_and_its_trajectory() -> None:
    latencies = Reservoir()
    async with connect(Counting) as env:
        outcome = await rollout(
            env, one, seed=7, episode_id="mine", index=4, reset_options={"goal": 2},
            latencies=latencies,
        )  # fmt: skip
    assert outcome.status is OutcomeStatus.COMPLETED
    assert outcome.index == 4
    assert outcome.steps == 2
    assert outcome.episode_return == 2.0
    assert outcome.error is None
    assert outcome.episode is not None
    assert (outcome.episode.seed, outcome.episode.episode_id) == (7, "mine")
    assert latencies.count == 2
    trajectory = outcome.trajectory
    assert isinstance(trajectory, Trajectory)
    assert (trajectory.seed, trajectory.episode_id, trajectory.status) == (7, "mine", "completed")
    assert [t.t for t in trajectory.transitions] == [0, 1]
    assert [t.observation.total for t in trajectory.transitions] == [0, 1]
    assert [t.action for t in trajectory.transitions] == [Move(1), Move(1)]
    assert [t.reward for t in trajectory.transitions] == [1.0, 1.0]
    assert [t.terminated for t in trajectory.transitions] == [False, True]
    assert trajectory.final_observation == Seen(2)


async def test_without_record_nothing_is_kept() -> None:
    async with connect(Counting) as env:
        outcome = await rollout(env, one, record=False)
    assert outcome.trajectory is None
    assert outcome.episode_return == 3.0


async def test_no_reward_is_no_return() -> None:
    async with connect(Unrewarded) as env:
        outcome = await rollout(env, one)
    assert outcome.status is OutcomeStatus.COMPLETED
    assert outcome.episode_return is None


async def test_a_step_limit_truncates() -> None:
    async with connect(Counting) as env:
        outcome = await rollout(env, one, max_steps=2)
    assert outcome.status is OutcomeStatus.TRUNCATED
    assert (outcome.steps, outcome.episode_return) == (2, 2.0)


async def test_an_end_at_the_step_limit_is_an_end() -> None:
    async with connect(Counting) as env:
        assert (await rollout(env, one, max_steps=3)).status is OutcomeStatus.COMPLETED


async def test_the_environment_truncates() -> None:
    async with connect(Truncating) as env:
        outcome = await rollout(env, one)
    assert outcome.status is OutcomeStatus.TRUNCATED
    assert outcome.steps == 2


async def test_an_environment_that_raises_is_an_env_error_without_a_return() -> None:
    async with connect(RaisesInStep) as env:
        outcome = await rollout(env, one)
    assert outcome.status is OutcomeStatus.ENV_ERROR
    assert isinstance(outcome.error, EnvironmentRaised)
    assert outcome.steps == 1
    assert outcome.episode_return is None
    assert outcome.trajectory is not None
    assert outcome.trajectory.error_code == "environment_raised"
    assert len(outcome.trajectory.transitions) == 1


async def test_a_reset_that_raises_has_no_episode() -> None:
    async with connect(RaisesInReset) as env:
        outcome = await rollout(env, one)
    assert outcome.status is OutcomeStatus.ENV_ERROR
    assert outcome.episode is None
    assert outcome.episode_return is None


async def test_an_environment_that_cannot_start_is_an_env_error() -> None:
    async with serve(CannotStart) as url:
        client = CountingEnv(url)
        outcome = await rollout(client, one)
        await client.close()
    assert outcome.status is OutcomeStatus.ENV_ERROR
    assert isinstance(outcome.error, EnvironmentStartFailed)


async def test_a_server_deadline_is_a_timeout() -> None:
    async with connect(Hanging, timeouts=Timeouts(step=0.05)) as env:
        outcome = await rollout(env, one, seed=1)
    assert outcome.status is OutcomeStatus.TIMEOUT
    assert isinstance(outcome.error, DeadlineExceeded)
    assert outcome.episode_return is None


async def test_the_episode_timeout_is_a_timeout_and_reaches_the_environment() -> None:
    before = Hanging.cancelled
    async with connect(Hanging) as env:
        outcome = await rollout(env, one, seed=1, timeout=0.05)
        assert outcome.status is OutcomeStatus.TIMEOUT
        assert isinstance(outcome.error, DeadlineExceeded)
        # The session lives: the next episode waits for the cancelled step to end.
        assert (await rollout(env, one, seed=2)).status is OutcomeStatus.COMPLETED
    assert Hanging.cancelled == before + 1


async def test_no_server_is_an_infra_error() -> None:
    async with serve(Counting) as url:
        pass
    client = CountingEnv(url)
    outcome = await rollout(client, one)
    assert outcome.status is OutcomeStatus.INFRA_ERROR
    assert isinstance(outcome.error, ConnectFailed)
    await client.close()


async def test_a_server_that_stops_is_an_infra_error() -> None:
    async def leave(observation: Seen) -> Move:
        await stack.aclose()
        return Move(1)

    import contextlib

    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(serve(Counting))
        client = CountingEnv(url)
        outcome = await rollout(client, leave)
        await client.close()
    assert outcome.status is OutcomeStatus.INFRA_ERROR
    assert outcome.episode_return is None


class Scripted:
    """Anything with ``reset`` and ``step`` will do."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    async def reset(self) -> StepResult[int]:
        return StepResult(0, reward=5.0)

    async def step(self, action: int) -> StepResult[int]:
        if self.error is not None:
            raise self.error
        return StepResult(action, -1.0, terminated=True)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (OperationCancelled("stopped"), OutcomeStatus.CANCELLED),
        (TransportError("gone"), OutcomeStatus.INFRA_ERROR),
        (ConnectionResetError("gone"), OutcomeStatus.INFRA_ERROR),
        (TimeoutError("late"), OutcomeStatus.TIMEOUT),
        (ZeroDivisionError("bug"), OutcomeStatus.ENV_ERROR),
    ],
)
async def test_what_the_environment_raises_decides_the_status(
    error: Exception, status: OutcomeStatus
) -> None:
    outcome = await rollout(Scripted(error), lambda observation: 1)
    assert (outcome.status, outcome.error, outcome.episode_return) == (status, error, None)


async def test_the_reward_of_a_reset_is_kept_but_is_no_part_of_the_return() -> None:
    outcome = await rollout(Scripted(), lambda observation: 1)
    assert outcome.episode_return == -1.0
    assert outcome.trajectory is not None
    assert outcome.trajectory.reset_reward == 5.0


async def test_an_invalid_action_is_the_callers() -> None:
    async with connect(Counting) as env:
        with pytest.raises(InvalidAction):
            await rollout(env, lambda observation: {"nonsense": 1})


@pytest.mark.parametrize("timeout", [None, 60.0])
async def test_what_the_policy_raises_propagates(timeout: float | None) -> None:
    def fails(observation: Seen) -> Move:
        raise TimeoutError("the model is slow")

    async with connect(Counting) as env:
        with pytest.raises(TimeoutError, match="the model is slow"):
            await rollout(env, fails, timeout=timeout)


async def test_cancellation_propagates() -> None:
    reached = asyncio.Event()

    async def waits(observation: Seen) -> Move:
        reached.set()
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async with connect(Counting) as env:
        task = asyncio.create_task(rollout(env, waits))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_policies_may_be_async_and_take_the_turn() -> None:
    seen: list[tuple[int, int, float | None]] = []

    async def policy(observation: Seen, turn: Turn) -> Move:
        assert turn.episode is not None
        seen.append((turn.t, observation.total, turn.result.reward))
        return Move(1)

    async with connect(Counting) as env:
        await rollout(env, policy)
    assert seen == [(0, 0, None), (1, 1, 1.0), (2, 2, 1.0)]


@pytest.mark.parametrize("wrong", [{"max_steps": 0}, {"timeout": 0}, {"timeout": -1.0}])
async def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        await rollout(Scripted(), lambda observation: 1, **wrong)


# -- what is passed on, and what is recorded -----------------------------------------------------


class Rewarding:
    """A client that gives rewards from a list; notes what it was called with."""

    def __init__(self, *rewards: Any, first: Any = None) -> None:
        self.rewards = list(rewards)
        self.first = first
        self.resets: list[dict[str, Any]] = []
        self.actions: list[Any] = []
        self.error: BaseException | None = None

    async def reset(self, **arguments: Any) -> StepResult[int]:
        self.resets.append(arguments)
        return StepResult(0, self.first, info={"begun": True})

    async def step(self, action: Any) -> StepResult[int]:
        if self.error is not None:
            raise self.error
        self.actions.append(action)
        count = len(self.actions)
        reward = self.rewards[count - 1]
        return StepResult(count, reward, terminated=count == len(self.rewards), info={"n": count})


def counting(observation: int, turn: Turn) -> tuple[int, int]:
    return observation, turn.t


async def test_the_record_has_every_step_as_it_was() -> None:
    env = Rewarding(1.0, None, -3, first=9.0)
    outcome = await rollout(env, counting, seed=5, episode_id="e", index=2)
    assert env.resets == [{"seed": 5, "episode_id": "e"}]
    assert env.actions == [(0, 0), (1, 1), (2, 2)]
    assert (outcome.index, outcome.steps, outcome.episode_return) == (2, 3, -2.0)
    record = outcome.trajectory
    assert record is not None
    assert (record.index, record.reset_reward, record.reset_info) == (2, 9.0, {"begun": True})
    assert [(t.t, t.observation, t.action, t.reward) for t in record.transitions] == [
        (0, 0, (0, 0), 1.0),
        (1, 1, (1, 1), None),
        (2, 2, (2, 2), -3.0),
    ]
    assert [t.terminated for t in record.transitions] == [False, False, True]
    assert [t.info for t in record.transitions] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert record.final_observation == 3
    assert (record.steps, record.status) == (3, OutcomeStatus.COMPLETED)


@pytest.mark.parametrize(
    ("most", "steps", "status"),
    [
        (1, 1, OutcomeStatus.TRUNCATED),
        (2, 2, OutcomeStatus.TRUNCATED),
        (3, 3, OutcomeStatus.COMPLETED),
        (4, 3, OutcomeStatus.COMPLETED),
    ],
)
async def test_the_step_limit_is_exact(most: int, steps: int, status: OutcomeStatus) -> None:
    outcome = await rollout(Rewarding(1.0, 1.0, 1.0), counting, max_steps=most)
    assert (outcome.steps, outcome.status, outcome.episode_return) == (steps, status, float(steps))


async def test_latencies_are_of_the_steps_that_were_answered() -> None:
    latencies = Reservoir()
    await rollout(Rewarding(1.0, 1.0), counting, latencies=latencies, record=False)
    assert latencies.count == 2
    env = Rewarding(1.0)
    env.error = TransportError("gone")
    outcome = await rollout(env, counting, latencies=latencies)
    assert (outcome.status, latencies.count) == (OutcomeStatus.INFRA_ERROR, 2)


@pytest.mark.parametrize(
    "error",
    [
        SessionClosed("closed"),
        SessionNotFound("no such session"),
        PayloadTooLarge("too large"),
        OperationCancelled("stopped"),
    ],
)
async def test_caller_errors_that_the_caller_did_not_make_are_outcomes(
    error: OpenEnvError,
) -> None:
    env = Rewarding(1.0)
    env.error = error
    outcome = await rollout(env, counting)
    cancelled = isinstance(error, OperationCancelled)
    expected = OutcomeStatus.CANCELLED if cancelled else OutcomeStatus.INFRA_ERROR
    assert (outcome.status, outcome.error) == (expected, error)


@pytest.mark.parametrize("strict", [True, False])
async def test_an_error_of_the_policys_side_is_raised_or_the_outcome(strict: bool) -> None:
    """As an adapter's client tells it, as an action that does not fit, and as the policy's own."""
    bug = LookupError("a bug")
    failed = PolicyFailed("the adapter")
    failed.__cause__ = bug
    wrong = InvalidAction("it does not fit")
    for error, told in ((failed, bug), (wrong, wrong)):
        env = Rewarding(1.0)
        env.error = error
        played = Rollout(counting, strict=strict)
        if strict:
            with pytest.raises(type(told)) as caught:
                await played.play(env)
            assert caught.value is told
            continue
        outcome = await played.play(env)
        assert (outcome.status, outcome.error) == (OutcomeStatus.POLICY_ERROR, told)
        assert played.acted

    def fails(observation: int) -> int:
        raise bug

    played = Rollout(fails, strict=strict)
    if strict:
        with pytest.raises(LookupError):
            await played.play(Rewarding(1.0))
    else:
        outcome = await played.play(Rewarding(1.0))
        assert (outcome.status, outcome.error) == (OutcomeStatus.POLICY_ERROR, bug)
    assert not played.acted


async def test_what_is_given_twice_is_refused() -> None:
    for options in ({"seed": 1}, {"episode_id": "x"}):
        with pytest.raises(ValueError, match="given twice"):
            await rollout(Rewarding(1.0), counting, seed=2, episode_id="y", reset_options=options)
    env = Rewarding(1.0)
    await rollout(env, counting, reset_options={"seed": 3})
    assert env.resets == [{"seed": 3}]


async def test_a_client_whose_calls_answer_at_once_is_refused() -> None:
    class AtOnce(Rewarding):
        def reset(self, **arguments: Any) -> Any:
            return StepResult(0)

    class Other(Rewarding):
        async def reset(self, **arguments: Any) -> Any:
            return {}

    class Stepless:
        async def reset(self, **arguments: Any) -> Any:
            return StepResult(0)

    class Narrow:
        async def reset(self) -> Any:
            raise AssertionError("played")

    with pytest.raises(TypeError, match=r"Stepless has no step\(\)"):
        await rollout(Stepless(), counting)
    with pytest.raises(TypeError, match=r"Narrow.reset\(\).* cannot be called with \['seed'\]"):
        await rollout(Narrow(), counting, seed=1)
    assert Rollout(counting).index == 0
    with pytest.raises(TypeError, match="at once: a client's is async"):
        await rollout(AtOnce(1.0), counting)
    with pytest.raises(TypeError, match="gave a dict: a client's is async"):
        await rollout(Other(1.0), counting)


# -- what is no number, no time and no step -------------------------------------------------------


class TooLarge:
    """A number beyond floats."""

    def __float__(self) -> float:
        raise OverflowError


@pytest.mark.parametrize("reward", [float("nan"), "3", b"3", [1.0], object(), TooLarge(), 10**400])
async def test_a_reward_that_is_no_number_is_an_error_of_the_environment(reward: Any) -> None:
    outcome = await rollout(Rewarding(1.0, reward, 1.0), counting)
    assert (outcome.status, outcome.steps) == (OutcomeStatus.ENV_ERROR, 2)
    assert outcome.episode_return is None
    assert isinstance(outcome.error, InvalidObservation)
    assert f"step() gave the reward {reward!r} in step 2, and with it" in outcome.error.message
    assert outcome.error.phase == "step"
    record = outcome.trajectory
    assert record is not None
    assert record.transitions[0].reward == 1.0
    assert len(record.transitions) == 2


async def test_the_reward_of_a_reset_that_is_no_number_is_one_too() -> None:
    outcome = await rollout(Rewarding(1.0, first=float("nan")), counting)
    assert (outcome.status, outcome.steps) == (OutcomeStatus.ENV_ERROR, 0)
    assert isinstance(outcome.error, InvalidObservation)
    assert outcome.error.message.startswith("reset() gave the reward nan, and with it")
    assert outcome.error.phase == "reset"


@pytest.mark.parametrize(
    ("rewards", "total"),
    [
        ((float("inf"), 1.0), float("inf")),
        ((1.0, float("-inf")), float("-inf")),
        ((None, 2), 2.0),
        ((0.0, None), 0.0),
        ((True, 1), 2.0),
        ((None, None), None),
    ],
)
async def test_rewards_of_all_kinds_are_added(rewards: Any, total: float | None) -> None:
    outcome = await rollout(Rewarding(*rewards), counting)
    assert outcome.status is OutcomeStatus.COMPLETED
    assert outcome.episode_return == total
    assert type(outcome.episode_return) is type(total)


async def test_infinities_that_cancel_each_other_out_have_no_sum() -> None:
    outcome = await rollout(Rewarding(float("inf"), float("-inf")), counting)
    assert (outcome.status, outcome.episode_return) == (OutcomeStatus.ENV_ERROR, None)
    assert isinstance(outcome.error, InvalidObservation)


@pytest.mark.parametrize(
    ("ends", "status"),
    [
        ({"terminated": True}, OutcomeStatus.COMPLETED),
        ({"truncated": True}, OutcomeStatus.TRUNCATED),
        ({"terminated": True, "truncated": True}, OutcomeStatus.COMPLETED),
    ],
)
async def test_an_episode_may_be_over_with_its_reset(
    ends: dict[str, Any], status: OutcomeStatus
) -> None:
    class Over:
        async def reset(self) -> StepResult[int]:
            return StepResult(7, **ends)

    outcome = await rollout(Over(), counting)
    assert (outcome.status, outcome.steps, outcome.episode_return) == (status, 0, None)
    record = outcome.trajectory
    assert record is not None
    assert (record.transitions, record.final_observation) == ([], 7)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EOFError(), OutcomeStatus.INFRA_ERROR),
        (DeadlineExceeded("late", field="step", seconds=1.0), OutcomeStatus.TIMEOUT),
        (EnvironmentRaised("broken"), OutcomeStatus.ENV_ERROR),
        (EnvironmentStartFailed("no licence", phase="open"), OutcomeStatus.ENV_ERROR),
        (SessionClosed("closed"), OutcomeStatus.INFRA_ERROR),
        (LookupError(), OutcomeStatus.ENV_ERROR),
    ],
)
def test_every_error_has_its_status(error: BaseException, status: OutcomeStatus) -> None:
    assert status_of(error) is status


async def test_what_a_client_awaits_may_be_cancelled_without_the_rollout() -> None:
    env = Rewarding(1.0)
    env.error = asyncio.CancelledError()
    outcome = await rollout(env, counting)
    assert outcome.status is OutcomeStatus.ENV_ERROR
    assert isinstance(outcome.error, asyncio.CancelledError)


async def test_the_failure_of_an_adapter_without_a_cause_is_its_own() -> None:
    env = Rewarding(1.0)
    env.error = failed = PolicyFailed("the adapter")
    with pytest.raises(PolicyFailed):
        await rollout(env, counting)
    outcome = await Rollout(counting, strict=False).play(env)
    assert (outcome.status, outcome.error) == (OutcomeStatus.POLICY_ERROR, failed)


@pytest.mark.parametrize("strict", [True, False])
async def test_a_caller_error_of_a_reset_is_raised_whoever_plays(strict: bool) -> None:
    class Refusing(Rewarding):
        async def reset(self, **arguments: Any) -> StepResult[int]:
            raise InvalidOption("no such level")

    with pytest.raises(InvalidOption):
        await Rollout(counting, strict=strict).play(Refusing())


async def test_the_record_is_a_copy_of_what_the_policy_sent_and_saw() -> None:
    class Reusing(Rewarding):
        seen: ClassVar[dict[str, int]] = {"n": 0}

        async def reset(self, **arguments: Any) -> Any:
            return StepResult(self.seen, info=self.seen)

        async def step(self, action: Any) -> Any:
            action["sent"] = -1
            self.seen["n"] += 1
            return StepResult(self.seen, 1.0, terminated=self.seen["n"] == 2, info=self.seen)

    def policy(observation: Any) -> Any:
        return {"sent": observation["n"]}

    record = (await rollout(Reusing(), policy)).trajectory
    assert record is not None
    assert record.reset_info == {"n": 0}
    assert [t.observation for t in record.transitions] == [{"n": 0}, {"n": 1}]
    assert [t.action for t in record.transitions] == [{"sent": 0}, {"sent": 1}]
    assert [t.info for t in record.transitions] == [{"n": 1}, {"n": 2}]
    assert record.final_observation == {"n": 2}


class Limited:
    """A client whose token has used its quota at the first so many calls."""

    def __init__(self, refusals: int, quota: str = "steps", retry_after: float = 40.0) -> None:
        self.refusals = refusals
        self.detail: dict[str, Any] = {"quota": quota, "retry_after": retry_after}
        self.calls: list[str] = []

    async def reset(self) -> StepResult[int]:
        return self._called("reset", False)

    async def step(self, action: int) -> StepResult[int]:
        return self._called(f"step {action}", len(self.calls) > 3)

    def _called(self, name: str, is_last: bool) -> StepResult[int]:
        self.calls.append(name)
        if self.refusals:
            self.refusals -= 1
            raise QuotaReached("come later", **self.detail)
        return StepResult(0, 1.0, terminated=is_last)


def test_what_a_quota_refuses_is_made_again_and_costs_no_episode() -> None:
    async def played() -> None:
        env = Limited(2)
        outcome = await rollout(env, lambda _, turn: turn.t)
        assert (outcome.status, outcome.steps) == (OutcomeStatus.COMPLETED, 2)
        assert env.calls == ["reset", "reset", "reset", "step 0", "step 1"]

        env = Limited(0)
        asked: list[int] = []

        def policy(_: int, turn: Turn) -> int:
            asked.append(turn.t)
            env.refusals = 3 if turn.t == 0 else 0
            return turn.t

        outcome = await rollout(env, policy)
        assert (outcome.status, outcome.steps) == (OutcomeStatus.COMPLETED, 1)
        assert env.calls == ["reset", "step 0", "step 0", "step 0", "step 0"]
        assert asked == [0]  # the policy is not asked again

    run(played)


@pytest.mark.parametrize(
    ("env", "timeout", "status"),
    [
        (Limited(9), 100.0, OutcomeStatus.TIMEOUT),
        (Limited(99), None, OutcomeStatus.INFRA_ERROR),
        (Limited(9, "sessions"), None, OutcomeStatus.INFRA_ERROR),
        (Limited(9, retry_after=4000.0), None, OutcomeStatus.INFRA_ERROR),
    ],
)
def test_a_quota_is_waited_for_within_bounds(
    env: Limited, timeout: float | None, status: OutcomeStatus
) -> None:
    async def played() -> None:
        assert (await rollout(env, lambda *_: 0, timeout=timeout)).status is status

    run(played)
