"""Upstream's models of tools and of JSON-RPC."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from openenv_async.compat.upstream.mcp_types import (
    RESERVED_TOOL_NAMES,
    CallToolAction,
    CallToolObservation,
    JsonRpcErrorCode,
    JsonRpcRequest,
    JsonRpcResponse,
    ListToolsAction,
    ListToolsObservation,
    Tool,
    ToolError,
    ToolErrorType,
)


def test_an_answer_has_a_result_or_an_error() -> None:
    assert JsonRpcResponse.success(None, 1).model_dump() == {
        "jsonrpc": "2.0",
        "id": 1,
        "result": None,
    }
    failed = JsonRpcResponse.error_response(JsonRpcErrorCode.METHOD_NOT_FOUND, request_id="a")
    assert json.loads(failed.model_dump_json()) == {
        "jsonrpc": "2.0",
        "id": "a",
        "error": {"code": -32601, "message": "Method not found", "data": None},
    }


def test_a_request_is_of_version_2() -> None:
    assert JsonRpcRequest(jsonrpc="2.0", method="tools/list").params == {}
    with pytest.raises(ValidationError):
        JsonRpcRequest.model_validate({"jsonrpc": "1.0", "method": "tools/list"})


def test_actions_of_tools_name_their_kind() -> None:
    assert ListToolsAction().model_dump() == {"metadata": {}, "type": "list_tools"}
    call = CallToolAction(tool_name="look")
    assert (call.type, call.arguments) == ("call_tool", {})


def test_observations_of_tools() -> None:
    tool = Tool(name="look", description="Look around", input_schema={"type": "object"})
    assert ListToolsObservation(tools=[tool]).tools == [tool]
    error = ToolError(error_type=ToolErrorType.TIMEOUT, message="too slow")
    seen = CallToolObservation(tool_name="look", error=error)
    assert seen.model_dump()["error"] == {"error_type": "timeout", "message": "too slow"}
    assert {"reset", "step", "state", "close"} == RESERVED_TOOL_NAMES
