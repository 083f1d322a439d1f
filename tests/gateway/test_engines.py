"""Engines over real HTTP: what they sampled comes through as they told it, or as an error."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from openenv_async.errors import (
    CallRefused,
    InvalidCompletion,
    InvalidOption,
    ResponderFailed,
    ResponderRateLimited,
    ResponderUnavailable,
)
from openenv_async.gateway.calls import Answer, Call, Piece
from openenv_async.gateway.engines import AFFINITY_HEADERS, Engines, EngineTimeouts
from tests.engine_stub import EngineStub, decode, encode, prompt_ids
from tests.model_server import ModelServer, called, decoded

CALL = Call(
    dialect="chat",
    messages=[{"role": "user", "content": "hi"}],
    sampling={"temperature": 0.5, "max_tokens": 100},
)


CALLED = called("act", where="here")


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
        ("tokens", "openai", "does not give the level 'tokens'.*ask for less, level='logprobs'"),
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


async def asked(engines: Engines, stub: EngineStub) -> int:
    """Return how often an engine that hangs up was asked for one sample."""
    before = stub.counts["hangup"]
    with pytest.raises(ResponderUnavailable, match="closed the connection"):
        await sampled(engines)
    return stub.counts["hangup"] - before


async def test_a_request_is_sent_again_only_over_a_kept_connection_that_ended_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with EngineStub("hello") as stub:
        engines = Engines(stub.url)
        await engines.open()
        stub.faults = {"hangup": 1.0}
        assert await asked(engines, stub) == 2, "the second time over a connection of its own"
        assert await asked(engines, stub) == 1, "over one that was made for it"
        stub.faults = {}
        await sampled(engines)
        stub.faults, stub.delay = {"hangup": 1.0}, 0.05
        monkeypatch.setattr("openenv_async.gateway.engine_http._RACE", 0.01)
        assert await asked(engines, stub) == 1, "long after the request"
        await engines.aclose()


async def test_a_request_is_not_sent_again_once_its_answer_has_begun() -> None:
    requests = 0

    async def half_a_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        for whole in (True, False):
            head = await reader.readuntil(b"\r\n\r\n")
            requests += 1
            size = [each for each in head.split(b"\r\n") if each.startswith(b"Content-Length:")]
            await reader.readexactly(int(size[0].split(b":")[1]) if size else 0)
            told = b'{"data": [{"id": "m"}]}'
            begun = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
            writer.write(begun + (b"Content-Length: %d\r\n\r\n" % len(told) + told) * whole)
        writer.close()

    async with await asyncio.start_server(half_a_head, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        engines = Engines(f"http://127.0.0.1:{port}/v1")
        with pytest.raises(ResponderUnavailable, match="closed the connection"):
            await engines.open()
        assert requests == 2, "the models, and the probe over the same connection"
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


# -- against a real tokenizer ---------------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": "act", "parameters": {"type": "object"}}}]


@pytest.mark.parametrize("shape", ["vllm", "sglang"])
async def test_ids_are_those_of_the_template_and_decode_to_the_answer(shape: str) -> None:
    """Words that are spelled in other tokens than the tokenizer's stay as they were sampled."""
    said = {**CALLED, "content": "So, 日本 then.", "reasoning_content": "Hm? Über…"}
    async with EngineStub(said, shape=shape, spells_oddly=True, seed=1) as stub:
        engines = Engines(stub.url, tokenizer=decode)
        call = msgspec.structs.replace(CALL, tools=TOOLS)
        pieces, answer = await sampled(engines, call)
        served = stub.calls[-1]
        await engines.aclose()
    tokens = answer.tokens
    assert tokens.prompt_ids == prompt_ids(CALL.messages, TOOLS)
    assert tokens.completion_ids == served.completion_ids
    assert tokens.completion_ids != encode(decode(tokens.completion_ids))
    assert tokens.logprobs == served.logprobs
    assert (answer.text, answer.reasoning) == (said["content"], said["reasoning_content"])
    assert "".join(piece.reasoning for piece in pieces) == answer.reasoning
    assert answer.tool_calls[0].arguments == '{"where": "here"}'
    assert answer.prompt_tokens == len(tokens.prompt_ids)
    assert answer.completion_tokens == len(tokens.completion_ids)


async def test_the_first_piece_comes_before_the_engine_goes_on() -> None:
    async with EngineStub("one two three") as stub:
        engines = Engines(stub.url)
        await engines.open()
        stub.gate = asyncio.Event()
        parts = engines.sample(CALL, session="s")
        async with asyncio.timeout(10):
            pieces = [await anext(parts)]
        stub.gate.set()
        pieces += [part async for part in parts]
        await engines.aclose()
    *pieces, answer = pieces
    assert len(pieces) >= 2
    assert isinstance(answer, Answer)
    assert "".join(piece.text for piece in pieces) == answer.text


async def test_an_engine_learns_that_nobody_waits_for_its_answer() -> None:
    async with EngineStub("one two three") as stub:
        engines = Engines(stub.url)
        await engines.open()
        stub.gate = asyncio.Event()
        parts = engines.sample(CALL, session="s")
        async with asyncio.timeout(10):
            await anext(parts)
            await parts.aclose()
            await stub.idle.wait()
        assert stub.left == 1
        assert engines.facts()[0]["calls"] == 0
        await engines.aclose()


async def ready(engines: Engines, stub: EngineStub) -> None:
    """Have the engines ask for their token, without faults and delays."""
    delays = stub.delay, stub.token_delay
    faults, stub.faults, stub.delay, stub.token_delay = stub.faults, {}, 0.0, 0.0
    await engines.open()
    stub.faults, (stub.delay, stub.token_delay) = faults, delays


@pytest.mark.parametrize("shape", ["vllm", "sglang"])
@pytest.mark.parametrize(
    ("fault", "error", "why"),
    [
        ("no_ids", InvalidCompletion, "without log probabilities, which the level 'tokens' needs"),
        ("wrong_ids", InvalidCompletion, "ids that do not decode to its text"),
        ("few_logprobs", InvalidCompletion, "without a log probability for each of its"),
        ("odd_ids", InvalidCompletion, "no model samples: the sampled ids have -1"),
        ("odd_logprobs", InvalidCompletion, r"log probability \d\.\d+, which is above 0"),
        ("odd_usage", InvalidCompletion, "it counts -1 completion tokens"),
        ("two_choices", InvalidCompletion, "more choices than the one that was asked for"),
        ("other_model", InvalidCompletion, "answered with the model 'another-model'"),
        ("error", ResponderUnavailable, "told of an error in place of its answer.*worker died"),
    ],
)
async def test_answers_that_are_not_what_was_asked_for(
    shape: str, fault: str, error: type[ResponderFailed], why: str
) -> None:
    async with EngineStub("hello to you", shape=shape, faults={fault: 1.0}) as stub:
        engines = Engines(stub.url, tokenizer=decode)
        await ready(engines, stub)
        with pytest.raises(error, match=why) as told:
            await sampled(engines)
        assert type(told.value) is error
        assert stub.url in str(told.value)
        await engines.aclose()


async def test_where_an_answer_stopped_is_told() -> None:
    for shape in ("vllm", "sglang"):
        async with EngineStub("Thought: go\nObservation: none", shape=shape) as stub:
            engines = Engines(stub.url)
            call = msgspec.structs.replace(CALL, sampling={"stop": ["Observation:"]})
            _, answer = await sampled(engines, call)
            await engines.aclose()
        assert (answer.text, answer.finish_reason) == ("Thought: go\n", "stop")
        assert answer.stop_sequence == "Observation:"


async def test_the_engine_gets_its_key_and_the_sessions_name() -> None:
    async with EngineStub("hello", api_key="secret-key-1") as stub:
        engines = Engines(stub.url, api_key="secret-key-1", extra_body={"top_k": 5})
        await sampled(engines, session="session-7")
        headers, body = stub.headers[-1], stub.calls[-1].body
        await engines.aclose()
        refused = Engines(stub.url, api_key="secret-key-2")
        with pytest.raises(ResponderFailed, match=r"HTTP 401.*\*\*\*.*Give its key") as told:
            await refused.open()
        assert "secret-key-2" not in f"{told.value} {told.value.detail}"
        await refused.aclose()
    assert {headers[name.lower()] for name in AFFINITY_HEADERS} == {"session-7"}
    assert body["top_k"] == 5


@pytest.mark.parametrize(
    ("timeouts", "delays", "why"),
    [
        ({"first": 0.05}, {"delay": 30.0}, "did not begin to answer within 0.05 s"),
        ({"piece": 0.05}, {"token_delay": 30.0}, "sent nothing for 0.05 s amid its answer"),
        ({"total": 0.05}, {"token_delay": 30.0}, "did not end its answer within 0.05 s"),
    ],
)
async def test_each_step_of_an_answer_has_its_deadline(
    timeouts: dict[str, float], delays: dict[str, float], why: str
) -> None:
    async with EngineStub("one two three") as stub:
        engines = Engines(stub.url, tokens="vllm", timeouts=EngineTimeouts(**timeouts))
        await engines.open()
        for name, value in delays.items():
            setattr(stub, name, value)
        with pytest.raises(ResponderUnavailable, match=why):
            await sampled(engines)
        await engines.aclose()


async def test_an_answer_has_a_bound() -> None:
    async with EngineStub("word " * 500) as stub:
        engines = Engines(stub.url, tokens="vllm", max_answer_size=20_000)
        await engines.open()
        with pytest.raises(InvalidCompletion, match="more than 20,000 bytes"):
            await sampled(engines, msgspec.structs.replace(CALL, sampling={}))
        await engines.aclose()


async def test_tokens_are_counted_by_the_engine() -> None:
    call = msgspec.structs.replace(CALL, tools=TOOLS)
    for shape, level in (("vllm", "tokens"), ("llama.cpp", "logprobs")):
        async with EngineStub("hello", shape=shape) as stub:
            engines = Engines(stub.url, level=level)  # type: ignore[arg-type]  # of the loop
            for _ in range(2):
                assert await engines.count_tokens(call) == len(prompt_ids(call.messages, TOOLS))
            await engines.aclose()
    async with EngineStub("hello", shape="openai") as stub:
        engines = Engines(stub.url, level="logprobs")
        with pytest.raises(CallRefused, match="does not count tokens"):
            await engines.count_tokens(call)
        await engines.aclose()


async def test_llama_cpp_tells_the_ids_of_what_it_sampled_alone() -> None:
    async with EngineStub("hello", shape="llama.cpp") as stub:
        engines = Engines(stub.url, level="logprobs")
        for tools in ([], TOOLS):
            _, answer = await sampled(engines, msgspec.structs.replace(CALL, tools=tools))
            assert answer.tokens.completion_ids == encode("hello<|im_end|>")
            assert answer.tokens.prompt_ids is None
            assert answer.tokens.level == "logprobs"
        assert not any(call.body.get("stream") for call in stub.calls[1:])
        stub.answer = "日本"  # it leaves out all tokens but the last one of each character
        with pytest.raises(InvalidCompletion, match=r"some of its log probabilities.*level='text'"):
            await sampled(engines)
        await engines.aclose()
        engines = Engines(stub.url, level="text")
        _, answer = await sampled(engines)
        assert answer.text == "日本"
        assert stub.calls[-1].body["stream"]
        await engines.aclose()


# -- answers that an engine aborts ----------------------------------------------------------------

LONG = "The weights may change while an answer is being sampled, token by token, as here."


@pytest.mark.parametrize(
    ("tools", "sampling", "path"),
    [
        ([], {"max_tokens": 100, "min_tokens": 3}, "/v1/completions"),
        ([], {}, "/v1/chat/completions"),
        (TOOLS, {"max_tokens": 100, "min_tokens": 3}, "/v1/chat/completions"),
    ],
)
async def test_an_aborted_answer_goes_on_and_keeps_both_versions(
    tools: list[Any], sampling: dict[str, Any], path: str
) -> None:
    async with EngineStub(LONG) as stub:
        engines = Engines(stub.url, tokenizer=decode)
        await engines.open()
        engines.publish(1)
        stub.faults = {"abort": 1.0}
        call = msgspec.structs.replace(CALL, tools=tools, sampling=sampling)
        parts = engines.sample(call, session="s")
        text = ""
        async for part in parts:
            if isinstance(part, Answer):
                answer = part
            else:
                text += part.text
                engines.publish(2)  # as the first part has come
        aborted, rest = stub.calls[-2:]
        await engines.aclose()
    tokens = answer.tokens
    assert (answer.text, text, answer.finish_reason) == (LONG, LONG, "stop")
    assert (aborted.given, rest.given) == ("abort", "rest")
    first = len(aborted.completion_ids or ())
    assert tokens.versions == [(0, 1), (first, 2)]
    assert tokens.prompt_ids == prompt_ids(CALL.messages, tools)
    assert decode(tokens.completion_ids or ()) == LONG + "<|im_end|>"
    assert tokens.logprobs == [*(aborted.logprobs or ()), *(rest.logprobs or ())]
    assert len(tokens.logprobs) == len(tokens.completion_ids or ()) == answer.completion_tokens
    assert answer.prompt_tokens == len(tokens.prompt_ids or ())
    assert rest.body["path"] == path
    if sampling:
        assert (rest.body["max_tokens"], rest.body["min_tokens"]) == (100 - first, 0)


@pytest.mark.parametrize(
    ("said", "call", "loses"),
    [
        (LONG, CALL, True),
        (LONG, msgspec.structs.replace(CALL, tools=TOOLS), True),
        ({**CALLED, "content": "So:"}, msgspec.structs.replace(CALL, tools=TOOLS), False),
        ({"content": "ab", "reasoning_content": LONG}, CALL, False),
        (LONG, msgspec.structs.replace(CALL, sampling={"response_format": {}}), False),
    ],
)
async def test_an_aborted_answer_that_cannot_go_on_exactly_has_failed(
    said: Any, call: Call, loses: bool
) -> None:
    async with EngineStub(said, loses_prompts=loses) as stub:
        engines = Engines(stub.url)
        await engines.open()
        stub.faults = {"abort": 1.0}
        with pytest.raises(ResponderUnavailable, match="abort"):
            await sampled(engines, call)
        assert not engines.facts()[0]["failing"]
        await engines.aclose()


async def test_an_answer_that_is_aborted_again_and_again_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("openenv_async.gateway.engines._MOST_PARTS", 1)
    async with EngineStub(LONG) as stub:
        engines = Engines(stub.url)
        await engines.open()
        stub.faults = {"abort": 1.0}
        call = msgspec.structs.replace(CALL, sampling={"max_tokens": 100})
        with pytest.raises(ResponderUnavailable, match="aborted its answer 1 times"):
            await sampled(engines, call)
        assert not engines.facts()[0]["failing"]
        await engines.aclose()


async def test_an_aborted_answer_that_came_whole_is_asked_for_again() -> None:
    async with EngineStub(LONG, shape="sglang") as stub:
        engines = Engines(stub.url)
        await engines.open()
        stub.faults = {"abort": 1.0}
        with pytest.raises(ResponderUnavailable, match="abort") as told:
            await sampled(engines)
        assert told.value.retryable
        await engines.aclose()
