"""Upstream's client of environments whose actions are calls of tools.

A call of a tool is a step, so that its reward and the end of the episode count; the observation of
the last one is ``last_result``. With ``use_production_mode`` calls go past ``step``, as JSON-RPC to
``POST /mcp``, in a session that ``reset`` and ``step`` share.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from pydantic import ConfigDict

from openenv_async.client.endpoint import Endpoint
from openenv_async.client.settings import ClientSettings
from openenv_async.client.tools import returned_data
from openenv_async.compat.upstream.client_types import StepResult
from openenv_async.compat.upstream.clients import EnvClient, in_words_of_upstream
from openenv_async.compat.upstream.mcp_types import (
    CallToolAction,
    CallToolObservation,
    ListToolsAction,
    ListToolsObservation,
    Tool,
)
from openenv_async.compat.upstream.types import Observation, State

__all__ = ["GenericMCPObservation", "MCPClientBase", "MCPToolClient"]

log = logging.getLogger("openenv_async.compat")

_HEADERS: Final = {"Content-Type": "application/json", "Accept": "application/json"}


class GenericMCPObservation(Observation):
    """An observation that is not of tools, with whatever fields it has."""

    model_config = ConfigDict(extra="allow", validate_assignment=True, arbitrary_types_allowed=True)


class MCPClientBase(EnvClient[Any, Observation, State]):
    """A client that lists tools.

    Args:
        base_url, options: as for ``EnvClient``; ``mode`` can only be ``production``.

    Attributes:
        use_production_mode: whether tools are listed and called by JSON-RPC over HTTP. The answers
            have no reward, and ``last_result`` stays as it is. Set it before the first call.
        last_result: the result of the last call of a tool, with its reward.

    Raises:
        ValueError: another mode is asked for.
    """

    use_production_mode: bool = False
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
        self._endpoint: Endpoint | None = None
        self._handle: str | None = None
        self._opening = asyncio.Lock()
        self._requests = 0

    def list_tools(self, use_cache: bool = True) -> Any:
        """Return the environment's tools; ``use_cache=False`` asks the server anew.

        In production mode a listing that fails is empty, as upstream has it, and the log says why.
        """
        return self._dispatch(lambda: self._list_tools_async(use_cache))

    async def _list_tools_async(self, use_cache: bool = True) -> list[Tool]:
        if self._tools_cache is not None and use_cache:
            return self._tools_cache
        if self.use_production_mode:
            try:
                listed = await self._ask_in_session("tools/list", "list_tools failed")
            except (RuntimeError, ConnectionError, TimeoutError) as exc:
                log.warning("no tools of %s: %s", self.base_url, exc)
                return []
            self._tools_cache = [_tool(each) for each in listed.get("tools", [])]
        else:
            seen = (await self.step(ListToolsAction())).observation
            self._tools_cache = seen.tools if isinstance(seen, ListToolsObservation) else []
        return self._tools_cache

    # -- JSON-RPC -----------------------------------------------------------------------------

    async def _address(self, base_url: str) -> str:
        """The socket's address, which names the session of the calls over HTTP."""
        if not self.use_production_mode:
            return base_url
        return f"{base_url}?{urlencode({'session_id': await self._session()})}"

    async def _session(self) -> str:
        """The handle of the session of the calls over HTTP, opened by the first.

        Raises:
            RuntimeError: the server opens none.
        """
        async with self._opening:
            if self._handle is None:
                opened = await self._ask("openenv/session/create", {}, "no MCP session was opened")
                handle = opened.get("session_id")
                if not isinstance(handle, str):
                    raise RuntimeError(f"{self.base_url} opened an MCP session without an id")
                self._handle = handle
            return self._handle

    async def _ask_in_session(self, method: str, failed: str, **params: Any) -> Any:
        async with in_words_of_upstream():
            await self._start_provider()
            return await self._ask(method, {**params, "session_id": await self._session()}, failed)

    async def _ask(self, method: str, params: dict[str, Any], failed: str) -> Any:
        """Return the result of a request, which is sent once.

        Raises:
            RuntimeError: the server answered an error, or no JSON-RPC.
            OpenEnvError: it did not answer.
        """
        assert self._base_url is not None
        given = self._options()
        del given["subprotocol"]
        if self._endpoint is None:
            self._endpoint = Endpoint(self._base_url, ClientSettings(**given))
        self._requests += 1
        call = {"jsonrpc": "2.0", "id": self._requests, "method": method, "params": params}
        headers = {**self._endpoint.headers, **_HEADERS}
        response, body = await self._endpoint.exchange(
            "POST", "/mcp", json.dumps(call).encode(), headers, given["timeouts"].step, again=False
        )
        try:
            told = json.loads(body)
        except ValueError:
            told = None
        if not isinstance(told, dict) or not ("result" in told or "error" in told):
            raise RuntimeError(
                f"{failed}: {self._base_url}/mcp answered HTTP {response.status} and no JSON-RPC:"
                " it is not a server of OpenEnv's MCP"
            )
        error = told.get("error")
        if error is not None:
            message = error.get("message") if isinstance(error, dict) else error
            raise RuntimeError(f"{failed}: {message}")
        return told["result"]

    async def _close_async(self) -> None:
        try:
            await self._disconnect_async()  # the socket first: the session is in its use
            handle, self._handle = self._handle, None
            if handle is not None:
                with contextlib.suppress(RuntimeError, OSError):  # it may be gone already
                    async with in_words_of_upstream():
                        await self._ask("openenv/session/close", {"session_id": handle}, "close")
        finally:
            endpoint, self._endpoint = self._endpoint, None
            try:
                if endpoint is not None:
                    await endpoint.aclose()
            finally:
                await super()._close_async()

    # -- hooks --------------------------------------------------------------------------------

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
        if self.use_production_mode:
            failed = f"Tool '{name}' failed"
            given = await self._ask_in_session("tools/call", failed, name=name, arguments=arguments)
            return returned_data(given)
        self.last_result = await self.step(CallToolAction(tool_name=name, arguments=arguments))
        assert self.last_result is not None
        seen = self.last_result.observation
        if not isinstance(seen, CallToolObservation):
            return seen
        if seen.error is not None:
            kind = seen.error.error_type.value
            raise RuntimeError(f"Tool '{name}' failed: {seen.error.message} (type: {kind})")
        return returned_data(seen.result)

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
