"""One rollout: one episode of one session, from reset to its end, whatever that end is.

Rules:

- A failure of the environment or of what carries it is an outcome, never an exception.
- A wrong call (``TypeError``, ``ValueError``, a ``CallerError`` of ``reset``) is raised,
  and so is cancellation. An exception of the policy is raised by ``rollout``; among many episodes
  (``collect``) it is that episode's outcome, ``policy_error``. A ``reset`` that refuses a task is
  the outcome ``task_error``.
- A mistake of the policy is an action that is refused, or a reply that is not an action
  (``UnreadableReply``). The environment is where it was. ``on_mistake`` says what follows: the
  policy is told and asked again, the episode ends, or the error is the policy's.
- A failed rollout has no return; one whose environment gave no reward has none either. A reward
  that is NaN, or makes the sum NaN, fails the rollout: it is an ``env_error``.
- A reset or step that a quota of the token refuses was not executed: it is made again when its
  turn comes, for as long as the episode may last.
- The record has copies: what the policy or the environment does to its objects later does not
  change what was recorded.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Literal,
    TypeAlias,
    TypedDict,
    Unpack,
    get_args,
    overload,
)

from openenv_async.client.arguments import reset_arguments
from openenv_async.client.env import EnvClient
from openenv_async.client.refusals import pause_for_turn
from openenv_async.errors import (
    CallerError,
    DeadlineExceeded,
    EnvironmentFailure,
    InvalidAction,
    InvalidModel,
    InvalidObservation,
    OpenEnvError,
    OperationCancelled,
    OperationUnsupported,
    PayloadTooLarge,
    QuotaReached,
    SessionClosed,
    SessionNotFound,
    UnreadableReply,
)
from openenv_async.rollouts.checking import (
    check_agent,
    check_call,
    check_count,
    check_policy,
    check_reset_options,
    check_seconds,
    check_seed,
)
from openenv_async.rollouts.policies import Turn, bind, is_pending
from openenv_async.rollouts.record import Trajectory, Transition, recordable, snapshot
from openenv_async.rollouts.sessions import TypedSource, client_for
from openenv_async.rollouts.summary import Reservoir
from openenv_async.rollouts.tasks import as_task
from openenv_async.rollouts.video import EpisodeVideo
from openenv_async.schemas.legal import ACTION_MASK
from openenv_async.types import (
    ActT,
    EpisodeInfo,
    Mistake,
    ObsT,
    Outcome,
    OutcomeStatus,
    PlainValue,
    StepResult,
    Task,
)

if TYPE_CHECKING:
    from openenv_async.rollouts.agents import EpisodeAgent

__all__ = [
    "OnMistake",
    "PolicyFailed",
    "Rollout",
    "RolloutEnd",
    "as_float",
    "no_number",
    "rollout",
    "status_of",
]

OnMistake = Literal["tell", "end", "raise"]
"""The consequence of a mistake of the policy: it is told and asked again; the episode ends with the
environment's own penalty, or none (``invalid_action``); its error is raised (``policy_error``)."""
MAX_MISTAKES: Final = 3
_MISTAKES: Final = (InvalidAction, InvalidModel)
"""Errors of ``step`` that say that the environment did not take the action."""

_NOT_THE_CALLERS: Final = (SessionClosed, SessionNotFound, PayloadTooLarge)
"""Caller errors that, met in a rollout, were not caused by the policy or its settings."""


_LONGEST_TURN: Final = 1800.0
"""Seconds that one reset or step waits for the token's turn; servers close idle sessions then."""

_NOTHING: Final = object()
"""Stands for no action."""

RolloutEnd: TypeAlias = tuple[OutcomeStatus, BaseException | None]
"""The status of a rollout, and the error that ended it."""


class RolloutKeywords(TypedDict, total=False):
    """Keyword arguments of ``rollout``."""

    seed: int | None
    episode_id: str | None
    max_steps: int | None
    timeout: float | None
    reset_options: Mapping[str, Any] | None
    record: bool
    on_mistake: OnMistake | None
    max_mistakes: int
    policy_timeout: float | None
    task: Task | Mapping[str, Any] | None
    index: int
    latencies: Reservoir | None
    params: Mapping[str, Any] | None
    token: str | None
    agent: EpisodeAgent | None


@overload
async def rollout(
    env: EnvClient[ActT, ObsT, Any] | TypedSource[ActT, ObsT],
    policy: Callable[..., Any] | None = None,
    **options: Unpack[RolloutKeywords],
) -> Outcome[ObsT, ActT]: ...


@overload
async def rollout(
    env: Any, policy: Callable[..., Any] | None = None, **options: Unpack[RolloutKeywords]
) -> Outcome[PlainValue, PlainValue]: ...


async def rollout(
    env: Any,
    policy: Callable[..., Any] | None = None,
    *,
    seed: int | None = None,
    episode_id: str | None = None,
    max_steps: int | None = None,
    timeout: float | None = None,
    reset_options: Mapping[str, Any] | None = None,
    record: bool = True,
    on_mistake: OnMistake | None = None,
    max_mistakes: int = MAX_MISTAKES,
    policy_timeout: float | None = None,
    task: Task | Mapping[str, Any] | None = None,
    index: int = 0,
    latencies: Reservoir | None = None,
    params: Mapping[str, Any] | None = None,
    token: str | None = None,
    agent: EpisodeAgent | None = None,
) -> Outcome[Any, Any]:
    """Play one episode.

    Args:
        env: an ``EnvClient``, or anything with its ``reset`` and ``step``, which is not closed;
            or any other target, such as a URL, a name, an environment class or a pool: the
            episode is played on a client of its own, and a server that it needs is started.
        policy: chooses the actions; see ``policies``. ``None`` with an ``agent``.
        seed: given to ``reset`` unless ``None``.
        episode_id: given to ``reset`` unless ``None``.
        max_steps: after this many steps the outcome is ``truncated``.
        timeout: seconds for the whole episode, the policy included; the outcome is ``timeout``.
        reset_options: further arguments of ``reset``.
        record: keep a ``Trajectory``.
        on_mistake: what follows an action that is refused, or a reply that is not an action:
            ``tell``: the policy is asked again, with ``turn.mistake``; ``end``: the outcome is
            ``invalid_action``, its return what the environment gave, with its penalty where it
            has one; ``raise``: as if the policy had raised. By default ``tell`` for a policy that
            corrects mistakes (``LanguagePolicy``), else ``raise``.
        max_mistakes: in a row; with the last of them the episode ends as by ``end``.
        policy_timeout: seconds for one decision of an async policy, which failed then.
        task: what the episode is about: a ``Task``, or a row of columns that become options of
            ``reset``.
        index: which rollout of a batch this is; handed to outcome and policy.
        latencies: takes the seconds of every step call.
        params: constructor arguments of the environment, for a name or a class.
        token: access token, for a URL.
        agent: plays the whole episode by itself, in place of a policy, as for ``collect``.

    Returns:
        How it ended. After a failure the session may be unusable: close it.

    Raises:
        TypeError, ValueError: an argument is wrong, or ``env`` is not a client; nothing is
            played.
        CallerError: an option does not fit, or an action by ``on_mistake``; ``PayloadTooLarge``
            and a session that was closed under the rollout are outcomes.
        DeadlineExceeded: the policy took longer than ``policy_timeout``.
        Exception: what the policy, or the agent, raised.
    """
    options: dict[str, Any] = {
        "seed": seed,
        "episode_id": episode_id,
        "max_steps": max_steps,
        "timeout": timeout,
        "reset_options": reset_options,
        "record": record,
        "task": None if task is None else as_task(task),
        "index": index,
        "latencies": latencies,
    }
    played: Rollout
    if agent is not None:
        from openenv_async.rollouts.agents import AgentRollout  # a kind of rollout itself

        given = {"policy": policy, "on_mistake": on_mistake, "policy_timeout": policy_timeout}
        check_agent(agent, given)
        played = AgentRollout(agent, **options)
    else:
        check_policy(policy)
        assert policy is not None
        played = Rollout(
            policy,
            on_mistake=on_mistake,
            max_mistakes=max_mistakes,
            policy_timeout=policy_timeout,
            **options,
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
        strict: raise what the policy raises; else it is the outcome.
        task: what the episode is about.
        task_options: arguments that the task gives to ``reset``; by default its columns, the
            private ones included.
        group, member: which group of episodes of one task or seed, and which of it.
        attempts: how often it was begun, this time included.
        on_refused: is called with the episode's index and the error when a quota refuses a reset or
            a step, which is then made again.

    Attributes:
        acted: whether an action was sent, answered or not.
        phase: what it waits for: ``reset``, ``policy`` or ``step``.
        policy_seconds, environment_seconds: waited for actions, and for the results of steps.
        policy_awaits: whether the policy is async.
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
        on_mistake: OnMistake | None = None,
        max_mistakes: int = MAX_MISTAKES,
        policy_timeout: float | None = None,
        index: int = 0,
        latencies: Reservoir | None = None,
        strict: bool = True,
        task: Task | None = None,
        task_options: Mapping[str, Any] | None = None,
        group: int | None = None,
        member: int | None = None,
        attempts: int = 1,
        video: EpisodeVideo | None = None,
        on_refused: Callable[[int, QuotaReached], object] | None = None,
    ) -> None:
        if max_steps is not None:
            max_steps = check_count("max_steps", max_steps)
        if timeout is not None:
            timeout = check_seconds("timeout", timeout)
        if policy_timeout is not None:
            policy_timeout = check_seconds("policy_timeout", policy_timeout)
        if on_mistake is not None and on_mistake not in get_args(OnMistake):
            raise ValueError(
                f"on_mistake must be one of {', '.join(get_args(OnMistake))}, got {on_mistake!r}"
            )
        corrects = getattr(policy, "corrects_mistakes", False) is True
        self.index = index
        self.steps = 0
        self.mistakes = self.unreadable = 0
        self.acted = False
        self.phase = "reset"
        self.policy_seconds = self.environment_seconds = 0.0
        self.policy_awaits = False
        self.task = task
        self.episode: EpisodeInfo | None = None
        self._on_mistake = on_mistake or ("tell" if corrects else "raise")
        self._max_mistakes = check_count("max_mistakes", max_mistakes)
        self._policy_timeout = policy_timeout
        self._group, self._member, self._attempts = group, member, attempts
        self._penalty: float | None = None
        self._told: Mapping[str, Any] = {}
        self._started_at: float | None = None
        self._turn: Turn | None = None
        self._sent: Any = _NOTHING
        self._task: asyncio.Task[Any] | None = None
        self.trajectory = Trajectory(index) if record else None
        self._video = video
        self._on_refused = on_refused
        self._policy = policy
        self._max_steps = max_steps
        self._timeout = timeout
        self._latencies = latencies
        self._return: float | None = None
        self._begun = time.perf_counter()
        self._strict = strict
        options = snapshot(dict(check_reset_options(reset_options)))
        public = dict(options)
        if task is not None:
            given = task.reset_options if task_options is None else task_options
            options |= check_reset_options(given)
            public |= {name: given[name] for name in given if name not in task.private}
        self._reset_arguments: dict[str, Any] = reset_arguments(options)
        if seed is not None:
            seed = check_seed("seed", seed)
        for name, value in (("seed", seed), ("episode_id", episode_id)):
            if value is not None:
                if name in options:
                    raise ValueError(f"the {name} is given twice: by itself and in reset_options")
                self._reset_arguments[name] = value
        if self.trajectory is not None:
            self.trajectory.reset_options = public or None

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.perf_counter() - self._begun

    async def play(self, env: Any) -> Outcome:
        """Play it to its end."""
        if self._video is None:
            return await self._played(env)
        async with self._video as video:
            outcome = await self._played(env)
        if video.name is not None and outcome.trajectory is not None:
            outcome.trajectory.extra["video"] = video.name
        return outcome

    async def _played(self, env: Any) -> Outcome:
        self._begun = time.perf_counter()
        self._started_at = time.time()
        self._task = asyncio.current_task()
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
                f"the episode took longer than its timeout of {self._timeout:g} s, the end of it in"
                f" {'the policy' if self.phase == 'policy' else f'{self.phase}()'}",
                field="rollout",
                phase=self.phase,
                seconds=self._timeout,
            )
        return self.ended(status, error)

    @property
    def is_seeded(self) -> bool:
        """True if it was given a seed: played again, it begins alike."""
        return "seed" in self._reset_arguments

    def _decider(self) -> Callable[[Any, Turn], Any]:
        """Return what chooses the actions of this episode."""
        return bind(self._policy, self.index)

    async def _play(self, env: Any) -> RolloutEnd:
        try:
            decide = self._decider()
        except KeyboardInterrupt:
            raise
        except BaseException as exc:
            if self._strict:
                raise
            return OutcomeStatus.POLICY_ERROR, exc
        if not isinstance(env, EnvClient):
            try:
                check_call(env.reset, self._reset_arguments, f"{type(env).__name__}.reset")
            except TypeError as exc:
                if self.task is None or self._strict:
                    raise
                return OutcomeStatus.TASK_ERROR, exc
        try:
            beginning = env.reset(**self._reset_arguments)
            pending = inspect.isawaitable(beginning)
            result: StepResult[Any]
            try:
                result = await beginning if pending else beginning
            except QuotaReached as exc:
                reset = partial(env.reset, **self._reset_arguments)
                result = await self._in_turn(reset, exc)
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
        connection = getattr(env, "connection", None)
        self._told = getattr(connection, "server", {})
        if self._told.get("vector") is not None:
            raise OperationUnsupported(
                "a session of this server is a vector of environments, of which no episode can be"
                " played: step it with GymVectorEnv, or serve a single environment, without"
                " --vector"
            )
        if self.trajectory is not None:
            self._record_reset(self.trajectory, result, getattr(connection, "environment", None))
        if result.reward is not None and result.reward != result.reward:
            return OutcomeStatus.ENV_ERROR, no_number("reset", result.reward, 0)
        if self._video is not None:
            await self._video.begin(env)
        return await self._steps(step, decide, result)

    async def _steps(
        self, step: Any, decide: Callable[[Any, Turn], Any], result: StepResult[Any]
    ) -> RolloutEnd:
        """Take steps until the episode ends; ``result`` is that of the reset."""
        trajectory, most, video = self.trajectory, self._max_steps, self._video
        latencies = None if self._latencies is None else self._latencies.add
        clock = time.perf_counter
        task = self.task
        public = Task(task.id, task.data, split=task.split) if task is not None else None
        turn = self._turn = Turn(self.index, 0, self.episode, result, None, public)
        in_a_row = 0
        by_policy = by_environment = 0.0
        asked = clock()
        while not (result.terminated or result.truncated):
            if self.steps == most:
                return OutcomeStatus.TRUNCATED, None
            mistaken: OpenEnvError
            try:
                action = decide(result.observation, turn)
                if is_pending(action):
                    self.phase = "policy"
                    self.policy_awaits = True
                    action = await self._decided(action)
            except UnreadableReply as exc:
                mistaken, sent = exc, exc.detail.get("reply")
                begun = clock()
                self.policy_seconds = by_policy = by_policy + begun - asked
                timings = {"policy": begun - asked}
            except KeyboardInterrupt:
                raise
            except BaseException as exc:
                if self._strict or _is_cancelled(exc) or self._is_closed(exc):
                    raise
                return OutcomeStatus.POLICY_ERROR, exc
            else:
                if trajectory is None:
                    sent = action
                else:
                    sent = self._sent = snapshot(action)
                begun = clock()
                self.policy_seconds = by_policy = by_policy + begun - asked
                self.acted = True
                self.phase = "step"
                try:
                    try:
                        result = await step(action)
                    except QuotaReached as exc:
                        result = await self._in_turn(partial(step, action), exc)
                except _MISTAKES as exc:
                    mistaken = exc
                    ended = clock()
                    self.environment_seconds = by_environment = by_environment + ended - begun
                    timings = {"policy": begun - asked, "environment": ended - begun}
                    self._sent = _NOTHING
                except (Exception, asyncio.CancelledError) as exc:
                    if _is_cancelled(exc):
                        raise
                    return self._ended_by(exc, in_step=True)
                else:
                    ended = clock()
                    self.environment_seconds = by_environment = by_environment + ended - begun
                    if latencies is not None:
                        latencies(ended - begun)
                    problem = None
                    reward = result.reward
                    if reward is not None:
                        number = reward if type(reward) is float else as_float(reward)
                        total = number if self._return is None else self._return + number
                        if total != total:
                            problem = no_number("step", reward, self.steps + 1)
                        self._return, reward = total, number
                    if trajectory is not None:
                        timings = {"policy": begun - asked, "environment": ended - begun}
                        self._record_step(trajectory, sent, reward, result, turn, timings)
                        self._sent = _NOTHING
                    self.steps += 1
                    in_a_row = 0
                    turn.t = self.steps
                    turn.result = result
                    turn.mistake = None
                    if problem is not None:
                        return OutcomeStatus.ENV_ERROR, problem
                    if video is not None:
                        await video.take()
                        ended = clock()
                    asked = ended  # a look at the clock less, for the microsecond in between
                    continue
            in_a_row += 1
            last = in_a_row >= self._max_mistakes
            if (end := self._make_mistake(mistaken, sent, turn, timings, last)) is not None:
                return end
            asked = clock()
        return (OutcomeStatus.COMPLETED if result.terminated else OutcomeStatus.TRUNCATED), None

    async def _in_turn(self, call: Callable[[], Awaitable[Any]], refused: QuotaReached) -> Any:
        """Return the result of a reset or step that a quota refused, made again in its turn.

        Args:
            call: makes it.
            refused: says when its turn comes.

        Raises:
            QuotaReached: it is a quota of sessions, which is kept until others are closed, or the
                turn does not come for too long.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + _LONGEST_TURN
        while True:
            wait = pause_for_turn(refused, until - clock())
            if self._on_refused is not None:
                self._on_refused(self.index, refused)
            await asyncio.sleep(wait)
            try:
                return await call()
            except QuotaReached as exc:
                refused = exc

    def _is_closed(self, error: BaseException) -> bool:
        """Tell whether this very coroutine is being closed, not one of the policy's."""
        if not isinstance(error, GeneratorExit):
            return False
        try:
            return asyncio.current_task() is not self._task
        except RuntimeError:  # no loop is running any more
            return True

    async def _decided(self, pending: Any) -> Any:
        """Await a policy's action, for as long as a decision may take."""
        seconds = self._policy_timeout
        if seconds is None:
            return await pending
        try:
            async with asyncio.timeout(seconds) as limit:
                return await pending
        except TimeoutError:
            if not limit.expired():
                raise  # the policy's own
            raise DeadlineExceeded(
                f"the policy took longer than its timeout of {seconds:g} s for the action after"
                f" step {self.steps}",
                field="policy",
                seconds=seconds,
            ) from None

    def _make_mistake(
        self, error: OpenEnvError, sent: Any, turn: Turn, timings: dict[str, float], last: bool
    ) -> RolloutEnd | None:
        """Count and record a mistake of the policy.

        Args:
            error: says what was wrong.
            sent: the action, or the text that is none.
            turn: of the policy, which is told.
            timings: seconds that policy and environment took.
            last: whether no more mistakes are allowed.

        Returns:
            The end of the episode, if this is it.

        Raises:
            OpenEnvError: the mistake is to be raised.
        """
        self.mistakes += 1
        unreadable = isinstance(error, UnreadableReply)
        self.unreadable += unreadable
        reward = error.detail.get("reward")
        if unreadable and "reward" not in error.detail:  # no server was asked
            reward = self._told.get("invalid_action_reward")
        penalty = as_float(reward) if reward is not None else None
        if penalty is not None and not math.isfinite(penalty):
            penalty = None
        turn.mistake = Mistake(
            "unreadable_reply" if unreadable else "refused_action",
            recordable(error.message),
            error.code,
            penalty,
        )
        if self.trajectory is not None:
            trajectory = self.trajectory
            trajectory.transitions.append(
                Transition(
                    self.steps,
                    trajectory.final_observation,
                    recordable(sent),
                    mistake=turn.mistake,
                    **_noted(turn, timings),
                )
            )
        if self._on_mistake == "raise":
            if self._strict:
                raise error
            return OutcomeStatus.POLICY_ERROR, error
        if self._on_mistake == "tell" and not last:
            return None
        if penalty is not None:
            self._penalty = penalty
            self._return = penalty if self._return is None else self._return + penalty
            if self.trajectory is not None:
                self.trajectory.transitions[-1].reward = penalty
        return OutcomeStatus.INVALID_ACTION, error

    def _record_reset(
        self,
        trajectory: Trajectory,
        result: StepResult[Any],
        environment: Mapping[str, Any] | None,
    ) -> None:
        trajectory.begin(self.episode)
        trajectory.environment = environment
        trajectory.final_observation = snapshot(result.observation)
        trajectory.reset_reward = result.reward
        trajectory.reset_info = snapshot(result.info)

    def _record_step(
        self,
        trajectory: Trajectory,
        sent: Any,
        reward: float | None,
        result: StepResult[Any],
        turn: Turn,
        timings: dict[str, float],
    ) -> None:
        """Add a transition; its observation is the last one that was recorded."""
        info = result.info
        transition = Transition(
            self.steps,
            trajectory.final_observation,
            sent,
            reward,
            result.terminated,
            result.truncated,
            snapshot(info) if info else {},
            {},
            None,
            (),
            None,
            None,
            timings,
        )  # by place: names cost a third more
        if turn.model_calls or turn.timings or turn.result.info or turn.action_mask is not None:
            for name, noted in _noted(turn, timings).items():
                setattr(transition, name, noted)
        trajectory.transitions.append(transition)
        trajectory.final_observation = snapshot(result.observation)

    def _ended_by(self, error: BaseException, *, in_step: bool) -> RolloutEnd:
        """Return the end that an error makes, or raise one that says that the call was wrong."""
        if isinstance(error, PolicyFailed):
            cause = error.__cause__ or error
            if self._strict:
                raise cause
            return OutcomeStatus.POLICY_ERROR, cause
        too_large = isinstance(error, PayloadTooLarge) and not in_step and self.task is not None
        if (
            isinstance(error, CallerError)
            and (too_large or not isinstance(error, _NOT_THE_CALLERS))
            and not isinstance(error, OperationCancelled)
        ):
            if not in_step and self.task is not None:
                error.detail["task"] = self.task.id
                return OutcomeStatus.TASK_ERROR, error
            if self._strict or not in_step:
                raise error
            return OutcomeStatus.POLICY_ERROR, error
        return status_of(error), error

    def ended(self, status: OutcomeStatus, error: BaseException | None = None) -> Outcome:
        """Return the outcome as things stand now."""
        invalid = status is OutcomeStatus.INVALID_ACTION
        outcome = Outcome(
            index=self.index,
            status=status,
            episode=self.episode,
            episode_return=self._return if status.usable or invalid else None,
            steps=self.steps,
            duration=time.perf_counter() - self._begun,
            trajectory=self.trajectory,
            error=error,
            mistakes=self.mistakes,
            penalty=self._penalty,
            task=self.task,
            group=self._group,
            member=self._member,
            attempts=self._attempts,
            started_at=self._started_at,
            ended_at=time.time(),
            unreadable=self.unreadable,
        )
        if self.trajectory is not None:
            self.trajectory.finish(outcome)
            if error is not None and not invalid:
                self._record_last(self.trajectory)
        return outcome

    def _record_last(self, trajectory: Trajectory) -> None:
        """Record the decision that nothing answered, and that is therefore not among the steps."""
        last: dict[str, Any] = {}
        if self._sent is not _NOTHING:
            last["action"] = self._sent
        if self._turn is not None and self._turn.model_calls:
            last["model_calls"] = [asdict(call) for call in self._turn.model_calls]
        if last:
            trajectory.error_detail = {**(trajectory.error_detail or {}), **last}


def _noted(turn: Turn, timings: dict[str, float]) -> dict[str, Any]:
    """Take what the policy noted for the record of its choice, and forget it for the next."""
    calls = turn.model_calls
    if turn.timings:
        timings |= turn.timings
        turn.timings = {}
    if calls:
        turn.model_calls = []
        timings.setdefault("model", math.fsum(call.seconds or 0.0 for call in calls))
    mask, turn.action_mask = turn.action_mask, None
    if mask is None and turn.result.info:
        mask = turn.result.info.get(ACTION_MASK)  # of the observation that was decided on
    return {"model_calls": calls or (), "action_mask": snapshot(mask), "timings": timings}


def _is_cancelled(error: BaseException) -> bool:
    """Tell whether the rollout itself is cancelled, not what the policy or client awaited."""
    if not isinstance(error, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def as_float(reward: Any) -> float:
    """Return a reward of another kind as a float; anything but a number is NaN."""
    try:
        return math.nan if isinstance(reward, str | bytes) else float(reward)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def no_number(call: str, reward: Any, step: int) -> InvalidObservation:
    """Return the error of a reward that no return can be made of; ``step`` counts from 1."""
    return InvalidObservation(
        f"{call}() gave the reward {reward!r}"
        + (f" in step {step}" if call == "step" else "")
        + ", and with it the episode has no return: give a number, or None for no reward",
        phase=call,
        reward=repr(reward)[:60],
    )
