"""Faults of an engine as agents meet them: typed in their dialect, recorded, asked for again."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.gateway.engines import Engines, EngineTimeouts
from openenv_async.gateway.gateway import Gateway
from openenv_async.gateway.sessions import GatewayLimits
from tests.engine_stub import EngineStub, decode
from tests.gateway.scripted import Client, Reply

PATHS = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
}
FAULTS = {
    "cut": "responder_unavailable",
    "busy": "responder_rate_limited",
    "broken": "responder_unavailable",
    "slow": "responder_unavailable",
    "schema": "invalid_completion",
    "no_ids": "invalid_completion",
    "wrong_ids": "invalid_completion",
    "few_logprobs": "invalid_completion",
    "odd_ids": "invalid_completion",
    "odd_logprobs": "invalid_completion",
    "odd_usage": "invalid_completion",
    "two_choices": "invalid_completion",
    "hangup": "responder_unavailable",
    "other_model": "invalid_completion",
    "error": "responder_unavailable",
}
STREAM_ERRORS = {
    "chat": b'data: {"error":',
    "messages": b"event: error\n",
    "responses": b"event: response.failed\n",
}


def request(dialect: str, is_streamed: bool, text: str) -> dict[str, Any]:
    said = [{"role": "user", "content": text}]
    asked: dict[str, Any] = {"model": "any", "stream": is_streamed}
    if dialect == "responses":
        return asked | {"input": said}
    return asked | {"messages": said, "max_tokens": 64}


def text_of(dialect: str, body: Any) -> str:
    match dialect:
        case "chat":
            return str(body["choices"][0]["message"]["content"])
        case "messages":
            return str(body["content"][0]["text"])
    return str(body["output"][0]["content"][0]["text"])


def check_error(dialect: str, reply: Reply) -> None:
    """Check that a reply is an error as clients of its dialect read it."""
    if reply.status == 200:  # it had begun
        assert not reply.is_whole
        assert STREAM_ERRORS[dialect] in reply.body
        return
    assert reply.is_whole
    assert reply.status >= 400
    assert reply.headers["x-should-retry"] in ("true", "false")
    if dialect == "messages":
        assert reply.json["type"] == "error"
    assert reply.json["error"]["type"]
    assert reply.json["error"]["message"]


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("dialect", PATHS)
async def test_a_fault_is_typed_recorded_and_asked_for_again(
    dialect: str, is_streamed: bool
) -> None:
    async with EngineStub("hello to you", slow_seconds=0.5) as stub:
        engines = Engines(stub.url, tokenizer=decode, timeouts=EngineTimeouts(first=0.25))
        await engines.open()
        limits = GatewayLimits(max_attempts=1)
        async with Gateway(engines, limits=limits) as gateway:
            session = await gateway.open()
            for number, (fault, code) in enumerate(FAULTS.items()):
                stub.faults = {fault: 1.0}
                asked = request(dialect, is_streamed, fault)
                async with Client(gateway.url, session.key) as client:
                    check_error(dialect, await client.ask(asked, PATHS[dialect]))
                record = session.records[number]
                assert record.error is not None, fault
                assert record.error[0] == code, fault
                assert record.answer is None
                assert record.deliveries == ["error"]
                assert session.spent.calls == number
                stub.faults = {}
                async with Client(gateway.url, session.key) as client:
                    again = request(dialect, False, fault)
                    reply = await client.ask(again, PATHS[dialect])
                assert text_of(dialect, reply.json) == "hello to you"
                record = session.records[number]
                assert record.error is None
                assert record.answer is not None
                assert record.deliveries == ["error", "whole"]
                tokens = record.answer.tokens
                assert tokens.completion_ids is not None
                assert decode(tokens.completion_ids) == "hello to you<|im_end|>"
        assert len(session.records) == len(FAULTS)
        await engines.aclose()


async def test_faults_that_pass_are_not_seen_by_the_agent() -> None:
    async with EngineStub("hello", faults={"busy": 0.2, "broken": 0.2, "cut": 0.2}, seed=3) as stub:
        faults, stub.faults = stub.faults, {}
        engines = Engines(stub.url)
        await engines.open()
        stub.faults = faults
        async with Gateway(engines, limits=GatewayLimits(max_attempts=8)) as gateway:
            session = await gateway.open()
            async with Client(gateway.url, session.key) as client:
                for number in range(6):
                    asked = request("chat", False, f"question {number}")
                    reply = await client.ask(asked, PATHS["chat"])
                    assert text_of("chat", reply.json) == "hello"
            assert sum(each.attempts for each in session.records) > 6
            assert all(each.error is None for each in session.records)
        await engines.aclose()


async def test_engines_that_were_given_keep_no_place_for_sessions_that_ended() -> None:
    async with EngineStub("hello") as stub:
        engines = Engines(stub.url)
        await engines.open()
        async with Gateway(engines) as gateway:
            session = await gateway.open()
            async with Client(gateway.url, session.key) as client:
                reply = await client.ask(request("chat", False, "hi"), PATHS["chat"])
                assert reply.status == 200
            assert engines.facts()[0]["sessions"] == 1
            await gateway.end(session)
            assert engines.facts()[0]["sessions"] == 0
        await engines.aclose()
