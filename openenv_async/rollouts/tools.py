"""Tools made of an action's schema, and actions made of what a model says.

Rules:

- A union of objects that a constant field tells apart is one tool per member, named by that
  constant; the field is not a parameter. Any other object is one tool, ``act``, whose parameters
  are its fields. Anything else is the parameter ``action`` of ``act``.
- Tools that are given (an MCP server's) are offered as they are. A call is written into the fields
  ``tool_name`` and ``arguments`` of the action, as OpenEnv's ``CallToolAction`` has them, else into
  ``name`` and ``arguments``.
- A model that calls no tool may write its action as JSON: bare, in a fence, amid other text (the
  last counts), or as ``{"name": …, "arguments": {…}}`` of a tool. An action that is itself a
  text is all that the model writes, unless that is a JSON text.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from openenv_async.errors import UnreadableReply
from openenv_async.schemas.refs import resolved

__all__ = ["ActionTools"]

_NAME: Final = re.compile(r"[^a-zA-Z0-9_-]+")
_MOST_STARTS: Final = 200
"""Brackets of a text at which JSON is looked for."""
_MOST_TEXT: Final = 200_000
"""Characters at the end of a text in which it is."""


class _Tool:
    """A tool, and how a call of it becomes an action."""

    def __init__(
        self,
        name: str,
        parameters: Mapping[str, Any],
        description: str | None,
        constant: tuple[str, Any] | None = None,
        wrapped: bool = False,
    ) -> None:
        self.name = name
        self.constant = constant
        self.wrapped = wrapped
        function: dict[str, Any] = {"name": name}
        if description:
            function["description"] = description
        self.schema = {"type": "function", "function": {**function, "parameters": parameters}}

    def action(self, arguments: dict[str, Any]) -> Any:
        """Return the action that a call with these arguments is."""
        if self.wrapped:
            if set(arguments) != {"action"}:
                raise UnreadableReply(f"the tool {self.name} takes one argument, action")
            return arguments["action"]
        if self.constant is not None:
            field, value = self.constant
            return {field: value, **{name: arguments[name] for name in arguments if name != field}}
        return arguments


class ActionTools:
    """The tools of an environment's actions.

    Args:
        schema: JSON Schema of the action; ``None``: unknown, whatever a call has is the action.
        tools: offered in place of those made of the schema, as OpenAI's API has them.
    """

    def __init__(
        self,
        schema: Mapping[str, Any] | None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.schema = schema
        self._given = {} if tools is None else {_named(tool): tool for tool in tools}
        fields = _object_fields(schema)
        self._into_fields = bool(self._given) and {"tool_name", "arguments"} <= set(fields)
        self._made = {} if self._given or schema is None else _made(schema)
        root = {} if schema is None else resolved(schema, schema)
        self._is_text = isinstance(root, Mapping) and root.get("type") == "string"
        self._choices = _texts(root)
        self._is_object = (
            schema is None
            or bool(fields)
            or (isinstance(root, Mapping) and root.get("type") == "object")
            or bool(self._made and all(tool.constant for tool in self._made.values()))
        )

    @property
    def schemas(self) -> list[Mapping[str, Any]]:
        """Return what a model is offered."""
        return [*self._given.values(), *(tool.schema for tool in self._made.values())]

    @property
    def names(self) -> list[str]:
        """Return the names of the tools."""
        return [*self._given, *self._made]

    def of_call(self, call: Mapping[str, Any]) -> Any:
        """Return the action that a tool's call is.

        Raises:
            UnreadableReply: it is not one; the message is for the model.
        """
        function = call.get("function") or {}
        name, text = function.get("name", ""), function.get("arguments", "")
        try:
            arguments = _loads(text) if isinstance(text, str) and text.strip() else text or {}
        except (ValueError, RecursionError) as exc:
            raise UnreadableReply(f"the arguments of {name} are not valid JSON: {exc}") from None
        return self._action(name, arguments)

    def of_text(self, text: str) -> Any:
        """Return the action that a text has.

        Raises:
            UnreadableReply: it has none; the message is for the model.
        """
        for value in _json_values(text):
            if isinstance(value, dict):
                name = value.get("name")
                arguments = value.get("arguments", value.get("parameters"))
                if name in self.names and isinstance(arguments, dict | str):
                    return self.of_call({"function": {"name": name, "arguments": arguments}})
                if self._is_object and not self._given:
                    return value
            elif not self._is_object and (isinstance(value, str) or not self._is_text):
                return value
        if text.strip() in self._choices:
            return text.strip()
        if self._is_text and not self._choices:
            return text
        raise UnreadableReply(self._asked())

    def _action(self, name: str, arguments: Any) -> Any:
        if name not in self._given and name not in self._made:
            raise UnreadableReply(f"there is no tool {name!r:.60}; {self._asked()}")
        if not isinstance(arguments, dict):
            raise UnreadableReply(f"the arguments of {name} must be a JSON object")
        if name in self._made:
            return self._made[name].action(arguments)
        if self._into_fields:
            return {"tool_name": name, "arguments": arguments}
        return {"name": name, "arguments": arguments}

    def _asked(self) -> str:
        """Return what a model is to do."""
        names = self.names
        if names and (self._given or names != ["act"]):
            return f"call one of the tools {', '.join(names[:20])}"
        if names:
            return "call the tool act, or write one action as JSON"
        return "write one action as JSON"


def _named(tool: Mapping[str, Any]) -> str:
    name = (tool.get("function") or {}).get("name")
    if not isinstance(name, str) or not name:
        raise ValueError(
            'a tool is {"type": "function", "function": {"name": …, "parameters": …}}, got'
            f" {tool!r:.120}"
        )
    return name


def _made(schema: Mapping[str, Any]) -> dict[str, _Tool]:
    """Return the tools of an action's schema by name."""
    root = resolved(schema, schema)
    if not isinstance(root, Mapping):
        root = {}
    members = _members(root, schema)
    if members is not None:
        return members
    description = root.get("description")
    if _object_fields(schema):
        tool = _Tool("act", _parameters(root, schema), description)
    else:
        action = {key: value for key, value in root.items() if key != "$defs"}
        parameters = {"type": "object", "properties": {"action": action}, "required": ["action"]}
        tool = _Tool("act", _with_definitions(parameters, schema), description, wrapped=True)
    return {"act": tool}


def _members(root: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, _Tool] | None:
    """Return a tool for each member of a union; ``None`` where nothing tells them apart."""
    parts = root.get("anyOf") or root.get("oneOf")
    if not isinstance(parts, Sequence) or len(parts) < 2:
        return None
    tools: dict[str, _Tool] = {}
    for part in parts:
        member = resolved(part, schema)
        constant = _constant(member)
        if constant is None:
            return None
        name = _NAME.sub("_", str(constant[1]))[:64]
        if name in tools or not name:
            return None
        parameters = _parameters(member, schema, without=constant[0])
        tools[name] = _Tool(name, parameters, member.get("description"), constant)
    if len({tool.constant[0] for tool in tools.values() if tool.constant}) != 1:
        return None
    return tools


def _constant(member: Any) -> tuple[str, Any] | None:
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
    return _with_definitions({"type": "object", **kept}, schema)


def _with_definitions(parameters: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters with the definitions that they refer to."""
    definitions, used = schema.get("$defs") or {}, {}
    left: list[Any] = [parameters]
    while left:
        part = left.pop()
        if isinstance(part, Mapping):
            ref = part.get("$ref")
            name = ref.removeprefix("#/$defs/") if isinstance(ref, str) else None
            if name in definitions and name not in used:
                used[name] = definitions[name]
                left.append(definitions[name])
            left.extend(part.values())
        elif isinstance(part, list):
            left.extend(part)
    return {**parameters, "$defs": used} if used else parameters


def _texts(root: Any) -> frozenset[str]:
    """Return the texts that an action must be one of; none where it is something else."""
    if not isinstance(root, Mapping):
        return frozenset()
    values = root.get("enum", [root["const"]] if "const" in root else None)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return frozenset()
    return frozenset(values)


def _object_fields(schema: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return the fields of an action that is an object."""
    if schema is None:
        return {}
    root = resolved(schema, schema)
    fields = root.get("properties") if isinstance(root, Mapping) else None
    return fields if isinstance(fields, Mapping) else {}


def _refuse(constant: str) -> Any:
    """Refuse NaN and Infinity, which Python reads and JSON has not."""
    raise ValueError(f"JSON has no {constant}")


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def _json_values(text: str) -> Iterator[Any]:
    """Yield the JSON in a text: all of it, else what stands in fences, else amid it; last first."""
    text = text[-_MOST_TEXT:]
    wholes = [text]
    for fence in reversed(text.split("```")[1::2]):
        wholes += fence, fence.lstrip(string.ascii_letters)  # which may name a language
    for whole in wholes:
        try:
            yield _loads(whole.strip())
        except (ValueError, RecursionError):
            continue
    found, decoder, at = [], json.JSONDecoder(parse_constant=_refuse), 0
    for _ in range(_MOST_STARTS):
        starts = [place for mark in "{[" if (place := text.find(mark, at)) >= 0]
        if not starts:
            break
        try:
            value, at = decoder.raw_decode(text, min(starts))
        except (ValueError, RecursionError):
            at = min(starts) + 1
        else:
            found.append(value)
    yield from reversed(found)
