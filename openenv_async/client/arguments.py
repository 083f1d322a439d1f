"""Arguments of client calls and constructors, checked before anything is done with them.

Rules:

- A wrong argument is told before the call has taken a request number or opened anything, so the
  next call finds the session as it was.
- NumPy's integers are integers and its floats are floats; a bool is neither.
- The constructors raise ``TypeError`` and ``ValueError`` as Python's own do, the calls of a
  session ``InvalidOption``, which is a ``ValueError``.
"""

from __future__ import annotations

import difflib
import math
import numbers
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, NoReturn

from openenv_async.errors import InvalidModel, InvalidOption, shown
from openenv_async.types import MAX_SECONDS

__all__ = [
    "checked_count",
    "checked_episode_id",
    "checked_options",
    "checked_seed",
    "checked_timeout",
    "encoded",
    "is_sendable",
    "refuse_unknown",
    "reset_arguments",
]

_MAX_SEED: Final = 2**63 - 1
_MAX_EPISODE_ID: Final = 255
_OWN_NAMES: Final = frozenset({"self", "timeout", "reset_options"})
"""Arguments of ``reset`` that are the client's and could be an environment's option as well."""
_OF_UPSTREAM: Final = {
    "connect_timeout_s": "timeouts=Timeouts(connect=…, open=…)",
    "message_timeout_s": "timeouts=Timeouts(reset=…, step=…, state=…)",
    "max_message_size_mb": "limits=Limits(max_message_size=…), in bytes",
    "websocket_ping_interval_s": "the server's Timeouts(lease=…)",
    "websocket_ping_timeout_s": "the server's Timeouts(lease=…)",
    "provider": "EnvPool or AutoEnv that start servers",
    "mode": "the server's --mode",
    "docker_image": "image=…",
    "container_provider": "provider=…",
    "wait_timeout": "start_timeout=…",
    "env_vars": "provider=DockerProvider(IMAGE, env={…})",
    "skip_install": "nothing: no package is installed",
}
"""Keyword arguments of OpenEnv's clients, and what stands in their place."""


# -- calls ----------------------------------------------------------------------------------------


def checked_seed(seed: Any) -> int | None:
    """The seed as a plain integer.

    Raises:
        InvalidOption: it is not an integer from 0 to 2**63 - 1.
    """
    if seed is None or (type(seed) is int and 0 <= seed <= _MAX_SEED):
        return seed
    number = None
    if not _is_bool(seed):
        try:
            number = operator.index(seed)
        except Exception:  # whatever a foreign __index__ raises, it is not an integer
            number = None
    if number is None:
        raise InvalidOption(
            f"reset(seed=…) must be an integer or None, got {shown(seed)}: give int(seed)",
            option="seed",
        )
    if not 0 <= number <= _MAX_SEED:
        raise InvalidOption(
            f"reset(seed=…) must be from 0 to 2**63 - 1, got {shown(seed)}", option="seed"
        )
    return number


def checked_episode_id(episode_id: Any) -> str | None:
    """The episode id.

    Raises:
        InvalidOption: it is not text of 1 to 255 characters that UTF-8 can carry.
    """
    if episode_id is None:
        return None
    if not isinstance(episode_id, str):
        raise InvalidOption(
            f"reset(episode_id=…) must be text or None, got {shown(episode_id)}:"
            " give str(episode_id)",
            option="episode_id",
        )
    if not 0 < len(episode_id) <= _MAX_EPISODE_ID:
        raise InvalidOption(
            f"reset(episode_id=…) must have 1 to {_MAX_EPISODE_ID} characters,"
            f" got {len(episode_id)}: leave it out to have one made",
            option="episode_id",
        )
    if not episode_id.isascii() and not is_sendable(episode_id):
        raise InvalidOption(
            f"reset(episode_id=…) is not valid Unicode, got {shown(episode_id)}",
            option="episode_id",
        )
    return str(episode_id)


def checked_timeout(timeout: Any, call: str) -> float | None:
    """The seconds that a call may take; ``None`` for no deadline, which is asked for as infinity.

    Raises:
        InvalidOption: it is not a positive number.
    """
    if isinstance(timeout, numbers.Real) and not _is_bool(timeout):
        try:
            seconds = float(timeout)
        except (OverflowError, ValueError):
            seconds = math.nan
        if 0 < seconds <= MAX_SECONDS:
            return seconds
        if seconds == math.inf:
            return None
    raise InvalidOption(
        f"{call}(timeout=…) must be a positive number of seconds, at most {MAX_SECONDS:g},"
        f" got {shown(timeout)}: leave it out for the usual one, or give math.inf for no deadline",
        option="timeout",
    )


def checked_count(count: Any, what: str, least: int, error: Callable[[str], Exception]) -> int:
    """A number of things as a plain integer.

    Args:
        count: of what ``what`` names.
        what: for the message.
        least: the smallest there can be.
        error: makes what is raised.
    """
    number = None
    if not _is_bool(count):
        try:
            number = operator.index(count)
        except Exception:
            number = None
    if number is None or number < least:
        raise error(f"{what} must be an integer of at least {least}, got {shown(count)}")
    return number


def checked_options(
    options: dict[str, Any], reset_options: Any, timeout: Any, declared: Collection[str]
) -> dict[str, Any]:
    """The options of a reset: those given by name together with those in ``reset_options``.

    Args:
        options: given by name.
        reset_options: given in a map, for names that are also arguments of the call.
        timeout: argument of the call.
        declared: names that the environment's ``reset`` declares.

    Raises:
        InvalidOption: the map is none, an option is given twice, or it is ambiguous whose
            ``timeout`` is meant.
    """
    if reset_options is None:
        if timeout is not None and "timeout" in declared:
            raise InvalidOption(
                f"reset(timeout={shown(timeout)}) is ambiguous: this environment's reset has an"
                f" option of that name. Give the option as reset_options={{'timeout': …}}; with"
                " reset_options= given, even empty, timeout= is the deadline of the call",
                option="timeout",
            )
        return options
    if not isinstance(reset_options, Mapping) or not all(
        isinstance(name, str) for name in reset_options
    ):
        raise InvalidOption(
            "reset(reset_options=…) must be a dict from the names of options to their values,"
            f" got {shown(reset_options)}",
            option="reset_options",
        )
    for name in ("seed", "episode_id"):
        if name in reset_options:
            raise InvalidOption(
                f"reset(reset_options=…) has {name!r}, which every reset takes: give it as"
                f" reset({name}=…)",
                option=name,
            )
    for name in options:
        if name in reset_options:
            raise InvalidOption(
                f"reset() was given the option {name!r} twice: by name and in reset_options",
                option=name,
            )
    return {**options, **reset_options}


def encoded(value: Any, encode: Callable[[Any], bytes], what: str) -> bytes:
    """An option of a reset, or all of them, as they are sent.

    Raises:
        InvalidModel: it cannot be sent.
    """
    try:
        return encode(value)
    except InvalidModel as exc:
        raise InvalidModel(f"reset() cannot send its {what}: {exc.message}") from exc


def reset_arguments(options: Mapping[Any, Any], **named: Any) -> dict[str, Any]:
    """Keyword arguments for a client's ``reset`` that pass every option to the environment.

    Args:
        options: of the environment, one called ``timeout`` among them if it has one.
        named: arguments of the call itself.
    """
    others: dict[str, Any] = {}
    clashing: dict[Any, Any] = {}
    for name, value in options.items():
        by_name = isinstance(name, str) and name not in _OWN_NAMES  # another is refused there
        (others if by_name else clashing)[name] = value
    return {**others, **named, **({"reset_options": clashing} if clashing else {})}


# -- constructors ---------------------------------------------------------------------------------


def refuse_unknown(called: str, unknown: Collection[str], known: Collection[str]) -> NoReturn:
    """Refuse keyword arguments that a class or function does not take.

    Args:
        called: its name, for the message.
        unknown: those that were given.
        known: those that there are.

    Raises:
        TypeError: always.
    """
    name = next(iter(unknown))
    if name in _OF_UPSTREAM:
        hint = f"here it is {_OF_UPSTREAM[name]}; openenv_async.compat.upstream takes it as it is"
    elif name == "timeout" and "timeouts" in known:
        hint = "deadlines are timeouts=Timeouts(step=5), or step(action, timeout=5) for one call"
    else:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}=?" if near else f"it takes {', '.join(known)}"
    raise TypeError(f"{called} takes no argument {name!r}: {hint}")


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))


def is_sendable(text: str) -> bool:
    """Return whether UTF-8 can carry a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
