"""The runtime's knowledge of one environment: its types, codecs, schemas and how to build it."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import importlib.metadata
import inspect
import logging
import threading
import types
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Literal

import msgspec

from openenv_async import hosts
from openenv_async.endpoints.redaction import redacted_value
from openenv_async.environment import (
    RENDER_KEY,
    Contract,
    Environment,
    Isolation,
    VectorEnvironment,
    VectorLayout,
    read_contract,
)
from openenv_async.errors import (
    InvalidModel,
    InvalidOption,
    OpenEnvError,
    WrongTarget,
    exception_name,
    exception_text,
    shown,
)
from openenv_async.models import FORMATS, Format, PayloadCodec, fit_test, json_schema
from openenv_async.models.results import BadResult, ResultReader, refuse_gymnasium_type
from openenv_async.models.vectors import VectorReader
from openenv_async.schemas.legal import LEGAL_KEY
from openenv_async.schemas.refs import resolved
from openenv_async.schemas.tools import declared_tools, tools_of
from openenv_async.schemas.vectors import batch_schema, row_schema, rows_schema
from openenv_async.tasks import TaskBook
from openenv_async.types import StepResult, Tool

__all__ = ["EnvironmentSpec", "model_types"]

log = logging.getLogger("openenv_async.environment")

_MAX_REASON: Final = 2000
"""Characters of an exception's text in the reason for which something cannot be served."""
_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_SHARPER: Final = ("action", "observation", "state")
"""The schemas that a class may give itself."""
_TASK_OPTIONS: Final[Mapping[str, dict[str, Any]]] = {
    "task_id": {"type": "string", "description": "of the task that the episode is about"},
    "split": {"type": "string", "description": "of the task; needed with index"},
    "index": {"type": "integer", "minimum": 0, "description": "of the task, in place of its id"},
}
"""Options of ``reset`` that name one of the environment's own tasks."""
_Kind = Literal["action", "observation", "state", "any"]

_RENDER_MODE: Final = "render_mode"
_MODES: Final = ("rgb_array", "ansi")
"""Render modes whose frames can be sent, the better one first."""


class EnvironmentSpec:
    """One servable environment.

    Args:
        env: an ``Environment`` class, a zero-argument factory, or an instance; or those of a
            ``gymnasium.Env``, or the id of a registered one. An instance is shared by all
            sessions, so it serves one at a time and is never closed by one.
        action, observation, state: the model types; read from the type parameters or from the
            annotations of ``step`` and ``state`` when not given.
        params: constructor arguments fixed by the server.
        name: overrides the environment's own name.

    Attributes:
        models: the model types with which another spec of the same is made.
        tasks: the environment's own tasks; ``None`` when it declares none.

    Raises:
        TypeError: the environment is none, or its types are missing.
        InvalidModel: a type cannot travel; it is a ``TypeError`` too.
    """

    def __init__(
        self,
        env: Any,
        action: Any = None,
        observation: Any = None,
        state: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        if params is not None and not isinstance(params, Mapping):
            raise TypeError(f"params must be a dict of constructor arguments, got {shown(params)}")
        self.params: dict[str, Any] = dict(params or {})
        self.source = env
        models = (action, observation, state)
        host = None if params else hosts.hosted_tools(env, *models, name)
        if host is not None:
            env = host  # it reads and shows the models itself
            action = observation = state = None
        self.cls: Any
        self.cls, self._factory, self.is_instance = _resolve(env)
        self.contract: Contract = read_contract(self.cls, self.params)
        declared = model_types(self.cls)
        self.types: Final[dict[str, Any]] = {
            "action": action or declared[0],
            "observation": observation or _inside_results(declared[1]),
            "state": state or declared[2],
            "any": Any,
        }
        kinds: tuple[_Kind, ...] = ("action", "observation", "state")
        own = tuple(self.types[kind] for kind in kinds)
        self.models: Final[tuple[Any, ...]] = own if host is None else models
        self.name: str = name or getattr(self.cls, "name", None) or self.cls.__name__
        self.version: str = str(getattr(self.cls, "version", "1.0.0"))
        own_doc = inspect.cleandoc(self.cls.__dict__.get("__doc__") or "")
        self.description: str = getattr(self.cls, "description", None) or own_doc or self.name
        self._codecs: dict[tuple[str, str], PayloadCodec[Any]] = {}
        self._instance_lock = threading.Lock()
        self._reset_options = _evaluated(self.cls.reset, self.contract.reset_options)
        self._options_checks = {
            key: parameter.annotation
            for key, parameter in self._reset_options.items()
            if parameter.annotation not in (inspect.Parameter.empty, Any)
        }
        refuse_gymnasium_type(self.types["observation"], self.name)
        self.read: Final = self._reader()
        self.codec("state", "msgpack")
        self._state_fits = fit_test(self.types["state"])
        self._check_params()
        self.tasks: Final[TaskBook | None] = self._task_book()

    def __reduce__(self) -> Any:
        """The arguments: a copy in another process makes its codecs anew."""
        make = functools.partial(EnvironmentSpec, params=self.params, name=self.name)
        return make, (self.source, *self.models)

    def build(self, options: Mapping[str, Any] | None = None) -> Any:
        """A new environment instance, with a client's session options where it allows them.

        Raises:
            InvalidOption: a session option that the environment does not open to clients.
        """
        options = dict(options or {})
        allowed: frozenset[str] = getattr(self.cls, "session_options", frozenset())
        for key in options:
            if key not in allowed:
                known = ", ".join(sorted(allowed)) or "none"
                raise InvalidOption(
                    f"{self.name} takes no session option {key!r} (it takes: {known})"
                )
        return self._factory(**{**self.params, **options})

    @property
    def max_sessions(self) -> int | None:
        """Sessions at once unless the server is told another number; ``None`` says nothing."""
        asked: int | None = getattr(self.cls, hosts.MAX_SESSIONS, None)
        return asked

    @functools.cached_property
    def invalid_action_reward(self) -> float | None:
        """The environment's penalty for a mistake that ends an episode; ``None`` for none."""
        penalty = getattr(self.cls, "invalid_action_reward", None)
        return None if penalty is None else float(penalty)

    @functools.cached_property
    def package(self) -> str | None:
        """The name and version of the distribution that the class is of, if it has one."""
        top = str(getattr(self.cls, "__module__", "")).partition(".")[0]
        for name in (top, top.replace("_", "-")):
            try:
                return f"{name} {importlib.metadata.version(name)}"
            except (importlib.metadata.PackageNotFoundError, ValueError):
                continue
        return None

    @functools.cached_property
    def told_params(self) -> dict[str, Any]:
        """The constructor arguments as clients may know them: secrets and objects left out."""
        plain = (bool, int, float, str, type(None))
        return {
            name: value if isinstance(value, plain) else type(value).__name__
            for name, value in redacted_value(self.params).items()
        }

    @functools.cached_property
    def vector(self) -> VectorLayout | None:
        """The make-up of the vector that a session is; ``None`` where it is one environment.

        Raises:
            InvalidModel: the class does not say it, or what it says cannot be.
            EnvironmentStartFailed: it is read off an instance, and none could be made.
        """
        if not self.is_vector:
            return None
        try:
            layout: VectorLayout = self.cls.layout(**self.params)
        except OpenEnvError:
            raise
        except Exception as exc:  # whatever the author's code raises
            raise self._unservable("layout(), which tells what the vector is", exc) from exc
        return layout

    @property
    def is_vector(self) -> bool:
        """True if a session is a vector of environments."""
        return inspect.isclass(self.cls) and issubclass(self.cls, VectorEnvironment)

    @property
    def render_mode(self) -> str | None:
        """The ``render_mode`` of sessions whose pictures are asked for; ``None``: there is none.

        It is that of the constructor arguments, else the best that a session may be opened with.
        """
        if self.is_vector:
            return None
        modes = self._rendering.get("modes", ())
        given = self.params.get(_RENDER_MODE)
        if given is not None:
            return given if given in modes and given in _MODES else None
        opened: frozenset[str] = getattr(self.cls, "session_options", frozenset())
        found = (mode for mode in _MODES if mode in modes and _RENDER_MODE in opened)
        return next(found, None)

    @property
    def render_options(self) -> dict[str, Any]:
        """The options of sessions whose pictures are asked for."""
        mode = self.render_mode
        return {} if mode is None or _RENDER_MODE in self.params else {_RENDER_MODE: mode}

    @property
    def render_settings(self) -> dict[str, Any] | None:
        """The facts of pictures for clients; ``None`` where the environment has none."""
        if not self.contract.renders:
            return None
        return {"options": self.render_options, "fps": self._rendering.get("fps")}

    @property
    def _rendering(self) -> Mapping[str, Any]:
        """The facts of pictures in the state's schema."""
        found: Mapping[str, Any] = self.schema.get("state", {}).get(RENDER_KEY, {})
        return found

    def vectorized(self, num_envs: int, params: Mapping[str, Any] | None = None) -> EnvironmentSpec:
        """Return the same as vectors of ``num_envs`` environments.

        Args:
            num_envs: environments in each.
            params: constructor arguments beside its own, those of vectors among them, such as
                ``autoreset_mode`` and ``vectorization_mode``.

        Raises:
            InvalidOption: it is none of Gymnasium's, or an instance.
        """
        source, params = hosts.vectorized(self.cls, {**self.params, **(params or {})}, num_envs)
        if source is self.cls:
            source = self.source
        return EnvironmentSpec(source, params=params)

    def _reader(self) -> ResultReader:
        """Return the reader of what calls return."""
        model, codec = self.types["observation"], self.codec("observation", "msgpack")
        if not self.is_vector:
            return ResultReader(model, codec)
        # A class that reads its make-up off an instance looks at the number of rows itself.
        own = self.cls.layout.__func__ is not VectorEnvironment.layout.__func__  # type: ignore[attr-defined]  # a method has it
        return VectorReader(model, codec, None if own else self._count)

    def _count(self) -> int:
        layout = self.vector
        assert layout is not None
        return layout.num_envs

    def prepare(self, sessions: int) -> None:
        """Have the environment load what ``sessions`` sessions share."""
        if isinstance(inspect.getattr_static(self.cls, "prepare_process", None), classmethod):
            self.cls.prepare_process(sessions, **self.params)

    def codec(self, kind: _Kind, format: Format) -> PayloadCodec[Any]:
        """The codec of one model type in one format, made once.

        Raises:
            InvalidModel: the type cannot travel; the message has the reason.
        """
        codec = self._codecs.get((kind, format))
        if codec is None:
            try:
                codec = PayloadCodec(self.types[kind], format)
            except OpenEnvError as exc:
                raise self._unservable(f"its {kind} type", exc) from exc
            self._codecs[kind, format] = codec
        return codec

    def check_state(self, state: Any) -> None:
        """Refuse what is not of the declared state type.

        Raises:
            BadResult: it is not.
        """
        if self._state_fits is None:
            return
        with contextlib.suppress(Exception):  # such as a field that was never set
            if self._state_fits(state):
                return
        if state is None:
            raise BadResult(
                f"None where the declared state type is {self.types['state']}: is a `return`"
                " missing?"
            )
        codec = self.codec("state", "msgpack")
        octets = codec.encode(state)
        try:
            codec.decode(octets)
        except OpenEnvError as exc:
            raise BadResult(
                f"what is not of its declared type, a {type(state).__name__}: {exc.message}"
                f"{self._state_hint}"
            ) from exc

    @property
    def _state_hint(self) -> str:
        if self.contract.defines_state:
            return ""
        return " (an attribute named state is taken for the state where no state() is defined)"

    def _task_book(self) -> TaskBook | None:
        """The tasks that the class declares; those of other classes are not looked for."""
        declares = getattr(self.cls, "tasks_for", None)
        if declares is None:
            return None
        try:
            tasks = declares(**self.params)
            return None if tasks is None else TaskBook(tasks, self.name)
        except (TypeError, OpenEnvError):
            raise
        except Exception as exc:  # whatever the author's code raises
            raise self._unservable("its tasks", exc) from exc

    @functools.cached_property
    def declared_tools(self) -> list[Tool] | None:
        """The tools that the class declares, each with how a call becomes an action.

        The first reading may block: an author's ``tools_for`` may build an environment.

        Raises:
            InvalidModel: what it declares are not tools, or ``tools_for`` raises.
        """
        declares = getattr(self.cls, "tools_for", None)
        try:
            declared = None if declares is None else declares(**self.params)
        except OpenEnvError:
            raise
        except Exception as exc:  # whatever the author's code raises
            raise self._unservable("its tools", exc) from exc
        if declared is None:
            return None
        return declared_tools(declared, self.schema["action"], self.name)

    def tools(self, single: str) -> list[Tool]:
        """Return what agents may call: the tools declared, else those made of the action.

        Args:
            single: the name of the tool where the action makes one.
        """
        if self.declared_tools is not None:
            return self.declared_tools
        return tools_of(self.schema["action"], single)

    @property
    def task_options(self) -> list[str]:
        """Names of the reset options that name a task: none where there are no tasks.

        An option ``index`` that ``reset`` has itself is the environment's own.
        """
        if self.tasks is None:
            return []
        return [n for n in _TASK_OPTIONS if n != "index" or n not in self.contract.reset_options]

    def names_task(self, options: Mapping[str, Any]) -> bool:
        """Return whether these reset options name one of the environment's own tasks."""
        return self.tasks is not None and (
            "task_id" in options
            or ("index" in options and "index" not in self.contract.reset_options)
        )

    def unknown_options(self, options: Mapping[str, Any]) -> list[str]:
        """Names of reset options that nothing takes."""
        unknown = self.contract.unknown_options(options)
        return [name for name in unknown if name not in self.task_options]

    def with_task(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the reset options with the columns of the task that they name; it may block.

        A public column that ``reset`` does not take is left out: it is for those who choose tasks.

        Raises:
            InvalidOption: there is no such task, or an option is one of its columns.
            EnvironmentRaised: the environment's tasks cannot be read.
        """
        book = self.tasks
        assert book is not None
        rest = dict(options)
        split = rest.pop("split", None)
        task_id = rest.pop("task_id", None)
        if split is not None and not isinstance(split, str):
            raise InvalidOption(f"split must be a name, got {shown(split)}", option="split")
        if task_id is None:
            index = rest.pop("index", None)
            if split is None:
                raise InvalidOption(
                    f"a task of {self.name} is named by task_id, or by split and index",
                    option="split",
                )
            task = book.get(split, index)
        elif isinstance(task_id, str):
            task = book.find(task_id, split)
        else:
            raise InvalidOption(f"task_id must be a text, got {shown(task_id)}", option="task_id")
        for name in rest:
            if name in task.data or name in task.private:
                raise InvalidOption(
                    f"reset() of {self.name} has the option {name!r} twice, from its task"
                    f" {task.id!r} and beside it: leave it out",
                    option=name,
                )
        takes, any_option = self.contract.reset_options, self.contract.any_option
        known = {"task_id": task.id, "split": task.split}
        columns = {n: v for n, v in task.data.items() if any_option or n in takes}
        named = {name: value for name, value in known.items() if name in takes}
        try:
            return self.check_options({**named, **columns, **task.private, **rest}, task.private)
        except InvalidOption as exc:
            exc.message = f"the task {task.id!r} of {self.name} does not fit: {exc.message}"
            exc.detail["task_id"] = task.id
            raise

    def check_options(
        self, options: dict[str, Any], private: Collection[str] = ()
    ) -> dict[str, Any]:
        """Reset options, each converted to what ``reset`` annotates.

        Args:
            options: by name.
            private: names of those whose values no error may show.

        Raises:
            InvalidOption: an option that ``reset`` does not declare, or of the wrong type.
        """
        unknown = self.contract.unknown_options(options)
        if unknown:
            *known, last = "seed", "episode_id", *sorted(self.contract.reset_options)
            raise InvalidOption(
                f"reset() of {self.name} takes no option {unknown[0]!r} (it takes:"
                f" {', '.join(known)} and {last})",
                option=unknown[0],
            )
        missing = [
            key
            for key, parameter in self.contract.reset_options.items()
            if parameter.default is inspect.Parameter.empty and key not in options
        ]
        if missing:
            which = "" if self.tasks is None else ", name a task by task_id (tasks() lists them)"
            raise InvalidOption(
                f"reset() of {self.name} needs the option {missing[0]!r}: give it{which}, or let"
                " the environment have a default for it",
                option=missing[0],
            )
        for key, annotation in self._options_checks.items():
            if key in options:
                try:
                    options[key] = msgspec.convert(options[key], annotation, strict=False)
                except (msgspec.ValidationError, TypeError) as exc:
                    said = "it is not of the declared type" if key in private else exc
                    raise InvalidOption(
                        f"reset option {key!r} of {self.name}: {said}", option=key
                    ) from None
        return options

    def isolate(self, isolation: Isolation) -> None:
        """Run its calls somewhere else than its class says.

        Raises:
            InvalidOption: they cannot run there.
        """
        reason = None
        if self.contract.is_async and isolation == "thread":
            reason = "it is async, and runs on the loop: say inline or process"
        elif isolation == "thread" and not getattr(self.cls, "thread_safe", True):
            reason = "its class is not safe in threads: say process"
        elif self.is_instance and isolation == "process":
            reason = "it is an instance, which stays in its process"
        if reason is not None:
            raise InvalidOption(
                f"{self.name} cannot have the isolation {isolation!r}: {reason}", option="isolation"
            )
        self.contract = dataclasses.replace(self.contract, isolation=isolation)

    def check(self) -> None:
        """Make every codec and schema now, so that what cannot be served is refused here.

        Raises:
            InvalidModel: a type cannot travel, or ``schemas()`` raises.
            InvalidOption: building an environment needs an argument that nobody gives.
        """
        self._check_missing()
        for kind in ("action", "observation", "state"):
            for format in FORMATS:
                self.codec(kind, format)
        self.schema_hash  # noqa: B018  # made and kept

    def _unservable(self, what: str, exc: BaseException) -> InvalidModel:
        text = exception_text(exc, _MAX_REASON)
        if not isinstance(exc, OpenEnvError):
            text = f"{exception_name(exc)}: {text}"
        return InvalidModel(f"{self.name} cannot be served: {what}: {text}", env=self.name)

    @functools.cached_property
    def schema(self) -> dict[str, Any]:
        """JSON Schemas of action, observation, state and reset options.

        Raises:
            InvalidModel: a type has none, or ``schemas()`` raises.
        """
        made: dict[str, Any] = {}
        for key in ("action", "observation", "state"):
            try:
                made[key] = json_schema(self.types[key])
            except Exception as exc:  # such as one of a model's own hooks raises
                raise self._unservable(f"the schema of its {key} type", exc) from exc
        layout = self.vector
        if layout is not None:
            whole = resolved(made["observation"], made["observation"])
            batch = whole.get("properties", {}).get("observations", {})
            names = made["observation"].get("$defs")
            size = layout.batch_size
            made["observation"] = rows_schema(_batch(batch, layout.observation, size), size)
            made["action"] = _batch(made["action"], layout.action, size)
            if names:
                made["observation"]["$defs"] = names
        made.update(self._sharper())
        if layout is not None:
            made["vector"] = _told_vector(layout, made)
        if self.contract.tells_legal:
            made["action"] = {**made["action"], LEGAL_KEY: True}
        properties = {
            key: self._option_schema(key, parameter)
            for key, parameter in self._reset_options.items()
        }
        made["reset"] = {
            "type": "object",
            "properties": {
                "seed": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "used by the environment"
                    if self.contract.takes_seed
                    else "accepted and reported, not used by the environment",
                    "x-used": self.contract.takes_seed,
                },
                "episode_id": {"type": "string", "maxLength": 255},
                **{name: _TASK_OPTIONS[name] for name in self.task_options},
                **properties,
            },
            "additionalProperties": self.contract.any_option,
        }
        return made

    def _sharper(self) -> dict[str, Any]:
        """The schemas that the class gives itself."""
        sharper = getattr(self.cls, "schemas", None)
        if sharper is None:
            return {}
        try:
            found = sharper(**self.params)
            if not isinstance(found, Mapping):
                raise TypeError(f"it returned a {type(found).__name__}, not a dict")
            for name, schema in found.items():
                if name not in _SHARPER:
                    raise ValueError(f"there is no schema {name!r}: it has {', '.join(_SHARPER)}")
                if not isinstance(schema, Mapping):
                    raise TypeError(f"the schema {name!r} is not a dict but {shown(schema)}")
            msgspec.json.encode(found)
        except OpenEnvError:
            raise
        except BaseException as exc:  # whatever the author's code raises
            arguments = f"schemas(**{self.params})" if self.params else "schemas()"
            raise self._unservable(
                f"{arguments}, a class method that gets the constructor arguments of the server"
                " and returns JSON Schemas",
                exc,
            ) from exc
        return dict(found)

    def _option_schema(self, name: str, parameter: inspect.Parameter) -> dict[str, Any]:
        try:
            return _option_schema(parameter)
        except Exception as exc:
            raise self._unservable(f"the annotation of the reset option {name!r}", exc) from exc

    @functools.cached_property
    def schema_hash(self) -> str:
        """A short digest of the schema, equal for equal contracts."""
        data = msgspec.json.encode(self.schema, order="deterministic", enc_hook=str)
        return hashlib.blake2s(data, digest_size=8).hexdigest()

    def _arguments(self) -> Mapping[str, inspect.Parameter] | None:
        """The parameters of what builds an environment; ``None`` for a builtin that tells none."""
        try:
            return inspect.signature(self._factory).parameters
        except (TypeError, ValueError):
            return None

    def _check_params(self) -> None:
        """Return if the environment takes the arguments that it was given.

        Raises:
            InvalidOption: it does not.
        """
        if self.is_instance and self.params:
            raise InvalidOption(f"{self.name} is built already: an instance takes no params")
        parameters = self._arguments()
        if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        named = [key for key, p in parameters.items() if p.kind in _NAMED]
        for key in self.params:
            if key not in named:
                near = difflib.get_close_matches(key, named, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise InvalidOption(
                    f"{self.name} cannot be built with the argument {key!r}: it takes"
                    f" {', '.join(named) or 'none'}{hint}",
                    option=key,
                )

    def _check_missing(self) -> None:
        """Return if nothing is missing that building an environment needs.

        Raises:
            InvalidOption: an argument has no default, and neither the server nor a client gives it.
        """
        opened: frozenset[str] = getattr(self.cls, "session_options", frozenset())
        for key, p in (self._arguments() or {}).items():
            if p.kind not in _NAMED or p.default is not p.empty:
                continue
            if key not in self.params and key not in opened:
                raise InvalidOption(
                    f"{self.name} cannot be built without its argument {key!r}: give it as"
                    f" params={{{key!r}: …}} (--param {key}=…)",
                    option=key,
                )


def _batch(of_type: dict[str, Any], row: Mapping[str, Any], size: int) -> dict[str, Any]:
    """The schema of a batch: that of its type, or if that has no shape, of so many rows."""
    if "shape" in of_type.get("x-ndarray", {"shape": None}):
        return of_type
    return batch_schema(row, size) or of_type


def _told_vector(layout: VectorLayout, schemas: Mapping[str, Any]) -> dict[str, Any]:
    """The make-up of a vector as ``/schema`` tells it, with the schemas of one row."""
    batch = resolved(schemas["observation"], schemas["observation"])
    batch = batch.get("properties", {}).get("observations", {})
    return {
        **layout.told(),
        "action": dict(layout.action) or row_schema(schemas["action"]),
        "observation": dict(layout.observation) or row_schema(batch),
    }


def _resolve(env: Any) -> tuple[Any, Callable[..., Any], bool]:
    """The environment class, how to make an instance, and whether ``env`` is an instance."""
    env = hosts.hosted(env) or env
    _refuse_client(env)
    if inspect.isclass(env):
        _refuse_abstract(env, env.__name__)
        return env, env, False
    if callable(getattr(env, "step", None)) and callable(getattr(env, "reset", None)):
        return type(env), lambda: env, True
    if callable(env):
        made = _made_by(env)
        _refuse_client(made)
        host = hosts.hosted_factory(env, made)
        return (made, env, False) if host is None else (host, host, False)
    hint = ""
    if isinstance(env, str):
        hint = (
            "; a server's address is for a client, the name of an environment for AutoEnv and"
            " openenv-async serve"
        )
    elif inspect.ismodule(env):
        hint = f"; name its class, such as {env.__name__.rpartition('.')[2]}.MyEnvironment"
    raise WrongTarget(
        f"{shown(env)} is not an environment: pass an Environment or gymnasium.Env class, a factory"
        f" or an instance{hint}"
    )


def _refuse_client(env: Any) -> None:
    """Return unless ``env`` is a client, which has ``reset`` and ``step`` as environments have.

    Raises:
        WrongTarget: it is one.
    """
    cls = env if inspect.isclass(env) else type(env)
    for base in cls.__mro__:
        if base.__module__.startswith("openenv_async.client."):
            raise WrongTarget(
                f"{cls.__name__} is a client, which plays on an environment that is served: pass"
                " the Environment class itself"
            )


def _made_by(factory: Callable[..., Any]) -> type:
    """The class that a factory says it makes."""
    inner = factory
    while isinstance(inner, functools.partial):
        inner = inner.func
    name = getattr(inner, "__name__", None) or type(inner).__name__
    if isinstance(factory, functools.partial):
        _check_bound(factory, name)
    if inspect.isclass(inner):
        _refuse_abstract(inner, inner.__name__)
        return inner
    kind: Any = type(inner)
    function: Any = inner if inspect.isroutine(inner) else kind.__call__
    if inspect.iscoroutinefunction(function):
        raise WrongTarget(
            f"the factory {name!r} is async, and an environment is made at once: let the factory be"
            " a plain function, and await in the environment's reset"
        )
    try:
        made = typing.get_type_hints(function).get("return")
    except (NameError, TypeError):
        made = None
    made = typing.get_origin(made) or made
    if inspect.isclass(made) and hasattr(made, "step"):
        _refuse_abstract(made, f"{made.__name__}, which the factory {name!r} says it makes,")
        return made
    raise WrongTarget(
        f"the factory {name!r} does not say what it makes: annotate its return type with the"
        " Environment or gymnasium.Env class"
    )


def _check_bound(factory: functools.partial[Any], name: str) -> None:
    """Return unless the arguments of a partial are none of the function's.

    Raises:
        InvalidOption: they are.
    """
    try:
        signature = inspect.signature(factory.func)
    except (TypeError, ValueError):  # a builtin without one
        return
    try:
        signature.bind_partial(*factory.args, **factory.keywords)
    except TypeError as exc:
        raise InvalidOption(
            f"{name}{signature} cannot be called as the functools.partial has it: {exc}"
        ) from None


def _refuse_abstract(cls: type, what: str) -> None:
    """Return unless the class has no environments of its own.

    Raises:
        WrongTarget: it is abstract.
    """
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise WrongTarget(f"{what} is abstract: it lacks {missing}; name the class that has them")


def model_types(cls: type, base: type = Environment) -> tuple[Any, Any, Any]:
    """Action, observation and state type of a class.

    From the type parameters of ``base`` if given there, else from the annotations of ``step``
    and ``state``, else ``Any``.
    """
    parameters = _type_parameters(cls, base)
    if parameters is None or any(p is Any or isinstance(p, typing.TypeVar) for p in parameters):
        hinted = _hinted_types(cls)
        parameters = tuple(
            hint if p is Any or isinstance(p, typing.TypeVar) else p
            for p, hint in zip(parameters or (Any, Any, Any), hinted, strict=True)
        )
    return parameters[0], parameters[1], parameters[2]


def _type_parameters(cls: type, base: type) -> tuple[Any, ...] | None:
    """Type arguments that ``cls`` gives ``base``, followed through generic classes between."""
    for orig in getattr(cls, "__orig_bases__", ()):
        origin = typing.get_origin(orig)
        if origin is base:
            return typing.get_args(orig)
        if inspect.isclass(origin) and issubclass(origin, base):
            inherited = _type_parameters(origin, base)
            if inherited is not None:
                given = dict(
                    zip(getattr(origin, "__parameters__", ()), typing.get_args(orig), strict=False)
                )
                return tuple(_filled(p, given) for p in inherited)
    for parent in cls.__bases__:
        if issubclass(parent, base) and parent is not base:
            found = _type_parameters(parent, base)
            if found is not None:
                return found
    return None


def _filled(parameter: Any, given: Mapping[Any, Any]) -> Any:
    """A type argument with type variables replaced, inside it too."""
    if parameter in given:
        return given[parameter]
    inner = getattr(parameter, "__parameters__", ())
    if not inner or not any(each in given for each in inner):
        return parameter
    return parameter[tuple(given.get(each, each) for each in inner)]


def _hinted_types(cls: type) -> tuple[Any, Any, Any]:
    def hints(call: Any) -> dict[str, Any]:
        try:
            return typing.get_type_hints(call)
        except (NameError, AttributeError) as exc:
            _say_unreadable(call, exc)
        except TypeError:
            pass
        return {}

    step = hints(getattr(cls, "step", None))
    returned = step.pop("return", Any)
    action = next(iter(step.values()), Any)
    state = getattr(cls, "state", None)
    of_state = hints(state.fget if isinstance(state, property) else state).get("return", Any)
    return tuple(  # type: ignore[return-value]  # three in, three out
        Any if isinstance(hint, typing.TypeVar) else hint
        for hint in (action, _inside_results(_awaited(returned)), _awaited(of_state))
    )


def _awaited(hint: Any) -> Any:
    """Return the type that is there once an awaitable was awaited; another hint as it is."""
    parts = typing.get_args(hint)
    return parts[-1] if parts and hasattr(typing.get_origin(hint), "__await__") else hint


def _inside_results(hint: Any) -> Any:
    """Return what is inside ``StepResult[…]``, in a union too; ``Any`` where it is bare."""
    origin = typing.get_origin(hint)
    if hint is StepResult:
        return Any
    if origin is StepResult:
        return typing.get_args(hint)[0]
    if origin in (typing.Union, types.UnionType):
        members = [_inside_results(m) for m in typing.get_args(hint) if m is not StepResult]
        return functools.reduce(lambda one, other: one | other, members) if members else Any
    return hint


def _say_unreadable(call: Any, error: Exception) -> None:
    """Warn of annotations that name what is not there: nothing is checked against them."""
    log.warning(
        "the annotations of %s() cannot be read, and any value is taken: %s (what they name has to"
        " be imported at run time, not under TYPE_CHECKING)",
        getattr(call, "__qualname__", call),
        error,
    )


def _evaluated(
    call: Any, parameters: Mapping[str, inspect.Parameter]
) -> dict[str, inspect.Parameter]:
    """The parameters with annotations evaluated, where they can be."""
    try:
        hints = typing.get_type_hints(call, include_extras=True)
    except (NameError, AttributeError) as exc:
        _say_unreadable(call, exc)
        hints = {}
    except TypeError:
        hints = {}
    return {
        key: p.replace(annotation=hints.get(key, inspect.Parameter.empty))
        for key, p in parameters.items()
    }


def _option_schema(parameter: inspect.Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    if parameter.annotation is not inspect.Parameter.empty:
        schema = json_schema(parameter.annotation)
    if parameter.default is not inspect.Parameter.empty:
        default = parameter.default
        schema["default"] = default if isinstance(default, str | int | float | bool) else None
    return schema
