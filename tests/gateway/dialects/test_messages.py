"""Anthropic's Messages: requests as agents send them, answers as its SDK reads them."""

from __future__ import annotations

import json
import random
from typing import Any, Final

import msgspec
import pytest

from openenv_async.errors import (
    CallRefused,
    PayloadTooLarge,
    ResponderFailed,
    ResponderRateLimited,
    ResponderUnavailable,
    ServerBusy,
    Unauthorized,
)
from openenv_async.gateway.calls import Answer, Call, Piece, ToolCall, ToolDelta
from openenv_async.gateway.dialects import COUNT_ROUTES, count_page, models_page
from openenv_async.gateway.dialects.messages import MessagesDialect
from tests.gateway.dialects.answers import (
    asked,
    cut,
    data_of,
    random_answer,
    read_by_sdk,
    stream_of,
)

MESSAGES: Final = MessagesDialect()
HELLO: Final = {"role": "user", "content": "hello"}
BASH: Final = {"name": "bash", "description": "Run it.", "input_schema": {"type": "object"}}
EPHEMERAL: Final = {"type": "ephemeral"}


def ask(**fields: Any) -> Call:
    return asked(MESSAGES, **{"model": "m", "max_tokens": 9, "messages": [HELLO], **fields})


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def said(words: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": words, **more}


def test_a_conversation_of_a_coding_agent() -> None:
    call = ask(
        system=[said("a"), said("b", cache_control=EPHEMERAL), said("c", cache_control=EPHEMERAL)],
        messages=[
            user(said("remind"), said("do it", cache_control=EPHEMERAL)),
            {"role": "system", "content": [said("mind the budget")], "output_config": {}},
            assistant(
                {"type": "thinking", "thinking": "a file", "signature": "x"},
                said("I look."),
                {"type": "tool_use", "id": "c1", "name": "bash", "input": {"command": "ls é"}},
                {"type": "tool_use", "id": "c2", "name": "bash", "input": {}},
            ),
            user(
                {"type": "tool_result", "tool_use_id": "c1", "content": "a.py"},
                {
                    "type": "tool_result",
                    "tool_use_id": "c2",
                    "content": [said("no such file")],
                    "is_error": True,
                },
                said("and now?"),
            ),
            {"role": "system", "content": "go on"},
        ],
        tools=[{**BASH, "defer_loading": True, "cache_control": EPHEMERAL}],
        thinking={"type": "adaptive", "display": "omitted"},
        context_management={"edits": []},
        output_config={"effort": "high"},
        metadata={"user_id": json.dumps({"device_id": "d", "session_id": "s"})},
        stream=True,
    )
    assert call.messages == [
        {"role": "system", "content": [said("a"), said("b"), said("c")]},
        {"role": "user", "content": [said("remind"), said("do it")]},
        {"role": "system", "content": "mind the budget"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "a file",
            "tool_calls": [tool_call("c1", '{"command": "ls é"}'), tool_call("c2", "{}")],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a.py"},
        {"role": "tool", "tool_call_id": "c2", "content": "no such file"},
        {"role": "user", "content": "and now?"},
        {"role": "system", "content": "go on"},
    ]
    function = {"name": "bash", "description": "Run it.", "parameters": {"type": "object"}}
    assert call.tools == [{"type": "function", "function": function}]
    assert call.sampling == {"max_tokens": 9}
    assert (call.is_streamed, call.asked_model) == (True, "m")
    assert call.thread == {"metadata.user_id": "s"}
    assert call.left_out.keys() == {
        "messages[].content[].cache_control",
        "messages[].content[].is_error",
        "messages[].output_config",
        "tools[].cache_control",
        "tools[].defer_loading",
        "thinking",
        "context_management",
        "output_config.effort",
        "metadata",
    }


def tool_call(call_id: str, arguments: str) -> dict[str, Any]:
    function = {"name": "bash", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def test_images_documents_and_blocks_of_other_types() -> None:
    png = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QQ"}}
    url = {"type": "image", "source": {"type": "url", "url": "https://a.test/b.png"}}
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "QQ"}
    plain = {"type": "text", "media_type": "text/plain", "data": "words"}
    reference = {"type": "tool_reference", "tool_name": "é"}
    call = ask(
        messages=[
            user(png, url, {"type": "document", "source": pdf}),
            user(
                {"type": "tool_result", "tool_use_id": "c1", "content": [png, reference]},
                {"type": "tool_result", "tool_use_id": "c2"},
            ),
            user({"type": "document", "title": "T", "source": plain}),
            user({"type": "document", "source": {"type": "content", "content": [said("x"), png]}}),
            assistant(said("a"), {"type": "server_tool_use", "id": "s"}, said("b")),
            user(),
        ]
    )
    data = {"type": "image_url", "image_url": {"url": "data:image/png;base64,QQ"}}
    assert [message["content"] for message in call.messages] == [
        [
            data,
            {"type": "image_url", "image_url": {"url": "https://a.test/b.png"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,QQ"}},
        ],
        [data, said('{"type": "tool_reference", "tool_name": "é"}')],
        "",
        [said("T"), said("words")],
        [said("x"), data],
        "ab",
        "",
    ]
    assert call.left_out == {
        "messages[].content[] server_tool_use": "not a block of the gateway's model"
    }


def test_sampling_and_choices() -> None:
    schema = {"type": "object"}
    call = ask(
        temperature=1,
        top_k=5,
        stop_sequences=["END"],
        tools=[BASH, {"type": "web_search_20260101", "name": "web_search"}],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        output_config={"format": {"type": "json_schema", "schema": schema}},
        brand_new=1,
    )
    assert call.sampling == {
        "max_tokens": 9,
        "temperature": 1,
        "top_k": 5,
        "stop": ["END"],
        "parallel_tool_calls": False,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "output", "schema": schema},
        },
    }
    assert call.tool_choice == "required"
    assert [tool["function"]["name"] for tool in call.tools] == ["bash"]
    assert call.left_out == {
        "tools[1]": "a tool of type 'web_search_20260101' is not run by the gateway",
        "brand_new": "unknown to the gateway",
    }
    chosen = ask(tools=[BASH], tool_choice={"type": "tool", "name": "bash"}).tool_choice
    assert chosen == {"type": "function", "function": {"name": "bash"}}
    assert ask(tools=[BASH], tool_choice={"type": "none"}).tool_choice == "none"


def test_an_answer_goes_on_with_the_words_of_the_last_turn() -> None:
    prefilled = ask(messages=[HELLO, {"role": "assistant", "content": "I think"}])
    assert prefilled.sampling["continue_final_message"] is True
    assert prefilled.sampling["add_generation_prompt"] is False
    called = assistant({"type": "tool_use", "id": "c", "name": "bash", "input": {}})
    assert "continue_final_message" not in ask(messages=[HELLO, called]).sampling


def test_the_user_s_id_is_kept_if_it_holds_no_conversation() -> None:
    assert ask(metadata={"user_id": "u-1"}).thread == {"metadata.user_id": "u-1"}
    assert ask(metadata={"user_id": "[1]"}).thread == {"metadata.user_id": "[1]"}
    assert ask(metadata={}).thread == {}
    assert asked(
        MESSAGES, {"x-claude-code-session-id": "s", "x-api-key": "k"}, messages=[HELLO]
    ).thread == {"x-claude-code-session-id": "s"}


REFUSED: Final[dict[str, dict[str, Any]]] = {
    "messages": {"messages": None},
    "messages[0]": {"messages": ["hi"]},
    "messages[0].role": {"messages": [{"role": "tool", "content": "x"}]},
    "messages[0].content": {"messages": [{"role": "user", "content": 1}]},
    "messages[0].content[0]": {"messages": [user("hi")]},  # type: ignore[arg-type]
    "messages[0].content[0].type": {"messages": [user({"text": "x"})]},
    "messages[0].content[0].text": {"messages": [user({"type": "text"})]},
    "messages[0].content[0].source": {"messages": [user({"type": "image"})]},
    "messages[0].content[0].source.type": {
        "messages": [user({"type": "image", "source": {"type": "file", "file_id": "f"}})]
    },
    "messages[0].content[0].source.data": {
        "messages": [
            user({"type": "image", "source": {"type": "base64", "media_type": "image/png"}})
        ]
    },
    "messages[0].content[0].tool_use_id": {"messages": [user({"type": "tool_result"})]},
    "messages[0].content[0].input": {
        "messages": [assistant({"type": "tool_use", "id": "c", "name": "n", "input": "{}"})]
    },
    "messages[0].content[0].thinking": {"messages": [assistant({"type": "thinking"})]},
    "system": {"system": 3},
    "system[0].text": {"system": [{"type": "text", "text": 3}]},
    "stream": {"stream": 1},
    "max_tokens": {"max_tokens": 0},
    "top_p": {"top_p": "x"},
    "stop_sequences": {"stop_sequences": [None]},
    "tools[0].name": {"tools": [{"input_schema": {}}]},
    "tools[0].input_schema": {"tools": [{"name": "x"}]},
    "tools[0].description": {"tools": [{**BASH, "description": 1}]},
    "tool_choice": {"tool_choice": {"type": "any"}},
    "tool_choice.type": {"tool_choice": {"type": "x"}},
    "output_config.format": {"output_config": {"format": {"type": "grammar"}}},
    "logprobs": {"logprobs": True},
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_cannot_be_served_is_refused_by_name(field: str) -> None:
    with pytest.raises(CallRefused) as refused:
        ask(**REFUSED[field])
    assert refused.value.detail["field"] == field
    status, headers, body = MESSAGES.error(refused.value)
    assert (status, headers["x-should-retry"]) == (400, "false")
    error = msgspec.json.decode(body)
    assert error["error"] == {"type": "invalid_request_error", "message": refused.value.message}
    assert error["type"] == "error"


def test_errors_have_the_types_that_agents_know() -> None:
    told = {
        "authentication_error": (Unauthorized("m"), 401),
        "not_found_error": (CallRefused("m", status=404), 404),
        "request_too_large": (PayloadTooLarge("m"), 413),
        "rate_limit_error": (ResponderRateLimited("m"), 429),
        "overloaded_error": (ServerBusy("m"), 529),
        "api_error": (ResponderUnavailable("m"), 500),
    }
    for kind, (error, status) in told.items():
        got, _, body = MESSAGES.error(error)
        assert (got, msgspec.json.decode(body)["error"]["type"]) == (status, kind)
    overflow = ResponderFailed("maximum context length is 9 tokens", status=400)
    message = msgspec.json.decode(MESSAGES.error(overflow)[2])["error"]["message"]
    assert message == "prompt is too long: maximum context length is 9 tokens"


ANSWER: Final = Answer(
    text="I look.",
    reasoning="a file",
    tool_calls=[
        ToolCall(id="c1", name="bash", arguments='{"command": "ls"}'),
        ToolCall(id="c2", name="bash", arguments='{"command": '),
    ],
    finish_reason="tool_calls",
    prompt_tokens=5,
    completion_tokens=7,
    cached_tokens=4,
)


def test_a_whole_answer_and_its_way_back() -> None:
    body = msgspec.json.decode(MESSAGES.whole(ask(), "s-3", ANSWER))
    assert body == {
        "id": "msg_s-3",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "a file", "signature": "openenv-s-3"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "c1", "name": "bash", "input": {"command": "ls"}},
            {
                "type": "tool_use",
                "id": "c2",
                "name": "bash",
                "input": {"__unparsedToolInput": {"raw": '{"command": ', "len": 12}},
            },
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 1,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 7,
        },
    }
    again = ask(messages=[HELLO, {"role": "assistant", "content": body["content"]}])
    assert again.messages[1] == ANSWER.message


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(), "end_turn"),
        (Answer(finish_reason="length"), "max_tokens"),
        (Answer(finish_reason="content_filter"), "refusal"),
        (Answer(finish_reason="eos"), "end_turn"),
        (Answer(stop_sequence="END"), "stop_sequence"),
        (Answer(tool_calls=[ToolCall(id="c", name="n", arguments="")]), "tool_use"),
    ],
)
def test_stop_reasons(answer: Answer, reason: str) -> None:
    body = msgspec.json.decode(MESSAGES.whole(ask(), "s-3", answer))
    assert (body["stop_reason"], body["stop_sequence"]) == (reason, answer.stop_sequence)


def test_the_events_of_a_stream() -> None:
    pieces = [
        Piece(reasoning="a "),
        Piece(reasoning="file", text="I "),
        Piece(),
        Piece(text="look."),
        Piece(tool_calls=[ToolDelta(index=0, id="c1", name="bash")]),
        Piece(tool_calls=[ToolDelta(index=0, arguments='{"command"')]),
    ]
    events = data_of(stream_of(MESSAGES, ask(stream=True), ANSWER, pieces))
    start, *blocks, delta, stop = events
    assert start["message"]["id"] == "msg_s-3"
    assert start["message"]["content"] == []
    assert [short(event) for event in blocks] == [
        (0, {"type": "thinking", "thinking": "", "signature": ""}),
        (0, {"type": "thinking_delta", "thinking": "a "}),
        (0, {"type": "thinking_delta", "thinking": "file"}),
        (0, {"type": "signature_delta", "signature": "openenv-s-3"}),
        (0, "stop"),
        (1, {"type": "text", "text": ""}),
        (1, {"type": "text_delta", "text": "I "}),
        (1, {"type": "text_delta", "text": "look."}),
        (1, "stop"),
        (2, {"type": "tool_use", "id": "c1", "name": "bash", "input": {}}),
        (2, {"type": "input_json_delta", "partial_json": '{"command"'}),
        (2, {"type": "input_json_delta", "partial_json": ': "ls"}'}),
        (2, "stop"),
        (3, {"type": "tool_use", "id": "c2", "name": "bash", "input": {}}),
        (3, {"type": "input_json_delta", "partial_json": '{"command": '}),
        (3, "stop"),
    ]
    assert delta["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert (delta["usage"]["input_tokens"], delta["usage"]["output_tokens"]) == (1, 7)
    assert stop == {"type": "message_stop"}


def short(event: dict[str, Any]) -> tuple[int, Any]:
    match event["type"]:
        case "content_block_start":
            return event["index"], event["content_block"]
        case "content_block_delta":
            return event["index"], event["delta"]
        case "content_block_stop":
            return event["index"], "stop"
        case other:
            raise AssertionError(other)


def test_a_part_of_a_call_that_has_stopped_goes_to_its_block() -> None:
    writer = MESSAGES.events(ask(stream=True), "s-3", 1.0)
    stream = writer.begin() + b"".join(
        writer.piece(Piece(tool_calls=[delta]))
        for delta in (
            ToolDelta(index=0, id="c1", name="bash"),
            ToolDelta(index=1, id="c2", name="bash"),
            ToolDelta(index=0, arguments="{}"),
            ToolDelta(index=1, arguments="[]"),
        )
    )
    deltas = [e for e in data_of(stream) if e["type"] == "content_block_delta"]
    assert [short(event) for event in deltas] == [
        (0, {"type": "input_json_delta", "partial_json": "{}"}),
        (1, {"type": "input_json_delta", "partial_json": "[]"}),
    ]


def test_a_stream_that_fails_has_no_end() -> None:
    writer = MESSAGES.events(ask(stream=True), "s-3", 1.0)
    stream = (
        writer.begin()
        + writer.piece(Piece(text="I "))
        + writer.fail(ResponderUnavailable("the engine cut its answer"))
    )
    error = {"type": "api_error", "message": "the engine cut its answer"}
    assert data_of(stream)[-1] == {"type": "error", "error": error}
    assert b"message_stop" not in stream


def test_the_sdk_reads_what_was_sampled() -> None:
    rng = random.Random(6)
    answers = [random_answer(rng) for _ in range(150)]
    plain, streamed = ask(), ask(stream=True)
    cases: list[dict[str, Any]] = []
    for answer in answers:
        body = MESSAGES.whole(plain, "s-3", answer)
        stream = stream_of(MESSAGES, streamed, answer, cut(answer, rng))
        cases += [
            {"dialect": "messages", "is_streamed": False, "body": body},
            {"dialect": "messages", "is_streamed": True, "body": stream},
        ]
    reasons = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}
    told = read_by_sdk(cases)
    for at, answer in enumerate(answers):
        expected = {
            "id": "msg_s-3",
            "text": answer.text,
            "reasoning": answer.reasoning,
            "signatures": ["openenv-s-3"] if answer.reasoning else [],
            "tool_calls": [[c.id, c.name, given(c.arguments)] for c in answer.tool_calls],
            "finish_reason": reasons[answer.finish_reason],
            "usage": [answer.prompt_tokens, answer.completion_tokens],
        }
        assert told[2 * at] == expected
        spelled = [[c.id, c.name, c.arguments] for c in answer.tool_calls]
        assert told[2 * at + 1] == {**expected, "tool_calls": spelled}


def given(arguments: str) -> Any:
    if arguments.endswith("}"):
        return json.loads(arguments)
    unparsed = {"raw": arguments, "len": len(arguments)}
    return {"__unparsedToolInput": unparsed} if arguments else {}


def test_the_sdk_raises_errors_and_does_not_ask_again_in_vain() -> None:
    status, headers, body = MESSAGES.error(CallRefused("n is 2", field="n"))
    writer = MESSAGES.events(ask(stream=True), "s-3", 1.0)
    cut_off = writer.begin() + writer.fail(ResponderUnavailable("the engine cut its answer"))
    whole, ended = read_by_sdk(
        [
            {
                "dialect": "messages",
                "is_streamed": False,
                "status": status,
                "headers": headers,
                "body": body,
            },
            {"dialect": "messages", "is_streamed": True, "body": cut_off},
        ]
    )
    assert (whole["error"], whole["asked"]) == ("BadRequestError", 1)
    assert ended["error"] in ("APIStatusError", "InternalServerError")
    assert "the engine cut its answer" in ended["message"]


def test_tokens_are_counted_by_the_same_request() -> None:
    assert COUNT_ROUTES["/v1/messages/count_tokens"].read(
        json.dumps({"model": "m", "messages": [HELLO], "tools": [BASH]}).encode(), {}
    ).messages == [HELLO]
    assert msgspec.json.decode(count_page("messages", 7)) == {"input_tokens": 7}


def test_models_have_a_page() -> None:
    page = msgspec.json.decode(models_page("messages", ["a", "b"]))
    assert [model["id"] for model in page["data"]] == ["a", "b"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("a", "b", False)
    assert msgspec.json.decode(models_page("messages", []))["first_id"] is None
    page = msgspec.json.decode(models_page("chat", ["a"]))
    assert page == {
        "object": "list",
        "data": [{"id": "a", "object": "model", "created": 0, "owned_by": "openenv"}],
    }
