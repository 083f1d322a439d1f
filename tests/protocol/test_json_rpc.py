"""Requests of JSON-RPC, as upstream's dialect carries them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openenv_async.protocol.json_rpc import (
    RpcCode,
    RpcFailure,
    checked,
    decoded,
    read_request,
    rpc_error,
    rpc_result,
    rpc_text,
)
from openenv_async.types import MAX_DEPTH


def failure(message: bytes | str | None, **limits: Any) -> RpcFailure:
    with pytest.raises(RpcFailure) as caught:
        read_request(checked(message, **limits))
    return caught.value


def test_a_request_and_its_parameters() -> None:
    rpc = read_request(
        checked('{"jsonrpc":"2.0","id":"a","method":"m","params":{"name":"x","other":[1]}}')
    )
    assert (rpc.id, rpc.method) == ("a", "m")
    assert rpc.text("name") == "x"
    assert rpc.text("other") is None
    assert rpc.text("missing") is None
    assert bytes(rpc.params["other"]) == b"[1]"


@pytest.mark.parametrize("number", [1, -5, "one", None])
def test_any_id_that_upstream_takes(number: Any) -> None:
    body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "m"})
    assert read_request(checked(body)).id == number


def test_a_request_may_lack_id_and_parameters() -> None:
    rpc = read_request(b'{"jsonrpc":"2.0","method":"m"}')
    assert (rpc.id, rpc.params) == (None, {})


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[]", "3", b"\xff"])
def test_what_cannot_be_parsed(text: str | bytes) -> None:
    assert failure(text).code == RpcCode.PARSE_ERROR


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"jsonrpc": "1.0", "method": "m"},
        {"jsonrpc": "2.0"},
        {"jsonrpc": "2.0", "method": 3},
        {"jsonrpc": "2.0", "method": ["m"]},
        {"jsonrpc": "2.0", "method": "m", "id": True},
        {"jsonrpc": "2.0", "method": "m", "id": [1]},
        {"jsonrpc": "2.0", "method": "m", "id": 2**70},
    ],
)
def test_what_is_not_a_request(fields: dict[str, Any]) -> None:
    assert failure(json.dumps(fields)).code == RpcCode.INVALID_REQUEST


@pytest.mark.parametrize("broken", [b"1e999", b"[1e999]", b'"\xff"', b'{"a": "\xff"}'])
def test_a_parameter_that_cannot_be_decoded(broken: bytes) -> None:
    rpc = read_request(b'{"jsonrpc":"2.0","id":4,"method":"m","params":{"x":%s}}' % broken)
    with pytest.raises(RpcFailure) as caught:
        decoded(rpc.params["x"])
    assert caught.value.code == RpcCode.PARSE_ERROR


def test_a_binary_message_is_not_a_request() -> None:
    assert failure(None).code == RpcCode.INVALID_REQUEST


def test_parameters_must_be_an_object() -> None:
    failed = failure('{"jsonrpc":"2.0","id":4,"method":"m","params":[1]}')
    assert (failed.code, failed.request_id) == (RpcCode.INVALID_PARAMS, 4)


def test_depth_and_size_are_bounded() -> None:
    deep = "[" * (MAX_DEPTH + 10) + "]" * (MAX_DEPTH + 10)
    assert failure(f'{{"params":{{"a":{deep}}}}}').code < 0
    assert failure('{"a":[[],[],[]]}', max_containers=3).code == RpcCode.INVALID_REQUEST


def test_responses() -> None:
    assert json.loads(rpc_text(rpc_result(1, {"a": None}))) == {
        "jsonrpc": "2.0",
        "id": 1,
        "result": {"a": None},
    }
    assert rpc_error(RpcFailure(RpcCode.SERVER_ERROR, "full", {"max_sessions": 1}, "x")) == {
        "jsonrpc": "2.0",
        "id": "x",
        "error": {"code": -32000, "message": "full", "data": {"max_sessions": 1}},
    }
