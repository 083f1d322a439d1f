"""Unknown fields are refused, nested ones too.

msgspec ignores unknown fields of all but Structs, so a *mirror* of the model is made once: the
same shape of Structs with ``forbid_unknown_fields`` whose leaves stay raw. A payload is read
with the mirror (0.1 µs), then for good. Data without a mirror is decoded and looked through.
"""

from __future__ import annotations

from inspect import getattr_static
from types import MemberDescriptorType
from typing import Any, Final, Literal, NamedTuple, Union

import msgspec
from msgspec import inspect

from openenv_async.models.inspection import (
    ARRAYS,
    OBJECTS,
    may_have_tag,
    parts,
    typed_items,
    walk,
)

__all__ = ["Whole", "is_open", "mirror", "refuse_unknown", "whole_map"]

_FIXMAP: Final = 0x80
_MAX_FIXMAP: Final = 15
"""Entries of the greatest map whose MessagePack header is one byte, ``0x80`` and the number."""
_HOOKS: Final = ("__post_init__", "__attrs_attrs__")
"""Marks of classes that may change what was decoded."""


class Whole(NamedTuple):
    """The MessagePack map that has room for the fields of a model alone.

    A model that was read from a map of as many entries as it has fields has found each of them in
    one, so none is left for an unknown one. A field that may be missing was found if its value is
    not the very object that stands for a missing one.

    Attributes:
        header: the first byte of the map.
        defaults: the names of the fields that may be missing, and their values then.
    """

    header: int
    defaults: tuple[tuple[str, Any], ...]


def is_open(info: inspect.Type) -> bool:
    """Return whether msgspec would drop a field somewhere in this type without a word."""
    return any(
        isinstance(part, OBJECTS)
        and not (isinstance(part, inspect.StructType) and part.forbid_unknown_fields)
        for part in walk(info)
    )


def whole_map(info: inspect.Type) -> Whole | None:
    """Return how to tell that a map has no room for an unknown field, of a model that allows it."""
    if not isinstance(info, (inspect.DataclassType, inspect.StructType)):
        return None
    fields = info.fields
    is_map = isinstance(info, inspect.DataclassType) or not (
        info.array_like or info.tag_field is not None
    )
    if not is_map or len(fields) > _MAX_FIXMAP or any(is_open(field.type) for field in fields):
        return None
    defaults: list[tuple[str, Any]] = []
    for field in fields:
        if not field.required:
            if field.default is msgspec.NODEFAULT or not _stays(info.cls, field.name):
                return None
            defaults.append((field.name, field.default))
    return Whole(_FIXMAP | len(fields), tuple(defaults))


def _stays(cls: type, name: str) -> bool:
    """Return whether a decoded field is read as the decoder has set it."""
    if any(hasattr(cls, hook) for hook in _HOOKS):
        return False
    if getattr_static(cls, "__getattribute__") is not object.__getattribute__:
        return False
    found = getattr_static(cls, name, None)
    return isinstance(found, MemberDescriptorType) or not hasattr(type(found), "__get__")


def mirror(info: inspect.Type, made: dict[Any, Any]) -> Any:
    """A type that accepts what ``info`` does and more, but no unknown field.

    Raises:
        TypeError, ValueError: there is none; ``refuse_unknown`` does its work.
    """
    if not is_open(info) or isinstance(info, inspect.CustomType):
        return msgspec.Raw
    if isinstance(info, (*OBJECTS, inspect.NamedTupleType)):
        return _mirror_object(info, made)
    inner = tuple(mirror(part, made) for part in parts(info))
    if isinstance(info, ARRAYS):
        return list[inner[0]]  # type: ignore[valid-type] # made at run time
    if isinstance(info, inspect.TupleType):
        return tuple[inner]  # type: ignore[valid-type] # made at run time
    if isinstance(info, inspect.DictType):
        return dict[Any, inner[0]]  # type: ignore[valid-type] # made at run time
    if isinstance(info, inspect.UnionType):
        return Union[tuple(_mirror_member(part, made) for part in info.types)]  # noqa: UP007
    return inner[0]


def _mirror_object(info: Any, made: dict[Any, Any]) -> Any:
    if info.cls in made:
        return made[info.cls]
    fields = {f"f{i}": field for i, field in enumerate(info.fields)}
    options: dict[str, Any] = {"forbid_unknown_fields": True}
    if isinstance(info, inspect.StructType):
        options |= {"array_like": info.array_like, "tag_field": info.tag_field, "tag": info.tag}
    elif isinstance(info, inspect.NamedTupleType):
        options["array_like"] = True
    copy = msgspec.defstruct(
        getattr(info.cls, "__name__", "Mirror"),
        [(name, msgspec.Raw, None) for name in fields],
        rename={name: field.encode_name for name, field in fields.items()},
        gc=False,
        **options,
    )
    made[info.cls] = copy
    # msgspec reads annotations when the decoder is made: until then a type may name itself.
    for name, field in fields.items():
        copy.__annotations__[name] = mirror(field.type, made)
    return copy


_PLAIN_TYPES: Final[dict[type[inspect.Type], Any]] = {
    inspect.NoneType: None,
    inspect.BoolType: bool,
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.BytesType: bytes,
    inspect.ByteArrayType: bytes,
    inspect.MemoryViewType: bytes,
}


def _mirror_member(info: inspect.Type, made: dict[Any, Any]) -> Any:
    """The mirror inside a union, where a raw member would swallow the others."""
    if is_open(info):
        return mirror(info, made)
    if isinstance(info, inspect.EnumType):
        return info.cls
    if isinstance(info, inspect.LiteralType):
        return Literal[info.values]
    if isinstance(info, inspect.Metadata):
        return _mirror_member(info.type, made)
    if isinstance(info, inspect.StructType):
        return info.cls
    if isinstance(info, (*ARRAYS, inspect.TupleType, inspect.NamedTupleType)):
        return list[msgspec.Raw]
    if isinstance(info, inspect.DictType):
        return dict[Any, msgspec.Raw]
    plain = _PLAIN_TYPES.get(type(info), _PLAIN_TYPES)
    if plain is _PLAIN_TYPES:
        raise TypeError("no mirror for this union")  # read the slow way
    return plain


def refuse_unknown(info: inspect.Type, tree: Any, path: str = "$") -> None:
    """The mirror's work on a decoded tree.

    Raises:
        msgspec.ValidationError: there is an unknown field.
    """
    if isinstance(info, inspect.Metadata):
        refuse_unknown(info.type, tree, path)
    elif isinstance(info, inspect.UnionType):
        for member in info.types:
            if may_have_tag(member, tree):
                refuse_unknown(member, tree, path)
    else:
        is_object = isinstance(info, OBJECTS)
        if is_object:
            _check_names(info, tree, path)
        has_names = is_object and isinstance(tree, dict)
        for key, kind, item in typed_items(info, tree):
            refuse_unknown(kind, item, f"{path}.{key}" if has_names else f"{path}[{key!r}]")


def _check_names(info: Any, tree: Any, path: str) -> None:
    tag = getattr(info, "tag", None)
    if getattr(info, "array_like", False):
        if isinstance(tree, list) and len(tree) > len(info.fields) + (tag is not None):
            raise msgspec.ValidationError(f"Array has unknown items - at `{path}`")
    elif isinstance(tree, dict):
        names = {field.encode_name for field in info.fields}
        if tag is not None:
            names.add(info.tag_field)
        for key in tree:
            if key not in names:
                raise msgspec.ValidationError(
                    f"Object contains unknown field `{key}` - at `{path}`"
                )
