"""Tools of an MCP server as actions, and their results as observations.

Rules:

- An action is ``{"tool_name": …, "arguments": {…}}``. Its schema is a union with a member for each
  tool, whose arguments have the tool's own schema. References inside that are written anew, since
  they are to the tool's own root.
- Arguments are judged by the tool's schema before the call. A schema that is not
  understood, such as a reference to elsewhere, is left to the server.
- A result that says it failed is an observation, no exception.
- A structured result that only repeats the text is left out.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from openenv_async.errors import InvalidAction, InvalidModel
from openenv_async.hosts.mcp_client import McpTool, plain_mapping
from openenv_async.schemas.fit import misfit
from openenv_async.schemas.tools import tool_name
from openenv_async.types import Tool

__all__ = [
    "McpMedia",
    "McpObservation",
    "action_schema",
    "declared",
    "misfit_of",
    "observation_of",
    "read_action",
]

_FIELDS: Final = frozenset({"tool_name", "arguments"})
_TAG: Final = "type"
"""A field that OpenEnv's clients send besides; its value is ``call_tool``."""
_RESERVED: Final = frozenset({"reset", "step", "state", "close"})
"""Names that a declared tool cannot have."""
_DEFINITION: Final = re.compile(r"#/(?:\$defs|definitions)/([^/]+)")


class McpMedia(msgspec.Struct):
    """A picture, a sound or a file in a result.

    Attributes:
        mime_type: such as ``image/png``.
        data: its octets.
    """

    mime_type: str
    data: bytes


class McpObservation(msgspec.Struct, omit_defaults=True):
    """The result of a tool; at first what the episode is about.

    Attributes:
        text: what a model reads.
        structured: the structured result, where it is more than the text.
        media: pictures, sounds and files.
        is_error: the tool failed; ``text`` says why.
        tools: the names of the server's tools, when they have changed in the episode.
    """

    text: str
    structured: Any = None
    media: list[McpMedia] = []
    is_error: bool = False
    tools: list[str] | None = None


# -- actions ------------------------------------------------------------------------------------


def action_schema(tools: Iterable[McpTool]) -> dict[str, Any]:
    """Return the JSON Schema of actions."""
    members: list[dict[str, Any]] = []
    definitions: dict[str, Any] = {}
    for tool in tools:
        arguments = _moved(tool, definitions)
        member: dict[str, Any] = {"title": tool.name}
        if tool.description:
            member["description"] = tool.description
        member |= {
            "type": "object",
            "properties": {"tool_name": {"const": tool.name}, "arguments": arguments},
            "required": ["tool_name", "arguments"],
        }
        members.append(member)
    schema: dict[str, Any] = {"anyOf": members} if members else {"not": {}}
    return schema | ({"$defs": definitions} if definitions else {})


def _moved(tool: McpTool, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a tool's arguments as a part of another; note what it refers to."""
    own = {key: value for key, value in tool.parameters.items() if key != "$schema"}
    defined = {
        **plain_mapping(own.pop("definitions", None)),
        **plain_mapping(own.pop("$defs", None)),
    }
    prefix = tool.name.replace("~", "-").replace("/", "-")

    def written(part: Any) -> Any:
        if isinstance(part, list):
            return [written(each) for each in part]
        if not isinstance(part, dict):
            return part
        made = {key: written(value) for key, value in part.items()}
        ref = part.get("$ref")
        if isinstance(ref, str) and ref.startswith("#"):
            made["$ref"] = moved(ref)
        return made

    def moved(ref: str) -> str:
        found = _DEFINITION.match(ref)
        if found is not None and found[1] in defined:
            return f"#/$defs/{prefix}.{found[1]}{ref[found.end() :]}"
        definitions.setdefault(prefix, True)  # the whole, filled in below
        return f"#/$defs/{prefix}{ref[1:]}"

    for name, part in defined.items():
        definitions[f"{prefix}.{name}"] = written(part)
    arguments = written(own)
    if prefix in definitions:
        definitions[prefix] = arguments
    made: dict[str, Any] = arguments
    return made


def declared(tools: Iterable[McpTool]) -> list[Tool]:
    """Return the tools as an environment declares them, by names that every model may write."""
    made: dict[str, Tool] = {}
    for tool in tools:
        name = tool_name(tool.name) or "tool"
        if name in _RESERVED:
            name = f"tool_{name}"
        number = 1
        plain = name
        while name in made:
            number += 1
            name = f"{plain[:58]}_{number}"
        made[name] = Tool(
            name,
            tool.description,
            tool.parameters,
            constants={"tool_name": tool.name},
            arguments_in="arguments",
        )
    return list(made.values())


def read_action(action: Any) -> tuple[str, dict[str, Any]]:
    """Return the tool that an action names, and its arguments.

    Raises:
        InvalidAction: it is not an action.
    """
    form = 'an action is {"tool_name": …, "arguments": {…}}'
    if not isinstance(action, dict):
        raise InvalidAction(f"{form}, got {type(action).__name__}")
    unknown = [key for key in action if key not in _FIELDS and key != _TAG]
    name, arguments = action.get("tool_name"), action.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict) or unknown:
        told = f", not with {unknown[0]!r:.80}" if unknown else ""
        raise InvalidAction(f"{form}{told}")
    if action.get(_TAG, "call_tool") != "call_tool":
        raise InvalidAction(f"{form}, of the type call_tool where it has one")
    return name, arguments


def misfit_of(tool: McpTool, arguments: Mapping[str, Any]) -> str | None:
    """Return why arguments do not fit a tool; ``None`` where they do, or nobody here can tell."""
    try:
        why = misfit(dict(arguments), tool.parameters)
    except (InvalidModel, re.error, TypeError, ValueError, RecursionError):
        return None  # a schema that is not understood here: the server judges
    return None if why is None else f"the arguments of {tool.name} are wrong: {why}"


# -- observations -------------------------------------------------------------------------------


def observation_of(result: Mapping[str, Any]) -> McpObservation:
    """Return the observation that the result of ``tools/call`` is."""
    texts: list[str] = []
    media: list[McpMedia] = []
    content = result.get("content")
    for block in content if isinstance(content, list) else ():
        _add(plain_mapping(block), texts, media)
    text = "\n".join(texts)
    structured = result.get("structuredContent")
    if structured is not None and not texts:
        text = json.dumps(structured, ensure_ascii=False)
    return McpObservation(
        text,
        None if _repeats(structured, text) else structured,
        media,
        result.get("isError") is True,
    )


def _add(block: Mapping[str, Any], texts: list[str], media: list[McpMedia]) -> None:
    kind = block.get("type")
    if kind == "resource":
        block = plain_mapping(block.get("resource"))
    elif kind == "resource_link":
        texts.append(" ".join(str(block[key]) for key in ("name", "uri") if key in block))
        return
    data = block.get("blob" if kind == "resource" else "data")
    if isinstance(block.get("text"), str):
        texts.append(block["text"])
    elif isinstance(data, str):
        try:
            octets = base64.b64decode(data)
        except (binascii.Error, ValueError):
            texts.append(f"({kind} that is not Base64)")
        else:
            media.append(McpMedia(str(block.get("mimeType", "application/octet-stream")), octets))


def _repeats(structured: Any, text: str) -> bool:
    """Return whether a structured result says no more than the text: it is that, or its JSON."""
    if structured is None or (isinstance(structured, dict) and [*structured.values()] == [text]):
        return True
    try:
        return bool(json.loads(text) == structured)
    except (ValueError, RecursionError):
        return False
