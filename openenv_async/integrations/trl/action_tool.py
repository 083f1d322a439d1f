"""A tool made of an environment's action schema: a parameter for each of the action's fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

from openenv_async.errors import OperationUnsupported
from openenv_async.schemas.refs import resolved

__all__ = ["action_function"]

_TYPES: Final[dict[str, Any]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "object": dict,
    "null": None,
}
_DEEPEST: Final = 16
"""Levels that a hint tells of a schema, which may contain itself."""


def action_function(name: str, schema: Mapping[str, Any]) -> Callable[..., Any]:
    """A function that makes an action of its arguments, by the action's schema."""
    root, schema = schema, resolved(schema, schema)
    properties: Mapping[str, Any] = schema.get("properties", {})
    if schema.get("type") != "object" or not all(map(str.isidentifier, properties)):
        raise OperationUnsupported(
            "the action of this environment is not an object of named fields: give tools="
        )
    required = set(schema.get("required", ()))
    parameters, lines = [], []
    ordered = sorted(properties.items(), key=lambda item: item[0] not in required)
    for field, of_field in ordered:
        each = resolved(of_field, root)
        if not isinstance(each, Mapping):  # true: any value
            each = {}
        default = inspect.Parameter.empty if field in required else each.get("default")
        hint = _hint(each, root)
        if field not in required and default is None:
            hint = hint | None if hint is not Any else Any
        parameters.append(
            inspect.Parameter(
                field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint
            )
        )
        about = " ".join(str(each.get("description", "")).split()) or f"The {field}."
        if "enum" in each:
            about += f" One of {', '.join(map(str, each['enum']))}."
        lines.append(f"    {field}: {about}")
    about = " ".join(str(schema.get("description") or "Take one action.").split())

    def tool(**fields: Any) -> Any:
        return {key: value for key, value in fields.items() if value is not None}

    tool.__name__ = tool.__qualname__ = name
    tool.__doc__ = "\n".join([about, "", "Args:", *lines]) if lines else about
    tool.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by inspect
    return tool


def _hint(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """Return the Python type of a schema, as far as tool schemas can say it."""
    schema = resolved(schema, root)
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return Any
    kinds = schema.get("anyOf") or schema.get("oneOf")
    if kinds:
        hints = [_hint(each, root, depth + 1) for each in kinds]
        if Any in hints:
            return Any
        found: Any = hints[0]
        for each in hints[1:]:
            found = found | each
        return found
    kind = schema.get("type")
    if isinstance(kind, list):
        return _hint({"anyOf": [{"type": each} for each in kind]}, root, depth + 1)
    if kind == "array":
        items = schema.get("items")
        return list[_hint(items, root, depth + 1)] if items else list  # type: ignore[misc]  # made at run time
    if kind is None and "enum" in schema:
        return type(schema["enum"][0])
    return _TYPES.get(str(kind), Any)
