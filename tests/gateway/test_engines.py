"""Engines over real HTTP: what they sampled comes through as they told it, or as an error."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.errors import (
    InvalidCompletion,
    InvalidOption,
    ResponderFailed,
    ResponderRateLimited,
    ResponderUnavailable,
)
from openenv_async.gateway.calls import Answer, Call, Piece
from openenv_async.gateway.engines import Engines
from tests.model_server import ModelServer, called, decoded

CALL = Call(
    dialect="chat",
    messages=[{"role": "user", "content": "hi"}],
    sampling={"temperature": 0.5, "max_tokens": 100},
)


async def sampled(engines: Engines, call: Call = CALL, session: str = "s") -> Any:
    """Return the pieces of an answer and the answer."""
    pieces: list[Piece] = []
    answer = None
    async for part in engines.sample(call, session=session):
        assert answer is None, "nothing follows the answer"
        if isinstance(part, Answer):
            answer = part
        else:
            pieces.append(part)
    assert answer is not None
    return pieces, answer


@pytest.mark.parametrize("shape", ["vllm", "sglang"])
async def test_tokens_are_those_that_the_engine_sampled(shape: str) -> None:
    async with ModelServer("grüß dich, und dich", shape=shape, weight_version="7") as server:
        engines = Engines(server.url)
        await engines.open()
        assert engines.model == "scripted-1"
        pieces, answer = await sampled(engines)
        served = server.calls[-1]
        assert served.body["temperature"] == 0.5
        await engines.aclose()
    assert "".join(piece.text for piece in pieces) == answer.text == "grüß dich, und dich"
    tokens = answer.tokens
    assert tokens.level == "tokens"
    assert (tokens.prompt_ids, tokens.completion_ids) == (served.prompt_ids, served.completion_ids)
    assert tokens.logprobs == served.logprobs
    assert decoded(tokens.completion_ids) == answer.text
    assert tokens.versions == ([(0, "7")] if shape == "sglang" else [])
    assert (answer.model, answer.engine, answer.engine_call_id) == (
        "scripted-1",
        server.url,
        served.id,
    )
    assert answer.completion_tokens == len(tokens.completion_ids)


async def test_tool_calls_come_in_parts_and_whole() -> None:
    async with ModelServer(called("act", where="über", n=3), shape="vllm") as server:
        engines = Engines(server.url)
        pieces, answer = await sampled(engines)
        await engines.aclose()
    parts = [each for piece in pieces for each in piece.tool_calls]
    [call] = answer.tool_calls
    assert [each.name for each in parts if each.name] == ["act"] == [call.name]
    assert [each.id for each in parts if each.id] == [call.id]
    assert "".join(each.arguments for each in parts) == call.arguments
    assert answer.finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("level", "shape", "ids", "logprobs"),
    [
        ("logprobs", "openai", False, True),
        ("text", "vllm", False, False),
        ("text", "bare", False, False),
    ],
)
async def test_a_lower_level_is_asked_for(
    level: Any, shape: str, ids: bool, logprobs: bool
) -> None:
    async with ModelServer("hello", shape=shape) as server:
        engines = Engines(server.url, level=level)
        _, answer = await sampled(engines)
        await engines.aclose()
    assert answer.tokens.level == level
    assert (answer.tokens.completion_ids is not None) is ids
    assert (answer.tokens.logprobs is not None) is logprobs


@pytest.mark.parametrize(
    ("level", "shape", "why"),
    [
        ("tokens", "openai", "does not give the level 'tokens'.*lower level"),
        ("tokens", "bare", "without log probabilities"),
        ("logprobs", "bare", "does not give the level 'logprobs'"),
    ],
)
async def test_a_level_that_an_engine_lacks_is_an_error_at_the_start(
    level: Any, shape: str, why: str
) -> None:
    async with ModelServer("hello", shape=shape) as server:
        engines = Engines(server.url, level=level)
        with pytest.raises(InvalidCompletion, match=why):
            await engines.open()
        await engines.aclose()


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        ("cut", ResponderUnavailable, None),
        ("busy", ResponderRateLimited, 429),
        ("broken", ResponderUnavailable, 500),
        ("schema", InvalidCompletion, None),
    ],
)
@pytest.mark.parametrize("shape", ["vllm", "sglang"])
async def test_what_an_engine_fails_with(
    shape: str, fault: str, error: type[ResponderFailed], status: int | None
) -> None:
    async with ModelServer("hello", shape=shape) as server:
        engines = Engines(server.url)
        await engines.open()
        server.faults = {fault: 1.0}
        with pytest.raises(error, match=server.url) as told:
            await sampled(engines)
        assert type(told.value) is error
        assert told.value.detail.get("status") == status
        if status == 429:
            assert told.value.detail["retry_after"] == 0.01
        server.faults = {}
        await sampled(engines)
        await engines.aclose()


async def test_an_engine_that_is_not_there() -> None:
    engines = Engines("http://127.0.0.1:9")
    with pytest.raises(ResponderUnavailable, match=r"127\.0\.0\.1:9/v1 cannot be reached.*start"):
        await engines.open()
    await engines.aclose()


async def test_a_session_stays_and_moves_when_its_engine_fails() -> None:
    async with ModelServer("a", shape="vllm") as one, ModelServer("b", shape="vllm") as other:
        engines = Engines([one.url, other.url])
        await engines.open()
        places = {}
        for session in ("x", "y"):
            answers = [(await sampled(engines, session=session))[1].engine for _ in range(3)]
            assert len(set(answers)) == 1
            places[session] = answers[0]
        assert set(places.values()) == {one.url, other.url}
        failing = one if places["x"] == one.url else other
        failing.faults = {"broken": 1.0}
        with pytest.raises(ResponderUnavailable):
            await sampled(engines, session="x")
        assert [each["failing"] for each in engines.facts()].count(True) == 1
        moved = {(await sampled(engines, session="x"))[1].engine for _ in range(3)}
        assert moved == {places["y"]}
        await engines.aclose()


async def test_calls_begun_after_a_publish_carry_its_version() -> None:
    async with ModelServer("hello", shape="vllm") as server:
        engines = Engines(server.url)
        engines.publish(1)
        first = engines.sample(CALL, session="s")
        await anext(first)
        engines.publish(2)
        rest = [part async for part in first]
        _, second = await sampled(engines)
        await engines.aclose()
    assert isinstance(rest[-1], Answer)
    assert rest[-1].tokens.versions == [(0, 1)]
    assert second.tokens.versions == [(0, 2)]


@pytest.mark.parametrize(
    ("urls", "options", "why"),
    [
        ([], {}, "no engine"),
        ("127.0.0.1:80", {}, "begins with http"),
        ("http://h/v1", {"level": "all"}, "level must be one of tokens, logprobs, text"),
        ("http://h/v1", {"tokens": "tgi"}, "tokens must be one of auto, vllm"),
        ("http://h/v1", {"tokens": "logprobs"}, "ask for level='logprobs'"),
        ("http://h/v1", {"level": "logprobs", "tokens": "none"}, "ask for level='text'"),
    ],
)
def test_settings_that_make_no_sense(urls: Any, options: Any, why: str) -> None:
    with pytest.raises(InvalidOption, match=why):
        Engines(urls, **options)
