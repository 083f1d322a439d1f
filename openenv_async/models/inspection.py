"""An author's type: msgspec's description of it, walked and asked."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterator
from typing import Any, Final, Literal

import msgspec
from msgspec import inspect

from openenv_async.errors import InvalidModel
from openenv_async.models.choices import Choice, Holder, Member, literal_values, with_choices
from openenv_async.models.foreign import is_text_type
from openenv_async.models.pydantic import complete, wire_names

__all__ = [
    "ARRAYS",
    "BAD_DATA",
    "OBJECTS",
    "choice_of",
    "classes",
    "custom_kind",
    "described",
    "fault_of",
    "field_names",
    "holder_of",
    "late_fields",
    "may_have_tag",
    "parts",
    "travels_whole",
    "type_info",
    "type_name",
    "typed_items",
    "walk",
]

OBJECTS: Final = (inspect.DataclassType, inspect.TypedDictType, inspect.StructType)
ARRAYS: Final = (
    inspect.ListType,
    inspect.SetType,
    inspect.FrozenSetType,
    inspect.VarTupleType,
)


# Raised on bad data by msgspec, NumPy, pydantic and a model's own __post_init__ or validators.
BAD_DATA: Final = (
    msgspec.MsgspecError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    AssertionError,
    RecursionError,
)


def type_name(model: Any) -> str:
    return model.__qualname__ if isinstance(model, type) else str(model)


def type_info(model: Any) -> inspect.Type:
    """A model as msgspec describes it.

    Raises:
        InvalidModel: the type cannot be a model; the message says why.
    """
    return described(model)[1]


def described(model: Any) -> tuple[Any, inspect.Type]:
    """A model as msgspec reads it (see ``choices``), and its description.

    Raises:
        InvalidModel: the type cannot be a model; the message says why.
    """
    try:
        read = with_choices(model, _member)
        info = inspect.type_info(read)
        for part in walk(info):
            if isinstance(part, inspect.CustomType):
                kind = custom_kind(part.cls)
                if kind is None:
                    raise TypeError(
                        f"{type_name(part.cls)} is not a type that travels; use plain types,"
                        " arrays or one of the model types"
                    )
                if kind == "pydantic":
                    complete(part.cls)
            elif isinstance(part, inspect.DictType) and not _may_be_key(part.key_type):
                raise TypeError(
                    "a model, list or dict cannot be a key of a dict; use text or a tuple"
                )
        for cls in classes(info):
            if fault := fault_of(cls):
                raise TypeError(fault)
    except InvalidModel:
        raise
    except Exception as error:  # annotations are the author's code, evaluated here
        raise InvalidModel(
            f"{type_name(model)} cannot be a model: {error}{_remedy(str(error))}"
        ) from error
    return read, info


def _may_be_key(info: inspect.Type) -> bool:
    """Return whether a decoded value of a type can be a key."""
    unhashable = (*OBJECTS, inspect.DictType, inspect.ListType, inspect.SetType)
    return not any(
        isinstance(part, unhashable)
        or (
            isinstance(part, inspect.CustomType) and custom_kind(part.cls) not in ("scalar", "text")
        )
        for part in walk(info)
    )


def _member(model: Any) -> tuple[inspect.Type, Member | None]:
    """The description of a model, and itself as a member of a union if it is an object."""
    read, info = described(model)
    words: dict[str, frozenset[Any] | None]
    if isinstance(info, inspect.CustomType) and custom_kind(info.cls) == "pydantic":
        cls: Any = info.cls
        wires = wire_names(cls)
        if field_names(model) is None:
            raise TypeError(f"{type_name(model)} takes any field and cannot be told in a union")
        names = frozenset(wires.values())
        needed = {wire for name, wire in wires.items() if cls.model_fields[name].is_required()}
        words = {
            wire: literal_values(cls.model_fields[name].annotation) for name, wire in wires.items()
        }
    elif isinstance(info, OBJECTS) and not getattr(info, "array_like", False):
        names = frozenset(field.encode_name for field in info.fields)
        needed = {field.encode_name for field in info.fields if field.required}
        words = {field.encode_name: literal_values(field.type) for field in info.fields}
        if isinstance(info, inspect.StructType) and info.tag is not None:
            field = str(info.tag_field)
            words[field] = frozenset({info.tag})
            names |= {field}
            needed.add(field)
    elif (holder := holder_of(info)) is not None:
        names = frozenset(holder.fields)
        needed = {name for name, field in holder.fields.items() if field.required}
        words = {name: literal_values(field.type) for name, field in holder.fields.items()}
    else:
        return info, None
    told = {name: values for name, values in words.items() if values is not None}
    return info, Member(read, info, names, frozenset(needed), told)


_REMEDIES: Final = (
    ("InitVar", "make it a field, or compute it in __post_init__"),
    ("Literal may only", "write the values themselves: Literal['red'] for Literal[Color.RED]"),
    (
        "more than one dataclass",
        "give both as Structs with a tag: class A(msgspec.Struct, tag=True)",
    ),
    ("more than one dict-like", "use one of them, or Any"),
    ("more than one str-like", "use one of them, or Any"),
    ("more than one array-like", "use one of them, or Any"),
    ("all Struct types must be tagged", "class A(msgspec.Struct, tag=True)"),
    ("Enums must contain", "give its members the one kind of value"),
    ("is not defined", "import it for real, not under TYPE_CHECKING, at the module's top level"),
)


def _remedy(reason: str) -> str:
    return next((f" ({remedy})" for word, remedy in _REMEDIES if word in reason), "")


def field_names(model: Any) -> frozenset[str] | None:
    """The names on the wire that a model accepts; None when it accepts any, or has no fields."""
    info = type_info(model)
    if isinstance(info, inspect.CustomType) and custom_kind(info.cls) == "pydantic":
        if info.cls.model_config.get("extra") == "allow":  # type: ignore[attr-defined] # a BaseModel
            return None
        return frozenset(wire_names(info.cls).values())
    if (holder := holder_of(info)) is not None:
        return frozenset(holder.fields)
    if isinstance(info, (*OBJECTS, inspect.NamedTupleType)):
        return frozenset(field.encode_name for field in info.fields)
    return None


_Kind = Literal["array", "scalar", "pydantic", "text", "choice", "holder"]


def custom_kind(annotation: Any) -> _Kind | None:
    """Return the kind of a type that msgspec does not know."""
    cls = getattr(annotation, "__origin__", annotation)
    if isinstance(cls, type):
        numpy, pydantic = sys.modules.get("numpy"), sys.modules.get("pydantic")
        if numpy is not None and cls is numpy.ndarray:
            return "array"
        if numpy is not None and issubclass(cls, numpy.generic):
            return "scalar"
        if pydantic is not None and issubclass(cls, pydantic.BaseModel):
            return "pydantic"
        if is_text_type(cls):
            return "text"
        if issubclass(cls, Choice):
            return "choice"
        if issubclass(cls, Holder):
            return "holder"
    return None


@functools.lru_cache(maxsize=4096)
def fault_of(cls: type) -> str | None:
    """Return why msgspec would drop a part of a dataclass or attrs class without a word."""
    for field in getattr(cls, "__attrs_attrs__", ()):
        if field.name.startswith("_"):
            return f"the attrs field {type_name(cls)}.{field.name} would not travel; rename it"
    names = getattr(cls, "__dataclass_fields__", None) or getattr(cls, "__attrs_attrs__", None)
    if names and issubclass(cls, (dict, list, tuple, set, frozenset, str, bytes, int, float)):
        base = next(kind for kind in cls.__mro__ if kind.__module__ == "builtins")
        return (
            f"{type_name(cls)} has fields and is a {base.__name__} too, so that they would not"
            " travel; hold one in a field"
        )
    return None


@functools.lru_cache(maxsize=4096)
def travels_whole(cls: type) -> bool:
    """Return whether msgspec drops nothing of any instance of a class."""
    return fault_of(cls) is None and not late_fields(cls)


@functools.lru_cache(maxsize=4096)
def late_fields(cls: type) -> tuple[str, ...]:
    """Fields of a dataclass or attrs class that an instance may lack: ``init=False``."""
    fields = getattr(cls, "__attrs_attrs__", None)
    if fields is None:
        fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return tuple(field.name for field in fields if not field.init)


def choice_of(info: inspect.Type) -> type[Choice] | None:
    """The union that a description stands for."""
    if isinstance(info, inspect.CustomType) and custom_kind(info.cls) == "choice":
        return info.cls
    return None


def holder_of(info: inspect.Type) -> type[Holder] | None:
    """Return what stands for a class that is read field by field."""
    if isinstance(info, inspect.CustomType) and custom_kind(info.cls) == "holder":
        return info.cls
    return None


def classes(info: inspect.Type) -> Iterator[Any]:
    """The dataclasses and attrs classes in a type."""
    for part in walk(info):
        if isinstance(part, inspect.DataclassType):
            yield part.cls
        elif (holder := holder_of(part)) is not None:
            yield holder.cls


def parts(info: inspect.Type) -> tuple[inspect.Type, ...]:
    """The types directly inside a type."""
    if isinstance(info, (*OBJECTS, inspect.NamedTupleType)):
        return tuple(field.type for field in info.fields)
    if isinstance(info, ARRAYS):
        return (info.item_type,)
    if isinstance(info, inspect.TupleType):
        return info.item_types
    if isinstance(info, inspect.DictType):
        return (info.value_type,)
    if isinstance(info, inspect.UnionType):
        return info.types
    if isinstance(info, inspect.Metadata):
        return (info.type,)
    if (choice := choice_of(info)) is not None:
        return tuple(member.info for member in choice.members)
    if (holder := holder_of(info)) is not None:
        return tuple(field.info for field in holder.fields.values())
    return ()


def walk(info: inspect.Type) -> Iterator[inspect.Type]:
    """Every type reachable from ``info``, each once (types may refer to themselves)."""
    seen: set[int] = set()
    todo = [info]
    while todo:
        part = todo.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            todo.extend(parts(part))


def typed_items(info: inspect.Type, tree: Any) -> Iterator[tuple[Any, inspect.Type, Any]]:
    """Key or index, declared type and value of each part of a decoded tree that has a type.

    Unions are the caller's to resolve, with ``may_have_tag``.
    """
    if isinstance(tree, dict):
        if isinstance(info, inspect.DictType):
            yield from ((key, info.value_type, item) for key, item in tree.items())
        elif isinstance(info, OBJECTS):
            kinds = {field.encode_name: field.type for field in info.fields}
            yield from ((key, kinds[key], item) for key, item in tree.items() if key in kinds)
    elif isinstance(tree, list | tuple):
        if isinstance(info, ARRAYS):
            yield from ((i, info.item_type, item) for i, item in enumerate(tree))
        elif isinstance(info, inspect.TupleType | inspect.NamedTupleType) or (
            isinstance(info, inspect.StructType) and info.array_like
        ):
            first = 0 if getattr(info, "tag", None) is None else 1
            for i, (kind, item) in enumerate(zip(parts(info), tree[first:], strict=False), first):
                yield i, kind, item


def may_have_tag(info: inspect.Type, tree: Any) -> bool:
    """Return whether ``tree`` may be this member of a union, as far as its tag tells."""
    if not isinstance(info, inspect.StructType) or info.tag is None:
        return True
    if info.array_like:
        return isinstance(tree, list) and tree[:1] == [info.tag]
    return isinstance(tree, dict) and tree.get(info.tag_field) == info.tag
