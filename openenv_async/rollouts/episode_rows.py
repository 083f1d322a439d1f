"""Rows of episodes: what every file format writes of an episode, and makes one of again.

A row has a value for each field of ``Trajectory``, and a tuple for each step with a value for each
field of ``Transition``. Values are plain: numbers, texts, bytes, arrays, lists and dicts. Fields of
a fixed type have that type. Secrets are taken out of messages of errors, of the environment's
parameters and of the options of ``reset``.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

from openenv_async.arrays import numpy_types
from openenv_async.endpoints.redaction import Redactor
from openenv_async.errors import InvalidModel, sendable
from openenv_async.models import to_builtins
from openenv_async.rollouts.groups import StreamedEpisode
from openenv_async.rollouts.headers import HEADER_KEY
from openenv_async.rollouts.record import Trajectory, Transition, encode
from openenv_async.types import Mistake, ModelCall, Outcome, OutcomeStatus

__all__ = ["EPISODE", "FREE", "STEP", "Episode", "Keys", "Row", "encoded", "from_row"]

T = TypeVar("T")

Episode: TypeAlias = Outcome | StreamedEpisode | Trajectory
"""The kinds of episode that a writer takes."""
Keys: TypeAlias = dict[str, Any]

EPISODE: Final = tuple(name for name in Trajectory.__dataclass_fields__ if name != "transitions")
"""Names of an episode's values, in the order of a row."""
STEP: Final = tuple(Transition.__dataclass_fields__)
"""Names of a step's values, in the order of a row."""
FREE: Final = frozenset(
    {"observation", "action", "info", "reset_info", "final_observation", "extra"}
    | {"mistake", "model_calls", "action_mask", "timings"}
    | {"environment", "task", "reset_options", "policy_versions", "error_detail"}
)
"""Fields whose shape is the environment's, or the user's."""
_HIDDEN: Final = "_extra"
"""Name of the dict with a user's keys that have the name of a field."""
_UNWRITABLE: Final = (TypeError, ValueError, OverflowError, RecursionError)


class Row(NamedTuple):
    """An episode as plain values.

    Attributes:
        episode: the values of the names in ``EPISODE``.
        steps: of each step the values of the names in ``STEP``.
    """

    episode: list[Any]
    steps: list[tuple[Any, ...]]

    def get(self, name: str) -> Any:
        """Return the value of one of the episode's fields."""
        return self.episode[EPISODE.index(name)]


def encoded(
    episode: Episode, encode_row: Callable[[Row], T], redactor: Redactor, run: str | None = None
) -> T:
    """Return the row of an episode as an encoder makes it.

    Args:
        episode: what is written.
        encode_row: the encoder.
        redactor: takes secrets out.
        run: the run of an episode that names none.

    Raises:
        InvalidModel: a part of it has no form in a file; the message has the place.
        TypeError: it is not an episode.
    """
    trajectory, extra = _trajectory(episode)
    try:
        return encode_row(_row(trajectory, extra, redactor, run))
    except _UNWRITABLE as exc:
        place, why = _fault(trajectory, extra) or ("it", exc)
        raise InvalidModel(
            f"episode {trajectory.index} cannot be written: {place}: {why}; leave it out of what"
            " the environment or the policy gives, or give it as plain values"
        ) from exc


def _trajectory(episode: Episode) -> tuple[Trajectory, Keys]:
    """The record of an episode, and what to write of it besides."""
    extra: Keys = {}
    if isinstance(episode, StreamedEpisode):
        extra = {"stale": episode.stale}
        group, member, versions = episode.group, episode.member, episode.versions
        episode = episode.outcome
        if episode.trajectory is not None:
            episode.trajectory.group, episode.trajectory.member = group, member
            episode.trajectory.policy_versions = versions
    if isinstance(episode, Trajectory):
        return episode, extra
    if not isinstance(episode, Outcome):
        raise TypeError(
            "write() takes an Outcome, a StreamedEpisode or a Trajectory, got"
            f" {type(episode).__name__}"
        )
    trajectory = episode.trajectory
    if not isinstance(trajectory, Trajectory):
        trajectory = Trajectory(episode.index)
        trajectory.begin(episode.episode)
        trajectory.finish(episode)
    return trajectory, extra


# -- an episode to a row --------------------------------------------------------------------------


def _row(trajectory: Trajectory, extra: Keys, redactor: Redactor, run: str | None) -> Row:
    values: list[Any] = list(_VALUES(trajectory))
    for at, kind, convert in _MADE:
        value = values[at]
        if type(value) is not kind and value is not None:
            values[at] = convert(value)
    for at in _TEXTS:
        value = values[at]
        if value is not None and not (type(value) is str and value.isascii()):
            values[at] = _as_text(value)
    for at in _PLAIN:
        if values[at] is not None:
            values[at] = _plain(values[at])
    for at in _SECRETIVE:
        if values[at] is not None:
            values[at] = _without_secrets(values[at], redactor)
    if values[_ENVIRONMENT] is not None:  # one for all episodes of a collection
        values[_ENVIRONMENT] = redactor.remembered(values[_ENVIRONMENT], to_builtins)
    values[_EXTRA] = _extra({**values[_EXTRA], **extra}, EPISODE)
    if values[_RUN] is None:
        values[_RUN] = run
    if values[_MESSAGE] is not None:
        values[_MESSAGE] = redactor.text(values[_MESSAGE])
    return Row(values, [_step(step, redactor) for step in trajectory.transitions])


def _step(step: Transition, redactor: Redactor) -> tuple[Any, ...]:
    """Return the values of a step in the order of ``STEP``."""
    t, action, reward, info = step.t, step.action, step.reward, step.info
    mistake, calls, mask, render = step.mistake, step.model_calls, step.action_mask, step.render
    terminated, truncated, timings = step.terminated, step.truncated, step.timings
    return (
        t if type(t) is int else operator.index(t),
        _plain(step.observation),
        action if type(action) is int else _plain(action),
        reward if type(reward) is float or reward is None else float(reward),
        bool(terminated),
        bool(truncated),
        _plain(info) if info or type(info) is not dict else info,
        _extra(step.extra, STEP) if step.extra else None,
        None if mistake is None else _mistake(mistake, redactor),
        [_call(call, redactor) for call in calls] if calls else None,
        None if mask is None else _plain(mask),
        None if render is None else redactor.text(_as_text(render)),
        None if timings is None else _seconds(timings),
    )


def _seconds(timings: Mapping[str, Any]) -> Mapping[str, float]:
    if type(timings) is dict and _FLOATS.issuperset(map(type, timings.values())):
        return timings
    return {_as_text(name): float(value) for name, value in timings.items()}


def _without_secrets(value: Any, redactor: Redactor) -> Any:
    if type(value) is dict and _NO_SECRETS.issuperset(map(type, value.values())):
        return _plain(value)
    return redactor.value(to_builtins(value))


def _mistake(mistake: Mistake, redactor: Redactor) -> Keys:
    reward = mistake.reward
    return {
        "kind": _as_text(mistake.kind),
        "message": redactor.text(_as_text(mistake.message)),
        "code": _as_text(mistake.code),
        "reward": None if reward is None else float(reward),
    }


def _call(call: ModelCall, redactor: Redactor) -> Keys:
    """Return a call of a model; its ids are lists of integers, whatever they were."""
    seconds, error = call.seconds, call.error
    return {
        "messages": to_builtins(list(call.messages)),
        "reply": to_builtins(call.reply),
        "continues": bool(call.continues),
        "prompt_ids": _numbers(call.prompt_ids, int),
        "completion_ids": _numbers(call.completion_ids, int),
        "logprobs": _numbers(call.logprobs, float),
        "mask": _numbers(call.mask, int),
        "finish_reason": None if call.finish_reason is None else _as_text(call.finish_reason),
        "model": None if call.model is None else _as_text(call.model),
        "weight_version": to_builtins(call.weight_version),
        "seconds": None if seconds is None else float(seconds),
        "error": None if error is None else redactor.text(_as_text(error)),
        "extra": to_builtins(call.extra),
    }


def _numbers(values: Sequence[Any] | None, kind: type) -> list[Any] | None:
    if values is None:
        return None
    listed: list[Any] = values.tolist() if hasattr(values, "tolist") else list(values)
    return listed if {kind}.issuperset(map(type, listed)) else [kind(value) for value in listed]


def _plain(value: Any) -> Any:
    """Return a value as numbers, texts, bytes, arrays, lists and dicts."""
    kind = type(value)
    leaves = _LEAVES_AND_ARRAYS or _leaves()
    if kind in leaves:
        return value
    if kind is dict:
        if leaves.issuperset(map(type, value.values())) and _TEXT.issuperset(map(type, value)):
            return value
    elif kind is list and leaves.issuperset(map(type, value)):
        return value
    return to_builtins(value)


_TEXT: Final = frozenset({str})
_FLOATS: Final = frozenset({float})
_NO_SECRETS: Final = frozenset({type(None), bool, int, float})
_LEAVES: Final[frozenset[type]] = frozenset({type(None), bool, int, float, str, bytes})
_LEAVES_AND_ARRAYS: frozenset[type] = frozenset()
"""Set with the first value after somebody imported NumPy: looking each time costs."""


def _leaves() -> frozenset[type]:
    global _LEAVES_AND_ARRAYS
    if "numpy" in sys.modules:
        _LEAVES_AND_ARRAYS = _LEAVES | frozenset(numpy_types())
    return _LEAVES_AND_ARRAYS or _LEAVES


def _as_text(value: Any) -> str:
    return sendable(str(value))


def _versions(values: Any) -> list[int]:
    return [operator.index(value) for value in values]


_CONVERTED: Final[dict[str, tuple[type, Callable[[Any], Any]]]] = {
    "index": (int, operator.index),
    "seed": (int, operator.index),
    "steps": (int, operator.index),
    "mistakes": (int, operator.index),
    "group": (int, operator.index),
    "member": (int, operator.index),
    "attempts": (int, operator.index),
    "started_at": (float, float),
    "ended_at": (float, float),
    "reset_reward": (float, float),
    "episode_return": (float, float),
    "duration": (float, float),
    "policy_versions": (type(None), _versions),
}
"""The type of a field of a fixed one, and the function that makes it."""
_VALUES: Final = operator.attrgetter(*EPISODE)
_MADE: Final = [(EPISODE.index(name), *made) for name, made in _CONVERTED.items()]
_TEXTS: Final = [
    EPISODE.index(name)
    for name in ("episode_id", "status", "error_code", "error_message", "task_id", "run")
]
_PLAIN: Final = [EPISODE.index(name) for name in ("final_observation", "reset_info", "task")]
_SECRETIVE: Final = [EPISODE.index(name) for name in ("reset_options", "error_detail")]
_ENVIRONMENT: Final = EPISODE.index("environment")
_EXTRA: Final = EPISODE.index("extra")
_RUN: Final = EPISODE.index("run")
_MESSAGE: Final = EPISODE.index("error_message")


def _extra(extra: Mapping[str, Any], taken: tuple[str, ...]) -> Keys | None:
    """Further keys; those with the name of a field are in a dict of their own."""
    if not extra:
        return None
    taken = (*(name for name in taken if name != "extra"), "transitions", HEADER_KEY)
    free = {_as_text(name): _plain(value) for name, value in extra.items() if name not in taken}
    if hidden := {name: _plain(value) for name, value in extra.items() if name in taken}:
        free[_HIDDEN] = hidden
    return free


def _fault(trajectory: Trajectory, extra: Keys) -> tuple[str, Exception] | None:
    """Return the place in an episode that has no form in a file, and why."""
    parts: list[tuple[str, str, Any]] = [
        (name, name, getattr(trajectory, name)) for name in EPISODE
    ]
    parts += [("extra", "extra", extra)]
    for number, step in enumerate(trajectory.transitions):
        parts += [(f"transitions[{number}].{name}", name, getattr(step, name)) for name in STEP]
    for place, name, value in parts:
        try:
            if value is None:
                continue
            if name in _CONVERTED:
                _CONVERTED[name][1](value)
            elif name in FREE:
                encode(value)
            elif name in ("t", "reward"):
                float(value)
        except (*_UNWRITABLE, InvalidModel) as exc:
            return place, exc
    return None


# -- a row to an episode --------------------------------------------------------------------------


def from_row(row: Keys) -> Trajectory:
    """The trajectory of a row as a dict; keys that it has no field for are kept in ``extra``.

    Args:
        row: values by name, ``transitions`` among them; it is used up.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is not the row of an episode.
    """
    row.pop(HEADER_KEY, None)
    steps = [Transition(**_step_of(item)) for item in row.pop("transitions")]
    known = _known(row, EPISODE)
    status = known.pop("status")
    known["policy_versions"] = tuple(known.get("policy_versions") or ())
    return Trajectory(
        **known, transitions=steps, status=None if status is None else OutcomeStatus(status)
    )


def _step_of(row: Keys) -> Keys:
    known = _known(row, STEP)
    if known.get("mistake") is not None:
        known["mistake"] = Mistake(**_of(known["mistake"], Mistake))
    if "model_calls" in known:
        known["model_calls"] = tuple(map(_call_of, known["model_calls"] or ()))
    return known


def _call_of(row: Keys) -> ModelCall:
    """Return a call; keys of a newer release are kept in its ``extra``."""
    known = _of(row, ModelCall)
    known["extra"] = {
        **(known.get("extra") or {}),
        **{name: value for name, value in row.items() if name not in known},
    }
    return ModelCall(**known)


def _of(row: Keys, kind: Any) -> Keys:
    return {name: row[name] for name in kind.__dataclass_fields__ if name in row}


def _known(row: Keys, fields: tuple[str, ...]) -> Keys:
    """The fields of a row; a value that is not of its field's kind is a key of somebody else's."""
    known: Keys = {}
    for name in fields:
        if name in row and name != "extra":
            kind = _KINDS.get(name)
            value = row[name]
            if kind is None or value is None or isinstance(value, kind):
                known[name] = value
                del row[name]
    if isinstance(row.get(_HIDDEN), dict):
        row = row | row.pop(_HIDDEN)
    known["extra"] = row
    return known


_KINDS: Final[dict[str, type | tuple[type, ...]]] = {
    "environment": dict,
    "task": dict,
    "reset_options": dict,
    "error_detail": dict,
    "mistake": dict,
    "timings": dict,
    "policy_versions": list,
    "model_calls": list,
    "task_id": str,
    "run": str,
    "render": str,
    "mistakes": int,
    "group": int,
    "member": int,
    "attempts": int,
    "started_at": (int, float),
    "ended_at": (int, float),
}
"""The kinds of the fields that files of earlier releases do not have."""
