"""Arguments that are the caller's mistake, refused before anything is played.

An error of an environment, a server or the network is an outcome; an argument that is refused here
never becomes one.
"""

from __future__ import annotations

import inspect
import operator
import sys
from collections.abc import Callable, Mapping
from typing import Any

from openenv_async.client.sync import SyncEnvClient
from openenv_async.environment import Environment
from openenv_async.errors import SessionClosed, WrongTarget, shown

__all__ = [
    "check_agent",
    "check_call",
    "check_client",
    "check_count",
    "check_policy",
    "check_reset_options",
    "check_seconds",
    "check_seed",
    "is_client",
]


def check_count(name: str, value: Any, least: int = 1) -> int:
    """Return an argument that counts something as an ``int``.

    Raises:
        TypeError: it is not an integer.
        ValueError: it is less than ``least``.
    """
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return count


def check_seconds(name: str, value: Any) -> float:
    """Return an argument that is a positive number of seconds.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not positive, or NaN.
    """
    if isinstance(value, bool | str | bytes):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}")
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number of seconds, got {value!r}") from None
    if not seconds > 0:  # NaN is not either
        raise ValueError(f"{name} must be a positive number of seconds, got {value!r}")
    return seconds


def check_seed(name: str, value: Any) -> int:
    """Return a seed as an ``int``; NumPy's integers are integers.

    Raises:
        TypeError: it is not an integer.
        ValueError: no reset takes it: it is not from 0 to 2**63 - 1.
    """
    if isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    try:
        seed = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if not 0 <= seed < 1 << 63:
        raise ValueError(f"{name} must be from 0 to 2**63 - 1, got {seed}")
    return seed


def check_reset_options(options: Any) -> Mapping[str, Any]:
    """Return further arguments of ``reset``, by name.

    Raises:
        TypeError: they are not a mapping from names.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"reset_options must be a dict of names, got {options!r}")
    for name in options:
        if not isinstance(name, str):
            raise TypeError(f"reset_options must have names for keys, got {name!r}")
    return options


def check_agent(agent: Any, given: Mapping[str, Any]) -> None:
    """Refuse what is not an agent, and what no agent heeds.

    Args:
        agent: it.
        given: arguments that only a policy heeds; ``None``: not given.

    Raises:
        TypeError, ValueError: it is refused.
    """
    if not callable(getattr(agent, "play", None)):
        raise TypeError(
            f"an agent plays episodes by play(lease, turn), got {agent!r:.100}: see"
            " FunctionAgent and CommandAgent of openenv_async.gateway"
        )
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"an agent plays by itself: it takes no {name}")


def check_policy(policy: Any) -> None:
    """Refuse a policy that cannot be asked for an action.

    Raises:
        TypeError: it is not callable, it is a class, or it takes other arguments.
    """
    for_episode = getattr(policy, "for_episode", None)
    if inspect.isclass(policy) and (for_episode is not None or _has_call(policy)):
        raise TypeError(
            f"the policy is the class {policy.__name__}: give an instance of it,"
            f" {policy.__name__}(...)"
        )
    asked = policy if for_episode is None else for_episode
    if not callable(asked):
        close = getattr(policy, "close", None) if inspect.iscoroutine(policy) else None
        if close is not None:
            close()
        if all(callable(getattr(policy, name, None)) for name in ("play", "used")):
            raise TypeError(f"an agent is not a policy: give it by its name, agent={shown(policy)}")
        raise TypeError(
            f"a policy is a callable of (observation) or (observation, turn), got {shown(policy)}"
        )
    try:
        signature = inspect.signature(asked)
    except (TypeError, ValueError):  # a builtin without one
        return
    for count in (1,) if for_episode is not None else (1, 2):
        try:
            signature.bind(*[None] * count)
        except TypeError:
            continue
        return
    wanted = "for_episode(index)" if for_episode is not None else "(observation, turn)"
    raise TypeError(
        f"a policy is called as {wanted}, or as (observation):"
        f" {getattr(asked, '__qualname__', type(asked).__name__)}{signature} takes other arguments"
    )


def _has_call(cls: type) -> bool:
    return any("__call__" in base.__dict__ for base in cls.__mro__)


def is_client(env: Any) -> bool:
    """Return whether an episode can be played on an object itself: it has an async ``reset``.

    An environment has one as well, and a blocking client; both are targets, to be resolved.
    """
    of_gymnasium = getattr(sys.modules.get("gymnasium"), "Env", Environment)
    if inspect.isclass(env) or isinstance(env, SyncEnvClient | Environment | of_gymnasium):
        return False
    return callable(getattr(env, "reset", None))


def check_client(env: Any, entry: str) -> None:
    """Refuse what no episode can be played on.

    Args:
        env: in the place of a client.
        entry: gave it, for the message.

    Raises:
        WrongTarget: it is not a client; a ``TypeError``.
        SessionClosed: it is a client that was closed.
    """
    if not is_client(env):
        raise WrongTarget(f"{entry} needs a client with async reset and step, got {shown(env)}")
    if getattr(env, "is_closed", False) is True:
        raise SessionClosed(f"{entry} needs an open client, this one was closed: make a new one")


def check_call(function: Callable[..., Any], arguments: Mapping[str, Any], name: str) -> None:
    """Refuse a call whose arguments the function does not take.

    Raises:
        TypeError: it does not.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(**arguments)
    except TypeError as exc:
        raise TypeError(f"{name}{signature} cannot be called with {[*arguments]}: {exc}") from None
