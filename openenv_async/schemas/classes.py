"""Classes made from a server's JSON Schema, for callers without those of its environment.

An object becomes a dataclass with the fields that the schema names, nested ones too; anything
else stays the plain value it is. A value that is read may have more fields than the schema says:
servers grow.

A field that is not required is left out when it is not given, so that its default is the server's.
It reads as the default that the schema tells; ``msgspec.UNSET`` where it tells none, such as that
of a ``default_factory``, or none that it would take.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from openenv_async.errors import InvalidModel
from openenv_async.schemas.refs import resolved

__all__ = ["Model", "model_from_schema"]

_DEEPEST: Final = 16
_PLAIN: Final[dict[str, Any]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """A class, and how a value of it is made from what a message holds.

    Attributes:
        type: a dataclass, or ``Any``.
        read: plain values in, a ``type`` out; what does not fit is given back as it is.
    """

    type: Any
    read: Callable[[Any], Any]


def model_from_schema(schema: Mapping[str, Any] | None, name: str) -> Model:
    """Return the model of a schema.

    Args:
        schema: of an action, an observation or a state; ``None`` where there is none.
        name: of the class, where the schema has no title.
    """
    return _model(schema or {}, name, schema or {}, 0)


def _model(schema: Any, name: str, root: Mapping[str, Any], depth: int) -> Model:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return Model(Any, _same)
    if "$ref" in schema:
        return _model(_followed(schema, root), name, root, depth + 1)
    if "x-ndarray" in schema:
        return Model(Any, _same)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _optional(schema[key], name, root, depth)
    kind = schema.get("type")
    if schema.get("properties") and kind in (None, "object"):
        return _dataclass(schema, name, root, depth)
    if kind == "array" and isinstance(schema.get("items"), Mapping):
        item = _model(schema["items"], f"{name}Item", root, depth + 1)
        return Model(list, _list_reader(item.read))
    return Model(_PLAIN.get(kind, Any) if isinstance(kind, str) else Any, _same)


def _followed(schema: Any, root: Mapping[str, Any]) -> Any:
    """Return what a reference leads to: the empty schema where it leads to nothing."""
    try:
        return resolved(schema, root)
    except InvalidModel:  # a class for the rest is of more use than none
        return {}


def _optional(members: Any, name: str, root: Mapping[str, Any], depth: int) -> Model:
    """Return the model of one thing or null; a real choice stays as it is."""
    others = [m for m in members if not (isinstance(m, Mapping) and m.get("type") == "null")]
    if len(others) != 1:
        return Model(Any, _same)
    inner = _model(others[0], name, root, depth + 1)
    return Model(inner.type | None if isinstance(inner.type, type) else Any, inner.read)


def _dataclass(schema: Mapping[str, Any], name: str, root: Mapping[str, Any], depth: int) -> Model:
    title = re.sub(r"\W", "", str(schema.get("title", ""))) or name
    required = set(schema.get("required", ()))
    models: dict[str, Model] = {}
    fields: list[Any] = []
    shared: set[str] = set()
    for key, part in schema["properties"].items():
        if not key.isidentifier() or keyword.iskeyword(key):
            return Model(dict, _same)  # no attribute can have this name
        inner = _model(part, title + key.title().replace("_", ""), root, depth + 1)
        models[key] = inner
        if key in required:
            fields.append((key, inner.type))
        else:
            default = _default(part, root)
            if isinstance(default, list | dict):
                made_anew: Any = dataclasses.field(default_factory=_fresh(default))
                fields.append((key, inner.type, made_anew))
            else:
                shared.add(key)
                fields.append((key, inner.type, dataclasses.field(default=default)))
    fields.sort(key=len)  # those without a default come first
    made = dataclasses.make_dataclass(title, fields)
    made.__doc__ = str(schema.get("description") or title)
    _set_what_is_given(made, [field[0] for field in fields], shared)

    def read(data: Any) -> Any:
        if not isinstance(data, Mapping) or not required <= data.keys():
            return data
        return made(**{key: m.read(data[key]) for key, m in models.items() if key in data})

    return Model(made, read)


def _default(schema: Any, root: Mapping[str, Any]) -> Any:
    """Return the default that a property's schema tells, if it would take it itself."""
    if not isinstance(schema, Mapping):
        return msgspec.UNSET
    default = schema.get("default", msgspec.UNSET)
    return default if default is not None or _is_nullable(schema, root, 0) else msgspec.UNSET


def _is_nullable(schema: Any, root: Mapping[str, Any], depth: int) -> bool:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return schema is True
    if "$ref" in schema:
        return _is_nullable(_followed(schema, root), root, depth + 1)
    members = schema.get("anyOf") or schema.get("oneOf")
    if members:
        return any(_is_nullable(member, root, depth + 1) for member in members)
    kind = schema.get("type")
    if "const" in schema or "enum" in schema:
        return None in schema.get("enum", [schema.get("const")])
    return kind is None or kind == "null" or (isinstance(kind, list) and "null" in kind)


def _set_what_is_given(made: Any, names: list[str], shared: set[str]) -> None:
    """Make instances hold what they were given only, and take the rest from their class."""
    generated = made.__init__

    @functools.wraps(generated)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        generated(self, *args, **kwargs)
        for name in shared.difference(names[: len(args)], kwargs):
            del self.__dict__[name]

    made.__init__ = init


def _fresh(default: Any) -> Callable[[], Any]:
    return lambda: copy.deepcopy(default)


def _list_reader(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if read is _same:
        return _same
    return lambda data: [read(item) for item in data] if isinstance(data, list) else data


def _same(data: Any) -> Any:
    return data
