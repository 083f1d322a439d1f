"""OpenAI's Responses: requests as agents send them, answers as its SDK reads them."""

from __future__ import annotations

import json
import random
from typing import Any, Final

import msgspec
import pytest

from openenv_async.errors import CallRefused, ResponderFailed, ResponderUnavailable
from openenv_async.gateway.calls import Answer, Call, Piece, ToolCall, ToolDelta
from openenv_async.gateway.dialects import COUNT_ROUTES, DIALECTS, ROUTES, count_page
from openenv_async.gateway.dialects.responses import ResponsesDialect
from tests.gateway.dialects.answers import (
    asked,
    cut,
    data_of,
    random_answer,
    read_by_sdk,
    stream_of,
)

RESPONSES: Final = ResponsesDialect()
BASH: Final = {"type": "function", "name": "bash", "parameters": {"type": "object"}}
PATCH: Final = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edit.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: LINE"},
}
AGENTS: Final = {
    "type": "namespace",
    "name": "agents",
    "description": "For helpers.",
    "tools": [
        {"type": "function", "name": "spawn", "description": "Start one.", "strict": False},
        {"type": "custom", "name": "note"},
    ],
}


def ask(**fields: Any) -> Call:
    return asked(RESPONSES, **{"model": "m", "input": "hello", **fields})


def says(role: str, *words: str) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    content = [{"type": kind, "text": text} for text in words]
    return {"type": "message", "role": role, "content": content}


def called(call_id: str, arguments: str = "{}", **more: Any) -> dict[str, Any]:
    named = {"name": "bash", "arguments": arguments}
    return {"type": "function_call", "call_id": call_id, **named, **more}


def output(call_id: str, told: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": told}


def tool_call(call_id: str, name: str = "bash", arguments: str = "{}") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def test_a_conversation_of_a_coding_agent() -> None:
    call = ask(
        instructions="be brief",
        input=[
            {**says("developer", "a", "b"), "id": "msg_1"},
            {"role": "user", "content": "do it"},
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "content": None,
                "encrypted_content": "openenv.reasoning:a file",
            },
            says("assistant", "I ", "look."),
            called("c1", '{"command":  ["ls"]}', id="fc_1", status="completed"),
            called("c2", "{", namespace="agents"),
            output("c1", "a.py"),
            output("c2", [{"type": "input_text", "text": "no"}]),
            says("assistant", "One."),
            says("assistant", "Two."),
            says("user", "and now?"),
        ],
        include=["reasoning.encrypted_content"],
        reasoning={"summary": "auto", "effort": "high"},
        store=False,
        stream=True,
        parallel_tool_calls=True,
        prompt_cache_key="k",
        client_metadata={"b": 1},
        tools=[BASH, AGENTS, {"type": "web_search"}],
        tool_choice="auto",
    )
    assert call.messages == [
        {"role": "system", "content": "be brief"},
        {
            "role": "system",
            "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}],
        },
        {"role": "user", "content": "do it"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "a file",
            "tool_calls": [
                tool_call("c1", arguments='{"command":  ["ls"]}'),
                tool_call("c2", "agents__bash", "{"),
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a.py"},
        {"role": "tool", "tool_call_id": "c2", "content": "no"},
        {"role": "assistant", "content": "One."},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "and now?"},
    ]
    assert call.sampling == {"parallel_tool_calls": True, "reasoning_effort": "high"}
    assert (call.is_streamed, call.asked_model, call.tool_choice) == (True, "m", "auto")
    assert call.thread == {"prompt_cache_key": "k"}
    assert call.left_out == {
        "tools[2]": "a tool of type 'web_search' is not run by the gateway",
        "reasoning.summary": "reasoning is answered as it is",
        "store": "answers are kept in the record of the session alone",
        "client_metadata": "names nothing that is sampled",
    }


def test_custom_tools_and_those_of_a_namespace_are_functions() -> None:
    call = ask(tools=[PATCH, AGENTS], tool_choice={"type": "custom", "name": "apply_patch"})
    functions = [tool["function"] for tool in call.tools]
    assert [function["name"] for function in functions] == [
        "apply_patch",
        "agents__spawn",
        "agents__note",
    ]
    assert functions[0]["parameters"]["properties"]["input"] == {
        "type": "string",
        "description": "Text of this lark grammar:\nstart: LINE",
    }
    assert functions[1] == {
        "name": "agents__spawn",
        "description": "For helpers.\n\nStart one.",
        "strict": False,
    }
    assert call.tool_choice == {"type": "function", "function": {"name": "apply_patch"}}
    assert call.left_out.keys() == {"tools[].format"}
    answer = Answer(
        tool_calls=[
            ToolCall(id="c1", name="apply_patch", arguments='{"input": "*** \\u00e9\\n"}'),
            ToolCall(id="c2", name="agents__note", arguments='{"input": 3}'),
            ToolCall(id="c3", name="agents__spawn", arguments="{}"),
        ],
        finish_reason="tool_calls",
    )
    items = msgspec.json.decode(RESPONSES.whole(call, "s-3", answer))["output"]
    assert items == [
        {
            "id": "ctc_s-3_0",
            "type": "custom_tool_call",
            "status": "completed",
            "call_id": "c1",
            "name": "apply_patch",
            "input": "*** é\n",
        },
        {
            "id": "ctc_s-3_1",
            "type": "custom_tool_call",
            "status": "completed",
            "call_id": "c2",
            "name": "note",
            "namespace": "agents",
            "input": '{"input": 3}',
        },
        {
            "id": "fc_s-3_2",
            "type": "function_call",
            "status": "completed",
            "call_id": "c3",
            "name": "spawn",
            "namespace": "agents",
            "arguments": "{}",
        },
    ]
    back = {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"}
    again = ask(input=[*items, back], tools=[PATCH, AGENTS])
    assert again.messages == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                tool_call("c1", "apply_patch", '{"input": "*** é\\n"}'),
                tool_call("c2", "agents__note", '{"input": "{\\"input\\": 3}"}'),
                tool_call("c3", "agents__spawn"),
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
    ]


def test_images_files_and_items_of_other_types() -> None:
    call = ask(
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": "data:image/png,", "detail": "low"},
                    {"type": "input_image", "image_url": "https://a.test/b"},
                    {"type": "input_file", "file_data": "data:,x", "filename": "x"},
                    {"type": "input_audio", "input_audio": {"data": "QQ", "format": "wav"}},
                    {"type": "hologram"},
                ],
            },
            {"type": "web_search_call", "id": "w"},
            {"type": "reasoning", "summary": [], "encrypted_content": "of another provider"},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
            says("user"),
            {"type": "additional_tools", "role": "developer", "tools": [BASH]},
        ]
    )
    assert [message["content"] for message in call.messages] == [
        [
            {"type": "image_url", "image_url": {"url": "data:image/png,", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "https://a.test/b"}},
            {"type": "file", "file": {"file_data": "data:,x", "filename": "x"}},
            {"type": "input_audio", "input_audio": {"data": "QQ", "format": "wav"}},
        ],
        "",
        "",
    ]
    assert call.messages[1]["reasoning_content"] == "hm"
    assert [tool["function"]["name"] for tool in call.tools] == ["bash"]
    assert call.left_out.keys() == {
        "input[].content[] hologram",
        "input[] web_search_call",
        "input[] reasoning",
    }


def test_sampling() -> None:
    schema = {"type": "json_schema", "name": "n", "schema": {}, "strict": True}
    call = ask(
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=9,
        text={"format": schema, "verbosity": "low"},
        reasoning={"effort": "xhigh"},
        truncation="auto",
        include=["web_search_call.action.sources"],
        previous_response_id=None,
        background=False,
        brand_new=1,
    )
    assert call.sampling == {
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 9,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {}, "strict": True},
        },
    }
    assert call.left_out == {
        "reasoning.effort": "engines know low, medium, high",
        "text.verbosity": "a hint to a hosted model",
        "include web_search_call.action.sources": "the gateway's answers have none",
        "truncation": "the gateway takes nothing out of a conversation",
        "brand_new": "unknown to the gateway",
    }
    assert ask(text={"format": {"type": "text"}}, truncation="disabled").sampling == {}
    form = ask(text={"format": {"type": "json_object"}}).sampling["response_format"]
    assert form == {"type": "json_object"}


REFUSED: Final[dict[str, dict[str, Any]]] = {
    "input": {"input": None},
    "input[0]": {"input": ["hi"]},
    "input[0].type": {"input": [{"text": "hi"}]},
    "input[0].role": {"input": [says("critic", "x")]},
    "input[0].content": {"input": [{"role": "user", "content": 3}]},
    "input[0].content[0].type": {"input": [{"role": "user", "content": [{"text": "x"}]}]},
    "input[0].content[0].text": {"input": [{"role": "user", "content": [{"type": "text"}]}]},
    "input[0].content[0].image_url": {
        "input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]
    },
    "input[0].call_id": {"input": [{"type": "function_call_output", "output": "x"}]},
    "input[0].output": {"input": [output("c", {"a": 1})]},
    "input[0].arguments": {"input": [{**called("c"), "arguments": {}}]},
    "input[0].input": {"input": [{"type": "custom_tool_call", "call_id": "c", "name": "n"}]},
    "instructions": {"instructions": ["a"]},
    "max_output_tokens": {"max_output_tokens": -1},
    "previous_response_id": {"previous_response_id": "resp_1"},
    "conversation": {"conversation": "c"},
    "background": {"background": True},
    "prompt": {"prompt": {"id": "p"}},
    "top_logprobs": {"top_logprobs": 3},
    "include": {"include": ["message.output_text.logprobs"]},
    "text.format.type": {"text": {"format": {"type": "grammar"}}},
    "text.format.schema": {"text": {"format": {"type": "json_schema"}}},
    "tools[0].name": {"tools": [{"type": "function"}]},
    "tools[0].tools": {"tools": [{"type": "namespace", "name": "n"}]},
    "tools[0].tools[0].name": {
        "tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]
    },
    "tools[0].format.syntax": {"tools": [{**PATCH, "format": {"type": "grammar"}}]},
    "tool_choice": {"tool_choice": {"type": "web_search"}},
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_cannot_be_served_is_refused_by_name(field: str) -> None:
    with pytest.raises(CallRefused) as refused:
        ask(**REFUSED[field])
    assert refused.value.detail["field"] == field
    status, headers, body = RESPONSES.error(refused.value)
    assert (status, headers["x-should-retry"]) == (400, "false")
    assert msgspec.json.decode(body)["error"]["param"] == field


def test_an_item_of_an_earlier_request_is_refused() -> None:
    with pytest.raises(CallRefused, match="keeps nothing for later requests"):
        ask(input=[{"type": "item_reference", "id": "msg_1"}])


ANSWER: Final = Answer(
    text="I look.",
    reasoning="a file",
    tool_calls=[ToolCall(id="c1", name="bash", arguments='{"command": "ls')],
    finish_reason="tool_calls",
    prompt_tokens=5,
    completion_tokens=7,
    cached_tokens=4,
)


def test_a_whole_answer_and_its_way_back() -> None:
    call = ask(include=["reasoning.encrypted_content"], temperature=0.5)
    body = msgspec.json.decode(RESPONSES.whole(call, "s-3", ANSWER, 12.5))
    items: list[dict[str, Any]] = [
        {
            "id": "rs_s-3_0",
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "a file"}],
            "encrypted_content": "openenv.reasoning:a file",
        },
        {
            "id": "msg_s-3_1",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [
                {"type": "output_text", "annotations": [], "logprobs": [], "text": "I look."}
            ],
        },
        {
            "id": "fc_s-3_2",
            "type": "function_call",
            "status": "completed",
            "call_id": "c1",
            "name": "bash",
            "arguments": '{"command": "ls',
        },
    ]
    assert body.pop("output") == items
    assert body["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 12,
    }
    assert (body["id"], body["status"], body["created_at"]) == ("resp_s-3", "completed", 12)
    assert (body["model"], body["temperature"]) == ("m", 0.5)
    assert ask(input=items).messages == [ANSWER.message]
    del items[0]["encrypted_content"]
    assert ask(input=items).messages == [ANSWER.message]
    untold = msgspec.json.decode(RESPONSES.whole(ask(), "s-3", Answer()))
    assert untold["usage"] is None
    assert [item["type"] for item in untold["output"]] == ["message"]


def test_an_answer_that_was_cut_is_incomplete() -> None:
    body = msgspec.json.decode(RESPONSES.whole(ask(), "s", Answer(finish_reason="length")))
    assert (body["status"], body["incomplete_details"]) == (
        "incomplete",
        {"reason": "max_output_tokens"},
    )
    call = ask(stream=True)
    last = data_of(stream_of(RESPONSES, call, Answer(finish_reason="length"), []))[-1]
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "incomplete")


def test_the_events_of_a_stream() -> None:
    pieces = [
        Piece(reasoning="a file"),
        Piece(text="I "),
        Piece(),
        Piece(text="look."),
        Piece(tool_calls=[ToolDelta(index=0, id="c1", name="bash")]),
        Piece(tool_calls=[ToolDelta(index=0, arguments='{"command"')]),
    ]
    call = ask(stream=True)
    events = data_of(stream_of(RESPONSES, call, ANSWER, pieces))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [
        (event["type"].removeprefix("response."), event.get("output_index")) for event in events
    ]
    assert kinds == [
        ("created", None),
        ("in_progress", None),
        ("output_item.added", 0),
        ("content_part.added", 0),
        ("reasoning_text.delta", 0),
        ("reasoning_text.done", 0),
        ("content_part.done", 0),
        ("output_item.done", 0),
        ("output_item.added", 1),
        ("content_part.added", 1),
        ("output_text.delta", 1),
        ("output_text.delta", 1),
        ("output_text.done", 1),
        ("content_part.done", 1),
        ("output_item.done", 1),
        ("output_item.added", 2),
        ("function_call_arguments.delta", 2),
        ("function_call_arguments.delta", 2),
        ("function_call_arguments.done", 2),
        ("output_item.done", 2),
        ("completed", None),
    ]
    assert [event["delta"] for event in events if "delta" in event] == [
        "a file",
        "I ",
        "look.",
        '{"command"',
        ': "ls',
    ]
    whole = msgspec.json.decode(RESPONSES.whole(call, "s-3", ANSWER, 1_700_000_000.5))
    assert events[-1]["response"] == whole
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == whole["output"]
    added = [event["item"] for event in events if event["type"] == "response.output_item.added"]
    assert [item["id"] for item in added] == [item["id"] for item in done]
    assert events[0]["response"]["status"] == "in_progress"


def test_a_part_of_a_call_that_has_ended_is_told_by_its_index() -> None:
    writer = RESPONSES.events(ask(stream=True), "s-3", 1.0)
    stream = b"".join(
        writer.piece(Piece(tool_calls=[delta]))
        for delta in (
            ToolDelta(index=0, id="c1", name="bash"),
            ToolDelta(index=1, id="c2", name="bash"),
            ToolDelta(index=0, arguments="{}"),
            ToolDelta(index=1, arguments="[]"),
        )
    )
    deltas = [event for event in data_of(stream) if "delta" in event]
    assert [(e["item_id"], e["output_index"], e["delta"]) for e in deltas] == [
        ("fc_s-3_0", 0, "{}"),
        ("fc_s-3_1", 1, "[]"),
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ResponderUnavailable("the engine cut its answer"), "server_error"),
        (ResponderFailed("maximum context length", status=400), "context_length_exceeded"),
        (CallRefused("no"), "invalid_prompt"),
    ],
)
def test_a_stream_that_fails_has_no_end(error: Any, code: str) -> None:
    writer = RESPONSES.events(ask(stream=True), "s-3", 1.0)
    stream = writer.begin() + writer.piece(Piece(text="I ")) + writer.fail(error)
    last = data_of(stream)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", "failed")
    assert last["response"]["error"] == {"code": code, "message": error.message}
    assert b"response.completed" not in stream


def test_the_sdk_reads_what_was_sampled() -> None:
    rng = random.Random(7)
    names = ("bash", "agents__spawn", "apply_patch", "agents__note")
    answers = [random_answer(rng, names=names) for _ in range(150)]
    fields: dict[str, Any] = {"tools": [BASH, PATCH, AGENTS], "include": [ENCRYPTED]}
    plain, streamed = ask(**fields), ask(stream=True, **fields)
    cases: list[dict[str, Any]] = []
    for answer in answers:
        body = RESPONSES.whole(plain, "s-3", answer)
        stream = stream_of(RESPONSES, streamed, answer, cut(answer, rng))
        cases += [
            {"dialect": "responses", "is_streamed": False, "body": body},
            {"dialect": "responses", "is_streamed": True, "body": stream},
        ]
    told = read_by_sdk(cases)
    for at, answer in enumerate(answers):
        expected = {
            "id": "resp_s-3",
            "text": answer.text,
            "reasoning": answer.reasoning,
            "encrypted": [f"openenv.reasoning:{answer.reasoning}"] if answer.reasoning else [],
            "tool_calls": [
                [c.id, c.name.replace("__", "."), c.arguments] for c in answer.tool_calls
            ],
            "finish_reason": "incomplete" if answer.finish_reason == "length" else "completed",
            "usage": [answer.prompt_tokens, answer.completion_tokens],
        }
        assert told[2 * at] == expected
        assert told[2 * at + 1] == expected


ENCRYPTED: Final = "reasoning.encrypted_content"


def test_the_sdk_does_not_ask_again_in_vain() -> None:
    status, headers, body = RESPONSES.error(CallRefused("no", field="n"))
    case = {"dialect": "responses", "is_streamed": False, "body": body}
    [told] = read_by_sdk([{**case, "status": status, "headers": headers}])
    assert (told["error"], told["asked"], told["code"]) == ("BadRequestError", 1, "call_refused")


def test_tokens_are_counted_by_the_same_request() -> None:
    body = json.dumps({"model": "m", "input": "hello"}).encode()
    call = COUNT_ROUTES["/v1/responses/input_tokens"].read(body, {})
    assert call.messages == [{"role": "user", "content": "hello"}]
    assert msgspec.json.decode(count_page("responses", 7)) == {
        "object": "response.input_tokens",
        "input_tokens": 7,
    }


def test_each_dialect_has_its_path() -> None:
    assert {path: dialect.name for path, dialect in ROUTES.items()} == {
        "/v1/chat/completions": "chat",
        "/v1/responses": "responses",
        "/v1/messages": "messages",
    }
    assert all(DIALECTS[name].name == name for name in DIALECTS)
