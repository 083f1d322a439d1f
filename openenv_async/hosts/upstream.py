"""An environment of OpenEnv's as an ``Environment``: what its server was to be made of.

Rules, as OpenEnv's own server has them:

- ``reset_async`` and ``step_async`` are called where a class overrides them, else ``reset`` and
  ``step``, in one thread for the life of a session, its constructor included. With
  ``REQUIRES_SINGLE_THREAD_EXECUTOR`` all sessions share one thread. A class that overrides one of
  the two, or has an ``mcp_session``, is constructed in the event loop's thread.
- ``reset`` gets the options that it declares, ``step`` the action alone.
- An action is read as the class that ``create_app`` was given. If that is a tool call, or the
  base class of all actions, its ``type`` may name a tool call or the list of tools instead.
- The observation is whatever comes back, of the declared class or not, as pydantic dumps it; its
  ``reward`` and ``done`` stand beside it. An episode that is done was truncated where the
  observation has a ``truncated`` that is true.
- An environment that has an ``mcp_session`` is played inside of it.
- A class that does not say ``SUPPORTS_CONCURRENT_SESSIONS`` is served to one session at a time,
  and others to as many as their application asks for, unless the server is told another number.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from openenv_async.environment import Environment
from openenv_async.errors import InvalidAction, WrongTarget, exception_text, shown
from openenv_async.hosts import LISTS_TOOLS, MAX_SESSIONS, said_class
from openenv_async.types import StepResult, Tool

__all__ = ["AppCall", "UpstreamHost", "class_made", "host_of_call"]

log = logging.getLogger("openenv_async.environment")

_TOOL_ACTIONS: Final = {"list_tools": "ListToolsAction", "call_tool": "CallToolAction"}
"""Classes of actions by the ``type`` that names them."""
_ERROR_SIZE: Final = 2000
"""Characters of what the author's code raised that are told."""
_BESIDE: Final = {"reward", "done"}
"""Fields of an observation that stand beside it."""
_BASES: Final = ("openenv.", "openenv_core.", "openenv_async.")
"""Packages whose ``Environment`` has the calls that an author may override."""


@dataclass(frozen=True, slots=True)
class AppCall:
    """The arguments with which an application made its server.

    Attributes:
        env: the class, or what makes an instance.
        action, observation: the models.
        state: the model, where it was given.
        name: of the environment.
        max_sessions: sessions at once that the application asks for.
    """

    env: Callable[[], Any]
    action: Any
    observation: Any
    state: Any = None
    name: str | None = None
    max_sessions: int | None = None


class UpstreamHost(Environment[Any, Any, Any]):
    """One environment of OpenEnv's. Subclasses say what it is made of.

    Attributes:
        call: what the application's server was to be made of.
    """

    call: ClassVar[AppCall]
    owns_thread = True
    _openenv_max_sessions: ClassVar[int | None] = 1

    def __init__(self) -> None:
        self._env: Any = self._run(type(self).call.env)

    def reset(self, **options: Any) -> Any:
        """Begin an episode."""
        return _result(self._run(functools.partial(self._env.reset, **options)))

    def step(self, action: Any) -> Any:
        """Take one action."""
        action = type(self).read_action(action)
        return _result(self._run(functools.partial(self._env.step, action)))

    def state(self) -> Any:
        """Return the environment's state."""
        return self._run(self._state)

    def close(self) -> Any:
        """Close the environment, where it can be."""
        self._run(functools.partial(_close, self._env))

    def _state(self) -> Any:
        state = self._env.state
        if inspect.isroutine(state):
            state = state()
        dump = getattr(state, "model_dump", None)
        return state if dump is None else dump()

    @staticmethod
    def _run(call: Callable[[], Any]) -> Any:
        return call()

    @classmethod
    def read_action(cls, action: Any) -> Any:
        """Return the action as an object of the class that it is of."""
        return action

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        """The schemas of the models that the application names.

        An observation may be of another class, as the one that resets an environment of tools is
        of the base class: the declared one says which fields there are, and not that they are.
        """
        models = {"action": cls.call.action, "observation": cls.call.observation}
        if cls.call.state is not None:
            models["state"] = cls.call.state
        made = {
            name: model.model_json_schema()
            for name, model in models.items()
            if hasattr(model, "model_json_schema")
        }
        if "observation" in made:
            made["observation"].pop("required", None)
            made["observation"].pop("additionalProperties", None)
        return made

    @classmethod
    def tools_for(cls, **params: Any) -> Sequence[Tool] | None:
        """The tools of a class that lists them by a step: one environment is made to be asked."""
        return (asyncio.run(_listed(cls())) or None) if getattr(cls, LISTS_TOOLS, False) else None


class _OneThreadHost(UpstreamHost):
    """One whose calls come from one and the same thread, whatever the session."""

    owns_thread = False
    _thread: ClassVar[ThreadPoolExecutor | None] = None
    _lock: ClassVar[threading.Lock] = threading.Lock()

    @staticmethod
    def _run(call: Callable[[], Any]) -> Any:
        with _OneThreadHost._lock:
            if _OneThreadHost._thread is None:
                _OneThreadHost._thread = ThreadPoolExecutor(1, "openenv-environments")
        return _OneThreadHost._thread.submit(call).result()


class _AsyncHost(UpstreamHost):
    """One with coroutine functions of its own, or with an MCP session to be held open."""

    owns_thread = False
    awaits: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self._stack: contextlib.AsyncExitStack | None = None
        self._thread: ThreadPoolExecutor | None = None

    async def reset(self, **options: Any) -> Any:
        """Begin an episode."""
        if self._stack is None:
            await self._enter()
        if "reset_async" in self.awaits:
            return _result(await self._env.reset_async(**options))
        return _result(await self._in_thread(functools.partial(self._env.reset, **options)))

    async def step(self, action: Any) -> Any:
        """Take one action."""
        if self._stack is None:
            await self._enter()
        action = type(self).read_action(action)
        if "step_async" in self.awaits:
            return _result(await self._env.step_async(action))
        return _result(await self._in_thread(functools.partial(self._env.step, action)))

    async def close(self) -> Any:
        """Leave the MCP session and close the environment."""
        stack, self._stack = self._stack, None
        try:
            if stack is not None:
                await stack.aclose()
        finally:
            await self._in_thread(functools.partial(_close, self._env))
            if self._thread is not None:
                self._thread.shutdown(wait=False)

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        """Call what is not a coroutine function, in this session's own thread."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "openenv-environment")
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _enter(self) -> None:
        stack = contextlib.AsyncExitStack()
        session = getattr(self._env, "mcp_session", None)
        if callable(session):
            await stack.enter_async_context(session())
        self._stack = stack  # once it is entered: else the next call tries again


async def _listed(host: UpstreamHost) -> list[Tool]:
    try:
        told = await host.step({"type": "list_tools"})
    finally:
        await host.close()
    return [
        Tool(
            each["name"],
            each["description"] or "",
            each["input_schema"],
            {"type": "call_tool", "tool_name": each["name"]},
            arguments_in="arguments",
        )
        for each in told.observation["tools"]
    ]


def _result(observation: Any) -> Any:
    """Return what an environment returned, with reward and end beside it."""
    dump = getattr(observation, "model_dump", None)
    if dump is None:
        return observation  # a dataclass or a dict, which the runtime reads itself
    data = dump(exclude=_BESIDE)
    done = bool(observation.done)
    truncated = done and data.get("truncated") is True
    return StepResult(data, observation.reward, done and not truncated, truncated)


# -- classes ------------------------------------------------------------------------------------


def host_of_call(call: AppCall) -> type[UpstreamHost]:
    """Return the class that serves what an application made its server of.

    To see what an unannotated factory makes, one environment is made and closed again.

    Raises:
        WrongTarget: what is made has no ``reset`` and ``step``.
    """
    cls, sample = _class_of(call.env)
    try:
        about = _metadata(cls, call.env if sample is None else sample)
    finally:
        if sample is not None:
            _close(sample)
    awaits = frozenset(n for n in ("reset_async", "step_async") if _overrides(cls, n))
    base: type[UpstreamHost] = UpstreamHost
    if awaits or callable(getattr(cls, "mcp_session", None)):
        base = _AsyncHost
    elif getattr(cls, "REQUIRES_SINGLE_THREAD_EXECUTOR", False):
        base = _OneThreadHost
    several = bool(getattr(cls, "SUPPORTS_CONCURRENT_SESSIONS", False))
    own = getattr(cls, "reset_async" if "reset_async" in awaits else "reset")
    body: dict[str, Any] = {
        "__doc__": inspect.getdoc(cls),
        "__module__": cls.__module__,
        "call": call,
        "awaits": awaits,
        LISTS_TOOLS: callable(getattr(cls, "mcp_session", None)),
        MAX_SESSIONS: call.max_sessions if several else 1,
        "name": call.name,
        "version": about.get("version") or "1.0.0",
        "description": about.get("description"),
        "reset": _like(base.reset, own),
        "read_action": classmethod(_reader(call.action, cls)),
    }
    return type(cls.__name__, (base,), body)


def class_made(env: Any) -> type:
    """Return the class of the environment that an application's server makes.

    To see what an unannotated factory makes, one environment is made and closed again.

    Raises:
        WrongTarget: what is made has no ``reset`` and ``step``.
    """
    cls, sample = _class_of(env)
    if sample is not None:
        _close(sample)
    return cls


def _class_of(env: Any) -> tuple[type, Any]:
    """Return the class that is made, and the instance that was made to see it, if one was."""
    made = said_class(env)
    sample = None
    if made is None or not _plays(made) or inspect.isabstract(made):
        sample = env()
        made = type(sample)
    if not _plays(made):
        raise WrongTarget(
            f"the application serves {shown(env)}, which does not make an environment: it has no"
            " reset and step"
        )
    return made, sample


def _plays(cls: type) -> bool:
    return all(callable(getattr(cls, name, None)) for name in ("reset", "step"))


def _overrides(cls: type, name: str) -> bool:
    """Return whether a class has a call of its own, other than OpenEnv's base class."""
    for base in cls.__mro__:
        if name in vars(base):
            own = base.__name__ == "Environment" and base.__module__.startswith(_BASES)
            return not own
    return False


def _metadata(cls: type, made: Any) -> dict[str, Any]:
    """Return what an environment says of itself, where it says more than its class's name.

    Args:
        cls: its class.
        made: an instance, or what makes one.
    """
    if not _overrides(cls, "get_metadata"):
        return {}
    is_env = isinstance(made, cls)
    try:
        env: Any = made if is_env else made()
        try:
            told = env.get_metadata()
        finally:
            if not is_env:
                _close(env)
    except Exception as exc:  # whatever the author's code raises: it is a description
        log.warning("get_metadata() of %s: %s", cls.__name__, exception_text(exc, _ERROR_SIZE))
        return {}
    return {name: getattr(told, name, None) for name in ("description", "version")}


def _close(env: Any) -> None:
    close = getattr(env, "close", None)
    if close is not None:
        close()


def _like(call: Callable[..., Any], own: Callable[..., Any]) -> Callable[..., Any]:
    """Return a call with the options that the environment's own declares."""

    def reset(self: Any, **options: Any) -> Any:
        return call(self, **options)

    async def reset_async(self: Any, **options: Any) -> Any:
        return await call(self, **options)

    made: Callable[..., Any] = reset_async if inspect.iscoroutinefunction(call) else reset
    return functools.update_wrapper(made, own)


def _as_it_is(action: Any) -> Any:
    return action


def _reader(model: Any, env: type) -> Callable[[Any, Any], Any]:
    """Return what reads an action as the model, or as the tool call that it is.

    Args:
        model: of actions; ``None`` where the application names none.
        env: the environment's class.
    """
    read = getattr(model, "model_validate", None)
    tools = _tool_actions(model, env)
    if read is None:
        if not tools:
            return lambda cls, action: action
        read = _as_it_is

    def read_action(cls: Any, action: Any) -> Any:
        kind = tools.get(str(action.get("type"))) if tools and isinstance(action, dict) else None
        try:
            return read(action) if kind is None else kind.model_validate(action)
        except ValueError as exc:  # pydantic's
            raise InvalidAction(exception_text(exc, _ERROR_SIZE)) from None

    return read_action


def _tool_actions(model: Any, env: type) -> dict[str, Any]:
    """Return the classes of tool calls, where a model is one of them or the base of all.

    They are there without a model, too, where the class has an MCP session.
    """
    if model is None and not callable(getattr(env, "mcp_session", None)):
        return {}
    for base in (env if model is None else model).__mro__:
        types = sys.modules.get(base.__module__.rpartition(".")[0] + ".mcp_types")
        if types is not None and base.__module__.startswith(_BASES):
            found = {kind: getattr(types, name) for kind, name in _TOOL_ACTIONS.items()}
            if model is None or model.__name__ == "Action" or model in found.values():
                return found
    return {}
