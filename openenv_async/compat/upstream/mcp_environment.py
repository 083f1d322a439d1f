"""Upstream's base class of environments whose actions are calls of a FastMCP server's tools.

FastMCP is the environment's dependency: it is imported once a server of its making is handed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from abc import abstractmethod
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final, TypeVar

from openenv_async.compat.upstream.interfaces import Environment
from openenv_async.compat.upstream.mcp_types import (
    RESERVED_TOOL_NAMES,
    CallToolAction,
    CallToolObservation,
    ListToolsAction,
    ListToolsObservation,
    Tool,
    ToolError,
    ToolErrorType,
)
from openenv_async.compat.upstream.types import Action, Observation
from openenv_async.event_loop import is_in_loop, run_apart

__all__ = [
    "MCP_TOOL_CALL_TIMEOUT",
    "VALID_MODES",
    "MCPEnvironment",
    "get_server_tools",
    "run_async_safely",
]

T = TypeVar("T")

MCP_TOOL_CALL_TIMEOUT: Final = 30.0
"""Seconds that a call of a tool may take, where the step names none."""
VALID_MODES: Final = frozenset({"production", "simulation"})
"""Modes that a tool may be for."""
_JSON_TYPES: Final = {int: "integer", float: "number", bool: "boolean"}


def run_async_safely(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end: in a thread of its own where an event loop runs in this one."""
    return run_apart(coroutine) if is_in_loop() else asyncio.run(coroutine)


def get_server_tools(mcp_server: Any) -> dict[str, Any]:
    """Return the tools of a FastMCP server by name, whatever release it is of."""
    if hasattr(mcp_server, "get_tools"):
        tools = run_async_safely(mcp_server.get_tools())
        if isinstance(tools, dict):
            return tools
    if hasattr(mcp_server, "list_tools"):
        return {tool.name: tool for tool in run_async_safely(mcp_server.list_tools())}
    return {}


class MCPEnvironment(Environment[Any, Any, Any]):
    """An environment whose actions list and call tools; others go to ``_step_impl``.

    ``self.tool()`` adds a tool, ``self.tool(mode="production")`` one for a mode alone.

    Args:
        mcp_server: a FastMCP server with the tools.
        transform: of observations.

    Raises:
        ValueError: a tool has the name of a call of every environment.
    """

    def __init__(self, mcp_server: Any, transform: Any = None) -> None:
        super().__init__(transform=transform)
        self._validate_tool_names(mcp_server)
        from fastmcp import Client

        self.mcp_server = mcp_server
        self.mcp_client: Any = Client(mcp_server)
        self._mode_tools: dict[str, dict[str | None, Callable[..., Any]]] = defaultdict(dict)
        self._mode_tool_schemas: dict[str, dict[str | None, dict[str, Any]]] = defaultdict(dict)

    # -- tools --------------------------------------------------------------------------------

    def tool(self, mode: str | None = None) -> Callable[[Callable[..., Any]], Any]:
        """Return a decorator that adds a function as a tool.

        Args:
            mode: the mode in which there is such a tool; every mode by default.

        Raises:
            ValueError: there is no such mode; of the decorator: the name is reserved.
        """
        if mode is not None and mode not in VALID_MODES:
            raise ValueError(
                f"Invalid mode '{mode}'. Mode must be 'production', 'simulation', or None."
            )

        def add(function: Callable[..., Any]) -> Any:
            name = function.__name__
            if name in RESERVED_TOOL_NAMES:
                raise ValueError(
                    f"Tool name '{name}' is reserved and cannot be used: give it another one than"
                    f" {sorted(RESERVED_TOOL_NAMES)}"
                )
            if mode is None:
                made = self._require_mcp_server().tool()(function)
                self._mode_tools[name][None] = function
                return made
            self._mode_tools[name][mode] = function
            self._mode_tool_schemas[name][mode] = _described(function)
            return function

        return add

    def _validate_tool_names(self, mcp_server: Any) -> None:
        """Return unless a tool has a reserved name.

        Raises:
            ValueError: one has.
        """
        conflicts = get_server_tools(mcp_server).keys() & RESERVED_TOOL_NAMES
        if conflicts:
            raise ValueError(
                f"MCP tools cannot use reserved names: {sorted(conflicts)}. Reserved names are:"
                f" {sorted(RESERVED_TOOL_NAMES)}"
            )

    def _get_server_tools(self, mcp_server: Any) -> dict[str, Any]:
        return get_server_tools(mcp_server)

    def _require_mcp_client(self) -> Any:
        if self.mcp_client is None:
            raise RuntimeError("MCP client is not available: the environment is closed")
        return self.mcp_client

    def _require_mcp_server(self) -> Any:
        if self.mcp_server is None:
            raise RuntimeError("MCP server is not available: the environment is closed")
        return self.mcp_server

    @contextlib.asynccontextmanager
    async def mcp_session(self) -> AsyncIterator[Any]:
        """A connected client of the server, for as long as the context lasts."""
        client = self._require_mcp_client()
        async with client:
            yield client

    @property
    def supports_code_mode(self) -> bool:
        """True: ``execute_code`` works."""
        return True

    def get_callables(self) -> dict[str, Callable[..., Any]]:
        """Return the functions of the tools of this mode by name."""
        mode = getattr(self, "_mode", None)
        tools = self._get_server_tools(self.mcp_server).items()
        found = {name: tool.fn for name, tool in tools if callable(getattr(tool, "fn", None))}
        for name, functions in self._mode_tools.items():
            if None in functions:
                found.setdefault(name, functions[None])
            elif mode in functions:
                found[name] = functions[mode]
        return found

    def execute_code(self, code: str) -> Observation:
        """Run Python code in which the tools are functions; ``result`` is what it gives.

        It runs in this process, with all that this process may do.
        """
        given: dict[str, Any] = {}
        try:
            exec(code, dict(self.get_callables()), given)
        except SyntaxError as exc:
            return Observation(reward=0.0, metadata={"error": f"Syntax error: {exc}"})
        except Exception as exc:  # whatever the code raises
            return Observation(reward=0.0, metadata={"error": str(exc)})
        return Observation(reward=0.0, metadata={"result": given.get("result")})

    # -- steps --------------------------------------------------------------------------------

    def step(self, action: Action, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        """List or call tools, or take another action."""
        if isinstance(action, ListToolsAction):
            return self._handle_list_tools()
        if isinstance(action, CallToolAction):
            return self._handle_call_tool(action, timeout_s=timeout_s)
        return self._step_impl(action, timeout_s=timeout_s, **kwargs)

    async def step_async(
        self, action: Action, timeout_s: float | None = None, **kwargs: Any
    ) -> Observation:
        """List or call tools in the running loop, or take another action in a thread."""
        if isinstance(action, ListToolsAction):
            return await self._async_handle_list_tools()
        if isinstance(action, CallToolAction):
            return await self._async_handle_call_tool(action, timeout_s=timeout_s)
        return await asyncio.to_thread(self._step_impl, action, timeout_s=timeout_s, **kwargs)

    @abstractmethod
    def _step_impl(
        self, action: Action, timeout_s: float | None = None, **kwargs: Any
    ) -> Observation:
        """Take an action that is not one of tools."""

    def _handle_list_tools(self) -> ListToolsObservation:
        return run_async_safely(self._async_handle_list_tools())

    def _handle_call_tool(
        self, action: CallToolAction, timeout_s: float | None = None
    ) -> CallToolObservation:
        return run_async_safely(self._async_handle_call_tool(action, timeout_s=timeout_s))

    async def _async_list_tools(self) -> list[Any]:
        async with self.mcp_session() as client:
            tools: list[Any] = await client.list_tools()
            return tools

    async def _async_call_tool(self, tool_name: str, arguments: dict[str, Any]) -> Any:
        async with self.mcp_session() as client:
            return await client.call_tool(tool_name, arguments)

    async def _async_handle_list_tools(self) -> ListToolsObservation:
        mode = getattr(self, "_mode", None)
        try:
            listed = await self._async_list_tools()
        except Exception as exc:  # of the server, which is the author's
            facts = {"error": str(exc), "error_type": "list_tools_failed"}
            return ListToolsObservation(tools=[], metadata=facts)
        tools = [_as_tool(tool) for tool in listed if tool.name not in self._mode_tool_schemas]
        for schemas in self._mode_tool_schemas.values():
            schema = schemas.get(None) or schemas.get(mode)
            if schema is not None:
                tools.append(Tool(**schema))
        return ListToolsObservation(tools=tools)

    async def _async_handle_call_tool(
        self, action: CallToolAction, timeout_s: float | None = None
    ) -> CallToolObservation:
        name = action.tool_name
        functions = self._mode_tools.get(name)
        if functions:
            mode = getattr(self, "_mode", None)
            function = functions.get(None) or functions.get(mode)
            if function is None:
                return _failed(
                    name,
                    ToolErrorType.TOOL_NOT_FOUND,
                    f"Tool '{name}' not available in {mode} mode",
                )
            return await _called(name, function, action.arguments)
        seconds = MCP_TOOL_CALL_TIMEOUT if timeout_s is None else timeout_s
        try:
            result = await asyncio.wait_for(self._async_call_tool(name, action.arguments), seconds)
        except TimeoutError:
            said = f"Tool '{name}' timed out after {seconds} seconds"
            return _failed(name, ToolErrorType.TIMEOUT, said)
        except Exception as exc:  # of the tool, which is the author's
            return _failed(name, _kind_of(str(exc)), str(exc))
        return CallToolObservation(tool_name=name, result=result)

    def close(self) -> None:
        """Let go of the server; a subclass that overrides it calls this one too."""
        self.mcp_client = None
        self.mcp_server = None


def _described(function: Callable[..., Any]) -> dict[str, Any]:
    """A tool made of a function's signature: numbers and truth values by annotation, else text."""
    parameters = inspect.signature(function).parameters
    names = {kind.__name__: json for kind, json in _JSON_TYPES.items()}
    properties = {
        name: {"type": _JSON_TYPES.get(p.annotation) or names.get(p.annotation, "string")}
        for name, p in parameters.items()
    }
    required = [name for name, p in parameters.items() if p.default is p.empty]
    return {
        "name": function.__name__,
        "description": function.__doc__ or "",
        "input_schema": {"type": "object", "properties": properties, "required": required},
    }


def _as_tool(tool: Any) -> Tool:
    """A tool of the ``mcp`` package, whose releases name its schema in two ways."""
    schema = getattr(tool, "inputSchema", None) or getattr(tool, "input_schema", None) or {}
    return Tool(name=tool.name, description=tool.description or "", input_schema=schema)


async def _called(
    name: str, function: Callable[..., Any], arguments: dict[str, Any]
) -> CallToolObservation:
    """The result of a tool of a mode, in the form that FastMCP gives results."""
    from fastmcp.client.client import CallToolResult
    from mcp.types import TextContent

    try:
        given = function(**arguments)
        if inspect.isawaitable(given):
            given = await given
    except Exception as exc:  # of the tool, which is the author's
        return _failed(name, ToolErrorType.EXECUTION_ERROR, str(exc))
    result = CallToolResult(
        content=[TextContent(type="text", text=str(given))],
        structured_content={"result": given},
        meta=None,
        data=given,
        is_error=False,
    )
    return CallToolObservation(tool_name=name, result=result)


def _failed(name: str, kind: ToolErrorType, message: str) -> CallToolObservation:
    error = ToolError(error_type=kind, message=message)
    return CallToolObservation(tool_name=name, error=error)


def _kind_of(message: str) -> ToolErrorType:
    """The kind of an error, which FastMCP tells in words alone."""
    said = message.lower()
    if "not found" in said or "unknown tool" in said:
        return ToolErrorType.TOOL_NOT_FOUND
    if "invalid" in said or "argument" in said:
        return ToolErrorType.INVALID_ARGS
    return ToolErrorType.EXECUTION_ERROR
