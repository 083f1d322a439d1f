"""Plain values that every layer shares. No I/O, no behaviour beyond their own fields."""

from __future__ import annotations

import enum
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeAlias

import msgspec

from openenv_async.errors import error_text

__all__ = [
    "ActT",
    "EpisodeInfo",
    "Limits",
    "ObsT",
    "Outcome",
    "OutcomeStatus",
    "PlainValue",
    "StateT",
    "StepResult",
    "Timeouts",
    "Trajectory",
    "Transition",
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
    INFRA_ERROR = "infra_error"
    CANCELLED = "cancelled"

    @property
    def usable(self) -> bool:
        """True if the episode may be trained on as it stands."""
        return self in (OutcomeStatus.COMPLETED, OutcomeStatus.TRUNCATED)


@dataclass(slots=True)
class Transition(Generic[ObsT, ActT]):
    """One step of an episode.

    Attributes:
        t: number of the step in its episode, from 0.
        observation: what the policy saw when it chose the action.
        action: what it chose.
        reward: what the environment gave for it, ``None`` when it gave none.
        terminated, truncated: whether the episode ended with this step, and how.
        info: what came with the step's result.
        extra: what a file has for this step besides, by name.
    """

    t: int
    observation: ObsT
    action: ActT
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


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
        extra: what a file has for this episode besides, by name: keys of a newer release or of
            yours, and of a ``StreamedEpisode`` its group, member, versions and staleness.
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

    def finish(self, outcome: Outcome[ObsT, ActT]) -> None:
        """Copy how the episode ended."""
        self.status = outcome.status
        self.episode_return = outcome.episode_return
        self.steps = outcome.steps
        self.duration = outcome.duration
        if outcome.error is not None:
            self.error_code = getattr(outcome.error, "code", type(outcome.error).__name__)
            self.error_message = error_text(outcome.error)

    def begin(self, episode: EpisodeInfo | None) -> None:
        """Note which episode it is."""
        if episode is not None:
            self.episode_id = episode.episode_id
            self.seed = episode.seed


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
    """

    index: int
    status: OutcomeStatus
    episode: EpisodeInfo | None = None
    episode_return: float | None = None
    steps: int = 0
    duration: float = 0.0
    trajectory: Trajectory[ObsT, ActT] | None = None
    error: BaseException | None = None


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

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            least = 1 if item.name in _POSITIVE_LIMITS else 0
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(
                    f"limit {item.name!r} must be a whole number of at least {least}, got {value!r}"
                )
