"""One rollout: one episode of one session, from reset to its end, whatever that end is.

Rules:

- A failure of the environment or of what carries it is an outcome, never an exception.
- A wrong call (``TypeError``, ``ValueError``, a ``CallerError`` of ``reset``) is raised,
  and so is cancellation. An exception of the policy, or an action that does not fit, is raised
  by ``rollout``; among many episodes (``collect``) it is that episode's outcome, ``policy_error``.
- A failed rollout has no return; one whose environment gave no reward has none either. A reward
  that is NaN, or makes the sum NaN, fails the rollout: it is an ``env_error``.
- The record has copies: what the policy or the environment does to its objects later does not
  change what was recorded.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, TypedDict, Unpack, overload

from openenv_async.client.arguments import reset_arguments
from openenv_async.client.env import EnvClient
from openenv_async.errors import (
    CallerError,
    DeadlineExceeded,
    EnvironmentFailure,
    InvalidObservation,
    OpenEnvError,
    OperationCancelled,
    PayloadTooLarge,
    SessionClosed,
    SessionNotFound,
)
from openenv_async.rollouts.checking import (
    check_call,
    check_count,
    check_policy,
    check_reset_options,
    check_seconds,
    check_seed,
)
from openenv_async.rollouts.policies import Turn, bind, is_pending
from openenv_async.rollouts.record import Trajectory, Transition, snapshot
from openenv_async.rollouts.sessions import TypedSource, client_for
from openenv_async.rollouts.summary import Reservoir
from openenv_async.types import (
    ActT,
    EpisodeInfo,
    ObsT,
    Outcome,
    OutcomeStatus,
    PlainValue,
    StepResult,
)

__all__ = ["PolicyFailed", "Rollout", "rollout", "status_of"]

_NOT_THE_CALLERS: Final = (SessionClosed, SessionNotFound, PayloadTooLarge)
"""Caller errors that, met in a rollout, were not caused by the policy or its settings."""


_End: TypeAlias = tuple[OutcomeStatus, BaseException | None]
"""The status of a rollout, and the error that ended it."""


class RolloutKeywords(TypedDict, total=False):
    """Keyword arguments of ``rollout``."""

    seed: int | None
    episode_id: str | None
    max_steps: int | None
    timeout: float | None
    reset_options: Mapping[str, Any] | None
    record: bool
    index: int
    latencies: Reservoir | None
    params: Mapping[str, Any] | None
    token: str | None


@overload
async def rollout(
    env: EnvClient[ActT, ObsT, Any] | TypedSource[ActT, ObsT],
    policy: Callable[..., Any],
    **options: Unpack[RolloutKeywords],
) -> Outcome[ObsT, ActT]: ...


@overload
async def rollout(
    env: Any, policy: Callable[..., Any], **options: Unpack[RolloutKeywords]
) -> Outcome[PlainValue, PlainValue]: ...


async def rollout(
    env: Any,
    policy: Callable[..., Any],
    *,
    seed: int | None = None,
    episode_id: str | None = None,
    max_steps: int | None = None,
    timeout: float | None = None,
    reset_options: Mapping[str, Any] | None = None,
    record: bool = True,
    index: int = 0,
    latencies: Reservoir | None = None,
    params: Mapping[str, Any] | None = None,
    token: str | None = None,
) -> Outcome[Any, Any]:
    """Play one episode.

    Args:
        env: an ``EnvClient``, or anything with its ``reset`` and ``step``, which is not closed;
            or any other target, such as a URL, a name, an environment class or a pool: the
            episode is played on a client of its own, and a server that it needs is started.
        policy: chooses the actions; see ``policies``.
        seed: given to ``reset`` unless ``None``.
        episode_id: given to ``reset`` unless ``None``.
        max_steps: after this many steps the outcome is ``truncated``.
        timeout: seconds for the whole episode, the policy included; the outcome is ``timeout``.
        reset_options: further arguments of ``reset``.
        record: keep a ``Trajectory``.
        index: which rollout of a batch this is; handed to outcome and policy.
        latencies: takes the seconds of every step call.
        params: constructor arguments of the environment, for a name or a class.
        token: access token, for a URL.

    Returns:
        How it ended. After a failure the session may be unusable: close it.

    Raises:
        TypeError, ValueError: an argument is wrong, or ``env`` is not a client; nothing is
            played.
        CallerError: an action or option does not fit; ``PayloadTooLarge`` and a session that
            was closed under the rollout are outcomes.
        Exception: what the policy raised.
    """
    check_policy(policy)
    played = Rollout(
        policy,
        seed=seed,
        episode_id=episode_id,
        max_steps=max_steps,
        timeout=timeout,
        reset_options=reset_options,
        record=record,
        index=index,
        latencies=latencies,
    )
    async with client_for(env, params, token, "rollout()") as client:
        return await played.play(client)


def status_of(error: BaseException) -> OutcomeStatus:
    """Return the status of a rollout that an error of ``reset`` or ``step`` ended."""
    match error:
        case OperationCancelled():
            return OutcomeStatus.CANCELLED
        case EnvironmentFailure():
            return OutcomeStatus.ENV_ERROR
        case DeadlineExceeded() | TimeoutError():
            return OutcomeStatus.TIMEOUT
        case OpenEnvError() | OSError() | EOFError():
            return OutcomeStatus.INFRA_ERROR
        case _:  # a duck-typed environment that raised as itself
            return OutcomeStatus.ENV_ERROR


class PolicyFailed(Exception):
    """Raised by an adapter's client when code of the policy's side failed; from what that raised.

    The error of the outcome is its cause.
    """


class Rollout:
    """A rollout under way; ``collect`` looks into it when it has to stop it.

    The arguments are those of ``rollout``.

    Args:
        strict: raise what the policy raises, and what an action that does not fit makes ``step``
            raise; else it is the outcome.

    Attributes:
        acted: whether an action was sent, answered or not.
    """

    def __init__(
        self,
        policy: Callable[..., Any],
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        max_steps: int | None = None,
        timeout: float | None = None,
        reset_options: Mapping[str, Any] | None = None,
        record: bool = True,
        index: int = 0,
        latencies: Reservoir | None = None,
        strict: bool = True,
    ) -> None:
        if max_steps is not None:
            max_steps = check_count("max_steps", max_steps)
        if timeout is not None:
            timeout = check_seconds("timeout", timeout)
        self.index = index
        self.steps = 0
        self.acted = False
        self.episode: EpisodeInfo | None = None
        self.trajectory = Trajectory(index) if record else None
        self._policy = policy
        self._max_steps = max_steps
        self._timeout = timeout
        self._latencies = latencies
        self._return: float | None = None
        self._begun = time.perf_counter()
        self._strict = strict
        options = snapshot(dict(check_reset_options(reset_options)))
        self._reset_arguments: dict[str, Any] = reset_arguments(options)
        if seed is not None:
            seed = check_seed("seed", seed)
        for name, value in (("seed", seed), ("episode_id", episode_id)):
            if value is not None:
                if name in options:
                    raise ValueError(f"the {name} is given twice: by itself and in reset_options")
                self._reset_arguments[name] = value

    async def play(self, env: Any) -> Outcome:
        """Play it to its end."""
        self._begun = time.perf_counter()
        if self._timeout is None:
            return self.ended(*await self._play(env))
        try:
            async with asyncio.timeout(self._timeout) as limit:
                status, error = await self._play(env)
        except TimeoutError:
            if not limit.expired():
                raise  # the policy's own
            status = OutcomeStatus.TIMEOUT
            error = DeadlineExceeded(
                f"the episode took longer than its timeout of {self._timeout:g} s",
                field="rollout",
                seconds=self._timeout,
            )
        return self.ended(status, error)

    async def _play(self, env: Any) -> _End:
        decide = bind(self._policy, self.index)
        if not isinstance(env, EnvClient):
            check_call(env.reset, self._reset_arguments, f"{type(env).__name__}.reset")
        try:
            beginning = env.reset(**self._reset_arguments)
            pending = inspect.isawaitable(beginning)
            result: StepResult[Any] = await beginning if pending else beginning
        except Exception as exc:
            return self._ended_by(exc, in_step=False)
        if not pending or not hasattr(result, "observation"):
            raise TypeError(
                f"reset() of {type(env).__name__} gave a {type(result).__name__}"
                f"{'' if pending else ' at once'}: a client's is async and gives a StepResult"
            )
        step: Any = getattr(env, "step", None)
        if step is None and not (result.terminated or result.truncated):
            raise TypeError(f"{type(env).__name__} has no step(): no episode can be played on it")
        self.episode = getattr(env, "episode", None)
        if self.trajectory is not None:
            self._record_reset(self.trajectory, result)
        if result.reward is not None and result.reward != result.reward:
            return OutcomeStatus.ENV_ERROR, _no_number("reset", result.reward, 0)
        return await self._steps(step, decide, result)

    async def _steps(
        self, step: Any, decide: Callable[[Any, Turn], Any], result: StepResult[Any]
    ) -> _End:
        """Take steps until the episode ends; ``result`` is that of the reset."""
        trajectory, most = self.trajectory, self._max_steps
        latencies = None if self._latencies is None else self._latencies.add
        clock = time.perf_counter
        turn = Turn(self.index, 0, self.episode, result)
        while not (result.terminated or result.truncated):
            if self.steps == most:
                return OutcomeStatus.TRUNCATED, None
            try:
                action = decide(result.observation, turn)
                if is_pending(action):
                    action = await action
            except (Exception, asyncio.CancelledError) as exc:
                if self._strict or _is_cancelled(exc):
                    raise
                return OutcomeStatus.POLICY_ERROR, exc
            sent = action if trajectory is None else snapshot(action)
            begun = clock()
            self.acted = True
            try:
                result = await step(action)
            except (Exception, asyncio.CancelledError) as exc:
                if _is_cancelled(exc):
                    raise
                return self._ended_by(exc, in_step=True)
            if latencies is not None:
                latencies(clock() - begun)
            reward, problem = result.reward, None
            if reward is not None:
                number = reward if type(reward) is float else _as_float(reward)
                total = number if self._return is None else self._return + number
                if total != total:
                    problem = _no_number("step", reward, self.steps + 1)
                self._return, reward = total, number
            if trajectory is not None:
                self._record_step(trajectory, sent, reward, result)
            self.steps += 1
            turn.t = self.steps
            turn.result = result
            if problem is not None:
                return OutcomeStatus.ENV_ERROR, problem
        return (OutcomeStatus.COMPLETED if result.terminated else OutcomeStatus.TRUNCATED), None

    def _record_reset(self, trajectory: Trajectory, result: StepResult[Any]) -> None:
        trajectory.begin(self.episode)
        trajectory.final_observation = snapshot(result.observation)
        trajectory.reset_reward = result.reward
        trajectory.reset_info = snapshot(result.info)

    def _record_step(
        self, trajectory: Trajectory, sent: Any, reward: float | None, result: StepResult[Any]
    ) -> None:
        """Add a transition; its observation is the last one that was recorded."""
        transition = Transition(
            self.steps,
            trajectory.final_observation,
            sent,
            reward,
            result.terminated,
            result.truncated,
            snapshot(result.info),
        )
        trajectory.transitions.append(transition)
        trajectory.final_observation = snapshot(result.observation)

    def _ended_by(self, error: BaseException, *, in_step: bool) -> _End:
        """Return the end that an error makes, or raise one that says that the call was wrong."""
        if isinstance(error, PolicyFailed):
            cause = error.__cause__ or error
            if self._strict:
                raise cause
            return OutcomeStatus.POLICY_ERROR, cause
        if (
            isinstance(error, CallerError)
            and not isinstance(error, _NOT_THE_CALLERS)
            and not isinstance(error, OperationCancelled)
        ):
            if self._strict or not in_step:
                raise error
            return OutcomeStatus.POLICY_ERROR, error
        return status_of(error), error

    def ended(self, status: OutcomeStatus, error: BaseException | None = None) -> Outcome:
        """Return the outcome as things stand now."""
        outcome = Outcome(
            index=self.index,
            status=status,
            episode=self.episode,
            episode_return=self._return if status.usable else None,
            steps=self.steps,
            duration=time.perf_counter() - self._begun,
            trajectory=self.trajectory,
            error=error,
        )
        if self.trajectory is not None:
            self.trajectory.finish(outcome)
        return outcome


def _is_cancelled(error: BaseException) -> bool:
    """Tell whether the rollout itself is cancelled, not what the policy or client awaited."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and (task is None or task.cancelling() > 0)


def _as_float(reward: Any) -> float:
    """Return a reward of another kind as a float; anything but a number is NaN."""
    try:
        return math.nan if isinstance(reward, str | bytes) else float(reward)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _no_number(call: str, reward: Any, step: int) -> InvalidObservation:
    """Return the error of a reward that no return can be made of; ``step`` counts from 1."""
    return InvalidObservation(
        f"{call}() gave the reward {reward!r}"
        + (f" in step {step}" if call == "step" else "")
        + ", and with it the episode has no return: give a number, or None for no reward",
        phase=call,
    )
