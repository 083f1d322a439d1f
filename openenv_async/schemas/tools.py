"""The tools of an environment: those that it declares, else those made of its action's schema.

Rules:

- A union of objects that a constant field tells apart is one tool per member, named by that
  constant; the field is not a parameter. If it is ``tool_name``, and ``arguments`` is the only
  other field, the parameters are those of ``arguments``. Any other object is one tool, whose
  parameters are its fields. Anything else is the parameter ``action`` of the one tool.
- A declared tool that does not say how a call becomes an action is called through the fields
  ``tool_name`` and ``arguments`` of the action, or of the member of a union that has them, as
  OpenEnv's ``CallToolAction`` does. If none has them, its arguments are the action's fields where
  these are there, else the action is ``name`` and ``arguments``.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from openenv_async.errors import InvalidModel, shown
from openenv_async.schemas.refs import resolved
from openenv_async.types import Tool

__all__ = [
    "ONE_TOOL",
    "RESERVED_NAMES",
    "called_by_name",
    "declared_tools",
    "object_fields",
    "tool_name",
    "tools_of",
    "with_definitions",
]

_NAME: Final = re.compile(r"[^a-zA-Z0-9_-]+")
_MAX_NAME: Final = 64
ONE_TOOL: Final = "act"
"""The name of the tool where an action makes one, and nothing else names it."""
RESERVED_NAMES: Final = frozenset({"reset", "step", "state", "close"})
"""Names that no tool may have, since they are calls of every environment."""
_TOOL_NAME: Final = "tool_name"
_ARGUMENTS: Final = "arguments"


def tool_name(text: str) -> str:
    """Return a text as the name of a tool; empty where nothing of it can stand in one."""
    return _NAME.sub("_", text)[:_MAX_NAME]


def tools_of(schema: Mapping[str, Any] | None, single: str) -> list[Tool]:
    """Return the tools that are made of an action's schema.

    Args:
        schema: JSON Schema of the action; ``None`` where it is not known.
        single: the name of the tool where there is one.
    """
    if schema is None:
        return [Tool(single, parameters={"type": "object", "additionalProperties": True})]
    root = resolved(schema, schema)
    if not isinstance(root, Mapping):
        root = {}
    members = _members(root, schema)
    if members is not None:
        return members
    description = root.get("description") or ""
    if object_fields(schema):
        return [Tool(single, description, _parameters(root, schema))]
    action = {key: value for key, value in root.items() if key != "$defs"}
    parameters = {"type": "object", "properties": {"action": action}, "required": ["action"]}
    return [Tool(single, description, with_definitions(parameters, schema), argument="action")]


def declared_tools(declared: Any, schema: Mapping[str, Any] | None, whose: str) -> list[Tool]:
    """Return the tools that an environment declares, each with how a call becomes an action.

    Args:
        declared: what its author gave.
        schema: JSON Schema of the action.
        whose: the environment's name, for errors.

    Raises:
        InvalidModel: they are not tools, or two have one name.
    """
    if isinstance(declared, str) or not isinstance(declared, Sequence):
        raise InvalidModel(f"the tools of {whose} must be a list of Tool, got {shown(declared)}")
    tools: dict[str, Tool] = {}
    for tool in declared:
        if not isinstance(tool, Tool):
            raise InvalidModel(f"the tools of {whose} must be a list of Tool, got {shown(tool)}")
        if not tool.name or tool_name(tool.name) != tool.name:
            raise InvalidModel(
                f"the tool {tool.name!r:.80} of {whose} needs another name: letters, digits, _ and"
                f" -, at most {_MAX_NAME}"
            )
        if tool.name in RESERVED_NAMES or tool.name in tools:
            why = "is reserved" if tool.name in RESERVED_NAMES else "is there twice"
            raise InvalidModel(f"the tool name {tool.name!r} of {whose} {why}: take another one")
        tools[tool.name] = _callable(tool, schema)
    return list(tools.values())


def _callable(tool: Tool, schema: Mapping[str, Any] | None) -> Tool:
    """Return a tool with how a call becomes an action, where its author left that open."""
    if tool.constants or tool.arguments_in is not None or tool.argument is not None:
        return tool
    named = called_by_name(tool, schema)
    own = set(tool.parameters.get("properties") or ())
    if _TOOL_NAME in named.constants or not own:
        return named
    fits = any(own <= set(member.get("properties") or ()) for member in _alternatives(schema))
    return tool if fits else named


def called_by_name(tool: Tool, schema: Mapping[str, Any] | None) -> Tool:
    """Return a tool whose calls are actions that have its name and, apart, the arguments."""
    for member in _alternatives(schema):
        if {_TOOL_NAME, _ARGUMENTS} <= set(member.get("properties") or ()):
            constants = dict(filter(None, [_constant(member)]))
            constants[_TOOL_NAME] = tool.name
            return dataclasses.replace(tool, constants=constants, arguments_in=_ARGUMENTS)
    return dataclasses.replace(tool, constants={"name": tool.name}, arguments_in=_ARGUMENTS)


def _alternatives(schema: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """Yield what an action may be: itself, or the members of a union."""
    root = {} if schema is None else resolved(schema, schema)
    if not isinstance(root, Mapping):
        return
    yield root
    for part in root.get("anyOf") or root.get("oneOf") or ():
        member = resolved(part, schema)
        if isinstance(member, Mapping):
            yield member


def _members(root: Mapping[str, Any], schema: Mapping[str, Any]) -> list[Tool] | None:
    """Return a tool for each member of a union; ``None`` where nothing tells them apart."""
    parts = root.get("anyOf") or root.get("oneOf")
    if not isinstance(parts, Sequence) or not parts:
        return None
    tools: dict[str, Tool] = {}
    fields = set()
    for part in parts:
        member = resolved(part, schema)
        constant = _constant(member)
        if constant is None:
            return None
        name = tool_name(constant[1])
        if name in tools or not name:
            return None
        description = member.get("description") or ""
        apart = set(member["properties"]) == {constant[0], _ARGUMENTS}
        if apart and constant[0] == _TOOL_NAME:
            inner = resolved(member["properties"][_ARGUMENTS], schema)
            parameters = with_definitions({"type": "object", **inner}, schema)
        else:
            parameters = _parameters(member, schema, without=constant[0])
        tools[name] = Tool(
            name,
            description,
            parameters,
            constants=dict([constant]),
            arguments_in=_ARGUMENTS if apart and constant[0] == _TOOL_NAME else None,
        )
        fields.add(constant[0])
    return list(tools.values()) if len(fields) == 1 else None


def _constant(member: Any) -> tuple[str, str] | None:
    """Return the field of an object that has one value only, and the value."""
    if not isinstance(member, Mapping) or not isinstance(member.get("properties"), Mapping):
        return None
    for name, field in member["properties"].items():
        if not isinstance(field, Mapping):
            continue
        if isinstance(field.get("const"), str):
            return name, field["const"]
        values = field.get("enum")
        if isinstance(values, list) and len(values) == 1 and isinstance(values[0], str):
            return name, values[0]
    return None


def _parameters(
    member: Mapping[str, Any], schema: Mapping[str, Any], without: str | None = None
) -> dict[str, Any]:
    kept = {
        key: value
        for key, value in member.items()
        if key not in ("$defs", "title", "description", "discriminator")
    }
    kept["properties"] = {
        name: field for name, field in member.get("properties", {}).items() if name != without
    }
    if "required" in kept:
        kept["required"] = [name for name in kept["required"] if name != without]
    return with_definitions({"type": "object", **kept}, schema)


def with_definitions(parameters: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with the definitions that they refer to."""
    definitions, used = schema.get("$defs") or {}, {}
    left: list[Any] = [parameters]
    while left:
        part = left.pop()
        if isinstance(part, Mapping):
            ref = part.get("$ref")
            path = ref.removeprefix("#/$defs/") if isinstance(ref, str) else None
            name = path and path.partition("/")[0]
            if name in definitions and name not in used:
                used[name] = definitions[name]
                left.append(definitions[name])
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)
    return {**parameters, "$defs": used} if used else parameters


def object_fields(schema: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the fields of an action that is an object."""
    if schema is None:
        return {}
    root = resolved(schema, schema)
    fields = root.get("properties") if isinstance(root, Mapping) else None
    return fields if isinstance(fields, Mapping) else {}
