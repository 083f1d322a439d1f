"""Environments of other libraries as this runtime's: today Gymnasium's.

``EnvironmentSpec`` asks ``hosted`` about whatever it is handed. The library is never imported
here unless the caller's class has imported it, or an id of its registry is named.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from typing import Any, Final

__all__ = ["hosted", "hosted_factory", "is_registered_id"]

_ID: Final = re.compile(r"(?:[A-Za-z_][\w.]*:)?(?:[\w-]+/)*[\w:.-]+-v\d+")


def hosted(env: Any) -> Any:
    """Return the ``Environment`` class (or instance) for a class, instance or id of a library's.

    Returns:
        ``None`` when it is none: an ``Environment`` of this runtime's, a factory, anything else.

    Raises:
        TypeError: a vector of environments, which is not one.
        InvalidOption: an instance whose spaces cannot be served; no environment has this id.
        ModuleNotFoundError: an id was given, and Gymnasium is not installed.
    """
    if isinstance(env, str):
        if not is_registered_id(env):
            return None
        from openenv_async.hosts.gymnasium import host_of_id

        return host_of_id(env)
    base = _gymnasium_env()
    if base is None:
        return None
    _refuse_vector(env)
    if inspect.isclass(env):
        if issubclass(env, base):
            from openenv_async.hosts.gymnasium import host_of_class

            return host_of_class(env, env)
    elif isinstance(env, base):
        from openenv_async.hosts.gymnasium import host_of_instance

        return host_of_instance(env)
    return None


def hosted_factory(factory: Any, made: type) -> Any:
    """Return the ``Environment`` class for a factory that makes ``made``; ``None`` for others."""
    base = _gymnasium_env()
    if base is None or not issubclass(made, base):
        return None
    from openenv_async.hosts.gymnasium import host_of_class

    return host_of_class(made, factory)


def is_registered_id(text: str) -> bool:
    """Return whether a text is written as an id of Gymnasium's registry, such as ``CartPole-v1``.

    Also ``module:CartPole-v1``, to import the module that registers it. False where Gymnasium is
    not installed.
    """
    if _ID.fullmatch(text) is None:
        return False
    return "gymnasium" in sys.modules or importlib.util.find_spec("gymnasium") is not None


def _refuse_vector(env: Any) -> None:
    vector = getattr(sys.modules.get("gymnasium.vector"), "VectorEnv", None)
    cls = env if inspect.isclass(env) else type(env)
    if vector is not None and issubclass(cls, vector):
        raise TypeError(
            f"{cls.__name__} is a vector of environments: serve one of them, of which every session"
            " has its own, and step many with GymVectorEnv"
        )


def _gymnasium_env() -> Any:
    """Gymnasium's base class, if anybody has imported it."""
    return getattr(sys.modules.get("gymnasium"), "Env", None)
