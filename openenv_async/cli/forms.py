"""Forms from a JSON Schema: what a field takes, and what was typed as a value of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from openenv_async.schemas.fit import misfit

__all__ = ["ask", "kind_of", "resolve"]


def resolve(schema: Any, root: Mapping[str, Any]) -> dict[str, Any]:
    """A schema without its first references."""
    for _ in range(16):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            break
        target: Any = root
        for part in schema["$ref"].removeprefix("#").strip("/").split("/"):
            target = target[part.replace("~1", "/").replace("~0", "~")] if part else target
        schema = target
    return dict(schema) if isinstance(schema, Mapping) else {}


def kind_of(schema: Any, root: Mapping[str, Any]) -> str:
    """What a schema takes, in a few words: ``integer 0 to 99``."""
    found = resolve(schema, root)
    if "enum" in found:
        return " | ".join(json.dumps(each) for each in found["enum"])
    if "const" in found:
        return json.dumps(found["const"])
    for key in ("anyOf", "oneOf"):
        if key in found:
            return " or ".join(dict.fromkeys(kind_of(each, root) for each in found[key]))
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
        text += f" of {kind_of(found['items'], root)}"
    return text


def ask(schema: Mapping[str, Any], read: Callable[[str], str], say: Callable[[str], None]) -> Any:
    """A value that fits a schema, asked for field by field until it does.

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
    found = resolve(schema, root)
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
    found = resolve(schema, root)
    hint = kind_of(schema, root)
    if not required:
        hint += f", empty for {json.dumps(found.get('default'))}"
    while True:
        text = read(f"{name} ({hint}): ")
        if not text.strip() and not required:
            return _LEFT_OUT
        value = _typed(text, found)
        problem = misfit(value, {**found, "$defs": root.get("$defs", {})})
        if problem is None:
            return value
        say(f"{name}: {problem.removeprefix('$ ')}")


def _typed(text: str, schema: Mapping[str, Any]) -> Any:
    """What was typed, as JSON where that makes what is wanted, else as text."""
    if schema.get("type") == "string" and "enum" not in schema:
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text.strip()
    if "x-ndarray" in schema and isinstance(value, int | float | list):
        import numpy as np

        return np.asarray(value, schema["x-ndarray"].get("dtype"))
    if misfit(value, dict(schema)) is not None and misfit(text.strip(), dict(schema)) is None:
        return text.strip()
    return value
