"""Environments of other libraries as this runtime's: Gymnasium's, and OpenEnv's applications.

``EnvironmentSpec`` asks ``hosted`` about whatever it is handed. The library is never imported
here unless the caller's class has imported it, or an id of its registry is named.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from openenv_async.environment import VectorEnvironment
from openenv_async.errors import InvalidOption

__all__ = [
    "LISTS_TOOLS",
    "MAX_SESSIONS",
    "HostedText",
    "hosted",
    "hosted_factory",
    "hosted_tools",
    "is_application",
    "is_registered_id",
    "said_class",
    "vectorized",
]

MAX_SESSIONS: Final = "_openenv_max_sessions"
"""An attribute of a host: sessions at once unless the server is told another number."""
LISTS_TOOLS: Final = "_openenv_lists_tools"
"""An attribute of a host: its environment says by a step which tools it has."""
_MAKERS: Final = ("openenv.core", "openenv_async.compat.upstream.serving")
"""Modules without which there is no application of OpenEnv's."""
_TOOL_BASES: Final = ("openenv.", "openenv_core.", "openenv_async.compat.upstream.")
"""Packages whose environments may be made of tools."""
_ID: Final = re.compile(r"(?:[A-Za-z_][\w.]*:)?(?:[\w-]+/)*[\w:.-]+-v\d+")


@dataclass(frozen=True, slots=True)
class HostedText:
    """An environment that a text of a scheme names, such as ``mcp:COMMAND``.

    Attributes:
        source: an ``Environment`` class, or a factory that says what it makes; importable, since
            worker processes get it too.
        params: constructor arguments that the text gives. They are the operator's alone: the
            source must not let a session set them.
        name: of the environment.
    """

    source: Any
    params: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None


def hosted(env: Any) -> Any:
    """Return the ``Environment`` class (or instance) for a class, instance or id of a library's.

    Returns:
        ``None`` when it is none: an ``Environment`` of this runtime's, a factory, anything else.

    Raises:
        InvalidModel: an instance of a vector that does not say what it is.
        InvalidOption: an instance whose spaces cannot be served; no environment has this id.
        ModuleNotFoundError: an id was given, and Gymnasium is not installed.
    """
    if isinstance(env, str):
        if not is_registered_id(env):
            return None
        from openenv_async.hosts.gymnasium import host_of_id

        return host_of_id(env)
    apps = sys.modules.get("openenv_async.hosts.upstream_apps")
    if apps is not None and isinstance(env, apps.UpstreamApp):
        return env.host()
    if is_application(env):
        from openenv_async.hosts.upstream_apps import host_of_app

        return host_of_app(env)
    base = _gymnasium_env()
    if base is None:
        return None
    vector = _gymnasium_vector()
    # EnvPool's are both, so vectors come first.
    if vector is not None and inspect.isclass(env) and issubclass(env, vector):
        from openenv_async.hosts.vectors import host_of_vector_class

        return host_of_vector_class(env, env)
    if vector is not None and isinstance(env, vector):
        from openenv_async.hosts.vectors import host_of_vector_instance

        return host_of_vector_instance(env)
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
    base, vector = _gymnasium_env(), _gymnasium_vector()
    if vector is not None and (issubclass(made, vector) or _is_envpool(made)):
        from openenv_async.hosts.vectors import host_of_vector_class

        return host_of_vector_class(made if issubclass(made, vector) else vector, factory)
    if base is None or not issubclass(made, base):
        return None
    from openenv_async.hosts.gymnasium import host_of_class

    return host_of_class(made, factory)


def hosted_tools(env: Any, action: Any, observation: Any, state: Any, name: str | None) -> Any:
    """Return the ``Environment`` class for one of OpenEnv's whose actions are calls of its tools.

    Args:
        env: a class, or a factory that says what it makes.
        action, observation, state: the models that it is served with, where they are given.
        name: of the environment, where it is given.

    Returns:
        ``None`` when it is none.
    """
    made = said_class(env)
    if made is None or not callable(getattr(made, "mcp_session", None)):
        return None
    if not any(base.__module__.startswith(_TOOL_BASES) for base in made.__mro__[1:]):
        return None
    from openenv_async.hosts.upstream import AppCall, host_of_call

    return host_of_call(AppCall(env, action, observation, state, name))


def is_application(env: Any) -> bool:
    """Return whether it is a web application that OpenEnv's ``create_app`` may have made."""
    if inspect.isclass(env) or not callable(env) or not hasattr(env, "routes"):
        return False
    return any(name in sys.modules for name in _MAKERS)


def is_registered_id(text: str) -> bool:
    """Return whether a text is written as an id of Gymnasium's registry, such as ``CartPole-v1``.

    Also ``module:CartPole-v1``, to import the module that registers it. False where Gymnasium is
    not installed.
    """
    if _ID.fullmatch(text) is None:
        return False
    return "gymnasium" in sys.modules or importlib.util.find_spec("gymnasium") is not None


def said_class(env: Any) -> type | None:
    """Return a class itself, or the one that a factory says it makes; ``None``: it says none."""
    while isinstance(env, functools.partial):
        env = env.func
    if inspect.isroutine(env):
        try:
            env = typing.get_type_hints(env).get("return")
        except (NameError, TypeError):
            return None
    return env if inspect.isclass(env) else None


def vectorized(cls: Any, params: Mapping[str, Any], num_envs: int) -> tuple[Any, dict[str, Any]]:
    """Return what is served as a vector of ``num_envs`` environments, and its arguments.

    Args:
        cls: a host's class of one environment, or of a vector.
        params: constructor arguments.
        num_envs: environments in it.

    Raises:
        InvalidOption: it is neither Gymnasium's, nor a vector that takes the number.
    """
    if inspect.isclass(cls) and issubclass(cls, VectorEnvironment):
        return cls, {**params, "num_envs": num_envs}
    make = getattr(cls, "vectorized", None)
    if make is None:
        raise InvalidOption(
            f"{getattr(cls, '__name__', cls)} cannot be served as a vector: it is not a Gymnasium"
            " environment; subclass VectorEnvironment to step many at once"
        )
    factory, rest = make(params)
    return factory, {**rest, "num_envs": num_envs}


def _is_envpool(made: type) -> bool:
    """Return whether a factory of EnvPool's said that it makes this."""
    return made.__module__.startswith("envpool.")


def _gymnasium_vector() -> Any:
    """Gymnasium's base class of vectors, if anybody has imported it."""
    return getattr(sys.modules.get("gymnasium.vector"), "VectorEnv", None)


def _gymnasium_env() -> Any:
    """Gymnasium's base class, if anybody has imported it."""
    return getattr(sys.modules.get("gymnasium"), "Env", None)
