"""Upstream's client of environments whose actions are calls of tools.

A call of a tool is a step, so that its reward and the end of the episode count; the observation of
the last one is ``last_result``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict

from openenv_async.compat.upstream.client_types import StepResult
from openenv_async.compat.upstream.clients import EnvClient
from openenv_async.compat.upstream.mcp_types import (
    CallToolAction,
    CallToolObservation,
    ListToolsAction,
    ListToolsObservation,
    Tool,
)
from openenv_async.compat.upstream.types import Observation, State

__all__ = ["GenericMCPObservation", "MCPClientBase", "MCPToolClient"]


class GenericMCPObservation(Observation):
    """An observation that is not of tools, with whatever fields it has."""

    model_config = ConfigDict(extra="allow", validate_assignment=True, arbitrary_types_allowed=True)


class MCPClientBase(EnvClient[Any, Observation, State]):
    """A client that lists tools.

    Args:
        base_url, options: as for ``EnvClient``; ``mode`` can only be ``production``.

    Attributes:
        last_result: the result of the last call of a tool, with its reward.

    Raises:
        ValueError: another mode is asked for.
    """

    last_result: StepResult[Observation] | None = None
    _tools_cache: list[Tool] | None = None

    def __init__(self, base_url: str | None = None, *args: Any, **options: Any) -> None:
        mode: str = options.get("mode") or "production"
        if mode.lower() != "production":
            raise ValueError(
                f"{type(self).__name__} only supports 'production' mode, got '{mode}': use"
                " GenericEnvClient for simulation mode"
            )
        options["mode"] = mode
        super().__init__(base_url, *args, **options)

    def list_tools(self, use_cache: bool = True) -> Any:
        """Return the environment's tools; ``use_cache=False`` asks the server anew."""
        return self._dispatch(lambda: self._list_tools_async(use_cache))

    async def _list_tools_async(self, use_cache: bool = True) -> list[Tool]:
        if self._tools_cache is None or not use_cache:
            seen = (await self.step(ListToolsAction())).observation
            self._tools_cache = seen.tools if isinstance(seen, ListToolsObservation) else []
        return self._tools_cache

    def _step_payload(self, action: Any) -> dict[str, Any]:
        if isinstance(action, ListToolsAction):
            return {"type": action.type}
        if isinstance(action, CallToolAction):
            return action.model_dump(include={"type", "tool_name", "arguments"})
        if isinstance(action, Mapping):
            return dict(action)
        if hasattr(action, "model_dump"):
            fields: dict[str, Any] = action.model_dump()
            return fields
        raise NotImplementedError(
            f"{type(action).__name__} is not an action of tools: give a CallToolAction, a"
            " ListToolsAction, a model or a dict"
        )

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[Observation]:
        fields = dict(payload.get("observation", {}))
        reward, done = payload.get("reward"), payload.get("done", False)
        metadata = payload.get("metadata") or fields.pop("metadata", None) or {}
        told: dict[str, Any] = {"reward": reward, "done": done, "metadata": metadata}
        observation: Observation
        if "tools" in fields:
            tools = [_tool(each) for each in fields["tools"]]
            observation = ListToolsObservation(tools=tools, **told)
        elif "tool_name" in fields:
            told.update({name: fields.get(name) for name in ("tool_name", "result", "error")})
            observation = CallToolObservation(**told)
        else:
            observation = GenericMCPObservation(**{**fields, **told})
        return StepResult(observation, reward, done, payload.get("metadata"))

    def _parse_state(self, payload: dict[str, Any]) -> State:
        return State(episode_id=payload.get("episode_id"), step_count=payload.get("step_count", 0))


class MCPToolClient(MCPClientBase):
    """A client that calls tools: ``env.call_tool("look", far=True)``, awaited or not."""

    def call_tool(self, name: str, **kwargs: Any) -> Any:
        """Call a tool and return what it returned.

        Args:
            name: of the tool.
            kwargs: its arguments.

        Raises:
            RuntimeError: there is no such tool, or the call failed.
        """
        return self._dispatch(lambda: self._call_tool_async(name, kwargs))

    def get_tool(self, name: str) -> Any:
        """Return a tool; ``None`` where there is none of that name."""
        return self._dispatch(lambda: self._get_tool_async(name))

    def has_tool(self, name: str) -> Any:
        """Return whether there is a tool of that name."""
        return self._dispatch(lambda: self._has_tool_async(name))

    async def _call_tool_async(self, name: str, arguments: dict[str, Any]) -> Any:
        self.last_result = await self.step(CallToolAction(tool_name=name, arguments=arguments))
        assert self.last_result is not None
        seen = self.last_result.observation
        if not isinstance(seen, CallToolObservation):
            return seen
        if seen.error is not None:
            kind = seen.error.error_type.value
            raise RuntimeError(f"Tool '{name}' failed: {seen.error.message} (type: {kind})")
        if isinstance(seen.result, Mapping) and "data" in seen.result:
            return seen.result["data"]  # what FastMCP made of the tool's own result
        return seen.result

    async def _get_tool_async(self, name: str) -> Tool | None:
        return next((t for t in await self._list_tools_async() if t.name == name), None)

    async def _has_tool_async(self, name: str) -> bool:
        return await self._get_tool_async(name) is not None


def _tool(payload: Mapping[str, Any]) -> Tool:
    """A tool as servers of several releases write it."""
    return Tool(
        name=payload.get("name", ""),
        description=payload.get("description") or "",
        input_schema=payload.get("input_schema", payload.get("inputSchema", {})),
    )
