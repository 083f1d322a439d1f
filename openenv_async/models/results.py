"""Results of user code, read strictly: the one place that decides what ``reset`` or ``step`` said.

Rules:

- A result is an observation of the declared type or a ``StepResult``. Nothing else is guessed at:
  a bare tuple is an observation only where a tuple type is declared, ``None`` only where the
  declared type has it.
- ``reward``, ``done``, ``terminated`` and ``truncated`` are read off the fields of a model whose
  annotations allow a number or a truth value, judged once per type, and off the keys of a dict. A
  field of another type that bears such a name is data, and so are methods and properties.
- An end is ``True``, ``False``, 0 or 1, or an array, tensor or NumPy scalar that holds one of
  these; a reward is a number or ``None``. Anything else is refused: text has no truth value.
- The make-up of a type is learnt when its first value comes; after that a result costs a look-up
  by its type and the tests of its fields.
"""

from __future__ import annotations

import sys
import types
import typing
from collections import abc
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import inspect

from openenv_async.errors import InvalidModel, OpenEnvError, exception_name
from openenv_async.models import PayloadCodec, fit_test
from openenv_async.models.inspection import custom_kind, type_info, type_name
from openenv_async.types import StepResult

__all__ = [
    "BadResult",
    "Extracted",
    "ResultReader",
    "Unawaited",
    "counted_fields",
    "is_awaitable",
    "refuse_gymnasium_type",
]

Extracted = tuple[Any, float | None, bool, bool, Mapping[str, Any] | None]
"""observation, reward, terminated, truncated, info"""

Read = Callable[[Any], Extracted]
Check = Callable[[Any], None]
Suspicion = Callable[[Any], str | None]

_ENDS: Final = ("terminated", "truncated", "done")
_NAMES: Final = ("reward", *_ENDS)
_MAX_TYPES: Final = 256
"""Result types whose readers are kept; code that makes types as it goes has more."""
_ABSENT: Final = object()
_AS_STEP_RESULT: Final = "return StepResult(observation, reward, terminated, truncated, info)"
_GYMNASIUM: Final = (
    f"{_AS_STEP_RESULT}, or make the class a gymnasium.Env, which is served as it is"
)


_GENERATORS: Final[dict[type, str]] = {
    types.AsyncGeneratorType: "an async generator (it has `yield`): call the method step_stream()",
    types.GeneratorType: "a generator (it has `yield`): return the observation",
}


class BadResult(Exception):
    """The value that user code returned, and what to return instead; continues "… returned "."""


class Unawaited(Exception):
    """The result is yet to be awaited."""


class ResultReader:
    """Readers of what an environment returns, by the type of the result.

    ``reader[type(result)](result)`` gives observation, reward, terminated, truncated and info.
    Readers are made when they are first asked for; they raise ``BadResult``, and ``Unawaited``
    for an awaitable.

    Args:
        model: the declared observation type.
        codec: of that type, for what only decoding can tell.

    Attributes:
        known: the readers made so far; a plain dict, which is twice as fast to ask.
    """

    def __init__(self, model: Any, codec: PayloadCodec[Any]) -> None:
        self.known: dict[type, Read] = {}
        self._model = model
        self._codec = codec
        self._info = _bare(type_info(model))
        self._fits: Callable[[Any], bool] | None = fit_test(model)
        self._admitted: dict[type, Check | None] = {}

    def __getitem__(self, kind: type) -> Read:
        read = self.known.get(kind)
        if read is None:
            if len(self.known) >= _MAX_TYPES:
                self.known.clear()
                self._admitted.clear()
            read = self.known[kind] = self._reader(kind)
        return read

    # -- readers ----------------------------------------------------------------------------

    def _reader(self, kind: type) -> Read:
        if hasattr(kind, "__await__"):
            return _unawaited
        if issubclass(kind, StepResult):
            return self._step_result
        problem = _GENERATORS.get(kind) or self._problem(kind)
        if isinstance(problem, str):
            return _refusing(problem)
        check = self._check(kind)
        if problem is not None:
            return _suspecting(problem, check)
        if issubclass(kind, Mapping):
            return self._of_mapping(check)
        fields, always_there = _fields_of(kind)
        if not fields:
            return _without_fields(check)
        simple = all(said == name and said in ("reward", "done") for said, name in fields.items())
        if simple and always_there:
            return self._of_model(check, fields, kind)
        return self._of_fields(check, fields, kind)

    def _of_model(self, check: Check | None, fields: Mapping[str, str], kind: type) -> Read:
        """The reader of a model with ``reward`` and ``done`` at most: the hot path."""
        has_reward, has_done = "reward" in fields, "done" in fields
        none_ends = _end_may_be_none(kind)
        fits = self._fits

        def read(result: Any) -> Extracted:
            if check is not None:
                try:
                    surely = fits(result)  # type: ignore[misc]  # both or neither
                except Exception:  # such as a field that was never set
                    surely = False
                if not surely:
                    check(result)
            reward = result.reward if has_reward else None
            if reward is not None and type(reward) is not float:
                reward = _reward(reward, "reward")
            done = result.done if has_done else False
            if type(done) is not bool:
                done = _end(done, "done", none_ends)
            return result, reward, done, False, None

        return read

    def _of_fields(self, check: Check | None, fields: Mapping[str, str], kind: type) -> Read:
        none_ends = _end_may_be_none(kind)

        def read(result: Any) -> Extracted:
            if check is not None:
                check(result)

            def get(name: str) -> Any:
                return getattr(result, fields[name], _ABSENT) if name in fields else _ABSENT

            return (result, *_read_all(get, none_ends), None)

        return read

    def _of_mapping(self, check: Check | None) -> Read:
        """The reader of dicts: all four keys count, or those of a TypedDict that may."""
        names, none_ends = _keys_of(self._info)
        fits = self._fits
        counts = {name: name in names for name in _NAMES}
        count_reward, count_done = counts["reward"], counts["done"]
        count_terminated, count_truncated = counts["terminated"], counts["truncated"]

        def read(result: Any) -> Extracted:
            if check is not None:
                try:
                    surely = fits(result)  # type: ignore[misc]  # both or neither
                except Exception:  # such as a field that was never set
                    surely = False
                if not surely:
                    check(result)
            get = result.get
            reward = get("reward") if count_reward else None
            if reward is not None and type(reward) is not float:
                reward = _reward(reward, "['reward']")
            done = get("done", False) if count_done else False
            if type(done) is not bool:
                done = _end(done, "['done']", none_ends)
            terminated = get("terminated", False) if count_terminated else False
            if type(terminated) is not bool:
                terminated = _end(terminated, "['terminated']", none_ends)
            truncated = get("truncated", False) if count_truncated else False
            if type(truncated) is not bool:
                truncated = _end(truncated, "['truncated']", none_ends)
            return result, reward, terminated or (done and not truncated), truncated, None

        return read

    def _step_result(self, result: Any) -> Extracted:
        observation = result.observation
        try:
            check = self._admitted[type(observation)]
        except KeyError:
            check = self._admit(type(observation))
        if check is not None:
            check(observation)
        reward, terminated, truncated = result.reward, result.terminated, result.truncated
        if reward is not None and type(reward) is not float:
            reward = _reward(reward, "StepResult.reward")
        if type(terminated) is not bool:
            terminated = _end(terminated, "StepResult.terminated")
        if type(truncated) is not bool:
            truncated = _end(truncated, "StepResult.truncated")
        info: Any = result.info
        if type(info) is not dict and info is not None and not isinstance(info, Mapping):
            raise BadResult(
                f"StepResult.info={_shown(info)} ({type(info).__name__}): info is a dict of names"
                " to values, or None"
            )
        return observation, reward, terminated, truncated, info or None

    # -- the declared type ------------------------------------------------------------------

    def _admit(self, kind: type) -> Check | None:
        """The check of observations of a type inside a ``StepResult``."""
        problem = self._problem(kind, inside=True)
        if problem is not None:
            text = problem if isinstance(problem, str) else "a tuple: it has another declared type"
            raise BadResult(f"StepResult(observation=…) with {text}")
        check = self._admitted[kind] = self._check(kind)
        return check

    def _problem(self, kind: type, inside: bool = False) -> str | Suspicion | None:
        """The reason for which a value of this type cannot be the observation, if there is one.

        Either for all of them, or a function that tells by the value.
        """
        info = self._info
        if _admits(info, kind):
            if not isinstance(info, inspect.AnyType):
                return _gymnasium_shape if kind is tuple and not inside else None
            if issubclass(kind, StepResult):
                return "another StepResult inside: return one"
            if inside:
                return None
            if kind is types.NoneType:
                return "None: is a `return` missing? (StepResult(None) says that None is meant)"
            if issubclass(kind, tuple) and not _is_model_tuple(kind):
                return _undeclared_tuple
            return _gymnasium_shape if kind is list else None
        declared = type_name(self._model)
        if kind is types.NoneType:
            return (
                f"None: is a `return` missing? (declare `{declared} | None` where None is an"
                " observation)"
            )
        if issubclass(kind, tuple):
            return lambda value: _tuple_problem(value, declared)
        return (
            f"a {type_name(kind)} where the declared observation type is {declared}: return that,"
            " or correct the type in Environment[action, observation, state] or in the"
            " annotation of step()"
        )

    def _check(self, kind: type) -> Check | None:
        """Return what raises ``BadResult`` for a value of another than the declared type."""
        fits = self._fits
        if isinstance(self._info, inspect.AnyType) or fits is None:
            return None
        codec = self._codec
        hint = ""
        base = getattr(self._info, "cls", None)
        if base in kind.__mro__[1:]:
            hint = (
                f" (it is a {type_name(kind)}, a subclass of the declared {type_name(base)}:"
                f" declare {type_name(kind)})"
            )

        def check(value: Any) -> None:
            try:  # no contextlib.suppress: it costs each step as much as the look itself
                if fits(value):
                    return
            except Exception:  # such as a field that was never set
                pass
            octets = codec.encode(value)
            try:
                codec.decode(octets)
            except OpenEnvError as exc:
                text = f"what is not of its declared type: {exc.message}{hint}"
                raise BadResult(text) from exc

        return check


def _refusing(problem: str) -> Read:
    def read(result: Any) -> Extracted:
        raise BadResult(problem)

    return read


def _suspecting(suspicion: Suspicion, check: Check | None) -> Read:
    def read(result: Any) -> Extracted:
        problem = suspicion(result)
        if problem is not None:
            raise BadResult(problem)
        if check is not None:
            check(result)
        return result, None, False, False, None

    return read


def _unawaited(result: Any) -> Extracted:
    raise Unawaited


def _without_fields(check: Check | None) -> Read:
    def read(result: Any) -> Extracted:
        if check is not None:
            check(result)
        return result, None, False, False, None

    return read


def _admits(info: inspect.Type, kind: type) -> bool:
    """Return whether values of ``kind`` may be of a declared type; the check does the rest."""
    match info:
        case inspect.AnyType():
            return True
        case inspect.Metadata():
            return _admits(info.type, kind)
        case inspect.UnionType():
            return any(_admits(member, kind) for member in info.types)
        case inspect.DataclassType() | inspect.StructType() | inspect.NamedTupleType():
            return issubclass(kind, _class_of(info))  # type: ignore[arg-type]  # it has a class
        case inspect.TypedDictType() | inspect.DictType():
            return issubclass(kind, Mapping)
        case inspect.CustomType() if custom_kind(info.cls) == "pydantic":
            return issubclass(kind, _class_of(info))  # type: ignore[arg-type]  # it has a class
        case inspect.TupleType() | inspect.VarTupleType():
            return issubclass(kind, abc.Collection) and not issubclass(kind, Mapping | str)
        case inspect.NoneType():
            return kind is types.NoneType
    return kind is not types.NoneType and not issubclass(kind, tuple | Mapping)


# -- one value --------------------------------------------------------------------------------


def _read_all(
    get: Callable[[str], Any], none_ends: frozenset[str]
) -> tuple[float | None, bool, bool]:
    reward = get("reward")
    reward = None if reward is _ABSENT else _reward(reward, "reward")
    ends = {}
    for name in _ENDS:
        end = get(name)
        ends[name] = False if end is _ABSENT else _end(end, name, none_ends)
    truncated = ends["truncated"]
    return reward, ends["terminated"] or (ends["done"] and not truncated), truncated


def _reward(reward: Any, place: str) -> float | None:
    """A reward as float; ``None`` stays ``None``.

    Raises:
        BadResult: it is not a number.
    """
    if reward is None or type(reward) is float:
        return reward
    problem = "a reward is a number or None"
    if not isinstance(reward, str | bytes | bytearray | complex):
        try:
            return float(_single(reward))
        except (TypeError, ValueError):
            pass
        except Exception as exc:  # raised by the value's own methods
            problem = f"float() of it raised {exception_name(exc)}; {problem}"
    raise BadResult(
        f"{place}={_shown(reward)} ({type(reward).__name__}): {problem};"
        f" rename a field that is not a reward, or {_AS_STEP_RESULT}"
    )


def _end(end: Any, place: str, none_ends: frozenset[str] = frozenset()) -> bool:
    """A strict truth value.

    Raises:
        BadResult: it is neither a bool nor 0 or 1.
    """
    if type(end) is bool:
        return end
    if end is None and place.strip("[']") in none_ends:
        return False
    try:
        value = _single(end)
        if isinstance(value, int) and value in (0, 1):  # bool is an int
            return bool(value)
    except Exception:  # raised by the value's own methods: it is none
        pass
    remedy = "call it" if callable(end) else f"if it is not an end, {_AS_STEP_RESULT} or rename it"
    raise BadResult(
        f"{place}={_shown(end)} ({type(end).__name__}): an end is True or False (or 0 or 1);"
        f" {remedy}"
    )


def _single(value: Any) -> Any:
    """The Python number in a NumPy scalar, or in an array or tensor of one element."""
    if isinstance(value, int | float):
        return value
    item = getattr(value, "item", None)
    if callable(item) and hasattr(value, "dtype"):
        value = item()  # a ValueError or RuntimeError for more than one element
        if isinstance(value, str | bytes):
            raise TypeError("text")
        return value
    index = getattr(type(value), "__index__", None)
    return value if index is None else index(value)


def _shown(value: Any) -> str:
    """A short repr, whatever the value's own does."""
    try:
        text = repr(value)
    except BaseException as exc:  # raised by user code
        return f"(repr() raised {exception_name(exc)})"
    return text if len(text) <= 60 else text[:57] + "…"


# -- tuples -----------------------------------------------------------------------------------


def _tuple_name(value: Any) -> str | None:
    """The API whose result a tuple or list looks like, and the cure."""
    size = len(value)
    named = isinstance(value[-1], Mapping) if size else False
    if size == 5 and named and _is_end(value[2]) and _is_end(value[3]):
        return (
            f"Gymnasium's 5-tuple (observation, reward, terminated, truncated, info): {_GYMNASIUM}"
        )
    if size == 4 and named and _is_end(value[2]):
        return (
            "the 4-tuple (observation, reward, done, info) of Gym before 0.26, which does not say"
            " whether the task ended or was truncated: return StepResult(observation, reward,"
            " terminated, truncated, info)"
        )
    if size == 2 and named:
        return (
            "Gymnasium's pair (observation, info): return the observation, or"
            " StepResult(observation, info=info); or make the class a gymnasium.Env, which is"
            " served as it is"
        )
    return None


def _is_end(value: Any) -> bool:
    try:
        return _end(value, "") in (False, True)
    except BadResult:
        return False


def _is_model_tuple(kind: type) -> bool:
    """Return whether a tuple type is a NamedTuple, but no other API's result (dm_env's)."""
    names = getattr(kind, "_fields", ())
    return bool(names) and not {"observation", "obs", "step_type"}.intersection(names)


def _gymnasium_shape(value: Any) -> str | None:
    """The problem with a declared tuple or an undeclared list that is another API's result."""
    name = _tuple_name(value) if len(value) in (4, 5) else None
    return None if name is None else f"a {type(value).__name__} of {len(value)}, {name}"


def _undeclared_tuple(value: Any) -> str:
    name = _tuple_name(value) or (
        f"which is not said to be an observation: {_AS_STEP_RESULT}, or declare the tuple's type"
        " in Environment[action, observation, state]"
    )
    return f"a {type_name(type(value))} of {len(value)}, {name}"


def _tuple_problem(value: Any, declared: str) -> str:
    name = _tuple_name(value) or (
        f"where the declared observation type is {declared}: return that, or {_AS_STEP_RESULT}"
    )
    return f"a {type_name(type(value))} of {len(value)}, {name}"


def refuse_gymnasium_type(declared: Any, name: str) -> None:
    """Refuse the annotation of a ``step`` that returns Gymnasium's tuples.

    Raises:
        TypeError: ``declared`` is such a tuple type.
    """
    parts = typing.get_args(declared)
    if typing.get_origin(declared) is not tuple or len(parts) not in (4, 5):
        return
    last = typing.get_origin(parts[-1]) or parts[-1]
    if last in (dict, Mapping) and all(part is bool for part in parts[2:-1]):
        raise TypeError(
            f"step() of {name} is annotated to return a tuple of {len(parts)}, as Gymnasium's"
            f" environments do: {_GYMNASIUM}"
        )


# -- what a type says -------------------------------------------------------------------------


def is_awaitable(value: Any) -> bool:
    """Return whether it is a coroutine or something else to await."""
    return hasattr(type(value), "__await__")


def _bare(info: inspect.Type) -> inspect.Type:
    while isinstance(info, inspect.Metadata):
        info = info.type
    return info


def _class_of(info: inspect.Type) -> type | None:
    cls = getattr(info, "cls", None)
    return getattr(cls, "__origin__", cls)


def _may_be_end(info: inspect.Type) -> bool:
    """Return whether a field of this type can say that the episode ended."""
    match _bare(info):
        case inspect.AnyType() | inspect.BoolType() | inspect.IntType() | inspect.FloatType():
            return True  # a float is none, but who declares one may mean an end
        case inspect.UnionType(types=members):
            return any(map(_may_be_end, members))
        case inspect.LiteralType(values=values):
            return all(value in (0, 1) for value in values)
        case inspect.CustomType(cls=cls):
            return _is_number(cls)
    return False


def _may_be_reward(info: inspect.Type) -> bool:
    """Return whether a field of this type can hold a reward."""
    match _bare(info):
        case (
            inspect.AnyType()
            | inspect.BoolType()
            | inspect.IntType()
            | inspect.FloatType()
            | inspect.DecimalType()
        ):
            return True
        case inspect.UnionType(types=members):
            return any(map(_may_be_reward, members))
        case inspect.LiteralType(values=values):
            return all(isinstance(value, int | float) for value in values)
        case inspect.CustomType(cls=cls):
            return _is_number(cls)
    return False


def _is_number(cls: type) -> bool:
    """Return whether a NumPy scalar or one-element array can be a number or a truth value."""
    kind = custom_kind(cls)
    if kind == "scalar":
        return not issubclass(cls, sys.modules["numpy"].flexible)
    return kind == "array"


def _has_none(info: inspect.Type) -> bool:
    info = _bare(info)
    if isinstance(info, inspect.UnionType):
        return any(map(_has_none, info.types))
    return isinstance(info, inspect.NoneType)


def _annotated(kind: type) -> list[tuple[str, str, inspect.Type]]:
    """Python name, name on the wire and type of each field of a model class; else nothing."""
    try:
        info = _bare(type_info(kind))
    except InvalidModel:
        return []
    if isinstance(info, inspect.DataclassType | inspect.StructType | inspect.NamedTupleType):
        return [
            (field.name, getattr(field, "encode_name", field.name), field.type)
            for field in info.fields
        ]
    if isinstance(info, inspect.CustomType) and custom_kind(info.cls) == "pydantic":
        fields: Mapping[str, Any] = info.cls.model_fields  # type: ignore[attr-defined]  # a BaseModel
        return [
            (name, field.alias or name, _type_info_or_any(field.annotation))
            for name, field in fields.items()
        ]
    return []


def _type_info_or_any(annotation: Any) -> inspect.Type:
    try:
        return type_info(annotation)
    except InvalidModel:  # a type that only pydantic knows: neither a number nor a truth value
        return inspect.StrType()


def _fields_of(kind: type) -> tuple[dict[str, str], bool]:
    """The fields of a model class that are a reward or an end: by that name, the attribute.

    And whether every instance has them, as is not so of pydantic's extra fields.
    """
    found: dict[str, str] = {}
    for name, wire_name, info in _annotated(kind):
        for said in (name, wire_name):
            may_be = _may_be_reward if said == "reward" else _may_be_end
            if said in _NAMES and may_be(info):
                found.setdefault(said, name)
    if getattr(kind, "model_config", {}).get("extra") != "allow":
        return found, True
    declared: Mapping[str, Any] = getattr(kind, "model_fields", {})
    extra = {name for name in _NAMES if name not in declared and not hasattr(kind, name)}
    return {**{name: name for name in extra}, **found}, False


def counted_fields(model: Any) -> frozenset[str]:
    """The names among ``reward``, ``done``, ``terminated`` and ``truncated`` that count in a type.

    They all do if it declares no fields of its own.
    """
    info = _bare(type_info(model))
    if isinstance(info, inspect.TypedDictType):
        return _keys_of(info)[0]
    kind = getattr(info, "cls", None)
    if not isinstance(kind, type) or not _annotated(kind):
        return frozenset(_NAMES)
    return frozenset(_fields_of(kind)[0])


def _end_may_be_none(kind: type) -> frozenset[str]:
    """The ends of a model class whose annotation has ``None``, which says "not given"."""
    return frozenset(name for name, _, info in _annotated(kind) if _has_none(info))


def _keys_of(info: inspect.Type) -> tuple[frozenset[str], frozenset[str]]:
    """The keys of a dict that are a reward or an end, and those that may be ``None``.

    All of them, but where TypedDicts are declared: there those whose annotation allows it.
    """
    members = info.types if isinstance(info, inspect.UnionType) else (info,)
    dicts = [_bare(member) for member in members]
    typed = [member for member in dicts if isinstance(member, inspect.TypedDictType)]
    if not typed or any(isinstance(member, inspect.DictType) for member in dicts):
        return frozenset(_NAMES), frozenset()
    fields = [field for member in typed for field in member.fields if field.encode_name in _NAMES]
    names = {
        field.encode_name
        for field in fields
        if (_may_be_reward if field.encode_name == "reward" else _may_be_end)(field.type)
    }
    return frozenset(names), frozenset(f.encode_name for f in fields if _has_none(f.type))
