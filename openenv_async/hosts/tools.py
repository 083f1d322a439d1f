"""Tools of a hosted system as the actions of an environment: one form for all of them.

Rules:

- An action is ``{"tool_name": …, "arguments": {…}}``. Its schema is a union with a member for each
  tool, whose arguments have the tool's own schema.
- Definitions that a tool's schema refers to (``#/$defs/…``, ``#/definitions/…`` in older drafts)
  move to the root of the union, under names of their own; a reference to anything else of the
  tool's schema has the whole of it there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from openenv_async.errors import InvalidAction
from openenv_async.schemas.tools import RESERVED_NAMES, tool_name
from openenv_async.types import Tool

__all__ = ["HostedTool", "action_schema", "declared", "read_action"]

_FIELDS: Final = frozenset({"tool_name", "arguments"})
_TAG: Final = "type"
"""A field that OpenEnv's clients send besides; its value is ``call_tool``."""
_DEFINITION: Final = re.compile(r"#/(?:\$defs|definitions)/([^/]+)")
_APART: Final = frozenset({"$defs", "definitions", "$schema"})
"""Keys of a tool's schema that are none of its arguments'."""
_FORM: Final = 'an action is {"tool_name": …, "arguments": {…}}'


@dataclass(frozen=True, slots=True)
class HostedTool:
    """One tool, as whatever is hosted describes it.

    Attributes:
        name: any text.
        description: for the model.
        parameters: JSON Schema of its arguments, an object.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"type": "object"})


def action_schema(tools: Iterable[HostedTool]) -> dict[str, Any]:
    """Return the JSON Schema of actions that call one of the tools."""
    definitions: dict[str, Any] = {}
    members = [_member(tool, definitions) for tool in tools]
    schema: dict[str, Any] = {"anyOf": members} if members else {"not": {}}
    return schema | ({"$defs": definitions} if definitions else {})


def declared(tools: Iterable[HostedTool]) -> list[Tool]:
    """Return the tools as an environment declares them, by names that every model may write."""
    made: dict[str, Tool] = {}
    for tool in tools:
        plain = name = tool_name(tool.name) or "tool"
        if name in RESERVED_NAMES:
            plain = name = f"tool_{name}"
        number = 1
        while name in made:
            number += 1
            name = f"{plain[:58]}_{number}"
        constants = {"tool_name": tool.name}
        made[name] = Tool(name, tool.description, tool.parameters, constants, "arguments")
    return list(made.values())


def read_action(action: Any) -> tuple[str, dict[str, Any]]:
    """Return the name of the tool that an action calls, and the arguments.

    A name need not be one that is listed: what is hosted may have tools of single tasks.

    Raises:
        InvalidAction: it is not an action.
    """
    if not isinstance(action, dict):
        raise InvalidAction(f"{_FORM}, got {type(action).__name__}")
    name, arguments = action.get("tool_name"), action.get("arguments", {})
    unknown = [key for key in action if key not in _FIELDS and key != _TAG]
    if unknown or not isinstance(name, str) or not isinstance(arguments, dict):
        raise InvalidAction(_FORM + (f", not with {unknown[0]!r:.80}" if unknown else ""))
    if action.get(_TAG, "call_tool") != "call_tool":
        raise InvalidAction(f"{_FORM}, of the type call_tool where it has one")
    return name, arguments


def _member(tool: HostedTool, definitions: dict[str, Any]) -> dict[str, Any]:
    """The schema of calls of one tool; note the definitions that it refers to."""
    prefix = tool.name.replace("~", "-").replace("/", "-")
    own = {key: value for key, value in tool.parameters.items() if key not in _APART}
    defined: dict[str, Any] = {}
    for key in ("definitions", "$defs"):
        found = tool.parameters.get(key)
        defined |= found if isinstance(found, Mapping) else {}
    refers = False

    def written(part: Any) -> Any:
        nonlocal refers
        if isinstance(part, list):
            return [written(each) for each in part]
        if not isinstance(part, Mapping):
            return part
        made = {key: written(value) for key, value in part.items()}
        ref = part.get("$ref")
        if isinstance(ref, str) and ref.startswith("#"):
            of = _DEFINITION.match(ref)
            if of is not None and of[1] in defined:
                made["$ref"] = f"#/$defs/{prefix}.{of[1]}{ref[of.end() :]}"
            else:
                made["$ref"] = f"#/$defs/{prefix}{ref[1:]}"
                refers = True
        return made

    for name, part in defined.items():
        definitions[f"{prefix}.{name}"] = written(part)
    arguments = written(own)
    if refers:
        definitions[prefix] = arguments
    member: dict[str, Any] = {"title": tool.name, "type": "object"}
    if tool.description:
        member["description"] = tool.description
    member["properties"] = {"tool_name": {"const": tool.name}, "arguments": arguments}
    member["required"] = ["tool_name", "arguments"]
    return member
