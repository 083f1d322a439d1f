"""``environment_factory``: an environment as tools of the model.

TRL makes an instance per rollout, keeps it, and takes every public method of its class but
``reset`` and ``get_reward`` for a tool. So an instance has those two and the tools, and nothing
else that is public; all instances of a factory share its pool.

A failure in the environment or on the way to it makes ``get_reward`` return ``None``, which TRL
leaves out of the baseline, whatever other reward functions say of it (``masking``); a tool call
that does not fit is told to the model, as a tool's error. A tool may be async.
"""

from __future__ import annotations

import inspect
import keyword
import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

from openenv_async.client.arguments import reset_arguments
from openenv_async.errors import (
    CallerError,
    EpisodeEnded,
    InvalidObservation,
    OpenEnvError,
    OperationCancelled,
    OperationUnsupported,
    SessionClosed,
    SessionNotFound,
)
from openenv_async.integrations.trl.action_tool import action_function
from openenv_async.integrations.trl.formats import observation_text
from openenv_async.integrations.trl.masking import mask_failures
from openenv_async.integrations.trl.shared import SharedSessions
from openenv_async.targets.resolve import Target
from openenv_async.types import StepResult

__all__ = ["EnvironmentFactory", "make_environment_factory"]

_SEED: Final = ("seed", "episode_id")
_FAILURES: Final = (SessionClosed, SessionNotFound, OperationCancelled)
"""Caller errors that are not the caller's doing here."""


class _ToolEnvironment:
    """An instance as TRL takes it; the tools are added by the factory."""

    _factory: EnvironmentFactory

    def __init__(self) -> None:
        self._client: Any = None
        self._failed: BaseException | None = None
        self._reward: float | None = None
        self._done = False
        self._steps = 0

    def reset(self, **row: Any) -> str:
        """Begin an episode for a row of the dataset; its first observation as text."""
        factory = self._factory
        self._failed, self._reward, self._done, self._steps = None, None, False, 0
        if self._client is None:
            self._client = factory.source.client()
        try:
            result = factory.source.run(
                self._client.reset(**reset_arguments(factory.options_of(row)))
            )
        except CallerError as exc:
            if not isinstance(exc, _FAILURES):
                raise  # the row's options do not fit: training on would be training on nothing
            self._fail(exc)
            return ""
        except (OpenEnvError, OSError) as exc:
            self._fail(exc)
            return ""
        return factory.to_text(result.observation)

    def get_reward(self) -> float | None:
        """The return of the episode; ``None`` where the environment gave no reward or failed."""
        if self._failed is not None:
            return None
        if not self._steps:
            return self._factory.unplayed_reward
        return self._reward

    @property
    def _unusable(self) -> bool:
        """Tell whether its episode is to be left out of every reward function."""
        return self._failed is not None

    def _act(self, action: Any) -> str:
        if self._failed is not None:
            raise OperationUnsupported(f"the environment failed, stop calling it: {self._failed}")
        if self._done:
            raise EpisodeEnded("the episode is over: answer without calling tools")
        factory = self._factory
        try:
            result: StepResult[Any] = factory.source.run(self._client.step(action))
        except (OpenEnvError, OSError) as exc:
            if not isinstance(exc, CallerError) or isinstance(exc, _FAILURES):
                self._fail(exc)
            raise  # TRL tells the model; an action that did not fit it may mend
        self._steps += 1
        self._done = result.done
        if result.reward is not None:
            self._reward = result.reward + (self._reward or 0.0)
            if not math.isfinite(self._reward):  # it would make its whole group NaN
                self._fail(InvalidObservation(f"the return of the episode is {self._reward}"))
        text = factory.to_text(result.observation)
        return f"{text}\n(The episode is over.)" if result.done else text

    def _fail(self, error: BaseException) -> None:
        """Note that the environment failed, and leave its session."""
        self._failed = error
        self._leave()

    def _leave(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            try:
                self._factory.source.run(client.close())
            except (OpenEnvError, OSError):
                return  # it is gone, which was the wish

    def __reduce__(self) -> Any:
        return self._factory, ()


class EnvironmentFactory:
    """The result of ``make_environment_factory``: give it to ``environment_factory=``.

    Calling it makes an instance. It pickles; a copy in another process plays on the same pool.
    """

    def __init__(
        self,
        source: Target | SharedSessions,
        *,
        tools: Sequence[Callable[..., Any]] | None = None,
        tool_name: str = "act",
        reset: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
        to_text: Callable[[Any], str] = observation_text,
        unplayed_reward: float | None = None,
        name: str | None = None,
        **source_options: Any,
    ) -> None:
        self._tool_name = _public("tool_name", tool_name)
        self.source = SharedSessions.of(source, **source_options)
        self.to_text = to_text
        self.unplayed_reward = unplayed_reward
        self._tools = None if tools is None else list(tools)
        self._reset = reset
        self._name = name or "Environment"
        self._schema: dict[str, Any] = {}
        self._class: type[_ToolEnvironment] | None = None
        try:
            if tools is None or reset is None:
                self._schema = self.source.schema()
            self._made()
        except BaseException:
            if self.source is not source:  # nobody else has it to close it
                self.close()
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_class": None}

    def __call__(self) -> Any:
        """A new instance. Its session opens with its first ``reset``."""
        mask_failures()
        return self._made()()

    def close(self) -> None:
        """Release the environments; done at exit as well. Idempotent."""
        self.source.close()

    def options_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of the environment's ``reset`` for a row.

        By default those columns that it declares, and the seed.
        """
        if self._reset is not None:
            return dict(self._reset(row))
        declared = self._schema.get("reset", {}).get("properties", {})
        return {
            name: value
            for name, value in row.items()
            if (name in declared or name in _SEED) and value is not None
        }

    def _made(self) -> type[_ToolEnvironment]:
        if self._class is None:
            functions = self._tools
            if functions is None:
                functions = [action_function(self._tool_name, self._schema["action"])]
            body: dict[str, Any] = {"_factory": self}
            for function in functions:
                name = _public("a tool", getattr(function, "__name__", repr(function)))
                if name in body:
                    raise ValueError(f"there are two tools {name!r}")
                body[name] = _method(function)
            self._class = type(self._name, (_ToolEnvironment,), body)
        return self._class


def make_environment_factory(source: Target | SharedSessions, **options: Any) -> EnvironmentFactory:
    """An ``environment_factory`` for TRL's ``GRPOTrainer``.

    Args:
        source: any target: a name, a URL, several, an environment class, a pool, a client, …
        options:
            tools: functions, async ones too, that make an action of their arguments, with type
                hints and a
                Google-style docstring; their names, hints and docstrings are what the model
                sees. By default one tool, made of the action's schema.
            tool_name: of that one.
            reset: makes the arguments of ``reset`` of a row; by default its columns that the
                environment declares, and ``seed``.
            to_text: makes the text of an observation, for the model.
            unplayed_reward: of an episode without any tool call; ``None`` leaves it out.
            name: of the class, under which TRL logs the reward.
            params, token, and those of ``EnvPool``: as of ``SharedSessions``.

    Raises:
        TargetNotFound: no installed environment has this name.
        ProviderError, ConnectFailed: no server answers.
        ValueError: a tool has no usable name, or lacks hints or docstring.
    """
    return EnvironmentFactory(source, **options)


def _public(what: str, name: str) -> str:
    if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
        raise ValueError(f"{what} needs a public name that a function can have, got {name!r}")
    if name in ("reset", "get_reward"):
        raise ValueError(f"a tool cannot be named {name!r}: TRL calls that itself")
    return name


def _method(function: Callable[..., Any]) -> Callable[..., str]:
    """A tool: it makes an action with ``function`` and takes it."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise ValueError(f"the tool {function.__name__}() yields: a tool returns one action")
    signature = inspect.signature(function, eval_str=True)
    doc = inspect.getdoc(function)
    if not doc:
        _lacks(function, "a docstring")
    for parameter in signature.parameters.values():
        if parameter.annotation is parameter.empty:
            _lacks(function, f"a type hint of {parameter.name!r}")
        if not re.search(rf"^\s*{re.escape(parameter.name)}\s*(\(.*\))?:", doc or "", re.M):
            _lacks(function, f"a line for {parameter.name!r} in its docstring's Args")

    def method(self: _ToolEnvironment, *args: Any, **kwargs: Any) -> str:
        action = function(*args, **kwargs)
        if inspect.isawaitable(action):
            action = self._factory.source.run(_awaited(action))
        return self._act(action)

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [own, *signature.parameters.values()]
    method.__name__ = function.__name__
    method.__qualname__ = function.__qualname__
    method.__doc__ = doc if "Returns:" in (doc or "") else f"{doc}\n\nReturns:\n    What happened."
    method.__signature__ = inspect.Signature(parameters, return_annotation=str)  # type: ignore[attr-defined]  # read by inspect
    method.__annotations__ = {
        **{each.name: each.annotation for each in signature.parameters.values()},
        "return": str,
    }
    return method


async def _awaited(action: Awaitable[Any]) -> Any:
    return await action


def _lacks(function: Callable[..., Any], what: str) -> NoReturn:
    raise ValueError(f"the tool {function.__name__}() lacks {what}: the model sees nothing else")
