"""The record of an episode: what the agent saw, did and got; copied, and as JSON.

A transition holds the observation *before* its action, as it was shown to the policy; what came
after the last action is the trajectory's ``final_observation``. So nothing is stored twice.

A policy or an environment may use one dict or one array for every step. What a record holds is
therefore a copy, made at that step. What cannot change (numbers, texts, arrays that are views of a
received message) is kept as it is.

The JSON has the tagged objects of ``arrays``, so that it loses nothing that a transport carries;
what a transport reads as a list (a tuple) is a list here, too.
"""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from openenv_async.arrays import tag, untag
from openenv_async.errors import InvalidModel, sendable
from openenv_async.models import to_builtins
from openenv_async.types import EpisodeInfo, Outcome, OutcomeStatus

__all__ = ["Trajectory", "Transition", "decode", "encode", "error_text", "snapshot"]

_FIXED: Final = frozenset({type(None), bool, int, float, complex, str, bytes})
"""Types whose values never change."""
_UNWRITABLE: Final = (TypeError, ValueError, OverflowError, RecursionError, InvalidModel)


@dataclass(slots=True)
class Transition:
    """One step.

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
    observation: Any
    action: Any
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    info: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Trajectory:
    """One episode.

    Attributes:
        index: which rollout of its batch.
        episode_id, seed: of the episode; ``None`` when its reset failed.
        transitions: the steps that were answered.
        final_observation: what came after the last of them; the first observation when there
            was none; ``None`` when the reset failed.
        reset_reward, reset_info: what came with the first observation. The reward is no part
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
    transitions: list[Transition] = field(default_factory=list)
    final_observation: Any = None
    reset_reward: float | None = None
    reset_info: dict[str, Any] = field(default_factory=dict)
    status: OutcomeStatus | None = None
    episode_return: float | None = None
    steps: int = 0
    duration: float = 0.0
    error_code: str | None = None
    error_message: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def finish(self, outcome: Outcome) -> None:
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


def error_text(error: BaseException) -> str:
    """The message of an exception, also of one whose ``__str__`` raises."""
    try:
        return sendable(str(error))
    except Exception as exc:
        return f"{type(error).__name__}, whose message cannot be read: {type(exc).__name__}"


# -- copies and their JSON ----------------------------------------------------------------------


def snapshot(value: Any) -> Any:
    """A value that stays as ``value`` is now, whatever is done to it later.

    An object that can neither be copied nor taken apart is returned itself.
    """
    kind = type(value)
    if kind in _FIXED:
        return value
    if kind is dict:
        return {key: snapshot(item) for key, item in value.items()}
    if kind is list:
        return [snapshot(item) for item in value]
    if kind is tuple:
        return tuple(snapshot(item) for item in value)
    np = sys.modules.get("numpy")
    if np is not None:
        if kind is np.ndarray and not value.dtype.hasobject:
            return value if _is_fixed_array(np, value) else value.copy()
        if isinstance(value, np.generic) and not isinstance(value, np.void):
            return value
    try:
        return copy.deepcopy(value)
    except Exception:
        return _taken_apart(value)


def _is_fixed_array(np: Any, array: Any) -> bool:
    """Tell whether nobody can write to the memory of an array: a view of bytes."""
    while isinstance(array, np.ndarray):
        if array.flags.writeable:
            return False
        array = array.base
    return isinstance(array, bytes) or (
        isinstance(array, memoryview) and array.readonly and isinstance(array.obj, bytes)
    )


def _taken_apart(value: Any) -> Any:
    """A copy of what ``deepcopy`` refuses: a tensor of a graph, an object that holds a lock."""
    if hasattr(value, "detach") and hasattr(value, "clone"):
        return value.detach().clone()
    try:
        return snapshot(to_builtins(value))
    except Exception:
        return value


def encode(value: Any) -> bytes:
    """A value as JSON from which ``decode`` makes the plain values again.

    Raises:
        InvalidModel: a part of it has no such form.
    """
    try:
        return msgspec.json.encode(tag(to_builtins(value)))
    except _UNWRITABLE as exc:
        if isinstance(exc, InvalidModel):
            raise
        raise InvalidModel(f"a {type(value).__name__} cannot be recorded: {exc}") from exc


def decode(data: bytes | str) -> Any:
    """The inverse of ``encode``.

    Raises:
        ValueError: it is no JSON, or a tagged object in it is malformed.
    """
    return untag(msgspec.json.decode(data))
