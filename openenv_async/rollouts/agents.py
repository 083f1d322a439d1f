"""Episodes that somebody else's agent plays: it takes steps when it likes, and ends when it likes.

Rules:

- The reward is the environment's: the sum of what the agent's steps gave. The agent's own word for
  its work counts for nothing.
- An episode that the environment ended has ended as with a policy. Its agent has ``grace`` seconds
  to end by itself, and is ended then.
- A call of a model that failed for good before the episode ended is an infrastructure failure, and
  so is a step of which the record cannot be learnt. Such an episode has no return.
- An agent that leaves the episode open has it finished by ``submit``, an action of the caller's;
  without one the episode is truncated with its return so far. So is that of an agent that spent its
  budget, or took ``max_steps`` steps.
- Actions of the agent that the environment refuses, or that are none, are mistakes: they are
  counted as a policy's are, and are not among the steps.
- An agent that goes on after it was cancelled, because it does not let cancellation through, has
  failed; it is left to itself, without its key and its address.
- An agent that fails while the episode is open is a policy that raised: ``policy_error``, unless it
  had spent its budget.
- Calls of the model stand, in the order in which they came, with the first step that was taken
  after their answer and those before it were there. Calls after the last step stand with it; those
  of an episode without a step are among the agent's facts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from openenv_async.client.agent_lease import AgentLease, ModelGateway
from openenv_async.deadlines import end_tasks
from openenv_async.errors import AgentFailed, OpenEnvError
from openenv_async.rollouts.policies import Turn
from openenv_async.rollouts.record import Transition, snapshot
from openenv_async.rollouts.run import Rollout, RolloutEnd, as_float, no_number, status_of
from openenv_async.types import ModelCall, Outcome, OutcomeStatus, StepResult, Task

__all__ = ["AGENT_FACTS", "NO_ACTION", "AgentRollout", "EpisodeAgent", "ModelUse", "TimedCall"]

NO_ACTION: Final = object()
"""Stands for no action in ``EpisodeAgent.submit``: an action may be ``None``."""
AGENT_FACTS: Final = "agent"
"""Name of an agent's facts among a trajectory's extras."""
_ENDING: Final = 30.0
"""Seconds that an agent has to end when it was cancelled."""

log = logging.getLogger("openenv_async.rollouts")


@dataclass(frozen=True, slots=True)
class TimedCall:
    """A call of a model in the course of an episode.

    Attributes:
        call: for the record.
        ended_at: when it was answered, or failed, as Unix time in seconds.
    """

    call: ModelCall
    ended_at: float


@dataclass(frozen=True, slots=True)
class ModelUse:
    """The use that an agent made of its model in one episode.

    Attributes:
        calls: in the order in which they came.
        failures: of calls that failed for good by no fault of the agent's: the time at which each
            began, and its error.
        spent: what the agent used up of its budget; ``None`` while some is left.
        tokens: of prompts and answers, as far as engines counted them.
        session: the id of the gateway's session; ``None`` without a gateway.
    """

    calls: Sequence[TimedCall] = ()
    failures: Sequence[tuple[float, OpenEnvError]] = ()
    spent: str | None = None
    tokens: int = 0
    session: str | None = None


class EpisodeAgent(Protocol):
    """An agent of others, as a collection plays episodes with it; see ``gateway.agents``.

    Attributes:
        gateway: gives each episode a key for a model; ``None``: the agent has its own.
        budget: of each episode, as the gateway takes it.
        submit: an action that finishes an episode that the agent left open, else ``NO_ACTION``.
        grace: seconds that the agent may go on when its episode has ended.
    """

    gateway: ModelGateway | None
    budget: Any
    submit: Any
    grace: float

    async def play(self, lease: AgentLease[Any, Any], turn: Turn) -> Mapping[str, Any]:
        """Play an episode to the agent's end, and return facts of it for the record.

        When it returns, or is cancelled, nothing is left of the agent.

        Args:
            lease: both sides of the session.
            turn: the beginning of the episode.

        Raises:
            Exception: the agent failed.
        """
        ...

    def used(self, lease: AgentLease[Any, Any]) -> ModelUse:
        """Return the use that was made of the lease's model; its session has ended."""
        ...


class AgentRollout(Rollout):
    """An episode of an agent under way.

    Args:
        agent: plays it.
        on_decision: is called with the episode's index and the number of its steps before each
            decision of the agent; an error that it returns ends the episode.
        options: of ``Rollout``.
    """

    def __init__(
        self,
        agent: EpisodeAgent,
        *,
        on_decision: Callable[[int, int], OpenEnvError | None] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(_no_policy, **options)
        self._agent = agent
        self._on_decision = on_decision
        self._decisions = 0
        self._stopped: OpenEnvError | None = None
        self._env: Any = None
        self._known_at = 0.0
        self._taken_at: list[float] = []
        self._problem: OpenEnvError | None = None
        self._use = ModelUse()

    def _decider(self) -> Callable[[Any, Turn], Any]:
        return _no_policy

    async def _play(self, env: Any) -> RolloutEnd:
        self._env = env
        return await super()._play(env)

    async def _steps(
        self, step: Any, decide: Callable[[Any, Turn], Any], result: StepResult[Any]
    ) -> RolloutEnd:
        """Let the agent play until it or the episode ends; ``result`` is that of the reset."""
        agent, task = self._agent, self.task
        if result.done:
            return _end_of(result), None
        public = None if task is None else Task(task.id, task.data, split=task.split)
        turn = Turn(self.index, 0, self.episode, result, None, public)
        lease: AgentLease[Any, Any]
        lease = AgentLease(self._env, gateway=agent.gateway, budget=agent.budget, owned=False)
        lease.task = public
        self.phase = "policy"
        self.policy_awaits = True
        self._known_at = time.time()
        try:
            await lease.open()
        except (OpenEnvError, OSError) as exc:
            return status_of(exc), exc
        lease.follow(result)
        facts: dict[str, Any] = {"ended": "cut"}
        try:
            error = await self._accompany(lease, turn, facts)
            return await self._concluded(lease, error, facts)
        finally:
            with contextlib.suppress(OpenEnvError, OSError):  # the lease tells of it
                await lease.aclose()
            self._record_use(agent.used(lease), facts)

    async def _accompany(
        self, lease: AgentLease[Any, Any], turn: Turn, facts: dict[str, Any]
    ) -> BaseException | None:
        """Record the agent's steps until it has ended; return what it failed with.

        Raises:
            BaseException: it is not an ``Exception``.
        """
        loop = asyncio.get_running_loop()
        playing = asyncio.create_task(self._agent.play(lease, turn), name="openenv-agent")
        seconds = getattr(self._agent.budget, "seconds", None)
        until = math.inf if seconds is None else loop.time() + seconds
        try:
            while not playing.done():
                self._record_taken(lease)
                if not lease.is_over:
                    self._note_decision(self.steps)
                if self._stopped is not None:
                    break
                if lease.is_over or self.steps == self._max_steps:
                    if not lease.is_over:
                        with contextlib.suppress(OpenEnvError, OSError):  # the lease keeps it
                            await lease.settle()
                    until = min(until, loop.time() + self._agent.grace)
                    await _first(playing, timeout=until - loop.time())
                    break
                news = asyncio.create_task(lease.changed(len(lease.taken)))
                try:
                    await _first(playing, news, timeout=until - loop.time())
                finally:
                    news.cancel()
                if loop.time() >= until:
                    break
        finally:
            if not playing.done():
                try:
                    await end_tasks(playing, seconds=_ENDING)
                finally:
                    if not playing.done():
                        log.error("%s", _stuck(self.index).message)
        if not playing.done():
            facts["ended"] = "stuck"
            return _stuck(self.index)
        if playing.cancelled():
            facts["ended"] = "stopped"
            return None
        if (error := playing.exception()) is not None:
            facts["ended"] = "failed"
            if not isinstance(error, Exception):
                raise error
            return error
        facts |= {"ended": "left", **playing.result()}
        return None

    async def _concluded(
        self, lease: AgentLease[Any, Any], error: BaseException | None, facts: dict[str, Any]
    ) -> RolloutEnd:
        """Return the end of the episode: its agent is gone."""
        agent = self._agent
        try:
            await lease.end_model()
            await lease.settle()
        except (OpenEnvError, OSError) as exc:
            self._record_taken(lease)
            return status_of(exc), exc
        if self._stopped is not None:
            self._record_taken(lease)
            return status_of(self._stopped), self._stopped
        self._record_taken(lease)
        is_over = lease.is_over and self.steps == len(lease.taken)
        use = agent.used(lease)
        ended_at = lease.taken[-1].taken_at if is_over else math.inf
        for begun_at, failure in use.failures:
            if begun_at <= ended_at:
                return status_of(failure), failure
        if self._problem is not None:
            return OutcomeStatus.ENV_ERROR, self._problem
        if is_over:
            return _end_of(lease.taken[-1].result), None
        if self.steps == self._max_steps:
            return OutcomeStatus.TRUNCATED, None
        if use.spent is not None:
            facts["ended"] = "spent"
        elif error is not None:
            if self._strict:
                raise error
            return OutcomeStatus.POLICY_ERROR, error
        if agent.submit is not NO_ACTION:
            return await self._submitted(lease, facts)
        return OutcomeStatus.TRUNCATED, None

    async def _submitted(self, lease: AgentLease[Any, Any], facts: dict[str, Any]) -> RolloutEnd:
        """Finish an episode that the agent left open."""
        facts["submitted"] = True
        self.phase = "step"
        try:
            await lease.finish(self._agent.submit)
        except Exception as exc:
            return self._ended_by(exc, in_step=True)
        self._record_taken(lease)
        if self._problem is not None:
            return OutcomeStatus.ENV_ERROR, self._problem
        return (_end_of(lease.taken[-1].result) if lease.is_over else OutcomeStatus.TRUNCATED), None

    def ended(self, status: OutcomeStatus, error: BaseException | None = None) -> Outcome:
        """Return the outcome as things stand now."""
        outcome = super().ended(status, error)
        outcome.model_calls, outcome.model_tokens = len(self._use.calls), self._use.tokens
        return outcome

    # -- the record -----------------------------------------------------------------------------

    def _record_taken(self, lease: AgentLease[Any, Any]) -> None:
        """Record the steps that are not recorded yet, and what is wrong with their rewards."""
        self.mistakes, self.unreadable = lease.mistakes.count, lease.mistakes.unreadable
        for taken in lease.taken[self.steps : self._max_steps]:
            self._note_decision(self.steps)
            result, reward = taken.result, taken.result.reward
            if reward is not None:
                number = as_float(reward)
                total = number if self._return is None else self._return + number
                if total != total:
                    number_missing = no_number("step", reward, self.steps + 1)
                    self._problem = self._problem or number_missing
                self._return, reward = total, number
            if self.trajectory is not None:
                seconds = max(taken.taken_at - self._known_at, 0.0)
                self.trajectory.transitions.append(
                    Transition(
                        self.steps,
                        self.trajectory.final_observation,
                        snapshot(taken.action),
                        reward,
                        result.terminated,
                        result.truncated,
                        snapshot(result.info) if result.info else {},
                        timings={"policy": seconds},
                    )
                )
                self.trajectory.final_observation = snapshot(result.observation)
            self.policy_seconds += max(taken.taken_at - self._known_at, 0.0)
            self._known_at = max(taken.taken_at, self._known_at)
            self._taken_at.append(taken.taken_at)
            self.steps += 1
            self.acted = True

    def _note_decision(self, step: int) -> None:
        """Have the agent's decision on a step noted, once."""
        if self._on_decision is not None and step == self._decisions:
            self._decisions += 1
            self._stopped = self._stopped or self._on_decision(self.index, step)

    def _record_use(self, use: ModelUse, facts: Mapping[str, Any]) -> None:
        """Put the calls of the model beside the steps, and the agent's facts into the record."""
        self._use = use
        trajectory = self.trajectory
        if trajectory is None:
            return
        counts = {"calls": len(use.calls), "tokens": use.tokens}
        named = {} if use.session is None else {"session": use.session}
        trajectory.extra[AGENT_FACTS] = told = {**facts, **counts, **named}
        transitions = trajectory.transitions
        if not transitions:
            if use.calls:
                told["model_calls"] = [asdict(timed.call) for timed in use.calls]
            return
        last = len(transitions) - 1
        of_step: list[list[ModelCall]] = [[] for _ in transitions]
        number = 0
        for timed in use.calls:
            while number < last and self._taken_at[number] < timed.ended_at:
                number += 1
            of_step[number].append(timed.call)
        for transition, calls in zip(transitions, of_step, strict=True):
            transition.model_calls = calls
            model = math.fsum(call.seconds or 0.0 for call in calls)
            transition.timings = {**(transition.timings or {}), "model": model}


def _stuck(index: int) -> AgentFailed:
    return AgentFailed(
        f"the agent of episode {index} did not end within {_ENDING:g} s of being cancelled: let"
        " asyncio.CancelledError through where its code catches all exceptions"
    )


def _no_policy(observation: Any, turn: Turn) -> Any:
    raise AssertionError("an agent plays by itself")


def _end_of(result: StepResult[Any]) -> OutcomeStatus:
    return OutcomeStatus.COMPLETED if result.terminated else OutcomeStatus.TRUNCATED


async def _first(*tasks: asyncio.Task[Any], timeout: float) -> None:
    """Return when one of the tasks has ended, or the time is up."""
    seconds = None if timeout == math.inf else max(timeout, 0.0)
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
