"""A Gymnasium environment as an ``Environment``: one instance per session.

Rules:

- The results of ``reset`` and ``step`` are read by Gymnasium's rules and no others: two values and
  five. Reward and ends are handed on as they are; the runtime reads them.
- Actions come as elements of the action space, or as ``{"value": element}`` for clients whose
  dialect has objects only. Observations go out as elements of the observation space.
- The schemas are those of the spaces. They are read off an instance that is made for it.
- Legal actions are told in ``info["action_mask"]``: by the environment itself, or by its method
  ``action_masks()``, or by an ``"action_mask"`` in its observations.
- A frame is part of the state where the environment was made with a render mode.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import gymnasium
import numpy as np
from gymnasium.envs.registration import load_env_creator

from openenv_async.environment import RENDER_KEY, Environment
from openenv_async.errors import (
    EnvironmentStartFailed,
    EpisodeNotStarted,
    InvalidAction,
    InvalidModel,
    InvalidObservation,
    InvalidOption,
    OpenEnvError,
    OperationUnsupported,
)
from openenv_async.hosts import spaces
from openenv_async.schemas.legal import ACTION_MASK, ADVISED, LEGAL_ACTIONS, LEGAL_KEY
from openenv_async.types import StepResult

__all__ = [
    "GymnasiumHost",
    "HostState",
    "class_body",
    "find",
    "host_of_class",
    "host_of_id",
    "host_of_instance",
    "is_quick",
    "make",
    "taking_values",
    "told_result",
    "unknown_id",
    "wrong_step",
]

_ATTRIBUTES: Final = ("isolation", "thread_safe", "owns_thread", "version", "description")
_OPTION: Final = "render_mode"
_QUICK: Final = ("gymnasium.envs.classic_control.", "gymnasium.envs.toy_text.")
"""Modules of environments whose steps take microseconds, and never wait."""
_MASKS: Final = "action_masks"
"""The method that sb3-contrib's MaskablePPO asks for."""


@dataclass
class HostState:
    """Progress of an episode, and its picture.

    Attributes:
        id: the registered id, or the name of the class.
        elapsed_steps: steps since the reset.
        max_episode_steps: Gymnasium's time limit, if it has one.
        frame: what ``render()`` gives where the session has a render mode; else ``None``.
    """

    id: str
    elapsed_steps: int
    max_episode_steps: int | None
    frame: Any = None


class GymnasiumHost(Environment[Any, Any, Any]):
    """One Gymnasium environment. Its state is a ``HostState``.

    Args:
        env: the environment; it is closed with this.

    Raises:
        InvalidOption: a space of it cannot be served.
        InvalidModel: it has no spaces.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        action_space, observation_space = _spaces_of(env)
        self._env = env
        self._label = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
        self._read_element = spaces.reader(action_space)
        self._read = taking_values(self._read_element, action_space)
        self._write = spaces.writer(observation_space)
        self._reset_takes = _keywords(env.reset)
        self._mask = _mask_of(env)
        self._elapsed = 0
        self._begun = False

    def reset(
        self,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
        keep_rng: bool = False,
    ) -> Any:
        """Begin an episode.

        Args:
            seed: of Gymnasium's generator.
            options: Gymnasium's own.
            keep_rng: go on with the generator as it stands, as Gymnasium does when it is given
                no seed; ``seed`` is then not used.
        """
        given: dict[str, Any] = {"seed": None if keep_rng else seed, "options": options}
        takes = self._reset_takes
        if takes is not None:
            if options and "options" not in takes:
                raise InvalidOption(
                    f"reset() of {self._label} takes no options: declare options=None in it",
                    option="options",
                )
            given = {key: value for key, value in given.items() if key in takes}
        result: Any = self._env.reset(**given)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            raise InvalidObservation(
                f"reset() of {self._label} returned {told_result(result)}: it must return"
                " (observation, info), where info is a dict"
            )
        observation = self._written("reset", result[0])
        self._elapsed = 0
        self._begun = True
        info = result[1]
        if self._mask is not None and not _tells(info):
            info = {**info, ACTION_MASK: self._mask(result[0])}
        return StepResult(observation, info=info)

    def step(self, action: Any) -> Any:
        """Take one action."""
        # The runtime reads reward, ends and info, as everybody's.
        return StepResult(*self._stepped(action))

    def _stepped(self, action: Any) -> tuple[Any, Any, Any, Any, Any]:
        """Take one action; return Gymnasium's five values, the observation as it travels."""
        read = self._read if type(action) is dict else self._read_element
        result: Any = self._env.step(read(action))
        try:
            observation, reward, terminated, truncated, info = result
        except (TypeError, ValueError):
            raise InvalidObservation(wrong_step(self._label, result)) from None
        if not isinstance(result, tuple) or not isinstance(info, dict):
            raise InvalidObservation(wrong_step(self._label, result))
        self._elapsed += 1
        if self._mask is not None and not (terminated or truncated or _tells(info)):
            info = {**info, ACTION_MASK: self._mask(observation)}
        try:
            observation = self._write(observation)
        except InvalidObservation as exc:
            raise self._unwritten("step", exc) from None
        return observation, reward, terminated, truncated, info

    def _openenv_row_step(self) -> Callable[[Any], Any] | None:
        """Return the step of rows of column frames, which makes no ``StepResult``.

        There is none where a subclass has a step of its own.
        """
        return self._stepped if type(self).step is GymnasiumHost.step else None

    def _written(self, call: str, observation: Any) -> Any:
        try:
            return self._write(observation)
        except InvalidObservation as exc:
            raise self._unwritten(call, exc) from None

    def _unwritten(self, call: str, exc: InvalidObservation) -> InvalidObservation:
        return InvalidObservation(
            f"{call}() of {self._label} returned an {exc.message}; return what"
            " observation_space says, or change the space"
        )

    def state(self) -> Any:
        """Progress, and a frame where the session has a render mode."""
        env = self._env
        limit = env.spec.max_episode_steps if env.spec is not None else None
        drawn = self._begun and env.render_mode not in (None, "human")
        return HostState(self._label, self._elapsed, limit, env.render() if drawn else None)

    def render(self) -> Any:
        """Return the frame of the session's render mode; of a list of them the last.

        Raises:
            OperationUnsupported: the session has no render mode, or one that shows a window.
            EpisodeNotStarted: Gymnasium draws nothing before the first reset.
        """
        mode = self._env.render_mode
        if mode in (None, "human"):
            raise OperationUnsupported(
                f"{self._label} was made with render_mode={mode!r}: open the session with"
                " options={'render_mode': 'rgb_array'}, or serve it with --param"
                " render_mode=rgb_array"
            )
        if not self._begun:
            raise EpisodeNotStarted("render() before reset(): call reset() first", phase="render")
        frame: Any = self._env.render()
        return frame[-1] if isinstance(frame, list) and frame else frame

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    @classmethod
    def vectorized(cls, params: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the factory of vectors of such environments, and its arguments.

        Args:
            params: constructor arguments of one environment.

        Raises:
            InvalidOption: there is none.
        """
        raise InvalidOption(f"{cls.__name__} has no vectors: name the gymnasium.Env class itself")


def _mask_of(env: gymnasium.Env[Any, Any]) -> Callable[[Any], Any] | None:
    """Return what gives the mask of legal actions after an observation, if anything does."""
    if env.has_wrapper_attr(_MASKS):
        masks = env.get_wrapper_attr(_MASKS)
        if callable(masks):
            return lambda observation: np.asarray(masks(), np.int8)
    space = env.observation_space
    if isinstance(space, gymnasium.spaces.Dict) and ACTION_MASK in space.spaces:
        return lambda observation: np.asarray(observation[ACTION_MASK], np.int8)
    return None


def _tells(info: Mapping[str, Any]) -> bool:
    return ACTION_MASK in info or LEGAL_ACTIONS in info


def _spaces_of(env: gymnasium.Env[Any, Any]) -> tuple[Any, Any]:
    found = []
    for name in ("action_space", "observation_space"):
        space = getattr(env, name, None)
        if not isinstance(space, gymnasium.Space):
            raise InvalidModel(
                f"{type(env.unwrapped).__name__} cannot be served: it has no {name}; set"
                f" self.{name} to a Gymnasium space in __init__"
            )
        found.append(space)
    return found[0], found[1]


def _keywords(call: Callable[..., Any]) -> frozenset[str] | None:
    """The names that a call takes as keywords; ``None`` for any."""
    parameters = inspect.signature(call).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return frozenset(p.name for p in parameters)


def taking_values(read: Callable[[Any], Any], space: gymnasium.Space[Any]) -> Callable[[Any], Any]:
    """Return a reader of ``{"value": element}`` too, unless elements are objects themselves."""
    if isinstance(space, gymnasium.spaces.Dict | gymnasium.spaces.Graph):
        return read

    def read_either(action: Any) -> Any:
        if type(action) is dict:
            if action.keys() != {"value"}:
                return read_object(action)
            action = action["value"]
        return read(action)

    def read_object(action: dict[Any, Any]) -> Any:
        try:
            return read(action)
        except InvalidAction as exc:
            told = '{"value": …} where an action is an object'
            raise InvalidAction(f"{exc.message}; write {told}", **exc.detail) from None

    return read_either


def told_result(result: Any) -> str:
    if isinstance(result, tuple):
        return f"{len(result)} values ({', '.join(type(each).__name__ for each in result)})"
    return f"{type(result).__name__} {result!r:.60}"


def wrong_step(label: str, result: Any) -> str:
    reason = "it must return (observation, reward, terminated, truncated, info)"
    if isinstance(result, tuple) and len(result) == 4:
        reason += "; four values are the API of Gym before 0.26: tell terminated from truncated"
    elif isinstance(result, tuple) and len(result) == 5:
        reason += ", where info is a dict"
    elif result is None:
        reason += "; a return is missing"
    return f"step() of {label} returned {told_result(result)}: {reason}"


# -- classes ------------------------------------------------------------------------------------


class _Made(GymnasiumHost, Environment[Any, Any, HostState]):
    """A host that makes its environment. Subclasses name the factory.

    Attributes:
        factory: makes the environment of constructor arguments.
        shared: the environment that all sessions share, one after the other; then nothing is
            made.
        registered: the id that it was named by.
    """

    factory: ClassVar[Callable[..., gymnasium.Env[Any, Any]]]
    shared: ClassVar[gymnasium.Env[Any, Any] | None] = None
    registered: ClassVar[str | None] = None

    def __init__(self, **params: Any) -> None:
        env = self.shared if self.shared is not None else type(self).factory(**params)
        if not isinstance(env, gymnasium.Env):
            raise TypeError(f"{self.name} made {type(env).__name__}, not a gymnasium.Env")
        super().__init__(env)

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        """The schemas of the environment's spaces.

        Raises:
            EnvironmentStartFailed: none could be made to read them off.
            InvalidOption: a space cannot be served.
        """
        env = cls.shared
        if env is None:
            env = sample_of(lambda: cls.factory(**params), cls.name)
        try:
            return schemas_of(env)
        finally:
            if cls.shared is None:
                env.close()

    @classmethod
    def vectorized(cls, params: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the factory of vectors of such environments, and its arguments.

        Raises:
            InvalidOption: it is one instance, of which there are no others.
        """
        from openenv_async.hosts.vectors import make_vector, make_vector_of

        if cls.shared is not None:
            raise InvalidOption(f"{cls.name} is one instance: name its class for a vector of it")
        if cls.registered is not None:
            return functools.partial(make_vector, cls.registered), dict(params)
        return functools.partial(make_vector_of, cls.factory), dict(params)


def sample_of(make: Callable[[], Any], name: str | None) -> Any:
    """Return an environment, or a vector of them, that is made to read its spaces off.

    Raises:
        EnvironmentStartFailed: it could not be built.
    """
    try:
        return make()
    except OpenEnvError:
        raise
    except Exception as exc:
        raise EnvironmentStartFailed(
            f"{name} could not be built, so its spaces are not known:"
            f" {type(exc).__name__}: {exc}; constructor arguments are given with params="
            " (--param KEY=VALUE)",
            env=name,
        ) from exc


def schemas_of(
    env: gymnasium.Env[Any, Any],
    wrap: Callable[[str, dict[str, Any]], dict[str, Any]] = lambda name, schema: schema,
) -> dict[str, Any]:
    """Return the schemas of an environment's spaces, and of its state.

    Args:
        env: the environment.
        wrap: makes the schema of an action or observation of its name and its element's.

    Raises:
        InvalidOption: a space cannot be served; the message says which.
        InvalidModel: it has no spaces.
    """
    made: dict[str, Any] = {}
    for name, space in zip(("action", "observation"), _spaces_of(env), strict=True):
        try:
            described = spaces.described(space)
        except InvalidOption as exc:
            label = type(env.unwrapped).__name__
            raise InvalidOption(f"{name}_space of {label}: {exc.message}") from None
        made[name] = wrap(name, described)
    if _mask_of(env) is not None:
        made["action"] = {**made["action"], LEGAL_KEY: ADVISED}
    return made | {"state": _state_schema(env.metadata)}


def _state_schema(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "title": "HostState",
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "elapsed_steps": {"type": "integer"},
            "max_episode_steps": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
            "frame": {"default": None},
        },
        "required": ["id", "elapsed_steps", "max_episode_steps"],
        RENDER_KEY: {
            "modes": [str(mode) for mode in metadata.get("render_modes") or ()],
            "fps": _number(metadata.get("render_fps")),
        },
    }


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) else None


def class_body(cls: type, factory: Any, name: str | None, *, base: type) -> dict[str, Any]:
    """The attributes of the class of a host.

    Args:
        cls: what the factory makes.
        factory: the class itself, or a function.
        name: of the environment; the class's own ``name``, or its name in the code.
        base: the library's base class, which says nothing of what is made.
    """
    if cls is base and name is None:
        name = _factory_name(factory)
    own = getattr(cls, "name", None)
    body: dict[str, Any] = {
        "__doc__": _summary(cls, base),
        "__module__": cls.__module__,
        "factory": staticmethod(factory),
        "name": name or (own if isinstance(own, str) else cls.__name__),
    }
    for attribute in _ATTRIBUTES:
        value = getattr(cls, attribute, None)
        if value is not None and not isinstance(value, property):
            body[attribute] = value
    options = frozenset(getattr(cls, "session_options", None) or ())
    takes = _keywords_of(factory)
    if takes is None or _OPTION in takes:
        options |= {_OPTION}
    body["session_options"] = options
    return body


def host_of_class(cls: type, factory: Any, *, name: str | None = None) -> type[GymnasiumHost]:
    """Return the ``Environment`` class of a Gymnasium class.

    Its attributes ``isolation``, ``thread_safe``, ``owns_thread``, ``version``, ``description``
    and ``session_options`` count as on an ``Environment``. Gymnasium's own quick ones run inline.

    Args:
        cls: what the factory makes.
        factory: the class itself, or a function.
        name: of the environment; the class's own ``name``, or its name in the code.
    """
    body = class_body(cls, factory, name, base=gymnasium.Env)
    if factory is cls and f"{cls.__module__}.".startswith(_QUICK):
        body.setdefault("isolation", "inline")
    host = type(cls.__name__, (_Made,), body)
    with contextlib.suppress(TypeError, ValueError):  # a builtin without a signature
        host.__signature__ = inspect.signature(factory)  # type: ignore[attr-defined]  # for params
    return host


def _summary(cls: type, base: type) -> str:
    """The first paragraph of a class's docstring, without headings."""
    doc = inspect.cleandoc(cls.__doc__ or "") if cls is not base else ""
    lines = [line for line in doc.splitlines() if not line.startswith("#")]
    return "\n".join(lines).strip().partition("\n\n")[0]


def _keywords_of(factory: Any) -> frozenset[str] | None:
    try:
        return _keywords(factory)
    except (TypeError, ValueError):  # a builtin without a signature
        return frozenset()


def _factory_name(factory: Any) -> str:
    if isinstance(factory, functools.partial):
        from openenv_async.hosts.vectors import make_vector_of

        if factory.args and isinstance(factory.args[0], str):
            return factory.args[0]  # functools.partial(gymnasium.make, "CartPole-v1")
        if factory.args and factory.func is make_vector_of:
            return _factory_name(factory.args[0])  # the class of which it is a vector
        return _factory_name(factory.func)
    return str(getattr(factory, "__name__", type(factory).__name__))


def host_of_instance(env: gymnasium.Env[Any, Any]) -> GymnasiumHost:
    """Return the ``Environment`` of an instance, which all sessions share.

    Raises:
        InvalidOption: a space of it cannot be served.
    """
    cls = type(env.unwrapped)
    host = host_of_class(cls, cls)
    host.shared = env  # type: ignore[attr-defined]  # of the class that was just made
    host.session_options = frozenset()
    del host.__signature__  # type: ignore[attr-defined]
    host.schemas()
    return host()  # type: ignore[call-arg]  # nothing is made


def host_of_id(id: str) -> type[GymnasiumHost]:
    """Return the ``Environment`` class of a registered id, such as ``CartPole-v1``.

    Raises:
        InvalidOption: no environment has this id.
    """
    point = find(id).entry_point
    cls: Any = gymnasium.Env
    with contextlib.suppress(ImportError, gymnasium.error.Error):  # told when one is made
        cls = load_env_creator(point) if isinstance(point, str) else point
    if not inspect.isclass(cls) or not issubclass(cls, gymnasium.Env):
        cls = gymnasium.Env
    label = id.rpartition(":")[2]
    host = host_of_class(cls, lambda **kwargs: make(id, kwargs), name=label)
    host.registered = id  # type: ignore[attr-defined]  # of the class that was just made
    if host.isolation is None and is_quick(id):
        host.isolation = "inline"
    return host


def is_quick(id: str) -> bool:
    """Return whether a registered id is one of Gymnasium's whose steps take microseconds.

    Raises:
        InvalidOption: no environment has this id.
    """
    found = find(id)
    point = found.entry_point
    return (
        isinstance(point, str)
        and f"{point.partition(':')[0]}.".startswith(_QUICK)
        and not found.additional_wrappers
    )


def find(id: str) -> Any:
    """Return what Gymnasium's registry has of an id, once the module before its colon is imported.

    Raises:
        InvalidOption: no environment has this id; the message names the nearest.
    """
    module, _, name = id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ModuleNotFoundError):
        raise InvalidOption(unknown_id(id), option="id") from None


def make(id: str, make_kwargs: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """Make an environment of Gymnasium's registry.

    Args:
        id: a registered id, ``module:id`` to import the module that registers it first.
        make_kwargs: what ``gymnasium.make`` takes, the environment's own arguments included.

    Raises:
        InvalidOption: no environment has this id, or it takes no such argument.
    """
    try:
        return gymnasium.make(id, **{"disable_env_checker": True, **make_kwargs})
    except (gymnasium.error.UnregisteredEnv, ModuleNotFoundError) as exc:
        if isinstance(exc, ModuleNotFoundError) and ":" not in id:
            raise  # the environment exists; what it needs is missing
        raise InvalidOption(unknown_id(id), option="id") from None
    except (TypeError, gymnasium.error.Error) as exc:
        text = " ".join(str(exc).split())
        raise InvalidOption(f"{id} cannot be made with {dict(make_kwargs)}: {text}") from exc


def unknown_id(id: str) -> str:
    known = list(gymnasium.registry)
    namespace, slash, _ = id.partition("/")
    if slash and ":" not in id and not any(name.startswith(f"{namespace}/") for name in known):
        return (
            f"Gymnasium has no environment {id!r}; name the module that registers {namespace}/ too,"
            " as in ale_py:ALE/Pong-v5"
        )
    near = (
        difflib.get_close_matches(id, known, n=3, cutoff=0.5)
        or [name for name in known if id.split("-")[0].lower() in name.lower()][:3]
    )
    hint = f"did you mean {', '.join(near)}?" if near else "gymnasium.registry lists them all"
    return f"Gymnasium has no environment {id!r}; {hint}"
