"""Forms from a JSON Schema: fields are asked for, and what was typed is read as their values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from openenv_async.renamed import renamed_attributes
from openenv_async.schemas.fit import misfit
from openenv_async.schemas.refs import resolved

__all__ = ["ask", "described", "kind_of"]


_DEEPEST: Final = 8
"""Levels of alternatives and items that are told of a schema, which may contain itself."""


def described(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema as a mapping without references; an empty one where it says nothing.

    Raises:
        InvalidModel: a reference leads to nothing.
    """
    found = resolved(schema, root)
    return found if isinstance(found, Mapping) else {}


def kind_of(schema: Any, root: Mapping[str, Any], depth: int = 0) -> str:
    """Return in a few words what a schema takes: ``integer 0 to 99``.

    Args:
        schema: a schema, or a part of one.
        root: the whole schema.
        depth: of the part in what is told, at most eight.
    """
    found = described(schema, root) if depth <= _DEEPEST else {}
    if "enum" in found:
        return " | ".join(json.dumps(each) for each in found["enum"])
    if "const" in found:
        return json.dumps(found["const"])
    for key in ("anyOf", "oneOf"):
        if key in found:
            return " or ".join(dict.fromkeys(kind_of(each, root, depth + 1) for each in found[key]))
    if "x-ndarray" in found:
        about = found["x-ndarray"]
        shape = "×".join(
            "?" if size in (None, -1) else str(size) for size in about.get("shape", ())
        )
        return " ".join(part for part in ("array", about.get("dtype", ""), shape) if part)
    kind = found.get("type", "anything")
    text = " or ".join(kind) if isinstance(kind, list) else str(kind)
    low, high = found.get("minimum"), found.get("maximum")
    if low is not None and high is not None:
        text += f" {low} to {high}"
    elif low is not None or high is not None:
        text += f" from {low}" if low is not None else f" to {high}"
    if text == "array" and isinstance(found.get("items"), Mapping):
        text += f" of {kind_of(found['items'], root, depth + 1)}"
    return text


def ask(schema: Mapping[str, Any], read: Callable[[str], str], say: Callable[[str], None]) -> Any:
    """Return a value that fits a schema, asked for field by field until it does.

    Args:
        schema: of an action.
        read: shows a prompt and gives a line; what it raises ends the form.
        say: shows a line.
    """
    while True:
        value = _value(schema, schema, "action", read, say)
        problem = misfit(value, schema)
        if problem is None:
            return value
        say(f"that does not fit: {problem}")


def _value(
    schema: Any,
    root: Mapping[str, Any],
    name: str,
    read: Callable[[str], str],
    say: Callable[[str], None],
) -> Any:
    found = described(schema, root)
    properties = found.get("properties")
    if properties:
        required = set(found.get("required", ()))
        filled = {}
        for key, part in properties.items():
            given = _field(part, root, key, key in required, read, say)
            if given is not _LEFT_OUT:
                filled[key] = given
        return filled
    return _field(schema, root, name, True, read, say)


_LEFT_OUT = object()


def _field(
    schema: Any,
    root: Mapping[str, Any],
    name: str,
    required: bool,
    read: Callable[[str], str],
    say: Callable[[str], None],
) -> Any:
    found = described(schema, root)
    hint = kind_of(schema, root)
    if not required:
        hint += f", empty for {json.dumps(found.get('default'))}"
    while True:
        text = read(f"{name} ({hint}): ")
        if not text.strip() and not required:
            return _LEFT_OUT
        value = _typed(text, found, root)
        problem = misfit(value, schema, root)
        if problem is None:
            return value
        say(f"{name}: {problem.removeprefix('$ ')}")


def _typed(text: str, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """Return what was typed: as JSON where that makes what is wanted, else as text."""
    if schema.get("type") == "string" and "enum" not in schema:
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text.strip()
    if "x-ndarray" in schema and isinstance(value, int | float | list):
        import numpy as np

        return np.asarray(value, schema["x-ndarray"].get("dtype"))
    if misfit(value, schema, root) is not None and misfit(text.strip(), schema, root) is None:
        return text.strip()
    return value


__getattr__ = renamed_attributes(__name__, {"resolve": "described"})
