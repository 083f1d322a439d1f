"""OpenAI's Chat Completions: requests as agents send them, answers as its SDK reads them."""

from __future__ import annotations

import random
from typing import Any, Final

import msgspec
import pytest

from openenv_async.errors import CallRefused, ResponderUnavailable
from openenv_async.gateway.calls import Answer, Call, Piece, ToolCall, ToolDelta
from openenv_async.gateway.dialects.chat import ChatDialect
from tests.gateway.dialects.answers import (
    asked,
    cut,
    data_of,
    random_answer,
    read_by_sdk,
    stream_of,
)

CHAT: Final = ChatDialect()
HELLO: Final = {"role": "user", "content": "hello"}
BASH: Final = {"type": "function", "function": {"name": "bash", "parameters": {}}}


def chat(**fields: Any) -> Call:
    return asked(CHAT, **{"model": "m", "messages": [HELLO], **fields})


def test_a_conversation_passes_as_it_came() -> None:
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "content": [{"type": "text", "text": "look"}, image("data:image/png,")]},
        {"role": "assistant", "content": ""},
        {"role": "assistant", "content": None, "tool_calls": [tool_call("c1", '{"a":')]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "no"}]},
        {"role": "assistant", "content": "hm", "reasoning_content": "let me see"},
        {"role": "system", "content": "now go on"},
    ]
    call = chat(messages=messages)
    assert call.messages == messages
    assert (call.dialect, call.asked_model, call.is_streamed) == ("chat", "m", False)
    assert (call.tools, call.tool_choice, call.sampling, call.left_out) == ([], None, {}, {})


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def tool_call(call_id: str, arguments: str) -> dict[str, Any]:
    function = {"name": "bash", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def test_two_spellings_of_one_thing_become_one() -> None:
    call = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "image_url", "image_url": "https://a.test/b"}]},
            {"role": "assistant", "reasoning": "hm"},
        ]
    )
    assert call.messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": [image("https://a.test/b")]},
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
    ]


def test_what_changes_the_sample_is_passed_on() -> None:
    call = chat(
        temperature=0.5,
        top_k=3,
        seed=7,
        stop="END",
        max_completion_tokens=9,
        parallel_tool_calls=False,
        reasoning_effort="low",
        response_format={"type": "json_object"},
        chat_template_kwargs={"enable_thinking": False},
        tools=[BASH],
        tool_choice={"type": "function", "function": {"name": "bash"}},
    )
    assert call.sampling == {
        "temperature": 0.5,
        "top_k": 3,
        "seed": 7,
        "stop": ["END"],
        "max_tokens": 9,
        "parallel_tool_calls": False,
        "reasoning_effort": "low",
        "response_format": {"type": "json_object"},
        "chat_template_kwargs": {"enable_thinking": False},
    }
    assert call.tools == [BASH]
    assert call.tool_choice == {"type": "function", "function": {"name": "bash"}}
    assert call.left_out == {}


def test_what_does_not_is_left_out_with_a_reason() -> None:
    call = chat(
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
        n=1,
        logprobs=False,
        store=False,
        user="u",
        verbosity="low",
        max_tokens=5,
        max_completion_tokens=4,
        brand_new={"x": 1},
        nothing=None,
        tools=[{**BASH, "cache_control": {"type": "ephemeral"}}, {"type": "web_search"}],
        messages=[{**HELLO, "cache_control": {"type": "ephemeral"}}],
    )
    assert call.is_streamed
    assert call.sampling == {"max_tokens": 4}
    assert call.messages == [HELLO]
    assert call.tools == [BASH]
    assert call.left_out == {
        "brand_new": "unknown to the gateway",
        "max_tokens": "max_completion_tokens is given, too",
        "messages[].cache_control": "the engine keeps its own cache",
        "stream_options.continuous_usage_stats": "usage is streamed once, and nothing is hidden",
        "store": "answers are kept in the record of the session alone",
        "tools[].cache_control": "engines know no such key of a tool",
        "tools[1]": "a tool of type 'web_search' is not run by the gateway",
        "user": "names nothing that is sampled",
        "verbosity": "a hint to a hosted model",
    }


def test_names_of_run_and_conversation_are_kept() -> None:
    headers = {"x-session-id": "s", "x-parent-session-id": "p", "authorization": "Bearer k"}
    call = asked(CHAT, headers, messages=[HELLO], prompt_cache_key="k")
    assert call.thread == {
        "x-session-id": "s",
        "x-parent-session-id": "p",
        "prompt_cache_key": "k",
    }
    assert call.asked_model is None


REFUSED: Final[dict[str, dict[str, Any]]] = {
    "messages": {"messages": None},
    "messages[0]": {"messages": ["hi"]},
    "messages[0].role": {"messages": [{"role": "critic", "content": "no"}]},
    "messages[1].content": {"messages": [HELLO, {"role": "user"}]},
    "messages[0].content": {"messages": [{"role": "user", "content": {"a": 1}}]},
    "messages[0].content[0]": {"messages": [{"role": "user", "content": ["a"]}]},
    "messages[0].content[0].type": {"messages": [{"role": "user", "content": [{"type": "x"}]}]},
    "messages[0].content[0].text": {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    "messages[0].content[0].image_url.url": {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]
    },
    "messages[0].tool_call_id": {"messages": [{"role": "tool", "content": "x"}]},
    "messages[0].function_call": {
        "messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": ""}}]
    },
    "messages[0].tool_calls[0].type": {
        "messages": [{"role": "assistant", "tool_calls": [{"type": "custom"}]}]
    },
    "messages[0].tool_calls[0].function.arguments": {
        "messages": [{"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "f"}}]}]
    },
    "messages[0].reasoning_content": {
        "messages": [{"role": "assistant", "reasoning_content": ["a"]}]
    },
    "model": {"model": 1},
    "stream": {"stream": "yes"},
    "n": {"n": 2},
    "max_tokens": {"max_tokens": 0},
    "max_completion_tokens": {"max_completion_tokens": 1.5},
    "temperature": {"temperature": "hot"},
    "stop": {"stop": [1]},
    "modalities": {"modalities": ["text", "audio"]},
    "audio": {"audio": {"voice": "a"}},
    "logprobs": {"logprobs": True},
    "top_logprobs": {"top_logprobs": 2},
    "return_token_ids": {"return_token_ids": True},
    "functions": {"functions": [{"name": "f"}]},
    "custom_logit_processor": {"custom_logit_processor": "x"},
    "chat_template": {"chat_template": "{{ messages }}"},
    "tools": {"tools": {}},
    "tools[0]": {"tools": [{"type": "custom", "custom": {"name": "x"}}]},
    "tools[0].function.name": {"tools": [{"type": "function", "function": {}}]},
    "tool_choice": {"tool_choice": "required"},
    "tool_choice.name": {"tools": [BASH], "tool_choice": {"type": "function"}},
    "tool_choice.mode": {
        "tools": [BASH],
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "x", "tools": []}},
    },
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_cannot_be_served_is_refused_by_name(field: str) -> None:
    with pytest.raises(CallRefused) as refused:
        chat(**REFUSED[field])
    assert refused.value.detail["field"] == field
    assert refused.value.message.startswith(field)
    status, headers, body = CHAT.error(refused.value)
    assert (status, headers["x-should-retry"]) == (400, "false")
    assert msgspec.json.decode(body)["error"]["param"] == field


def test_a_choice_among_some_tools_offers_those_alone() -> None:
    other = {"type": "function", "function": {"name": "read"}}
    allowed = {
        "mode": "required",
        "tools": [{"type": "function", "function": {"name": "read"}}],
    }
    call = chat(
        tools=[BASH, other], tool_choice={"type": "allowed_tools", "allowed_tools": allowed}
    )
    assert (call.tools, call.tool_choice) == ([other], "required")
    assert chat(tool_choice="auto").tool_choice is None
    with pytest.raises(CallRefused, match="'write', which is not among the tools"):
        chat(tools=[BASH], tool_choice={"type": "function", "function": {"name": "write"}})


ANSWER: Final = Answer(
    text="I look.",
    reasoning="a file",
    tool_calls=[ToolCall(id="c1", name="bash", arguments='{"command": "ls')],
    finish_reason="tool_calls",
    prompt_tokens=5,
    completion_tokens=7,
    cached_tokens=4,
    model="weights-3",
)


def test_a_whole_answer() -> None:
    body = msgspec.json.decode(CHAT.whole(chat(), "s-3", ANSWER, 12.5))
    assert body == {
        "id": "chatcmpl-s-3",
        "object": "chat.completion",
        "created": 12,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {**ANSWER.message, "refusal": None},
                "logprobs": None,
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 7,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
    assert CHAT.whole(chat(), "s-3", ANSWER, 12.5) == CHAT.whole(chat(), "s-3", ANSWER, 12.5)
    untold = msgspec.json.decode(
        CHAT.whole(asked(CHAT, messages=[HELLO]), "s-3", Answer(model="w"))
    )
    assert (untold["usage"], untold["model"]) == (None, "w")
    assert untold["created"] > 1_600_000_000


def test_the_chunks_of_a_stream() -> None:
    call = chat(stream=True, stream_options={"include_usage": True})
    pieces = [
        Piece(reasoning="a file"),
        Piece(text="I "),
        Piece(),
        Piece(text="look."),
        Piece(tool_calls=[ToolDelta(index=0, id="c1", name="bash")]),
        Piece(tool_calls=[ToolDelta(index=0, arguments='{"command"')]),
    ]
    *chunks, usage, done = data_of(stream_of(CHAT, call, ANSWER, pieces))
    assert done == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "a file"},
        {"content": "I "},
        {"content": "look."},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "c1",
                    "type": "function",
                    "function": {"name": "bash", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"command"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ': "ls'}}]},
        {},
    ]
    ended = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert ended == [None] * 7 + ["tool_calls"]
    assert {chunk["usage"] for chunk in chunks} == {None}
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 12)
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in (*chunks, usage)} == {
        ("chatcmpl-s-3", 1_700_000_000, "m")
    }


def test_usage_is_streamed_only_where_it_is_asked_for() -> None:
    chunks = data_of(stream_of(CHAT, chat(stream=True), ANSWER, []))
    assert all("usage" not in chunk and chunk["choices"] for chunk in chunks[:-1])


def test_a_stream_that_fails_has_no_end() -> None:
    writer = CHAT.events(chat(stream=True), "s-3", 1.0)
    stream = (
        writer.begin()
        + writer.piece(Piece(text="I "))
        + writer.fail(ResponderUnavailable("the engine cut its answer"))
    )
    assert data_of(stream)[-1]["error"]["message"] == "the engine cut its answer"
    assert b"[DONE]" not in stream


def test_the_sdk_reads_what_was_sampled() -> None:
    rng = random.Random(5)
    answers = [random_answer(rng) for _ in range(150)]
    plain, streamed = chat(), chat(stream=True, stream_options={"include_usage": True})
    cases: list[dict[str, Any]] = []
    for answer in answers:
        body = CHAT.whole(plain, "s-3", answer)
        stream = stream_of(CHAT, streamed, answer, cut(answer, rng))
        cases += [
            {"dialect": "chat", "is_streamed": False, "body": body},
            {"dialect": "chat", "is_streamed": True, "body": stream},
        ]
    told = read_by_sdk(cases)
    for at, answer in enumerate(answers):
        expected = {
            "id": "chatcmpl-s-3",
            "text": answer.text,
            "reasoning": answer.reasoning,
            "tool_calls": [[c.id, c.name, c.arguments] for c in answer.tool_calls],
            "finish_reason": answer.finish_reason,
            "usage": [answer.prompt_tokens, answer.completion_tokens],
        }
        assert told[2 * at] == expected
        assert told[2 * at + 1] == expected


def test_the_sdk_raises_errors_and_does_not_ask_again_in_vain() -> None:
    refused = CHAT.error(CallRefused("n is 2", field="n"))
    writer = CHAT.events(chat(stream=True), "s-3", 1.0)
    cut_off = writer.begin() + writer.fail(ResponderUnavailable("the engine cut its answer"))
    for_good = CHAT.error(ResponderUnavailable("no", retryable=False))
    told = read_by_sdk(
        [
            {
                "dialect": "chat",
                "is_streamed": False,
                "status": status,
                "headers": headers,
                "body": body,
            }
            for status, headers, body in (refused, for_good)
        ]
        + [{"dialect": "chat", "is_streamed": True, "body": cut_off}]
    )
    assert [(error["error"], error["asked"]) for error in told] == [
        ("BadRequestError", 1),
        ("BadRequestError", 1),
        ("APIError", 1),
    ]
    assert told[0]["code"] == "call_refused"
    assert told[2]["message"] == "the engine cut its answer"
