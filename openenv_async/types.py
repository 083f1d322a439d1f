"""Plain values that every layer shares. No I/O, no behaviour beyond their own fields."""

from __future__ import annotations

import enum
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeAlias

import msgspec

from openenv_async.errors import UnreadableReply, error_facts, error_text
from openenv_async.notebook import brief, facts, grid

__all__ = [
    "ActT",
    "EpisodeInfo",
    "Limits",
    "Mistake",
    "ModelCall",
    "ObsT",
    "Outcome",
    "OutcomeStatus",
    "PlainValue",
    "StateT",
    "StepResult",
    "Task",
    "Timeouts",
    "Tool",
    "Trajectory",
    "Transition",
    "VectorRows",
]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    ActT = TypeVar("ActT", default=Any)
    ObsT = TypeVar("ObsT", default=Any)
    StateT = TypeVar("StateT", default=Any)
else:  # the defaults are for type checkers alone: a class without its parameters is untyped
    from typing import TypeVar

    ActT = TypeVar("ActT")
    ObsT = TypeVar("ObsT")
    StateT = TypeVar("StateT")

PlainValue: TypeAlias = Any
"""A number, text, list, dict or array: deliberately unchecked, where no model class is known."""

_MOST_ROWS: Final = 50
"""Transitions that a notebook shows of a trajectory."""
_POSITIVE_LIMITS: Final = ("max_message_size", "max_batch_size", "chunk_size", "max_frames")
MAX_DEPTH: Final = 64
"""Containers inside containers that one message or payload may have."""

MAX_SECONDS: Final = 1e9
"""The longest deadline, some thirty years; event loops overflow on much longer ones."""


class EpisodeInfo(msgspec.Struct, gc=False):
    """Which episode a session is in.

    Attributes:
        episode_id: minted by the engine unless given to ``reset``.
        seed: the seed used, a concrete integer also when none was given.
        step_count: steps executed since the reset.
    """

    episode_id: str
    seed: int
    step_count: int = 0


class StepResult(msgspec.Struct, Generic[ObsT]):
    """The result of ``reset`` and ``step``.

    An environment may also return it from its own ``reset``/``step`` to state reward,
    termination and info apart from the observation.

    Attributes:
        observation: what the agent sees.
        reward: the environment's reward, or ``None`` when it gave none. Never invented.
        terminated: the task ended.
        truncated: the episode was stopped for another reason, such as a step limit.
        info: further facts that are not part of the observation.
    """

    observation: ObsT
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def done(self) -> bool:
        """True if the episode is over, for either reason."""
        return self.terminated or self.truncated


class VectorRows(msgspec.Struct, Generic[ObsT], omit_defaults=True):
    """The rows of a vector of environments: what its ``reset`` and ``step`` return.

    It is the observation of a session that is a vector. Infos stand beside it, in a ``StepResult``.

    Attributes:
        observations: the batch: an array [rows, …], or a dict, tuple or list of such.
        rewards: float64 [rows]; ``None`` where none was given, as after a reset.
        terminated, truncated: bool [rows], which rows ended their episodes; ``None`` for no row.
        given: bool [rows], the rows that were given a reward; ``None`` for all of them.
        env_id: int64 [rows], which environment each row is of; ``None`` for all of them in order.
    """

    observations: ObsT
    rewards: Any = None
    terminated: Any = None
    truncated: Any = None
    given: Any = None
    env_id: Any = None


class OutcomeStatus(enum.StrEnum):
    """The end of a rollout, in a word."""

    COMPLETED = "completed"
    """The environment terminated the episode."""
    TRUNCATED = "truncated"
    """The environment or the caller's step limit stopped it."""
    TIMEOUT = "timeout"
    ENV_ERROR = "env_error"
    POLICY_ERROR = "policy_error"
    """The policy raised, or its action does not fit the environment."""
    INVALID_ACTION = "invalid_action"
    """A mistake of the policy ended it by rule (``on_mistake``); the return so far is kept."""
    TASK_ERROR = "task_error"
    """The environment's ``reset`` refused the task."""
    INFRA_ERROR = "infra_error"
    CANCELLED = "cancelled"

    @property
    def usable(self) -> bool:
        """True if the episode may be trained on as it stands."""
        return self in (OutcomeStatus.COMPLETED, OutcomeStatus.TRUNCATED)


@dataclass(frozen=True, slots=True)
class Task:
    """One task of a data set: what an episode is about.

    Attributes:
        id: lasts: the same row has it in every run. Unique in its data set.
        data: the public part: columns by name, which become options of ``reset``.
        private: the part for the environment alone, such as answers and tests. It goes to
            ``reset`` and nowhere else: into no record, no listing and to no policy.
        split: name of the split of the environment's own tasks that it is one of; ``None`` for a
            task from elsewhere.
    """

    id: str
    data: Mapping[str, Any] = field(default_factory=dict)
    private: Mapping[str, Any] = field(default_factory=dict, repr=False)
    split: str | None = None

    @property
    def reset_options(self) -> dict[str, Any]:
        """Return the arguments of ``reset`` that begin an episode of it.

        The environment knows the tasks of its own splits, of which others see the public part
        alone: they are named. Of others it is given all columns.
        """
        if self.split is not None and not self.private:
            return {"task_id": self.id, "split": self.split}
        return {**self.data, **self.private}


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool that an agent calls in place of writing an action: each call is one step.

    It says as data how a call becomes an action, so that a client can call it as a server can.

    Attributes:
        name: letters, digits, ``_`` and ``-``, at most 64.
        description: for the model that calls it.
        parameters: JSON Schema of the arguments, an object.
        constants: fields that the action has in every call.
        arguments_in: the action's field under which the arguments stand; ``None``: each argument
            is a field of the action.
        argument: the one argument that is the whole action; ``None`` where there is none.
        result: JSON Schema of what a call gives; ``None``: it is not known, or the observation's.
        result_field: the observation's field that a call gives; ``None``: the whole of it.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {"type": "object", "properties": {}}
    )
    constants: Mapping[str, Any] = field(default_factory=dict)
    arguments_in: str | None = None
    argument: str | None = None
    result: Mapping[str, Any] | None = None
    result_field: str | None = None

    def action(self, arguments: Mapping[str, Any]) -> Any:
        """Return the action, as plain data, that a call with these arguments is.

        Raises:
            UnreadableReply: they are not its arguments; the message is for the model.
        """
        if self.argument is not None:
            if set(arguments) != {self.argument}:
                raise UnreadableReply(f"the tool {self.name} takes one argument, {self.argument}")
            return arguments[self.argument]
        if self.arguments_in is not None:
            return {**self.constants, self.arguments_in: dict(arguments)}
        own = self.constants
        return {**own, **{name: arguments[name] for name in arguments if name not in own}}

    def told(self, observation: Any) -> Any:
        """Return what a call gives of this observation, as plain data."""
        if self.result_field is None or not isinstance(observation, Mapping):
            return observation
        return observation.get(self.result_field)


@dataclass(slots=True)
class ModelCall:
    """One call of a model, made to choose an action.

    Token ids are those that were sampled, never made again from text.

    Attributes:
        messages: the messages that no earlier call of the episode had sent; where ``continues``
            is false the whole prompt. Each has ``role`` and ``content``, a text or a list of
            content blocks, and may have ``tool_calls`` or ``tool_call_id``.
        reply: the assistant's message; ``None`` when the call failed.
        continues: the prompt was that of the call before, its reply, and ``messages``.
        prompt_ids: token ids of the whole prompt; ``None`` where nobody told.
        completion_ids: token ids as sampled.
        logprobs: natural logarithm of the probability of each of ``completion_ids``.
        mask: for each of ``completion_ids`` 1 if it may be trained on, 0 if not; ``None``: all.
        finish_reason: ``stop``, ``length``, ``tool_calls``, …
        model: which model answered.
        weight_version: of its weights, where its server says so.
        seconds: from the request to the reply, waiting and attempts included.
        error: the message of what failed, else ``None``.
        extra: further facts, by name, such as ``usage``.
    """

    messages: Sequence[Mapping[str, Any]] = ()
    reply: Mapping[str, Any] | None = None
    continues: bool = True
    prompt_ids: Sequence[int] | None = None
    completion_ids: Sequence[int] | None = None
    logprobs: Sequence[float] | None = None
    mask: Sequence[int] | None = None
    finish_reason: str | None = None
    model: str | None = None
    weight_version: str | int | None = None
    seconds: float | None = None
    error: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake of the policy: an action that was refused, or a reply that is not an action.

    Attributes:
        kind: ``refused_action``: the environment did not take the action; ``unreadable_reply``:
            no action could be read from what the model said.
        message: says what was wrong, for the model to read.
        code: wire code of the error behind it.
        reward: the environment's own penalty for it; ``None`` when it gave none.
    """

    kind: str
    message: str
    code: str
    reward: float | None = None


@dataclass(slots=True)
class Transition(Generic[ObsT, ActT]):
    """One decision of the policy, and what came of it: a step of an episode, or a mistake.

    Attributes:
        t: steps that the environment had executed before it: the number of the step, from 0.
        observation: what the policy saw when it chose the action.
        action: what it chose; of a mistake what was refused, or the text that could not be read.
        reward: what the environment gave for it, ``None`` when it gave none.
        terminated, truncated: whether the episode ended with this step, and how.
        info: what came with the step's result.
        extra: what a file has for this step besides, by name.
        mistake: why the environment did not execute it; ``None`` for a step that it did execute.
        model_calls: calls of models that chose the action, in order.
        action_mask: int8 or bool array [actions], 1 for what was legal; ``None`` where unknown.
        render: names a picture or a text of what the policy saw, such as a file's path.
        timings: seconds by name: ``queue``, ``policy``, ``model``, ``environment``, ``codec``.
    """

    t: int
    observation: ObsT
    action: ActT
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    mistake: Mistake | None = None
    model_calls: Sequence[ModelCall] = ()
    action_mask: Any = None
    render: str | None = None
    timings: Mapping[str, float] | None = None


@dataclass(slots=True)
class Trajectory(Generic[ObsT, ActT]):
    """The record of one episode.

    Attributes:
        index: which rollout of its batch.
        episode_id, seed: of the episode; ``None`` when its reset failed.
        transitions: the steps that were answered.
        final_observation: what came after the last of them; the first observation when there
            was none; ``None`` when the reset failed.
        reset_reward, reset_info: what came with the first observation. The reward is not part
            of the return.
        status, episode_return, steps, duration: as in the ``Outcome``.
        error_code, error_message: what ended a failed episode: the wire code of an
            ``OpenEnvError``, else the name of the exception's class.
        mistakes: transitions that are mistakes of the policy.
        environment: its ``name``, ``version``, ``package`` and ``params``, as far as known.
        task_id: id of the task.
        task: the task's public columns.
        reset_options: arguments that ``reset`` was given besides, private ones left out.
        group, member: which group of episodes of one task or seed, and which of it, from 0.
        policy_versions: of the policy, when each action was asked for; empty without versions.
        attempts: how often it was begun.
        started_at, ended_at: Unix time in seconds.
        run: id of the run that it belongs to.
        error_detail: more about the error, as far as known: its ``traceback``, the ``phase`` it
            came in, the ``worker`` and its ``log_tail``, and of its end the ``container_id``,
            ``exit_code`` and ``oom``; the ``action`` that was not answered, and the
            ``model_calls`` of it.
        extra: what a file has for this episode besides, by name: keys of a newer release or of
            yours, and of a ``StreamedEpisode`` whether it is ``stale``.
    """

    index: int
    episode_id: str | None = None
    seed: int | None = None
    transitions: list[Transition[ObsT, ActT]] = field(default_factory=list)
    final_observation: ObsT | None = None
    reset_reward: float | None = None
    reset_info: dict[str, Any] = field(default_factory=dict)
    status: OutcomeStatus | None = None
    episode_return: float | None = None
    steps: int = 0
    duration: float = 0.0
    error_code: str | None = None
    error_message: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    mistakes: int = 0
    environment: Mapping[str, Any] | None = None
    task_id: str | None = None
    task: Mapping[str, Any] | None = None
    reset_options: Mapping[str, Any] | None = None
    group: int | None = None
    member: int | None = None
    policy_versions: Sequence[int] = ()
    attempts: int = 1
    started_at: float | None = None
    ended_at: float | None = None
    run: str | None = None
    error_detail: Mapping[str, Any] | None = None

    def finish(self, outcome: Outcome[ObsT, ActT]) -> None:
        """Copy how the episode ended."""
        self.status = outcome.status
        self.episode_return = outcome.episode_return
        self.steps = outcome.steps
        self.duration = outcome.duration
        self.mistakes = outcome.mistakes
        self.attempts = outcome.attempts
        self.started_at = outcome.started_at
        self.ended_at = outcome.ended_at
        self.group, self.member = outcome.group, outcome.member
        if outcome.task is not None:
            self.task_id, self.task = outcome.task.id, outcome.task.data
        if outcome.error is not None:
            self.error_code = getattr(outcome.error, "code", type(outcome.error).__name__)
            self.error_message = error_text(outcome.error)
            self.error_detail = error_facts(outcome.error) or None

    def begin(self, episode: EpisodeInfo | None) -> None:
        """Note which episode it is."""
        if episode is not None:
            self.episode_id = episode.episode_id
            self.seed = episode.seed

    def _repr_html_(self) -> str:
        """Return its facts and its first transitions, for notebooks."""
        error = None if self.error_code is None else f"{self.error_code}: {self.error_message}"
        rows = [
            ("status", self.status),
            ("return", self.episode_return),
            ("steps", self.steps),
            ("seed", self.seed),
            ("task", self.task_id),
            ("duration", f"{self.duration:.3f} s"),
            ("error", None if error is None else brief(error)),
        ]
        shown = [
            (
                step.t,
                brief(step.observation),
                brief(step.action),
                "" if step.reward is None else f"{step.reward:g}",
                "terminated" if step.terminated else "truncated" if step.truncated else "",
                "" if step.mistake is None else brief(step.mistake.message),
            )
            for step in self.transitions[:_MOST_ROWS]
        ]
        left = len(self.transitions) - len(shown)
        title = f"transitions, the first {len(shown)}; {left:,} more" if left else "transitions"
        headings = ("t", "observation", "action", "reward", "end", "mistake")
        return facts(f"trajectory {self.index}", rows) + grid(title, headings, shown)


@dataclass(slots=True)
class Outcome(Generic[ObsT, ActT]):
    """The result of one rollout, failures included.

    Attributes:
        index: which rollout of its batch.
        status: how it ended.
        episode_return: sum of the rewards that the environment gave; ``None`` when it gave
            none or the rollout failed. A failure is never a zero.
        steps: steps executed.
        duration: wall seconds.
        trajectory: what happened, when recording was asked for.
        error: what ended it, for the failing statuses.
        mistakes: refused actions and unreadable replies of the policy; not among the steps.
        unreadable: of them the replies that are not an action.
        penalty: what the environment gave for the mistake that ended the episode; it is in the
            return.
        task: which task it was about.
        group, member: which group of episodes of one task or seed, and which of it, from 0.
        attempts: how often it was begun.
        started_at, ended_at: Unix time in seconds.
        model_calls, model_tokens: calls that an agent made of its model, and their tokens, as far
            as a gateway knows.
    """

    index: int
    status: OutcomeStatus
    episode: EpisodeInfo | None = None
    episode_return: float | None = None
    steps: int = 0
    duration: float = 0.0
    trajectory: Trajectory[ObsT, ActT] | None = None
    error: BaseException | None = None
    mistakes: int = 0
    penalty: float | None = None
    task: Task | None = None
    group: int | None = None
    member: int | None = None
    attempts: int = 1
    started_at: float | None = None
    ended_at: float | None = None
    unreadable: int = 0
    model_calls: int = 0
    model_tokens: int = 0

    @property
    def invalid_action(self) -> bool:
        """True if a mistake of the policy ended it; its return is what was given until then."""
        return self.status is OutcomeStatus.INVALID_ACTION

    def _repr_html_(self) -> str:
        """Return how it ended, and its trajectory folded below, for notebooks."""
        error = None if self.error is None else error_text(self.error)
        rows = [
            ("status", self.status),
            ("return", self.episode_return),
            ("steps", self.steps),
            ("mistakes", self.mistakes or None),
            ("seed", None if self.episode is None else self.episode.seed),
            ("task", None if self.task is None else self.task.id),
            ("group", None if self.group is None else f"{self.group}, member {self.member}"),
            ("model calls", self.model_calls or None),
            ("duration", f"{self.duration:.3f} s"),
            ("error", None if error is None else brief(f"{type(self.error).__name__}: {error}")),
        ]
        told = facts(f"episode {self.index}", rows)
        if self.trajectory is None:
            return told
        inside = self.trajectory._repr_html_()
        return f"{told}<details><summary>trajectory</summary>{inside}</details>"


def _is_duration(value: Any) -> bool:
    """Return whether a value is a number of seconds that a deadline may have; NumPy's are, too."""
    try:
        return isinstance(value, numbers.Real) and 0 < float(value) <= MAX_SECONDS
    except (OverflowError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Every deadline, in seconds; ``None`` switches one off.

    A client sends those of its requests along; the server's own hold where it sends none, and
    those from ``episode`` on are the server's alone.

    Attributes:
        connect: TCP, TLS and handshake; on a server, a connection that says no Hello, or sends
            no whole request.
        open: building the environment, waiting for capacity included.
        reset, step, state, close: one call of the environment.
        episode: from the start of a reset to the end of its last step.
        idle: a session without any request is closed after this long.
        lease: a connected client that sends no frame at all for this long counts as dead.
        resume: a session outlives its connection for this long; ``None`` not at all.
        write: a peer that takes no data for this long is cut.
    """

    connect: float | None = 10.0
    open: float | None = 60.0
    reset: float | None = 60.0
    step: float | None = 60.0
    state: float | None = 30.0
    close: float | None = 10.0
    episode: float | None = None
    idle: float | None = 1800.0
    lease: float | None = 180.0
    resume: float | None = 60.0
    write: float | None = 30.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value: Any = getattr(self, item.name)
            if value is None or (type(value) in (int, float) and 0 < value <= MAX_SECONDS):
                continue
            if type(value) is bool or not _is_duration(value):
                raise ValueError(
                    f"timeout {item.name!r} must be a positive number of seconds, at most"
                    f" {MAX_SECONDS:g}, or None for no deadline, got {value!r:.60}"
                )
            object.__setattr__(self, item.name, float(value))  # NumPy's cannot be sent

    def replace(self, **changes: float | None) -> Self:
        """A copy with some fields changed; an unknown name is a ``TypeError``."""
        known = {item.name: getattr(self, item.name) for item in fields(self)}
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise TypeError(f"unknown timeout {unknown[0]!r}; known: {', '.join(known)}")
        return type(self)(**{**known, **changes})

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """The defaults, changed by ``OPENENV_TIMEOUT_STEP=30`` and alike; 0 or ``none`` is off.

        Raises:
            ValueError: a value is not a number; the message names the variable.
        """
        changes: dict[str, float | None] = {}
        for item in fields(cls):
            variable = f"OPENENV_TIMEOUT_{item.name.upper()}"
            text = environ.get(variable)
            if text is None:
                continue
            try:
                changes[item.name] = None if text.lower() in ("none", "0") else float(text)
            except ValueError:
                raise ValueError(f"{variable} must be seconds or 'none', got {text!r}") from None
        return cls(**changes)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that a peer must keep; both ends exchange theirs when they meet.

    Attributes:
        max_message_size: bytes of one WebSocket message or HTTP body.
        max_batch_size: bytes after which a batch of frames is closed and the next begun.
        chunk_size: bytes of payload above which it is sent in pieces of that size.
        max_channels: sessions on one connection.
        max_retained_size: bytes of unacknowledged replies kept per session, the last one always.
        max_retained_total: bytes of unacknowledged replies kept for all sessions of a server
            together, the last one of each not counted.
        max_credit: partial observations that may be under way per streaming step.
        max_abandoned_calls: calls past their deadlines that may still run in a shared worker; one
            with more takes no new sessions and ends with its last.
        max_error_size: characters of an environment's exception, and of its traceback, that are
            passed on; the rest is cut.
        max_frames: frames of one message.
        max_containers: arrays and maps of one payload or HTTP body, at any depth.
        max_bad_frames: frames and messages that cannot be read, after which a connection is
            closed.
        max_unsent_size: bytes that may wait on one connection, a quarter of them once its peer
            reads slower than they come; nothing more of what it asks is done meanwhile.
        max_shared_size: bytes of memory that a server shares with one client of its machine for
            large payloads, taken as they are used; a client maps no more. 0: none.
    """

    max_message_size: int = 64 * 1024 * 1024
    max_batch_size: int = 256 * 1024
    chunk_size: int = 1024 * 1024
    max_channels: int = 65_536
    max_retained_size: int = 16 * 1024 * 1024
    max_credit: int = 1024
    max_abandoned_calls: int = 16
    max_error_size: int = 16 * 1024
    max_frames: int = 16_384
    max_containers: int = 65_536
    max_bad_frames: int = 256
    max_unsent_size: int = 12 * 1024 * 1024
    max_retained_total: int = 64 * 1024 * 1024
    max_shared_size: int = 256 * 1024 * 1024

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            least = 1 if item.name in _POSITIVE_LIMITS else 0
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(
                    f"limit {item.name!r} must be a whole number of at least {least}, got {value!r}"
                )
