"""Upstream's models of tools: as actions and observations, and as JSON-RPC."""

from __future__ import annotations

import json
from enum import Enum
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from openenv_async.compat.upstream.types import Action, BaseMessage, Observation

__all__ = [
    "RESERVED_TOOL_NAMES",
    "CallToolAction",
    "CallToolObservation",
    "JsonRpcError",
    "JsonRpcErrorCode",
    "JsonRpcRequest",
    "JsonRpcResponse",
    "ListToolsAction",
    "ListToolsObservation",
    "McpMethod",
    "Tool",
    "ToolError",
    "ToolErrorType",
    "WSMCPMessage",
    "WSMCPResponse",
]

RESERVED_TOOL_NAMES: Final = frozenset({"reset", "step", "state", "close"})
"""Names that no tool may have, since they are calls of every environment."""

_STRICT = ConfigDict(extra="forbid")


# -- JSON-RPC 2.0 -----------------------------------------------------------------------------


class JsonRpcErrorCode(int, Enum):
    """Error codes of JSON-RPC 2.0."""

    PARSE_ERROR = -32700
    INVALID_REQUEST = -32600
    METHOD_NOT_FOUND = -32601
    INVALID_PARAMS = -32602
    INTERNAL_ERROR = -32603
    SERVER_ERROR = -32000


_MESSAGES: Final = {
    JsonRpcErrorCode.PARSE_ERROR: "Parse error",
    JsonRpcErrorCode.INVALID_REQUEST: "Invalid Request",
    JsonRpcErrorCode.METHOD_NOT_FOUND: "Method not found",
    JsonRpcErrorCode.INVALID_PARAMS: "Invalid params",
    JsonRpcErrorCode.INTERNAL_ERROR: "Internal error",
    JsonRpcErrorCode.SERVER_ERROR: "Server error",
}
"""The messages that JSON-RPC 2.0 gives with its codes."""


class McpMethod(str, Enum):  # noqa: UP042  # upstream's kind of enum
    """Methods that a server answers."""

    TOOLS_LIST = "tools/list"
    TOOLS_CALL = "tools/call"


class JsonRpcError(BaseModel):
    """The ``error`` of an answer."""

    model_config = _STRICT

    code: int = Field(description="Kind of error")
    message: str = Field(description="The failure, in words")
    data: Any | None = Field(default=None, description="Further facts")

    @classmethod
    def from_code(
        cls, code: JsonRpcErrorCode, message: str | None = None, data: Any = None
    ) -> Self:
        """Return the error of a code, by default with its standard message."""
        return cls(code=code.value, message=message or _MESSAGES[code], data=data)


class JsonRpcRequest(BaseModel):
    """A request, or a notification where it has no id."""

    model_config = _STRICT

    jsonrpc: Literal["2.0"] = Field(description="Version of JSON-RPC")
    method: str = Field(description="Name of the method")
    params: dict[str, Any] = Field(default_factory=dict, description="Its parameters")
    id: str | int | None = Field(default=None, description="Id of the request")


class JsonRpcResponse(BaseModel):
    """An answer: dumped, it has ``result`` or ``error``, never both."""

    model_config = _STRICT

    jsonrpc: Literal["2.0"] = Field(default="2.0", description="Version of JSON-RPC")
    result: Any | None = Field(default=None, description="The result of the method")
    error: JsonRpcError | None = Field(
        default=None, description="The kind of failure, or its error"
    )
    id: str | int | None = Field(default=None, description="Id of the request")

    def model_dump(self, **_: Any) -> dict[str, Any]:
        """Return the answer as it travels."""
        told: dict[str, Any] = {"jsonrpc": self.jsonrpc, "id": self.id}
        if self.error is None:
            return {**told, "result": self.result}
        return {**told, "error": self.error.model_dump()}

    def model_dump_json(self, **_: Any) -> str:
        """Return the answer as the text that travels."""
        return json.dumps(self.model_dump())

    @classmethod
    def success(cls, result: Any, request_id: str | int | None = None) -> Self:
        """Return the answer of a method that returned."""
        return cls(result=result, id=request_id)

    @classmethod
    def error_response(
        cls,
        code: JsonRpcErrorCode,
        message: str | None = None,
        data: Any = None,
        request_id: str | int | None = None,
    ) -> Self:
        """Return the answer of a method that failed."""
        return cls(error=JsonRpcError.from_code(code, message, data), id=request_id)


# -- tools ------------------------------------------------------------------------------------


class Tool(BaseModel):
    """A tool that an agent may call."""

    model_config = _STRICT

    name: str = Field(description="Name of the tool")
    description: str = Field(description="Its purpose, in words")
    input_schema: dict[str, Any] = Field(description="JSON Schema of its arguments")


class ToolErrorType(str, Enum):  # noqa: UP042  # upstream's kind of enum
    """Kinds of failure of a call of a tool."""

    EXECUTION_ERROR = "execution_error"
    INVALID_ARGS = "invalid_args"
    TRANSPORT_ERROR = "transport_error"
    TOOL_NOT_FOUND = "tool_not_found"
    TIMEOUT = "timeout"


class ToolError(BaseModel):
    """A call that failed; what a tool itself says of its failure is a result."""

    model_config = _STRICT

    error_type: ToolErrorType = Field(description="The kind of failure, or its error")
    message: str = Field(description="The failure, in words")


class ListToolsAction(Action):
    """The action that asks for the tools; it may be taken before ``reset``."""

    type: Literal["list_tools"] = Field(default="list_tools", description="Kind of action")


class CallToolAction(Action):
    """The action that calls a tool."""

    type: Literal["call_tool"] = Field(default="call_tool", description="Kind of action")
    tool_name: str = Field(description="Name of the tool")
    arguments: dict[str, Any] = Field(default_factory=dict, description="Its arguments")


class ListToolsObservation(Observation):
    """The observation that lists the tools."""

    tools: list[Tool] = Field(description="The tools")


class CallToolObservation(Observation):
    """The observation that a call of a tool gives."""

    tool_name: str = Field(description="Name of the tool")
    result: Any = Field(default=None, description="The result of the tool")
    error: ToolError | None = Field(default=None, description="The failure of the call")


class WSMCPMessage(BaseMessage):
    """Message of the WebSocket with a JSON-RPC request."""

    type: Literal["mcp"] = Field(default="mcp", description="Kind of message")
    data: dict[str, Any] = Field(description="The request")


class WSMCPResponse(BaseModel):
    """Message of the WebSocket with a JSON-RPC answer."""

    model_config = _STRICT

    type: str = Field(default="mcp", description="Kind of message")
    data: dict[str, Any] = Field(description="The answer")
