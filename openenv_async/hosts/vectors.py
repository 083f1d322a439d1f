"""A vector of Gymnasium environments as a ``VectorEnvironment``: one instance per session.

Hosted are any ``gymnasium.vector.VectorEnv``, those of ``ale_py`` and EnvPool among them, whatever
``gymnasium.make_vec`` makes, and vectors of any class of environments.

Rules:

- Results are read by Gymnasium's rules: two values and five. Rewards travel as float64, and are the
  vector's own also where it began a row anew.
- The spaces of rows are ``single_action_space`` and ``single_observation_space``; batches are made
  of them, for EnvPool gives those of rows under both names.
- The mode of beginning anew is the vector's own: its attribute, or what its metadata says. One
  that says none is refused, since nobody could tell which rows count.
- A vector that steps the first rows that are ready (``batch_size``) names them in ``env_id``; the
  next actions are those of the rows that were named last.
- Of infos arrays of objects travel as lists, with ``None`` where a row has none; ``final_obs`` as
  observations do.
- EnvPool takes a seed when it is built and at no other time: a reset with one builds it anew.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import gymnasium
import numpy as np
from gymnasium.spaces import GraphInstance
from gymnasium.vector import AutoresetMode as GymnasiumMode
from gymnasium.vector import SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from openenv_async.environment import (
    RENDER_KEY,
    AutoresetMode,
    Isolation,
    VectorEnvironment,
    VectorLayout,
)
from openenv_async.errors import (
    InvalidModel,
    InvalidObservation,
    InvalidOption,
    shown,
)
from openenv_async.hosts import spaces
from openenv_async.hosts.gymnasium import (
    class_body,
    find,
    sample_of,
    taking_values,
    told_result,
    unknown_id,
    wrong_step,
)
from openenv_async.schemas.vectors import rows_schema
from openenv_async.types import StepResult, VectorRows

__all__ = [
    "VectorHost",
    "VectorHostState",
    "host_of_vector_class",
    "host_of_vector_instance",
    "is_vector_factory",
    "make_vector",
    "make_vector_of",
]

_MODES: Final[dict[Any, AutoresetMode]] = {
    GymnasiumMode.NEXT_STEP: "next_step",
    GymnasiumMode.SAME_STEP: "same_step",
    GymnasiumMode.DISABLED: "disabled",
}
_WORDS: Final[dict[str, GymnasiumMode]] = {word: mode for mode, word in _MODES.items()}
_QUICK: Final = (
    *("gymnasium.envs.classic_control.", "gymnasium.envs.tabular.", "gymnasium.envs.phys2d."),
    *("envpool.classic_control.", "envpool.toy_text."),
)
"""Modules whose vectors step all rows in some 100 µs: they run on the server's loop."""
_ENVPOOL: Final = "envpool"
_UNSEEDED: Final = (
    "takes one seed for all environments, or none: leave out seeds, or give a list of them to a"
    " SyncVectorEnv"
)


@dataclass
class VectorHostState:
    """Progress of a vector, and its pictures.

    Attributes:
        id: the registered id, or the name of the class.
        num_envs: environments in it.
        elapsed_steps: steps of the whole vector since the reset.
        frames: what ``render()`` gives where the session has a render mode; else ``None``.
    """

    id: str
    num_envs: int
    elapsed_steps: int
    frames: Any = None


@dataclass(frozen=True, slots=True)
class _Facts:
    """The make-up of a vector, as read off an instance.

    Attributes:
        layout: of the vector.
        action, observation: the spaces of one row.
    """

    layout: VectorLayout
    action: Any
    observation: Any


def _facts_of(env: VectorEnv[Any, Any, Any], label: str) -> _Facts:
    """Read the make-up of a vector.

    Raises:
        InvalidModel: it does not say how many environments there are, their spaces, or when they
            begin anew.
        InvalidOption: a space cannot be served.
    """
    count = getattr(env, "num_envs", None)
    if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < 1:
        raise InvalidModel(
            f"{label} cannot be served: it is a vector of {shown(count)} environments; num_envs"
            " must be at least 1"
        )
    found = []
    for name in ("single_action_space", "single_observation_space"):
        space = getattr(env, name, None)
        if not isinstance(space, gymnasium.Space):
            raise InvalidModel(
                f"{label} cannot be served: it has no {name}; set self.{name} to a Gymnasium space"
                " in __init__"
            )
        found.append(space)
    described = []
    for name, space in zip(("action", "observation"), found, strict=True):
        try:
            described.append(spaces.described(space))
        except InvalidOption as exc:
            raise InvalidOption(f"single_{name}_space of {label}: {exc.message}") from None
    layout = VectorLayout(
        int(count), _mode_of(env, label), _batch_size(env, int(count)), *described
    )
    return _Facts(layout, *found)


def _mode_of(env: Any, label: str) -> AutoresetMode:
    # The attribute first: ale-py writes into the metadata that all classes of vectors share.
    mode = getattr(env, "autoreset_mode", None)
    if mode is None:
        mode = (getattr(env, "metadata", None) or {}).get("autoreset_mode")
    if mode is None and _is_envpool(env):
        return "next_step"  # releases of before Gymnasium had the word
    try:
        return _MODES[mode if isinstance(mode, GymnasiumMode) else GymnasiumMode(mode)]
    except ValueError:
        known = ", ".join(f"AutoresetMode.{each.name}" for each in GymnasiumMode)
        said = "does not say when" if mode is None else f"says {shown(mode)} for when"
        raise InvalidModel(
            f"{label} cannot be served: it {said} the rows that ended begin anew; set"
            f" metadata['autoreset_mode'] of its class to one of {known}"
        ) from None


def _batch_size(env: Any, count: int) -> int:
    size = env.config["batch_size"] if _is_envpool(env) else getattr(env, "batch_size", count)
    return int(size) or count


def _is_envpool(env: Any) -> bool:
    return any(base.__module__.startswith("envpool.python.") for base in type(env).__mro__)


class VectorHost(VectorEnvironment[Any, Any, VectorHostState]):
    """One vector of Gymnasium's.

    Args:
        env: the vector; it is closed with this.
        rebuild: makes another one with a seed, or one for each environment, where the library takes
            seeds at no other time.

    Raises:
        InvalidOption: a space of it cannot be served.
        InvalidModel: it does not say what it is.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        rebuild: Callable[..., VectorEnv[Any, Any, Any]] | None = None,
    ) -> None:
        spec = getattr(env, "spec", None)
        own = getattr(spec, "id", None)
        self._label = own if isinstance(own, str) else type(env).__name__
        facts = _facts_of(env, self._label)
        layout = facts.layout
        self._env: Any = env
        self._rebuild = rebuild
        self._layout = layout
        self.num_envs = layout.num_envs
        self._takes_some = layout.batch_size < layout.num_envs
        self._is_envpool = _is_envpool(env)
        actions = batch_space(facts.action, layout.batch_size)
        self._read = taking_values(spaces.reader(actions), actions)
        self._row = spaces.writer(facts.observation)
        self._single = facts.observation
        self._writers: dict[int, Callable[[Any], Any]] = {}
        self._last_ids: Any = None
        self._elapsed = 0
        self._begun = False

    def reset(
        self,
        seed: int | None = None,
        options: dict[str, Any] | None = None,
        keep_rng: bool = False,
        seeds: list[int | None] | None = None,
    ) -> Any:
        """Begin an episode in every environment, or in some.

        Args:
            seed: of the first environment, from which Gymnasium's vectors count on.
            options: Gymnasium's own; ``reset_mask``, bool [num_envs], names those that begin anew.
            keep_rng: go on with the generators as they stand; ``seed`` is then not used.
            seeds: one for each environment, instead of ``seed``.
        """
        options = dict(options) if options else None
        mask = None if options is None else options.get("reset_mask")
        if mask is not None:
            assert options is not None
            options["reset_mask"] = mask = self._checked_mask(mask)
        if seeds is not None and len(seeds) != self.num_envs:
            raise InvalidOption(
                f"{len(seeds)} seeds for the {self.num_envs} environments of {self._label}",
                option="seeds",
            )
        if self._is_envpool:
            result = self._reset_envpool(seed, options, keep_rng, seeds)
        else:
            given = None if keep_rng else seed
            result = self._env.reset(
                seed=given if seeds is None else self._own_seeds(seeds), options=options
            )
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
            raise InvalidObservation(
                f"reset() of {self._label} returned {told_result(result)}: it must return"
                " (observations, infos), where infos is a dict"
            )
        observations, infos = result
        self._elapsed = 0
        self._begun = True
        ids = self._ids_of(infos, mask)
        rows = self.num_envs if ids is None else len(ids)
        written = self._written("reset", observations, rows)
        return StepResult(VectorRows(written, env_id=ids), info=self._infos_out(infos))

    def _checked_mask(self, mask: Any) -> Any:
        array = np.array(mask)
        if array.dtype != np.bool_ or array.shape != (self.num_envs,) or not array.any():
            raise InvalidOption(
                f"options['reset_mask'] for {self._label} must be {self.num_envs} booleans of which"
                f" one is true at least, got {shown(mask)}",
                option="options",
            )
        return array

    def _own_seeds(self, seeds: Sequence[int | None]) -> Any:
        """Several seeds as this kind of vector takes them.

        Raises:
            InvalidOption: it takes none.
        """
        inner = getattr(self._env, "unwrapped", self._env)
        if hasattr(inner, "envs") or hasattr(inner, "env_fns"):
            return list(seeds)
        if type(inner).__module__.startswith("ale_py."):
            return np.array([-1 if each is None else each for each in seeds])
        raise InvalidOption(f"{self._label} {_UNSEEDED}", option="seeds")

    def _reset_envpool(
        self,
        seed: int | None,
        options: dict[str, Any] | None,
        keep_rng: bool,
        seeds: Sequence[int | None] | None,
    ) -> Any:
        partial = options is not None and "reset_mask" in options
        if self._takes_some and partial:
            raise InvalidOption(
                f"{self._label} steps the first {self._layout.batch_size} of {self.num_envs}: it"
                " cannot reset some of them, leave reset_mask out",
                option="options",
            )
        anew = not partial and (not keep_rng or (self._takes_some and self._begun))
        if anew and self._rebuild is not None:
            self._env.close()
            self._env = self._rebuild(seed, seeds)
        if not self._takes_some:
            return self._env.reset(options=options)
        self._env.async_reset()
        observations, _, _, _, infos = self._env.recv()
        return observations, infos

    def _ids_of(self, infos: Mapping[str, Any], mask: Any = None) -> Any:
        """Return which environments a batch is of; ``None`` for all of them in order."""
        if self._takes_some:
            self._last_ids = ids = np.array(infos["env_id"])
            return ids
        if mask is not None and self._is_envpool:
            return np.flatnonzero(mask)
        return None

    def step(self, actions: Any) -> Any:
        """Take one action in each environment, or in those of the rows that were shown last."""
        batch = _owned(self._read(actions))
        if self._takes_some and self._is_envpool:
            result: Any = self._env.step(batch, self._last_ids)
        else:
            result = self._env.step(batch)
        if not isinstance(result, tuple) or len(result) != 5 or not isinstance(result[4], dict):
            raise InvalidObservation(wrong_step(self._label, result))
        observations, rewards, terminated, truncated, infos = result
        self._elapsed += 1
        size = self._layout.batch_size
        rows = VectorRows(
            self._written("step", observations, size),
            self._column("rewards", rewards, size),
            self._column("terminations", terminated, size),
            self._column("truncations", truncated, size),
            None,
            self._ids_of(infos) if self._takes_some else None,
        )
        return StepResult(rows, info=self._infos_out(infos)) if infos else rows

    def _column(self, name: str, values: Any, size: int) -> Any:
        array = np.asarray(values)
        if array.shape != (size,):
            raise InvalidObservation(
                f"step() of {self._label} returned {name} of shape {array.shape} for {size}"
                " environments: there must be one for each"
            )
        return array

    def _written(self, call: str, observations: Any, rows: int) -> Any:
        write = self._writers.get(rows)
        if write is None:
            write = self._writers[rows] = spaces.writer(batch_space(self._single, rows))
        try:
            return write(observations)
        except InvalidObservation as exc:
            raise InvalidObservation(
                f"{call}() of {self._label} returned an {exc.message}; return what"
                " single_observation_space says for each environment, or change the space"
            ) from None

    def _infos_out(self, infos: Mapping[str, Any]) -> dict[str, Any]:
        """Infos as they travel."""
        made: dict[str, Any] = {}
        for key, value in infos.items():
            if isinstance(value, np.ndarray) and value.dtype.kind == "O":
                items = value.tolist()
                if key == "final_obs":
                    items = [None if each is None else self._row(each) for each in items]
                made[key] = items
            elif isinstance(value, dict):
                made[key] = self._infos_out(value)
            else:
                made[key] = value
        return made

    def state(self) -> Any:
        """Progress, and frames where the session has a render mode."""
        env = self._env
        drawn = self._begun and getattr(env, "render_mode", None) not in (None, "human")
        frames = env.render() if drawn else None
        if isinstance(frames, tuple):
            frames = list(frames)
        return VectorHostState(self._label, self.num_envs, self._elapsed, frames)

    def close(self) -> None:
        """Close the vector."""
        self._env.close()


def _owned(batch: Any) -> Any:
    """A batch in memory of its own, aligned and writable: what came is a view of its message."""
    if isinstance(batch, np.ndarray):
        return batch.copy()
    if isinstance(batch, dict):
        return {key: _owned(part) for key, part in batch.items()}
    if isinstance(batch, GraphInstance):
        return GraphInstance(*map(_owned, batch))
    if isinstance(batch, tuple):
        return tuple(_owned(part) for part in batch)
    return batch


# -- classes ------------------------------------------------------------------------------------


class _MadeVector(VectorHost):
    """A host that makes its vector. Subclasses name the factory.

    Attributes:
        factory: makes the vector of constructor arguments.
        shared: the vector that all sessions share, one after the other; then nothing is made.
        known: the make-up by constructor arguments, read off an instance once.
    """

    factory: ClassVar[Callable[..., VectorEnv[Any, Any, Any]]]
    shared: ClassVar[VectorEnv[Any, Any, Any] | None] = None
    known: ClassVar[list[tuple[dict[str, Any], _Facts, dict[str, Any]]]]

    def __init__(self, **params: Any) -> None:
        if self.shared is not None:
            super().__init__(self.shared)
            return
        super().__init__(self._made(params), functools.partial(self._rebuilt, params))

    @classmethod
    def _made(cls, params: Mapping[str, Any]) -> VectorEnv[Any, Any, Any]:
        env = cls.factory(**params)
        if not isinstance(env, VectorEnv):
            raise TypeError(f"{cls.name} made {type(env).__name__}, not a gymnasium VectorEnv")
        return env

    @classmethod
    def _rebuilt(
        cls, params: Mapping[str, Any], seed: int | None, seeds: Sequence[int | None] | None
    ) -> VectorEnv[Any, Any, Any]:
        given = dict(params)
        if seeds is not None:
            given["env_seed"] = [0 if each is None else each for each in seeds]
        elif seed is not None:
            given["seed"] = seed & 0x7FFFFFFF  # a C int
        return cls._made(given)

    @classmethod
    def layout(cls, **params: Any) -> VectorLayout:
        """The make-up of the vector.

        Raises:
            EnvironmentStartFailed: none could be made to read it off.
            InvalidOption: a space cannot be served.
            InvalidModel: it does not say what it is.
        """
        return cls._looked(params)[0].layout

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        """The schemas of batches, and of the state.

        Raises:
            EnvironmentStartFailed: none could be made to read them off.
            InvalidOption: a space cannot be served.
            InvalidModel: it does not say what it is.
        """
        facts, metadata = cls._looked(params)
        size = facts.layout.batch_size
        modes = [str(mode) for mode in metadata.get("render_modes") or ()]
        return {
            "action": spaces.described(batch_space(facts.action, size)),
            "observation": rows_schema(spaces.schema(batch_space(facts.observation, size)), size),
            "state": {
                "title": "VectorHostState",
                "type": "object",
                "properties": {
                    "id": {"type": "string"},
                    "num_envs": {"type": "integer"},
                    "elapsed_steps": {"type": "integer"},
                    "frames": {"default": None},
                },
                "required": ["id", "num_envs", "elapsed_steps"],
                RENDER_KEY: {"modes": modes, "fps": _fps(metadata)},
            },
        }

    @classmethod
    def _looked(cls, params: Mapping[str, Any]) -> tuple[_Facts, dict[str, Any]]:
        for known, facts, metadata in cls.known:
            if known == params:
                return facts, metadata
        env = cls.shared
        if env is None:
            env = sample_of(lambda: cls._made(params), cls.name)
        try:
            facts, metadata = _facts_of(env, str(cls.name)), dict(env.metadata or {})
        finally:
            if cls.shared is None:
                env.close()
        cls.known.append((dict(params), facts, metadata))
        return facts, metadata


def _fps(metadata: Mapping[str, Any]) -> float | None:
    fps = metadata.get("render_fps")
    return fps if isinstance(fps, int | float) else None


def host_of_vector_class(cls: type, factory: Any, *, name: str | None = None) -> type[VectorHost]:
    """Return the ``VectorEnvironment`` class of a class of vectors.

    Its attributes ``isolation``, ``thread_safe``, ``owns_thread``, ``version``, ``description``
    and ``session_options`` count as on an ``Environment``.

    Args:
        cls: what the factory makes.
        factory: the class itself, or a function.
        name: of the environment; the class's own ``name``, or its name in the code.
    """
    body = class_body(cls, factory, name, base=VectorEnv)
    body["known"] = []
    if "isolation" not in body and _is_quick(cls, factory):
        isolation: Isolation = "inline"
        body["isolation"] = isolation
    host = type(str(body["name"]), (_MadeVector,), body)
    with contextlib.suppress(TypeError, ValueError):  # a builtin without a signature
        host.__signature__ = inspect.signature(factory)  # type: ignore[attr-defined]  # for params
    return host


def _is_quick(cls: type, factory: Any) -> bool:
    """Return whether a vector is one of those whose steps take as long as a look at a thread."""
    modules = [cls.__module__]
    if isinstance(factory, functools.partial) and factory.args:
        first = factory.args[0]
        if factory.func is make_vector and isinstance(first, str):
            modules.append(_entry_module(first, factory.keywords.get("vectorization_mode")))
        elif _is_envpool_factory(factory.func):
            modules.append(_envpool_module(str(first)))
    return any(f"{module}.".startswith(_QUICK) for module in modules)


def _entry_module(id: str, mode: Any) -> str:
    """The module of the vector that ``make_vector`` makes of an id, where the id tells it."""
    prefix, _, name = id.rpartition(":")
    if prefix == _ENVPOOL:
        return _envpool_module(name)
    point = None if mode in ("sync", "async") else find(id).vector_entry_point
    return point.partition(":")[0] if isinstance(point, str) else ""


def _envpool_module(task: str) -> str:
    try:
        import envpool  # type: ignore[import-untyped,import-not-found,unused-ignore]  # if installed
    except ImportError:
        return ""  # making one tells the user
    found = getattr(envpool.registration.registry, "specs", {}).get(task)
    return str(found[0]) if found else ""


def _is_envpool_factory(function: Any) -> bool:
    module = getattr(inspect.unwrap(function), "__module__", None) or ""
    return str(module).partition(".")[0] == _ENVPOOL


def is_vector_factory(factory: Any) -> bool:
    """Return whether a factory makes vectors, though its annotation says nothing of Gymnasium."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return callable(factory) and not inspect.isclass(factory) and _is_envpool_factory(factory)


def host_of_vector_instance(env: VectorEnv[Any, Any, Any]) -> VectorHost:
    """Return the ``VectorEnvironment`` of an instance, which all sessions share.

    Raises:
        InvalidOption: a space of it cannot be served.
        InvalidModel: it does not say what it is.
    """
    cls = type(getattr(env, "unwrapped", env))
    host = host_of_vector_class(cls, cls)
    host.shared = env  # type: ignore[attr-defined]  # of the class that was just made
    host.session_options = frozenset()
    if "__signature__" in host.__dict__:
        del host.__signature__  # type: ignore[attr-defined]
    host.schemas()
    return host()  # type: ignore[call-arg]  # nothing is made


# -- factories ----------------------------------------------------------------------------------


def make_vector(
    id: str,
    num_envs: int = 1,
    vectorization_mode: str | None = None,
    autoreset_mode: str | None = None,
    vector_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> VectorEnv[Any, Any, Any]:
    """Make a vector of environments of Gymnasium's registry, or of EnvPool's.

    Args:
        id: a registered id; ``module:id`` to import the module that registers it first, and
            ``envpool:id`` for EnvPool's own.
        num_envs: environments in it.
        vectorization_mode: ``sync``, ``async`` or ``vector_entry_point``; Gymnasium's choice when
            ``None``.
        autoreset_mode: ``next_step``, ``same_step`` or ``disabled``, or Gymnasium's own words; the
            vector's own choice when ``None``.
        vector_kwargs: arguments of the ``SyncVectorEnv`` or ``AsyncVectorEnv``.
        kwargs: of the environment, or of EnvPool.

    Raises:
        InvalidOption: no environment has this id, or it takes no such argument.
    """
    _check_count(num_envs)
    module, _, name = id.rpartition(":")
    mode = None if autoreset_mode is None else _gymnasium_mode(autoreset_mode)
    if module == _ENVPOOL:
        return _make_envpool(name, num_envs, mode, {**(vector_kwargs or {}), **kwargs})
    entry = find(id).vector_entry_point
    through_entry = vectorization_mode == "vector_entry_point" or (
        vectorization_mode is None and entry is not None
    )
    given = {**kwargs}
    own = dict(vector_kwargs or {})
    if through_entry:
        given |= own
        own = {}
        if mode is not None:
            given["autoreset_mode"] = mode
    else:
        given.setdefault("disable_env_checker", True)
        if mode is not None:
            own["autoreset_mode"] = mode
    try:
        return gymnasium.make_vec(
            id, num_envs, vectorization_mode=vectorization_mode, vector_kwargs=own or None, **given
        )
    except gymnasium.error.UnregisteredEnv:
        raise InvalidOption(unknown_id(id), option="id") from None
    except (TypeError, ValueError, gymnasium.error.Error) as exc:
        text = " ".join(str(exc).split())
        if through_entry and vectorization_mode is None and "autoreset_mode" in text:
            text += (
                "; vectorization_mode=sync makes a vector of single environments, which takes it"
            )
        told = {
            name: _MODES[value] if isinstance(value, GymnasiumMode) else value
            for name, value in (given | own).items()
        }
        raise InvalidOption(f"{num_envs} × {id} cannot be made with {told}: {text}") from exc


def _make_envpool(
    task: str, num_envs: int, mode: Any, kwargs: dict[str, Any]
) -> VectorEnv[Any, Any, Any]:
    import envpool  # type: ignore[import-untyped,import-not-found,unused-ignore]  # if installed

    if mode is not None and mode is not GymnasiumMode.NEXT_STEP:
        raise InvalidOption(
            "EnvPool's vectors begin anew in the step after an end (next_step) and in no other way",
            option="autoreset_mode",
        )
    if task not in envpool.list_all_envs():
        raise InvalidOption(f"EnvPool has no environment {task!r}", option="id")
    made: Any = envpool.make_gymnasium(task, num_envs=num_envs, **kwargs)
    assert isinstance(made, VectorEnv)
    return made


def make_vector_of(
    make: Callable[..., gymnasium.Env[Any, Any]],
    num_envs: int = 1,
    vectorization_mode: str | None = None,
    autoreset_mode: str | None = None,
    **kwargs: Any,
) -> VectorEnv[Any, Any, Any]:
    """Make a vector of environments of one class.

    Args:
        make: the class, or a function.
        num_envs: environments in it.
        vectorization_mode: ``sync``, one after the other, or ``async``, a process for each.
        autoreset_mode: as for ``make_vector``.
        kwargs: of each environment.

    Raises:
        InvalidOption: an argument is of the wrong kind.
    """
    _check_count(num_envs)
    kinds: dict[str | None, Any] = {
        None: SyncVectorEnv,
        "sync": SyncVectorEnv,
        "async": gymnasium.vector.AsyncVectorEnv,
    }
    if vectorization_mode not in kinds:
        raise InvalidOption(
            f"vectorization_mode of a class must be 'sync' or 'async', got {vectorization_mode!r}",
            option="vectorization_mode",
        )
    own = {} if autoreset_mode is None else {"autoreset_mode": _gymnasium_mode(autoreset_mode)}
    one = functools.partial(make, **kwargs)
    made: VectorEnv[Any, Any, Any] = kinds[vectorization_mode]([one] * num_envs, **own)
    return made


def _check_count(num_envs: Any) -> None:
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise InvalidOption(
            f"num_envs must be an integer of at least 1, got {shown(num_envs)}", option="num_envs"
        )


def _gymnasium_mode(given: Any) -> GymnasiumMode:
    if isinstance(given, GymnasiumMode):
        return given
    known = _WORDS.get(given) if isinstance(given, str) else None
    if known is not None:
        return known
    try:
        return GymnasiumMode(given)
    except ValueError:
        raise InvalidOption(
            f"autoreset_mode must be one of {', '.join(_WORDS)}, got {shown(given)}",
            option="autoreset_mode",
        ) from None
