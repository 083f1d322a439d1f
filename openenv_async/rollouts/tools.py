"""Tools made of an action's schema, and actions made of what a model says.

Rules:

- Tools are made of an action as ``schemas.tools`` says; where there is one, it is ``act``.
- Tools that are given (an MCP server's) are offered as they are, and called by name.
- A model that calls no tool may write its action as JSON: bare, in a fence, amid other text (the
  last counts), or as ``{"name": …, "arguments": {…}}`` of a tool. An action that is itself a
  text is all that the model writes, unless that is a JSON text.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from openenv_async.errors import UnreadableReply
from openenv_async.schemas.refs import resolved
from openenv_async.schemas.tools import ONE_TOOL, called_by_name, object_fields, tools_of
from openenv_async.types import Tool

__all__ = ["ActionTools"]

_MOST_STARTS: Final = 200
"""Brackets of a text at which JSON is looked for."""
_MOST_TEXT: Final = 200_000
"""Characters at the end of a text in which it is."""


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
        fields = object_fields(schema)
        made = [] if self._given or schema is None else tools_of(schema, ONE_TOOL)
        self._made = {tool.name: tool for tool in made}
        root = {} if schema is None else resolved(schema, schema)
        self._is_text = isinstance(root, Mapping) and root.get("type") == "string"
        self._choices = _texts(root)
        self._is_object = (
            schema is None
            or bool(fields)
            or (isinstance(root, Mapping) and root.get("type") == "object")
            or bool(made and all(tool.constants for tool in made))
        )

    @property
    def schemas(self) -> list[Mapping[str, Any]]:
        """Return what a model is offered."""
        return [*self._given.values(), *map(_as_function, self._made.values())]

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
        return called_by_name(Tool(name), self.schema).action(arguments)

    def _asked(self) -> str:
        """Return what a model is to do."""
        names = self.names
        if names and (self._given or names != [ONE_TOOL]):
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


def _as_function(tool: Tool) -> dict[str, Any]:
    """Return a tool as OpenAI's API has it."""
    described = {"description": tool.description} if tool.description else {}
    function = {"name": tool.name, **described, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _texts(root: Any) -> frozenset[str]:
    """Return the texts that an action must be one of; none where it is something else."""
    if not isinstance(root, Mapping):
        return frozenset()
    values = root.get("enum", [root["const"]] if "const" in root else None)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        return frozenset()
    return frozenset(values)


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
