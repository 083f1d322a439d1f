"""Requests of the Model Context Protocol, read by their body and headers."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from openenv_async.protocol.json_rpc import RpcCode, RpcFailure, read_request
from openenv_async.protocol.mcp import (
    REVISIONS,
    McpCode,
    is_mcp,
    page_of,
    read_call,
    status_of,
)

NEW = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": NEW,
    "io.modelcontextprotocol/clientCapabilities": {},
}


def read(method: str, params: Any = None, number: Any = 1, **headers: str) -> Any:
    body = {"jsonrpc": "2.0", "method": method, "params": params or {}}
    if number is not None:
        body["id"] = number
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_call(read_request(json.dumps(body).encode()), Headers(sent))


@pytest.mark.parametrize(
    ("headers", "method", "expected"),
    [
        ({}, "tools/list", False),
        ({}, "openenv/session/create", False),
        ({"accept": "application/json"}, "tools/call", False),
        ({}, None, False),
        ({}, "initialize", True),
        ({}, "server/discover", True),
        ({}, "notifications/initialized", True),
        ({"mcp-session-id": "a"}, "tools/list", True),
        ({"mcp-protocol-version": NEW}, None, True),
        ({"accept": "application/json, text/event-stream"}, "tools/list", True),
    ],
)
def test_the_dialects_are_told_apart(
    headers: dict[str, str], method: str | None, expected: bool
) -> None:
    assert is_mcp(Headers(headers), method) is expected


def test_the_older_revisions_have_no_more_than_the_header() -> None:
    call = read("tools/list", {"_meta": {"progressToken": 7}}, mcp_protocol_version="2025-06-18")
    assert (call.revision, call.is_stateless, call.progress_token) == ("2025-06-18", False, 7)
    assert call.result({"tools": []}, {}) == {"jsonrpc": "2.0", "id": 1, "result": {"tools": []}}
    assert read("ping").revision is None
    assert read("initialize", mcp_protocol_version="2030-01-01").is_stateless is False


def test_the_newer_one_says_everything_twice() -> None:
    call = read(
        "tools/call",
        {"name": "go", "_meta": {**META, "progressToken": "t"}},
        mcp_protocol_version=NEW,
        mcp_method="tools/call",
        mcp_name="go",
    )
    assert (call.is_stateless, call.progress_token, call.text("name")) == (True, "t", "go")
    listed = read("tools/list", {"_meta": META}, mcp_protocol_version=NEW, mcp_method="tools/list")
    result = listed.result({"tools": []}, {"name": "n", "version": "1"})["result"]
    assert (result["resultType"], result["cacheScope"]) == ("complete", "private")
    assert result["_meta"] == {"io.modelcontextprotocol/serverInfo": {"name": "n", "version": "1"}}


@pytest.mark.parametrize("name", ["go to", "geh über", "=?base64?x?="])
def test_names_that_no_header_can_carry_come_encoded(name: str) -> None:
    encoded = base64.b64encode(name.encode()).decode()
    sent = {"name": name, "_meta": META}
    headers = {"mcp_protocol_version": NEW, "mcp_method": "tools/call"}
    call = read("tools/call", sent, mcp_name=f"=?base64?{encoded}?=", **headers)
    assert call.text("name") == name
    for wrong in (f"=?base64?{encoded}x?=", "=?base64?////?=", "other"):
        with pytest.raises(RpcFailure) as caught:
            read("tools/call", sent, mcp_name=wrong, **headers)
        assert caught.value.code == McpCode.HEADER_MISMATCH


def failure(method: str, params: Any, **headers: str) -> RpcFailure:
    with pytest.raises(RpcFailure) as caught:
        read(method, params, **headers)
    return caught.value


def test_what_is_missing_or_contradicts_is_refused() -> None:
    right = {"mcp_protocol_version": NEW, "mcp_method": "tools/list"}
    assert failure("tools/list", {}, **right).code == RpcCode.INVALID_PARAMS
    assert "clientCapabilities" in failure("tools/list", {}, **right).message
    assert failure("tools/list", {"_meta": 3}, **right).code == RpcCode.INVALID_PARAMS
    other = {**right, "mcp_method": "tools/call"}
    assert failure("tools/list", {"_meta": META}, **other).code == McpCode.HEADER_MISMATCH
    late = {**META, "io.modelcontextprotocol/protocolVersion": "2031-01-01"}
    assert failure("tools/list", {"_meta": late}, **right).code == McpCode.HEADER_MISMATCH
    unknown = failure(
        "tools/list", {"_meta": late}, mcp_protocol_version="2031-01-01", mcp_method="tools/list"
    )
    assert unknown.code == McpCode.UNSUPPORTED_VERSION
    assert unknown.data == {"supported": [*REVISIONS], "requested": "2031-01-01"}
    with pytest.raises(RpcFailure):
        read("notifications/x", number=None, mcp_protocol_version="2031-01-01")


def test_a_header_that_is_there_twice_is_refused() -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": META}}
    raw = [(b"mcp-protocol-version", NEW.encode()), (b"mcp-method", b"tools/list")]
    rpc = read_request(json.dumps(body).encode())
    assert read_call(rpc, Headers(raw=raw)).is_stateless
    with pytest.raises(RpcFailure, match="more than once"):
        read_call(rpc, Headers(raw=[*raw, raw[1]]))


def test_parameters_of_the_wrong_kind() -> None:
    call = read("tools/call", {"name": 3, "arguments": [1], "cursor": {}})
    for ask, name in ((call.text, "name"), (call.object, "arguments")):
        with pytest.raises(RpcFailure) as caught:
            ask(name)
        assert caught.value.code == RpcCode.INVALID_PARAMS
    assert call.scalar("cursor") is None
    assert call.object("nothing") == {}


def test_statuses() -> None:
    assert status_of(RpcCode.METHOD_NOT_FOUND, is_stateless=True) == 404
    assert status_of(RpcCode.METHOD_NOT_FOUND, is_stateless=False) == 200
    assert status_of(RpcCode.PARSE_ERROR, is_stateless=False) == 400
    assert status_of(RpcCode.INTERNAL_ERROR, is_stateless=True) == 200


@given(st.integers(1, 40), st.integers(1, 12))
def test_pages_have_every_item_once(count: int, size: int) -> None:
    seen: list[int] = []
    cursor: Any = None
    while True:
        page = page_of(read("tools/list", {"cursor": cursor} if cursor else {}), count, size)
        seen += range(page.start, page.stop)
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == list(range(count))
