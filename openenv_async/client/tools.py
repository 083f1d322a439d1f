"""The tools that a server lists, read from what it sends."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from openenv_async.errors import ProtocolError, shown
from openenv_async.types import Tool

__all__ = ["given_by_upstream", "listed_tools", "returned_data"]

_FIELDS: Final = frozenset(field.name for field in dataclasses.fields(Tool))


def listed_tools(told: Any, where: str) -> list[Tool]:
    """Return the tools of a listing.

    Those of an OpenEnv server have a schema alone; a call of one is its ``call_tool`` action.

    Args:
        told: a map with ``tools``.
        where: the server's address, for errors.

    Raises:
        ProtocolError: it is not a listing of tools.
    """
    tools = told.get("tools") if isinstance(told, Mapping) else None
    if not isinstance(tools, list):
        raise ProtocolError(f"{where} listed no tools: it sent {shown(told)}")
    try:
        return [_tool(each) for each in tools]
    except (AttributeError, KeyError, TypeError) as exc:
        raise ProtocolError(f"{where} listed a tool that cannot be read: {exc}") from None


def _tool(told: Mapping[str, Any]) -> Tool:
    if "parameters" in told:  # later servers may say more
        return Tool(**{name: told[name] for name in _FIELDS & told.keys()})
    schema = told.get("input_schema") or told.get("inputSchema") or {"type": "object"}
    constants = {"type": "call_tool", "tool_name": told["name"]}
    description = told.get("description") or ""
    return Tool(told["name"], description, schema, constants, arguments_in="arguments")


def given_by_upstream(observation: Any) -> Any:
    """Return what a tool gave, of the observation that an OpenEnv server makes of its call."""
    if not isinstance(observation, Mapping) or "tool_name" not in observation:
        return observation  # of an environment that answers in a way of its own
    if observation.get("error") is not None:
        return observation
    return returned_data(observation.get("result"))


def returned_data(result: Any) -> Any:
    """Return what a tool returned, of the result that FastMCP makes of it."""
    return result["data"] if isinstance(result, Mapping) and "data" in result else result
