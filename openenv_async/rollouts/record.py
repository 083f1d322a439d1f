"""The record of an episode: what the agent saw, did and got; copied, and as JSON.

A transition holds the observation *before* its action, as it was shown to the policy; what came
after the last action is the trajectory's ``final_observation``. So nothing is stored twice.

A policy or an environment may use one dict or one array for every step. A record therefore holds
copies, made at that step. Values that cannot change (numbers, texts, arrays that are views of a
received message) are kept as they are.

The JSON has the tagged objects of ``arrays``, so that it loses nothing that a transport carries;
what a transport reads as a list (a tuple) is a list here, too.
"""

from __future__ import annotations

import copy
import sys
from typing import Any, Final

import msgspec

from openenv_async.arrays import tag, untag
from openenv_async.errors import InvalidModel, error_text
from openenv_async.models import to_builtins
from openenv_async.types import Trajectory, Transition

__all__ = ["Trajectory", "Transition", "decode", "encode", "error_text", "recordable", "snapshot"]

_FIXED: Final = frozenset({type(None), bool, int, float, complex, str, bytes})
"""Types whose values never change."""
_MOST_SHOWN: Final = 2_000
"""Characters of a value that has no other form."""
_UNWRITABLE: Final = (TypeError, ValueError, OverflowError, RecursionError, InvalidModel)


# -- copies and their JSON ----------------------------------------------------------------------


def snapshot(value: Any) -> Any:
    """Return a value that stays as ``value`` is now, even if that is changed later.

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
    """Return a copy of a value that ``deepcopy`` refuses: a tensor of a graph, one with a lock."""
    if hasattr(value, "detach") and hasattr(value, "clone"):
        return value.detach().clone()
    try:
        return snapshot(to_builtins(value))
    except Exception:
        return value


def encode(value: Any) -> bytes:
    """Return a value as JSON from which ``decode`` makes the plain values again.

    Raises:
        InvalidModel: a part of it has no such form.
    """
    try:
        return msgspec.json.encode(tag(to_builtins(value)))
    except _UNWRITABLE as exc:
        if isinstance(exc, InvalidModel):
            raise
        raise InvalidModel(f"a {type(value).__name__} cannot be recorded: {exc}") from exc


def recordable(value: Any) -> Any:
    """Return a value, or a text that shows it where it cannot be recorded.

    A refused action may be anything, such as half of a character that a model wrote; the record of
    the refusal must not cost the episode.
    """
    try:
        encode(value)
    except InvalidModel:
        shown = value if isinstance(value, str) else f"{value!r}"[:_MOST_SHOWN]
        return shown.encode(errors="backslashreplace").decode()
    return value


def decode(data: bytes | str) -> Any:
    """Return the value of JSON: the inverse of ``encode``.

    Raises:
        ValueError: it is not JSON, or a tagged object in it is malformed.
    """
    return untag(msgspec.json.decode(data))
