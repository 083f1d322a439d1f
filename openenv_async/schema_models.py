"""Classes made from a server's JSON Schema, for who has none of its environment's own.

An object becomes a dataclass with the fields that the schema names, nested ones too; anything
else stays the plain value it is. What is read may have more fields than the schema says: servers
grow.
"""

from __future__ import annotations

import dataclasses
import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

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
    """The model of a schema.

    Args:
        schema: of an action, an observation or a state; ``None`` where there is none.
        name: of the class, where the schema has no title.
    """
    return _model(schema or {}, name, schema or {}, 0)


def _model(schema: Any, name: str, root: Mapping[str, Any], depth: int) -> Model:
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return Model(Any, _same)
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#").strip("/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")] if part else target
        return _model(target, name, root, depth + 1)
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


def _optional(members: Any, name: str, root: Mapping[str, Any], depth: int) -> Model:
    """One thing or null; a real choice stays as it is."""
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
    for key, part in schema["properties"].items():
        if not key.isidentifier() or keyword.iskeyword(key):
            return Model(dict, _same)  # no attribute can have this name
        inner = _model(part, title + key.title().replace("_", ""), root, depth + 1)
        models[key] = inner
        if key in required:
            fields.append((key, inner.type))
        else:
            default = part.get("default") if isinstance(part, Mapping) else None
            fields.append((key, inner.type, dataclasses.field(default_factory=_fresh(default))))
    fields.sort(key=len)  # those without a default come first
    made = dataclasses.make_dataclass(title, fields)
    made.__doc__ = str(schema.get("description") or title)

    def read(data: Any) -> Any:
        if not isinstance(data, Mapping) or not required <= data.keys():
            return data
        return made(**{key: m.read(data[key]) for key, m in models.items() if key in data})

    return Model(made, read)


def _fresh(default: Any) -> Callable[[], Any]:
    """Makes a default; lists and dicts anew each time."""
    if isinstance(default, list | dict):
        return lambda: type(default)(default)
    return lambda: default


def _list_reader(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    if read is _same:
        return _same
    return lambda data: [read(item) for item in data] if isinstance(data, list) else data


def _same(data: Any) -> Any:
    return data
