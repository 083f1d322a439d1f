"""Arguments of an MCP server's tools, judged, and their results as observations.

Rules:

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
from collections.abc import Mapping
from typing import Any

import msgspec

from openenv_async.errors import InvalidModel
from openenv_async.hosts.mcp_client import plain_list, plain_mapping
from openenv_async.hosts.tools import HostedTool
from openenv_async.schemas.fit import misfit

__all__ = ["McpMedia", "McpObservation", "misfit_of", "observation_of"]


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


def misfit_of(tool: HostedTool, arguments: Mapping[str, Any]) -> str | None:
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
    for block in plain_list(result.get("content")):
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
