"""Each value of a rich request, replaced by values of other types, is read or refused by name."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest

from openenv_async.errors import CallRefused
from openenv_async.gateway.calls import Answer, Call, ToolCall
from openenv_async.gateway.dialects import DIALECTS

WRONG: Final[tuple[Any, ...]] = (
    None,
    True,
    0,
    -1,
    1.5,
    "x",
    "",
    [],
    {},
    [None],
    [[]],
    [{}],
    ["x"],
    {"type": 3},
    {"type": ["x"]},
    {"type": {}},
    [{"type": []}],
    {"x": {"x": []}},
)
SCHEMA: Final = {"type": "object", "properties": {"a": {"enum": [1, "b"]}}}
CHAT: Final = {
    "model": "m",
    "messages": [
        {"role": "developer", "content": [{"type": "text", "text": "a"}]},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "data:,x"}},
                {"type": "input_audio", "input_audio": {"data": "QQ"}},
                {"type": "refusal", "refusal": "no", "cache_control": {}},
            ],
        },
        {
            "role": "assistant",
            "content": "a",
            "reasoning": "hm",
            "tool_calls": [
                {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ],
    "tools": [
        {"type": "function", "function": {"name": "f", "parameters": SCHEMA}, "x": 1},
        {"type": "web_search"},
    ],
    "tool_choice": {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "auto",
            "tools": [{"type": "function", "function": {"name": "f"}}],
        },
    },
    "stream": True,
    "stream_options": {"include_usage": True, "x": 1},
    "temperature": 0.5,
    "max_tokens": 5,
    "max_completion_tokens": 6,
    "stop": ["a"],
    "n": 1,
    "modalities": ["text"],
    "logprobs": False,
    "prompt_cache_key": "k",
    "response_format": {"type": "json_object"},
    "new": {},
}
RESPONSES: Final = {
    "model": "m",
    "instructions": "a",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "a"}]},
        {
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": "data:,x", "detail": "low"},
                {"type": "input_file", "file_data": "data:,x", "filename": "x"},
                {"type": "input_audio", "input_audio": {}},
                {"type": "refusal", "refusal": "no"},
            ],
        },
        {
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
            "encrypted_content": "x",
        },
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {
            "type": "custom_tool_call",
            "call_id": "d",
            "name": "g",
            "input": "x",
            "namespace": "n",
        },
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "text", "text": ""}]},
        {"type": "custom_tool_call_output", "call_id": "d", "output": "done"},
        {"type": "additional_tools", "tools": [{"type": "function", "name": "h"}]},
        {"type": "web_search_call"},
    ],
    "tools": [
        {"type": "function", "name": "f", "description": "a", "parameters": SCHEMA, "strict": True},
        {
            "type": "custom",
            "name": "g",
            "format": {"type": "grammar", "syntax": "lark", "definition": "x"},
        },
        {
            "type": "namespace",
            "name": "n",
            "description": "a",
            "tools": [{"type": "function", "name": "f", "x": 1}],
        },
    ],
    "tool_choice": {
        "type": "allowed_tools",
        "mode": "auto",
        "tools": [{"type": "function", "name": "f"}],
    },
    "stream": True,
    "include": ["reasoning.encrypted_content", "x"],
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
    "max_output_tokens": 5,
    "temperature": 0.5,
    "parallel_tool_calls": True,
    "truncation": "auto",
    "prompt_cache_key": "k",
    "previous_response_id": None,
}
MESSAGES: Final = {
    "model": "m",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "a", "cache_control": {}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": "QQ"},
                },
                {"type": "image", "source": {"type": "url", "url": "x"}},
                {
                    "type": "document",
                    "title": "t",
                    "source": {"type": "text", "media_type": "text/plain", "data": "x"},
                },
                {
                    "type": "document",
                    "source": {"type": "content", "content": [{"type": "text", "text": "x"}]},
                },
                {"type": "new"},
            ],
        },
        {"role": "system", "content": "a", "output_config": {}},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "text", "text": "a"},
                {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
                {
                    "type": "tool_use",
                    "id": "d",
                    "name": "f",
                    "input": {"__unparsedToolInput": {"raw": "{", "len": 1}},
                },
                {"type": "server_tool_use"},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "c",
                    "content": [{"type": "text", "text": "x"}],
                    "is_error": True,
                },
                {"type": "text", "text": "a"},
            ],
        },
    ],
    "tools": [
        {"name": "f", "description": "a", "input_schema": SCHEMA, "strict": True, "x": 1},
        {"type": "web_search_1", "name": "w"},
    ],
    "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
    "stream": True,
    "stop_sequences": ["a"],
    "temperature": 0.5,
    "thinking": {"type": "adaptive"},
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {}}},
    "metadata": {"user_id": "{}"},
}
BODIES: Final = {"chat": CHAT, "responses": RESPONSES, "messages": MESSAGES}
ANSWER: Final = Answer(
    text="a",
    reasoning="b",
    tool_calls=[ToolCall(id="c", name="f", arguments="{}")],
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value within a value."""
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


def replaced(body: Any, path: tuple[Any, ...], wrong: Any) -> bytes:
    body = copy.deepcopy(body)
    at = body
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = wrong
    return json.dumps(body).encode()


def assert_has_form(call: Call) -> None:
    """A call has the form that engines, the journal and the call graph rely on."""
    assert msgspec.convert(msgspec.to_builtins(call), Call) is not None
    for message in call.messages:
        assert message["role"] in ("system", "user", "assistant", "tool")
        assert isinstance(message.get("content"), str | list | None)
        for made in message.get("tool_calls") or ():
            assert isinstance(made["id"], str)
            assert isinstance(made["function"]["name"], str)
            assert isinstance(made["function"]["arguments"], str)
    for tool in call.tools:
        assert tool["type"] == "function"
        assert isinstance(tool["function"]["name"], str)
    assert isinstance(call.sampling.get("stop", []), list)
    assert isinstance(call.sampling.get("max_tokens", 1), int)


@pytest.mark.parametrize("name", BODIES)
def test_a_value_of_another_type_is_read_or_refused(name: str) -> None:
    dialect, body = DIALECTS[name], BODIES[name]
    assert_has_form(dialect.read(json.dumps(body).encode(), {}))
    refusals = set()
    for path in places(body):
        for wrong in WRONG:
            spelled = replaced(body, path, wrong)
            try:
                call = dialect.read(spelled, {})
            except CallRefused as refused:
                refusals.add(refused.detail["field"])
            except Exception as exc:
                exc.add_note(f"{path} = {wrong!r}")
                raise
            else:
                assert_has_form(call)
                assert dialect.whole(call, "s-0", ANSWER)
                writer = dialect.events(call, "s-0", 1.0)
                assert writer.begin() + writer.end(ANSWER)
    assert len(refusals) > 40
    assert all(isinstance(field, str) and field for field in refusals)
