"""Pydantic models: validated without dropping a field, written whole, described.

Rules:

- A model keeps its own ``extra`` setting; one that has none refuses unknown fields here.
- Each field is written as it is held, under the name by which it is read, and a nested model by
  its own class: what a field is declared as, ``model_dump`` and ``exclude`` take nothing away.
- A serializer of the author's is obeyed. Data that may then be lost (also an excluded field or a
  private attribute that is not at its default, a subclass where its base is declared) is read
  back before it is sent, and refused unless it comes back equal.
- Computed fields are not written: the other end would refuse them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import sys
import types
import typing
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Set
from typing import Any, Final, Literal, TypeVar

import msgspec

from openenv_async.models.foreign import is_text_type

__all__ = [
    "complete",
    "dump",
    "ignores_unknown",
    "is_model",
    "is_same",
    "model_schema",
    "validate",
    "wire_names",
]

Arrives = Callable[[Any], Any]


# -- names ----------------------------------------------------------------------------------


def reading_names(model: Any, name: str) -> list[Any]:
    """The aliases (text, or a path) and the name by which a model reads one of its fields."""
    alias, config = model.model_fields[name].validation_alias, model.model_config
    if alias is None:
        return [name]
    names: list[Any] = []
    if config.get("validate_by_alias", True):
        names += getattr(alias, "choices", [alias])
    if not names or config.get("populate_by_name") or config.get("validate_by_name"):
        names.append(name)
    return names


def wire_names(model: Any) -> dict[str, str]:
    """The name on the wire of each field that has one: the first by which it is read."""
    found: dict[str, str] = {}
    for name in model.model_fields:
        texts = [each for each in reading_names(model, name) if isinstance(each, str)]
        if texts:
            found[name] = texts[0]
    return found


# -- written --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """The way in which the instances of one class are written.

    Attributes:
        names: field and name on the wire, of the fields written as they are held.
        by_pydantic: the same, of those that have a serializer or a type of pydantic's or unknown.
        excluded: fields that the author keeps back.
        unnamed: fields that no plain name reads.
        declared: field and the model classes in its annotation, where nothing else may hold one.
        typed: field and the exact types of what it may hold, where all of them are scalars.
        ambiguous: fields whose union may be read back as another of its members.
        whole: whether the class has a serializer of its own.
        remade: whether the author's validators or ``model_post_init`` see each field again.
        is_root: whether it is a root model.
    """

    names: tuple[tuple[str, str], ...]
    by_pydantic: dict[str, str]
    excluded: tuple[str, ...]
    unnamed: tuple[str, ...]
    declared: tuple[tuple[str, frozenset[type]], ...]
    typed: tuple[tuple[str, frozenset[type]], ...]
    ambiguous: tuple[str, ...]
    whole: bool
    remade: bool
    is_root: bool


def dump(value: Any, arrives: Arrives) -> Any:
    """A model's fields as a dict, by the names that read them; of a root model what it holds.

    Args:
        value: the model.
        arrives: gives a tree as the other end decodes it.

    Raises:
        TypeError: a part of it would not come back at the other end; the message names the field.
    """
    model: Any = type(value)
    plan = _plan(model)
    held = value.__dict__
    if plan.whole:
        tree = _base().model_dump(value, by_alias=True, round_trip=True)
        _verify(value, tree, arrives, dict.fromkeys(model.model_fields, _LOSSY))
        return tree
    try:
        tree = {wire: held[name] for name, wire in plan.names}
    except KeyError as error:
        raise TypeError(
            f"the field {model.__qualname__}.{error.args[0]} was never set: give it a value"
        ) from None
    suspects: dict[str, str] = {}
    if plan.remade:
        suspects = dict.fromkeys((name for name, _ in plan.names), _REMADE)
    if plan.by_pydantic:
        tree |= _by_pydantic(value, plan.by_pydantic, arrives)
        suspects |= dict.fromkeys(plan.by_pydantic, _LOSSY)
    for name in plan.excluded:
        if not _is_default(model.model_fields[name], held.get(name)):
            suspects[name] = _EXCLUDED
    for name in plan.unnamed:
        if not _is_default(model.model_fields[name], held.get(name)):
            suspects[name] = _UNNAMED
    for name, kinds in plan.typed:
        if type(held[name]) not in kinds:
            if bytes in kinds and isinstance(held[name], bytearray):
                tree[dict(plan.names)[name]] = bytes(held[name])
            else:
                suspects.setdefault(name, _ASSIGNED)
    for name in plan.ambiguous:
        if held[name] is not None:
            suspects[name] = _AMBIGUOUS
    for name, allowed in plan.declared:
        item = held[name]
        if item is not None and type(item) not in allowed and not _of_declared(item, allowed):
            suspects[name] = _SUBCLASS
    if value.__pydantic_private__:
        for name, attribute in model.__private_attributes__.items():
            if not _is_default(attribute, value.__pydantic_private__.get(name)):
                suspects[name] = _PRIVATE
    if value.__pydantic_extra__:
        tree |= value.__pydantic_extra__
    result = tree["root"] if plan.is_root else tree
    if suspects:
        _verify(value, result, arrives, suspects)
    return result


_LOSSY: Final = "what its serializer or type writes is read back as something else"
_EXCLUDED: Final = "it is excluded: keep what stays here on the environment, or drop exclude"
_PRIVATE: Final = (
    "it is a private attribute: keep what stays here on the environment, or make it a field"
)
_UNNAMED: Final = "it is read from a path only: give it an alias that is a name"
_REMADE: Final = "its validators change it each time; let them leave alone what they have made"
_SUBCLASS: Final = "what it holds is of a subclass of what is declared: declare that class as well"
_ASSIGNED: Final = (
    "what it holds was never validated: assign what its type says, or set validate_assignment in"
    " the model's config"
)
_AMBIGUOUS: Final = (
    "its union would be read back as another of its members: give each a field such as"
    " kind: Literal['…'], and Field(discriminator='kind') to the union"
)


def is_model(value: Any) -> bool:
    """Return whether a value is a pydantic model; much faster than ``isinstance`` with its ABCs."""
    return hasattr(value, "__pydantic_root_model__") and not isinstance(value, type)


def _base() -> Any:
    return sys.modules["pydantic"].BaseModel


@functools.lru_cache(maxsize=1024)
def _plan(model: Any) -> _Plan:
    decorators = model.__pydantic_decorators__
    serialized = {
        name for made in decorators.field_serializers.values() for name in made.info.fields
    }
    wires = wire_names(model)
    names: list[tuple[str, str]] = []
    by_pydantic: dict[str, str] = {}
    excluded: list[str] = []
    unnamed: list[str] = []
    declared: list[tuple[str, frozenset[type]]] = []
    typed: list[tuple[str, frozenset[type]]] = []
    ambiguous: list[str] = []
    for name, field in model.model_fields.items():
        own = name in serialized or "*" in serialized
        if field.exclude:
            excluded.append(name)
        elif name not in wires:
            unnamed.append(name)
        elif own or not _is_plain((field.annotation, *field.metadata)):
            by_pydantic[name] = wires[name]
        else:
            names.append((name, wires[name]))
            allowed = _declared(field.annotation)
            if allowed:
                declared.append((name, allowed))
            if field.discriminator is None and _is_ambiguous(field.annotation, set()):
                ambiguous.append(name)
            kinds = _scalar_types(field.annotation)
            if kinds:
                nothing = {type(None)} if field.default is None else set()
                typed.append((name, kinds | nothing))
    return _Plan(
        tuple(names),
        by_pydantic,
        tuple(excluded),
        tuple(unnamed),
        tuple(declared),
        tuple(typed),
        tuple(ambiguous),
        whole=bool(decorators.model_serializers),
        remade=_is_remade(model),
        is_root=issubclass(model, sys.modules["pydantic"].RootModel),
    )


_CHANGES: Final = ("strip_whitespace", "to_lower", "to_upper")
"""Settings of a model or a field that change the text it is given."""


def _changes_text(field: Any) -> bool:
    parts = (*field.metadata, *_parts(field.annotation, set()))
    return any(getattr(part, change, None) is True for part in parts for change in _CHANGES)


def _is_remade(model: Any) -> bool:
    decorators = model.__pydantic_decorators__
    return (
        any(model.model_config.get(f"str_{change}") for change in _CHANGES)
        or any(map(_changes_text, model.model_fields.values()))
        or bool(decorators.validators or decorators.field_validators)
        or bool(decorators.root_validators or decorators.model_validators)
        or model.model_post_init is not _base().model_post_init
        or any(
            type(part).__module__ == "pydantic.functional_validators"
            for field in model.model_fields.values()
            for part in field.metadata
        )
    )


def _by_pydantic(value: Any, names: dict[str, str], arrives: Arrives) -> dict[str, Any]:
    """Fields as pydantic writes them: for Python, or for JSON unless that is a plain value."""
    dump_fields = _base().model_dump
    found: dict[str, Any] = dump_fields(value, include=set(names), round_trip=True)
    for name in found:
        try:
            arrives(found[name])
        except (TypeError, ValueError, msgspec.MsgspecError):
            found |= dump_fields(value, include={name}, mode="json", round_trip=True)
    return {names[name]: item for name, item in found.items()}


def _verify(value: Any, tree: Any, arrives: Arrives, suspects: dict[str, str]) -> None:
    """Raise for a field that does not come back from ``tree`` as it is held."""
    model = type(value)
    try:
        back = validate(model, arrives(tree))
    except (ValueError, TypeError, msgspec.MsgspecError) as error:
        name, why = next(iter(suspects.items()))
        raise TypeError(f"{_lost(value, name, why)} ({error})") from error
    for name, why in suspects.items():
        there, here = _held(back, name), _held(value, name)
        if not (is_same(there, here) or (why is _ASSIGNED and _is_same_number(there, here))):
            raise TypeError(_lost(value, name, why))


def _is_same_number(one: Any, other: Any) -> bool:
    """Return whether two numbers of different types are equal, as NumPy's and Python's may be."""
    if isinstance(other, str | bytes) or not isinstance(one, int | float):
        return False
    return bool(one == other or (one != one and other != other))  # NaN


def _held(value: Any, name: str) -> Any:
    """Return what a model holds under a name; not by getattr, which warns of a deprecated field."""
    private: dict[str, Any] = value.__pydantic_private__ or {}
    return value.__dict__.get(name, private.get(name))


def _lost(value: Any, name: str, why: str) -> str:
    if hasattr(_held(value, name), "get_secret_value"):
        why = "it hides what it holds: give get_secret_value() in a field of text"
    return f"the field {type(value).__qualname__}.{name} would not arrive whole: {why}"


def _is_default(field: Any, held: Any) -> bool:
    """Return whether a field or private attribute holds its default, where that can be compared."""
    if field.default_factory is not None:
        if getattr(field, "default_factory_takes_validated_data", False):
            return False
        default = field.default_factory()
        if type(default) is type(held) and _is_itself_only(held):
            return True  # such as a lock: one is like another
    else:
        default = field.default
    return is_same(default, held)


def _of_declared(value: Any, allowed: frozenset[type]) -> bool:
    """Return whether every model in a field's value is of a class that the field declares."""
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, (list, tuple, set, frozenset, deque)):
        return type(value) in allowed or not is_model(value)
    return allowed.issuperset(map(type, value)) or all(
        _of_declared(item, allowed) for item in value
    )


def is_same(one: Any, other: Any) -> bool:
    """Return whether two values are equal and of the same types, arrays, NaN and nested models too.

    For a model, a base class that holds the same is as good.
    """
    if one is other:
        return True
    if type(one) is not type(other) and not (is_model(one) and isinstance(other, type(one))):
        scalars = isinstance(one, int | float | str | bytes) and not isinstance(one, bool)
        related = isinstance(one, type(other)) or isinstance(other, type(one))
        return bool(scalars and related and one == other)
    if isinstance(one, float):
        return one == other or (one != one and other != other)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(one, numpy.ndarray | numpy.generic):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return bool(alike and one.tobytes() == other.tobytes())
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(map(is_same, one, other))
    if is_model(one):
        return all(
            is_same(getattr(one, part) or {}, getattr(other, part) or {})
            for part in ("__dict__", "__pydantic_extra__", "__pydantic_private__")
        )
    if dataclasses.is_dataclass(one):
        names = [field.name for field in dataclasses.fields(one)]
        return all(is_same(getattr(one, n, None), getattr(other, n, None)) for n in names)
    return _is_itself_only(one) or bool(one == other)


def _is_itself_only(value: Any) -> bool:
    """Return whether a value is equal to nothing but itself, so that comparing tells nothing."""
    kind: Any = type(value)
    return kind.__eq__ is object.__eq__


# -- what an annotation says ----------------------------------------------------------------

_LEAVES: Final = frozenset(
    {
        *(bool, int, float, str, bytes, bytearray, type(None)),
        *(list, dict, tuple, set, frozenset),
    }
)
_LEAF_MODULES: Final = ("decimal", "datetime", "uuid", "pydantic.networks", "numpy")
_CONTAINER_MODULES: Final = ("builtins", "collections", "collections.abc", "typing", "types")
_PLAIN_METADATA: Final = (
    "annotated_types",
    "pydantic.fields",
    "pydantic.functional_validators",
    "pydantic.types",
    "pydantic._internal._fields",
    "pydantic._internal._known_annotated_metadata",
    "builtins",
    "msgspec",
    "typing",
    "typing_extensions",
)
_WRITTEN_BY_TYPE: Final = ("Json", "EncodedBytes", "EncodedStr", "Secret")


def _is_plain(parts: Sequence[Any]) -> bool:
    """Return whether an annotation and its metadata leave values as they are held."""
    annotation, *metadata = parts
    if not all(map(_is_plain_metadata, metadata)):
        return False
    annotation = getattr(annotation, "__value__", annotation)  # of a type alias
    if isinstance(annotation, TypeVar) or annotation is Any or annotation is object:
        return True
    if hasattr(annotation, "__metadata__"):
        return _is_plain((annotation.__origin__, *annotation.__metadata__))
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return not any(isinstance(a, enum.Enum) for a in typing.get_args(annotation))
    if origin is not None and not (isinstance(origin, type) and issubclass(origin, _base())):
        known = origin in (typing.Union, types.UnionType) or _is_container(origin)
        arguments = [a for a in typing.get_args(annotation) if a is not Ellipsis]
        return known and all(_is_plain((argument,)) for argument in arguments)
    if not isinstance(annotation, type):
        return annotation is None
    return (
        annotation in _LEAVES
        or issubclass(annotation, (_base(), msgspec.Struct))
        or (issubclass(annotation, enum.Enum) and _is_plain_enum(annotation))
        or dataclasses.is_dataclass(annotation)
        or hasattr(annotation, "__attrs_attrs__")
        or typing.is_typeddict(annotation)
        or hasattr(annotation, "_fields")
        or is_text_type(annotation)
        or annotation.__module__.partition(".")[0] == "numpy"
        or annotation.__module__ in _LEAF_MODULES
        or _is_container(annotation)
    )


def _is_plain_enum(annotation: Any) -> bool:
    return all(isinstance(member.value, str | int | float | None) for member in annotation)


def _is_plain_metadata(part: Any) -> bool:
    cls = part if isinstance(part, type) else type(part)
    return cls.__module__ in _PLAIN_METADATA and cls.__name__ not in _WRITTEN_BY_TYPE


def _is_container(origin: Any) -> bool:
    return (
        isinstance(origin, type)
        and origin.__module__ in _CONTAINER_MODULES
        and issubclass(origin, (Mapping, Sequence, Set))
    )


def _declared(annotation: Any) -> frozenset[type]:
    """The model classes in an annotation; none where something else in it may hold a model."""
    found: set[type] = set()
    for part in _parts(annotation, set()):
        if part is Any or part is object or part is _base() or isinstance(part, TypeVar):
            return frozenset()
        if isinstance(part, type) and issubclass(part, _base()):
            found.add(part)
    return frozenset(found)


_SCALARS: Final = frozenset({bool, int, float, str, bytes, type(None)})


def _scalar_types(annotation: Any) -> frozenset[type]:
    """The exact types of what an annotation lets in, where they are scalars; else none."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [_scalar_types(member) for member in typing.get_args(annotation)]
        return frozenset().union(*members) if all(members) else frozenset()
    if annotation is None:
        return frozenset({type(None)})
    if annotation is float:
        return frozenset({float, int})
    return frozenset({annotation} if annotation in _SCALARS else ())


def _is_ambiguous(annotation: Any, seen: set[int]) -> bool:
    """Return whether there is a union in it of which a model and another container are members."""
    annotation = getattr(annotation, "__value__", annotation)
    if id(annotation) in seen:
        return False
    seen.add(id(annotation))
    metadata = getattr(annotation, "__metadata__", ())
    arguments = typing.get_args(annotation)
    if any(getattr(part, "discriminator", None) for part in metadata):
        return False
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        composed = [each for each in arguments if not _scalar_types(each)]
        if len(composed) > 1 and any(map(_has_fields, composed)):
            return True
    return any(_is_ambiguous(each, seen) for each in arguments)


def _has_fields(annotation: Any) -> bool:
    return (
        hasattr(annotation, "model_fields")
        or dataclasses.is_dataclass(annotation)
        or hasattr(annotation, "__struct_fields__")
        or hasattr(annotation, "__attrs_attrs__")
        or typing.is_typeddict(annotation)
    )


def _parts(annotation: Any, seen: set[int]) -> Iterator[Any]:
    annotation = getattr(annotation, "__value__", annotation)
    yield annotation
    if id(annotation) not in seen:
        seen.add(id(annotation))
        for argument in typing.get_args(annotation):
            yield from _parts(argument, seen)


# -- read -----------------------------------------------------------------------------------


def complete(model: Any) -> None:
    """Finish a model that names types which were not there when it was made.

    Raises:
        NameError, TypeError: they are not there now either, or a field holds what cannot travel.
    """
    todo, seen = [model], {model}
    for each in todo:  # which grows
        if each is _base():
            continue
        if not getattr(each, "__pydantic_complete__", True):
            each.model_rebuild()
        for name, field in each.model_fields.items():
            for part in () if field.exclude else _parts(field.annotation, set()):
                origin = typing.get_origin(part) or part
                if origin in _NEVER:
                    raise TypeError(
                        f"the field {each.__qualname__}.{name} holds a {origin.__name__}, which"
                        " cannot travel: exclude it, or keep it on the environment"
                    )
                if origin is Literal and not _is_remade(each):
                    _refuse_members(each, name, typing.get_args(part))
                if isinstance(part, type) and issubclass(part, _base()) and part not in seen:
                    seen.add(part)
                    todo.append(part)


def _refuse_members(model: Any, name: str, values: Sequence[Any]) -> None:
    """Raise for a ``Literal`` of an enum's member, which pydantic does not read from its value."""
    for value in values:
        if isinstance(value, enum.Enum) and not isinstance(value, str | int):
            raise TypeError(
                f"the field {model.__qualname__}.{name} is a Literal of {value}, which pydantic"
                f" does not read again: write Literal[{value.value!r}], or annotate it with"
                f" {type(value).__name__}"
            )


_NEVER: Final = (Callable, type, Generator, Iterator, types.ModuleType)


def validate(model: Any, value: Any) -> Any:
    """An instance of ``model`` from a decoded tree.

    Raises:
        ValueError: it does not fit; the message names the fields.
    """
    import pydantic

    try:
        result = value if isinstance(value, model) else _validated(model, value)
    except pydantic.ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc'])) or model.__name__}: {item['msg']}"
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise ValueError("; ".join(problems)) from error
    _refuse_dropped(result, value, model.__name__)
    return result


def _validated(model: Any, value: Any) -> Any:
    """``value`` read as Python, or as JSON: a strict model takes text as a date only there."""
    import pydantic

    try:
        return model.model_validate(value)
    except pydantic.ValidationError:
        with contextlib.suppress(ValueError, TypeError, msgspec.MsgspecError):
            if _has_octets(value):  # which JSON would make text of
                return model.model_validate(value, strict=False)
            return model.model_validate_json(msgspec.json.encode(value))
        raise


def _has_octets(tree: Any) -> bool:
    if isinstance(tree, dict):
        return any(map(_has_octets, tree)) or any(map(_has_octets, tree.values()))
    if isinstance(tree, list | tuple):
        return any(map(_has_octets, tree))
    return isinstance(tree, bytes | bytearray | memoryview)


def _refuse_dropped(result: Any, raw: Any, path: str) -> None:
    """Raise for every field in ``raw`` that is not in the pydantic model made from it."""
    if isinstance(raw, dict):
        if hasattr(type(result), "model_fields"):
            model: Any = type(result)
            names = _names_read(model)
            if "extra" not in model.model_config and names is not None:
                for key in raw:
                    if key not in names:
                        raise ValueError(
                            f"Object contains unknown field `{key}` - at {path}"
                            " (set extra in the model's config to change this)"
                        )
            for key, item in raw.items():
                if names is not None and key in names:
                    # not by getattr, which warns of a deprecated field
                    _refuse_dropped(result.__dict__.get(names[key]), item, f"{path}.{key}")
        elif dataclasses.is_dataclass(result):
            for key, item in raw.items():
                if key not in result.__dataclass_fields__:
                    raise ValueError(f"Object contains unknown field `{key}` - at {path}")
                _refuse_dropped(getattr(result, key, None), item, f"{path}.{key}")
        elif isinstance(result, dict):
            if len(raw) > len(result):  # a TypedDict
                unknown = ", ".join(f"`{key}`" for key in raw if key not in result)
                raise ValueError(f"Object contains unknown field {unknown} - at {path}")
            for key, item in raw.items():
                _refuse_dropped(result.get(key), item, f"{path}.{key}")
    elif isinstance(raw, list | tuple) and isinstance(result, list | tuple | deque):
        for i, (item, original) in enumerate(zip(result, raw, strict=False)):
            _refuse_dropped(item, original, f"{path}[{i}]")


@functools.lru_cache(maxsize=1024)
def _names_read(model: Any) -> dict[str, str] | None:
    """Top-level keys that a model reads, and their fields; None where it reads its own way."""
    if model.__pydantic_decorators__.model_serializers:
        validators = model.__pydantic_decorators__.model_validators.values()
        if any(made.info.mode != "after" for made in validators):
            return None
    return {
        each if isinstance(each, str) else str(each.path[0]): name
        for name in model.model_fields
        for each in reading_names(model, name)
    }


def ignores_unknown(model: Any) -> bool:
    """Return whether an author's model drops what it does not know, by its own setting."""
    return getattr(model, "model_config", {}).get("extra") == "ignore"


def model_schema(model: Any, custom: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """JSON Schema of a model; ``custom`` gives that of a class pydantic knows nothing of."""
    from pydantic.json_schema import GenerateJsonSchema

    class Generator(GenerateJsonSchema):
        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

        def is_instance_schema(self, schema: Any) -> dict[str, Any]:
            return custom(schema["cls"])

        def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> dict[str, Any]:
            return {}

    template = f"#/$defs/{model.__name__}.{{model}}"
    result: dict[str, Any] = model.model_json_schema(
        ref_template=template, schema_generator=Generator
    )
    return result
