"""One rollout: one episode of one session, from reset to its end, whatever that end is.

Rules:

- A failure of the environment or of what carries it is an outcome, never an exception.
- What the policy raises, a call that was wrong (``CallerError``) and cancellation propagate.
- A failed rollout has no return; one whose environment gave no reward has none either.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from openenv_async.client.arguments import reset_arguments
from openenv_async.errors import (
    CallerError,
    DeadlineExceeded,
    EnvironmentFailure,
    OpenEnvError,
    OperationCancelled,
    PayloadTooLarge,
    SessionClosed,
    SessionNotFound,
)
from openenv_async.rollouts.policies import Turn, bind, is_pending
from openenv_async.rollouts.summary import Reservoir
from openenv_async.rollouts.trajectory import Trajectory, Transition
from openenv_async.types import EpisodeInfo, Outcome, OutcomeStatus, StepResult

__all__ = ["Rollout", "rollout", "status_of"]

_NOT_THE_CALLERS: Final = (SessionClosed, SessionNotFound, PayloadTooLarge)
"""Caller errors that, met in a rollout, were not caused by the policy or its settings."""


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
) -> Outcome:
    """Play one episode.

    Args:
        env: an ``EnvClient``, or anything with its ``reset`` and ``step``. It is not closed.
        policy: chooses the actions; see ``policies``.
        seed: given to ``reset`` unless ``None``.
        episode_id: given to ``reset`` unless ``None``.
        max_steps: after this many steps the outcome is ``truncated``.
        timeout: seconds for the whole episode, the policy included; the outcome is ``timeout``.
        reset_options: further arguments of ``reset``.
        record: keep a ``Trajectory``.
        index: which rollout of a batch this is; handed to outcome and policy.
        latencies: takes the seconds of every step call.

    Returns:
        How it ended. After a failure the session may be unusable: close it.

    Raises:
        CallerError: an action or option does not fit; ``PayloadTooLarge`` and a session that
            was closed under the rollout are outcomes.
        Exception: what the policy raised.
    """
    return await Rollout(
        policy,
        seed=seed,
        episode_id=episode_id,
        max_steps=max_steps,
        timeout=timeout,
        reset_options=reset_options,
        record=record,
        index=index,
        latencies=latencies,
    ).play(env)


def status_of(error: BaseException) -> OutcomeStatus:
    """What an error of ``reset`` or ``step`` makes of the rollout."""
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


class Rollout:
    """A rollout under way; ``collect`` looks into it when it has to stop it.

    The arguments are those of ``rollout``.

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
    ) -> None:
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be a positive number of seconds, got {timeout!r}")
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
        self._reset_arguments: dict[str, Any] = reset_arguments(reset_options or {})
        if seed is not None:
            self._reset_arguments["seed"] = seed
        if episode_id is not None:
            self._reset_arguments["episode_id"] = episode_id

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

    async def _play(self, env: Any) -> tuple[OutcomeStatus, BaseException | None]:
        decide = bind(self._policy, self.index)
        trajectory, most = self.trajectory, self._max_steps
        latencies = None if self._latencies is None else self._latencies.add
        clock = time.perf_counter
        try:
            result: StepResult[Any] = await env.reset(**self._reset_arguments)
        except Exception as exc:
            return _judged(exc), exc
        self.episode = getattr(env, "episode", None)
        turn = Turn(self.index, 0, self.episode, result)
        if trajectory is not None:
            trajectory.begin(self.episode)
            trajectory.final_observation = result.observation
            trajectory.reset_reward = result.reward
            trajectory.reset_info = result.info
        while not (result.terminated or result.truncated):
            if self.steps == most:
                return OutcomeStatus.TRUNCATED, None
            observation = result.observation
            action = decide(observation, turn)
            if is_pending(action):
                action = await action
            begun = clock()
            self.acted = True
            try:
                result = await env.step(action)
            except Exception as exc:
                return _judged(exc), exc
            if latencies is not None:
                latencies(clock() - begun)
            reward = result.reward
            if reward is not None:
                self._return = reward if self._return is None else self._return + reward
            if trajectory is not None:
                trajectory.transitions.append(
                    Transition(
                        self.steps,
                        observation,
                        action,
                        reward,
                        result.terminated,
                        result.truncated,
                        result.info,
                    )
                )
                trajectory.final_observation = result.observation
            self.steps += 1
            turn.t = self.steps
            turn.result = result
        return (OutcomeStatus.COMPLETED if result.terminated else OutcomeStatus.TRUNCATED), None

    def ended(self, status: OutcomeStatus, error: BaseException | None = None) -> Outcome:
        """The outcome as things stand now."""
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


def _judged(error: Exception) -> OutcomeStatus:
    """The status for ``error``, unless it says that the call was wrong: then it is raised."""
    if (
        isinstance(error, CallerError)
        and not isinstance(error, _NOT_THE_CALLERS)
        and not isinstance(error, OperationCancelled)
    ):
        raise error
    return status_of(error)
