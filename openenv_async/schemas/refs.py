"""References of JSON Schemas, followed: the one place that reads ``$ref``.

A reference is a JSON Pointer within the schema (RFC 6901): ``#``, ``#/$defs/Move``,
``#/properties/a~1b``, ``#/prefixItems/0``; ``~1`` is a slash, ``~0`` a tilde, and ``%25`` a percent
sign, since it is part of a URI. Keys beside a reference count as well (JSON Schema
2020-12): they are laid over what the reference points to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from openenv_async.errors import InvalidModel

__all__ = ["pointed_to", "resolved"]


def resolved(schema: Any, root: Any) -> Any:
    """Return a schema without the reference that it is, or the chain of them.

    References further inside stay: a schema may contain itself there.

    Args:
        schema: a schema, or a part of one.
        root: the whole schema, in which references are looked up.

    Returns:
        The schema itself where it has no reference; else a new mapping, or ``True`` or ``False``.

    Raises:
        InvalidModel: a reference points to nothing, out of the schema, or through others to itself.
    """
    beside: list[Mapping[str, Any]] = []
    followed: list[Any] = []
    while isinstance(schema, Mapping) and "$ref" in schema:
        ref = schema["$ref"]
        if ref in followed:
            raise InvalidModel(f"the schema's reference {ref!r:.200} leads back to itself")
        followed.append(ref)
        beside.append({key: value for key, value in schema.items() if key != "$ref"})
        schema = pointed_to(ref, root)
    if not isinstance(schema, Mapping):
        # True says nothing, so what is beside a reference to it says all; False fits nothing.
        if schema is False or not any(beside):
            return schema
        schema = {}
    if not beside:
        return schema
    merged = dict(schema)
    for more in reversed(beside):
        merged |= more
    return merged


def pointed_to(ref: Any, root: Any) -> Any:
    """Return the part of a schema that a reference points to, which may be a reference itself.

    Raises:
        InvalidModel: there is no such part.
    """
    if not isinstance(ref, str) or not (ref == "#" or ref.startswith("#/")):
        raise InvalidModel(f"the schema refers to {ref!r:.200}, which is not within it")
    found: Any = root
    for token in unquote(ref[1:]).split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and key in found:
            found = found[key]
        elif isinstance(found, list) and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            raise InvalidModel(f"the schema refers to {ref!r:.200}, which it does not have")
    if not isinstance(found, Mapping | bool):
        raise InvalidModel(f"the schema refers to {ref!r:.200}, which is not a schema")
    return found
