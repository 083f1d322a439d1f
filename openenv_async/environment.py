"""The base class that environment authors subclass, and what the runtime reads off it, once.

Rules:

- ``reset``, ``step``, ``state`` and ``close`` may each be sync or async; ``state`` may be a
  property. If any of them is async, or ``step_stream`` exists, the environment is async.
- An async environment runs in one task per session, on the loop. A sync one runs in threads
  unless it declares ``isolation = "inline"``, the promise of short calls.
- ``reset`` gets the options that it declares; the signature is read when the spec is made, never
  per call.
- ``render()``, where a class defines it, is called when somebody asks for a picture, between other
  calls. One that needs arguments is the author's own.
- ``legal_actions()``, where a class defines it, is called after each reset and step that does not
  end the episode; a method of that name that needs arguments is the author's own.
"""

from __future__ import annotations

import contextlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import FunctionType
from typing import Any, ClassVar, Final, Generic, Literal, Protocol

from openenv_async.certification import Certification
from openenv_async.errors import InvalidModel, shown
from openenv_async.types import ActT, ObsT, StateT, Task, Tool, VectorRows

__all__ = [
    "AGENT_ACCESS",
    "AUTORESET_MODES",
    "RENDER_KEY",
    "AutoresetMode",
    "Contract",
    "Environment",
    "Isolation",
    "Tasks",
    "VectorEnvironment",
    "VectorLayout",
    "read_contract",
]

Isolation = Literal["inline", "thread", "process"]
_ISOLATIONS: tuple[Isolation, ...] = ("inline", "thread", "process")

AutoresetMode = Literal["next_step", "same_step", "disabled"]
AUTORESET_MODES: Final[tuple[AutoresetMode, ...]] = ("next_step", "same_step", "disabled")
"""The ways in which a vector begins the episodes after those that ended."""

AGENT_ACCESS: Final = ("reward", "info", "state", "render", "seed", "task", "options")
"""Names of what agents that play over MCP may be let see or set; by default none of it."""

RENDER_KEY: Final = "x-render"
"""The key of a state's schema that says how the environment renders: its ``modes`` and ``fps``. A
session with the option ``render_mode`` then has the ``frame`` in its state."""

_OWN_NAMES: Final = (FunctionType, property, cached_property, classmethod, staticmethod)
"""Kinds of class attributes that can be neither tasks, tools nor a certification."""
_ANYTHING: Final = [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]
"""The parameters of ``*args, **kwargs``."""
_MANY: Final = frozenset(_ANYTHING)


class Tasks(Protocol):
    """The tasks of an environment, in splits. ``TaskTable`` makes them of rows or files.

    An index is a task's place in its split, from 0; the id of a task lasts, and is unique in its
    split. ``data`` of a task is listed to every client; ``private`` goes to ``reset`` and nowhere
    else. The calls may block: they are made in threads, several at a time.
    """

    def splits(self) -> Sequence[str]:
        """Return the names of the splits, such as ``train``; read once, when it is served."""
        ...

    def count(self, split: str) -> int:
        """Return how many tasks a split has."""
        ...

    def get(self, split: str, index: int) -> Task:
        """Return one task."""
        ...

    def range(self, split: str, start: int, stop: int) -> Sequence[Task]:
        """Return the tasks from ``start`` to before ``stop``."""
        ...


class Environment(ABC, Generic[ActT, ObsT, StateT]):
    """One environment: the author's object, of which every session has its own instance.

    ``reset(seed=..., episode_id=..., **options)`` receives what it declares. ``step(action)``
    returns an observation, whose own ``reward`` and ``done`` (or ``terminated`` and
    ``truncated``) fields count, or a ``StepResult``. ``async def step_stream(action)`` may be
    added: it yields partial observations and ends with the final one.

    ``def legal_actions(self)`` may be added too: the actions that may be taken next, as a list of
    them or as a mask, an array of bool or int8 with an entry for each action; ``None`` says
    nothing. Callers find it in the result's info, as ``legal_actions`` or ``action_mask``, and
    random policies and adapters keep to it. ``step`` should refuse an action that it leaves out.

    ``def render(self)`` may be added as well, sync or async: a picture of what is, as an array
    uint8 [height, width] or [height, width, channels] of 1, 3 or 4 channels, or a text. It must
    change nothing. Clients ask for it by ``render()``; videos are made of it.

    Attributes:
        isolation: where calls run. ``None`` chooses: inline when async, threads when sync.
        thread_safe: whether instances may run in several threads of one process at once.
        owns_thread: whether all calls of one session must come from one and the same thread.
        session_options: names of constructor arguments that a client may set when it opens
            a session. Empty: none.
        invalid_action_reward: penalty for an action that is refused, or a model's reply in which
            there is no action, where a rollout ends its episode for that. An ``InvalidAction``
            may carry another one, ``reward=``.
        tasks: what its episodes may be about. A ``reset`` with the option ``task_id`` gets the
            columns of that task as options, the private ones among them.
        tools: what agents are offered to call; by default the tools that are made of its actions.
        agent_access: what agents that play over MCP may see and set beside observations and
            actions: any of ``reward``, ``info``, ``state``, ``seed``, ``task`` and ``options``.
        certification: what ``openenv-async certify`` tests: an oracle, the range of its rewards,
            what is secret, policies that must fail.
        name, version, description: shown by ``/metadata`` and the CLI; the name defaults to
            the class name, the description to its docstring.
    """

    isolation: ClassVar[Isolation | None] = None
    thread_safe: ClassVar[bool] = True
    owns_thread: ClassVar[bool] = False
    session_options: ClassVar[frozenset[str]] = frozenset()
    invalid_action_reward: ClassVar[float | None] = None
    tasks: ClassVar[Tasks | None] = None
    tools: ClassVar[Sequence[Tool] | None] = None
    agent_access: ClassVar[Collection[str]] = ()
    certification: ClassVar[Certification | None] = None
    name: ClassVar[str | None] = None
    version: ClassVar[str] = "1.0.0"
    description: ClassVar[str | None] = None

    @abstractmethod
    def reset(self, *args: Any, **options: Any) -> Any:
        """Begin an episode and return its first observation (or a ``StepResult``)."""

    @abstractmethod
    def step(self, action: ActT) -> Any:
        """Take one action and return the observation (or a ``StepResult``)."""

    def state(self) -> Any:
        """Return what the environment wants known of its episode; ``{}`` by default."""
        return {}

    def close(self) -> Any:
        """Release what the environment holds. Called exactly once per instance."""

    @classmethod
    def prepare_process(cls, sessions: int, **params: Any) -> None:
        """Load what all sessions share, before the first is opened.

        Called once in each process that serves sessions, before it takes any; not for an
        environment that is run in process.

        Args:
            sessions: how many there may be at once in this process.
            params: constructor arguments.
        """

    @classmethod
    def isolation_for(cls, **params: Any) -> Isolation | None:
        """Return where calls run by constructor arguments; ``isolation`` by default."""
        return cls.isolation

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        """JSON Schemas that are sharper than the types, by constructor arguments.

        Returns:
            A map with any of ``action``, ``observation`` and ``state``; each replaces the
            schema made from the type.
        """
        return {}

    @classmethod
    def tasks_for(cls, **params: Any) -> Tasks | None:
        """Return the tasks by constructor arguments; those of ``tasks`` by default.

        A method or property of that name is the author's own, and declares none.
        """
        declared = inspect.getattr_static(cls, "tasks")
        return None if isinstance(declared, _OWN_NAMES) else cls.tasks

    @classmethod
    def tools_for(cls, **params: Any) -> Sequence[Tool] | None:
        """Return the tools by constructor arguments; those of ``tools`` by default.

        Called once, in a thread. A method or property called ``tools`` is the author's own, and
        declares none.
        """
        declared = inspect.getattr_static(cls, "tools")
        return None if isinstance(declared, _OWN_NAMES) else cls.tools

    @classmethod
    def certification_for(cls, **params: Any) -> Certification | None:
        """Return the statements for a certificate by constructor arguments.

        Those of ``certification`` by default. A method that is overridden may import what serving
        does not need, such as policies.
        """
        declared = inspect.getattr_static(cls, "certification")
        return None if isinstance(declared, _OWN_NAMES) else cls.certification


@dataclass(frozen=True, slots=True)
class VectorLayout:
    """The make-up of a vector of environments, as clients are told it.

    Attributes:
        num_envs: environments in it.
        autoreset_mode: when it begins the episode after one that ended, as Gymnasium means it:
            ``next_step``: instead of the row's next step; ``same_step``: in the step that ended it,
            whose last observation is in ``infos["final_obs"]``; ``disabled``: when a reset names
            the row in its ``reset_mask``.
        batch_size: rows of one step; less than ``num_envs`` where a step gives the first rows
            that are ready, named by ``env_id``.
        action, observation: JSON Schemas of one row; empty where they are not known.
    """

    num_envs: int
    autoreset_mode: AutoresetMode
    batch_size: int
    action: Mapping[str, Any] = field(default_factory=dict)
    observation: Mapping[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """Return it without its schemas, as plain data."""
        return {
            "num_envs": self.num_envs,
            "autoreset_mode": self.autoreset_mode,
            "batch_size": self.batch_size,
        }


class VectorEnvironment(Environment[ActT, VectorRows[ObsT], StateT]):
    """A vector of environments that are stepped together: one session is all of them.

    ``reset(seed=..., **options)`` begins an episode in each. ``step(actions)`` takes the batch of
    actions and returns ``VectorRows``, or a ``StepResult`` of them with infos. The session itself
    has no end: rows end, and ``autoreset_mode`` says when they begin anew. With ``disabled``,
    ``reset`` declares ``options`` and looks for ``options["reset_mask"]``, bool [num_envs].

    The type parameters are those of batches: ``VectorEnvironment[Actions, Observations, State]``.

    Attributes:
        num_envs: environments in it: of the class, or a constructor argument of that name.
        autoreset_mode: ``"next_step"``, ``"same_step"`` or ``"disabled"``; see ``VectorLayout``.
    """

    num_envs: int
    autoreset_mode: AutoresetMode = "next_step"

    @classmethod
    def row_schemas(cls, **params: Any) -> dict[str, Any]:
        """JSON Schemas of the ``action`` and ``observation`` of one row, by constructor arguments.

        Without them clients read them off the schemas of batches, as far as these tell.
        """
        return {}

    @classmethod
    def layout(cls, **params: Any) -> VectorLayout:
        """Return the make-up of the vector by constructor arguments.

        Raises:
            InvalidModel: it does not say how many environments there are, or when they begin anew.
        """
        count = params.get("num_envs", _default_count(cls))
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InvalidModel(
                f"{cls.__name__} is a vector of {shown(count)} environments: num_envs must be an"
                " integer of at least 1, of the class or as a constructor argument"
            )
        mode = params.get("autoreset_mode", cls.autoreset_mode)
        if mode not in AUTORESET_MODES:
            raise InvalidModel(
                f"{cls.__name__}.autoreset_mode is {shown(mode)}: it must be one of"
                f" {', '.join(AUTORESET_MODES)}"
            )
        rows = cls.row_schemas(**params)
        return VectorLayout(
            count, mode, count, rows.get("action") or {}, rows.get("observation") or {}
        )


def _default_count(cls: type) -> Any:
    """The ``num_envs`` of a class, or the default of its constructor's argument."""
    found = getattr(cls, "num_envs", None)
    if isinstance(found, int):
        return found
    try:
        parameter = inspect.signature(cls).parameters.get("num_envs")
    except (TypeError, ValueError):  # a builtin without a signature
        return None
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


@dataclass(frozen=True, slots=True)
class Contract:
    """The contract that was read off an environment class.

    Attributes:
        reset_options: parameters of ``reset`` other than ``seed`` and ``episode_id``.
        any_option: ``reset`` takes ``**options``.
        takes_seed, takes_episode_id: whether ``reset`` declares them.
        is_async: any of the calls is a coroutine function, or it streams.
        streams: it has ``step_stream``.
        awaited: which of reset, step, state and close are coroutine functions.
        defines_state: the class says itself what the state is.
        state_is_property: ``state`` is read, not called.
        isolation: where its calls run.
        tells_legal: it has ``legal_actions``.
        renders: it has ``render``.
    """

    reset_options: Mapping[str, inspect.Parameter]
    any_option: bool
    takes_seed: bool
    takes_episode_id: bool
    is_async: bool
    streams: bool
    awaited: frozenset[str]
    defines_state: bool
    state_is_property: bool
    isolation: Isolation
    tells_legal: bool = False
    renders: bool = False

    def unknown_options(self, options: Mapping[str, Any]) -> list[str]:
        """The names that ``reset`` does not declare."""
        if self.any_option:
            return []
        return sorted(name for name in options if name not in self.reset_options)


def read_contract(cls: type, params: Mapping[str, Any] | None = None) -> Contract:
    """Read the calls of an environment class (a subclass of ``Environment`` or alike).

    Args:
        cls: the class.
        params: constructor arguments, which may decide where its calls run.

    Raises:
        TypeError: ``reset`` or ``step`` is missing, or the isolation declared is impossible.
    """
    for name in ("reset", "step"):
        if not callable(getattr(cls, name, None)):
            raise TypeError(f"{cls.__name__} has no {name}(): an environment needs one")
    reset = _wrapped(cls.reset)  # type: ignore[attr-defined]  # checked above
    parameters = list(inspect.signature(reset).parameters.values())[1:]
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    any_option = any(p.kind is p.VAR_KEYWORD for p in parameters)
    state = inspect.getattr_static(cls, "state", None)
    state_is_property = state is not None and not (
        callable(state) or isinstance(state, classmethod | staticmethod)
    )
    streams = hasattr(cls, "step_stream")
    awaited = frozenset(
        name
        for name in ("reset", "step", "state", "close")
        if inspect.iscoroutinefunction(getattr(cls, name, None))
    )
    is_async = streams or bool(awaited)
    return Contract(
        reset_options={k: v for k, v in named.items() if k not in ("seed", "episode_id")},
        any_option=any_option,
        takes_seed="seed" in named or any_option,
        takes_episode_id="episode_id" in named or any_option,
        is_async=is_async,
        streams=streams,
        awaited=awaited,
        defines_state=state not in (None, Environment.state),
        state_is_property=state_is_property,
        isolation=_isolation(cls, is_async, params or {}),
        tells_legal=_tells_legal(cls),
        renders=_is_called_bare(cls, "render"),
    )


def _wrapped(call: Any) -> Any:
    """The function that a decorator without ``functools.wraps`` hands all arguments on to.

    Its wrapper takes ``*args, **kwargs``, which looks like every option. The function is the
    only one in the closure of the wrapper, or the only one there that is called ``reset``.
    """
    if not inspect.isfunction(call) or hasattr(call, "__wrapped__") or not call.__closure__:
        return call
    if [each.kind for each in inspect.signature(call).parameters.values()] != _ANYTHING:
        return call
    held = [_wrapped(value) for value in _held(call) if inspect.isfunction(value)]
    found = [value for value in held if value.__name__ == "reset"] or held
    return found[0] if len(found) == 1 else call


def _held(call: FunctionType) -> Iterator[Any]:
    """The values in a function's closure."""
    for cell in call.__closure__ or ():
        with contextlib.suppress(ValueError):  # one that nothing was put into yet
            yield cell.cell_contents


def _tells_legal(cls: type) -> bool:
    """Return whether a class has a method ``legal_actions`` that can be called without arguments.

    Raises:
        TypeError: it is async.
    """
    if not inspect.isroutine(inspect.getattr_static(cls, "legal_actions", None)):
        return False
    if inspect.iscoroutinefunction(cls.legal_actions):  # type: ignore[attr-defined]  # found above
        raise TypeError(
            f"{cls.__name__}.legal_actions is async: make it a plain function that tells what"
            " reset or step found out"
        )
    return _is_called_bare(cls, "legal_actions")


def _is_called_bare(cls: type, name: str) -> bool:
    """Return whether a class has a method of this name that can be called without arguments."""
    if not inspect.isroutine(inspect.getattr_static(cls, name, None)):
        return False
    found: Any = getattr(cls, name)
    try:
        needed = [p for p in inspect.signature(found).parameters.values() if p.default is p.empty]
    except ValueError:  # a builtin without a signature
        return False
    bound = isinstance(inspect.getattr_static(cls, name), staticmethod | classmethod)
    return len([p for p in needed if p.kind not in _MANY]) == (0 if bound else 1)


def _isolation(cls: type, is_async: bool, params: Mapping[str, Any]) -> Isolation:
    declared: Isolation | None = getattr(cls, "isolation", None)
    if issubclass(cls, Environment):
        declared = cls.isolation_for(**params)
    thread_safe = getattr(cls, "thread_safe", True)
    if declared is not None and declared not in _ISOLATIONS:
        raise TypeError(
            f"{cls.__name__}.isolation is {declared!r}: it must be one of {_ISOLATIONS} or None"
        )
    if is_async:
        if declared == "thread":
            raise TypeError(
                f"{cls.__name__} is async and declares isolation 'thread': an async environment"
                " runs on the loop, leave isolation at None or 'inline'"
            )
        return declared or "inline"
    if declared == "thread" and not thread_safe:
        raise TypeError(
            f"{cls.__name__} declares isolation 'thread' and thread_safe = False:"
            " declare isolation 'process' or make it safe"
        )
    if declared is None:
        return "thread" if thread_safe else "process"
    return declared
