"""A reader of answers by the vendors' SDKs, run with an interpreter that has them.

It takes a list of cases on its standard input, lets the SDK of each case's dialect read the body
off a transport that gives it, and writes what the SDK makes of it: by its own accumulators where
the body is a stream, and in words of no dialect.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import anthropic
import httpx2
import openai

OPENAI_ERRORS = (openai.APIError,)
ANTHROPIC_ERRORS = (anthropic.APIError,)


def client_of(case: dict[str, Any], cls: Any) -> tuple[Any, list[int]]:
    asked: list[int] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(1)
        kind = "text/event-stream" if case["is_streamed"] else "application/json"
        headers = {"content-type": kind, **case.get("headers", {})}
        return httpx2.Response(
            case.get("status", 200), headers=headers, content=case["body"].encode()
        )

    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return cls(api_key="k", base_url="http://gateway.test", http_client=http), asked


def chat(case: dict[str, Any], client: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    if case["is_streamed"]:
        with client.chat.completions.stream(**body) as stream:
            for _ in stream:
                pass
            try:
                read = stream.get_final_completion()
            except openai.LengthFinishReasonError as exc:
                read = exc.completion
    else:
        read = client.chat.completions.create(**body)
    choice = read.choices[0]
    message = choice.message
    return {
        "id": read.id,
        "text": message.content or "",
        "reasoning": getattr(message, "reasoning_content", None) or "",
        "tool_calls": [
            [call.id, call.function.name, call.function.arguments]
            for call in message.tool_calls or []
        ],
        "finish_reason": choice.finish_reason,
        "usage": read.usage and [read.usage.prompt_tokens, read.usage.completion_tokens],
    }


def messages(case: dict[str, Any], client: Any) -> dict[str, Any]:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    spelled: dict[int, str] = {}
    if case["is_streamed"]:
        with client.messages.stream(**body) as stream:
            for event in stream:
                if event.type == "input_json":
                    continue
                if event.type == "content_block_start" and event.content_block.type == "tool_use":
                    spelled[event.index] = ""
                if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                    spelled[event.index] += event.delta.partial_json
            read = stream.get_final_message()
    else:
        read = client.messages.create(**body)
    blocks: dict[str, list[Any]] = {"text": [], "thinking": [], "tool_use": []}
    for block in read.content:
        blocks[block.type].append(block)
    uses = blocks["tool_use"]
    arguments = list(spelled.values()) if case["is_streamed"] else [use.input for use in uses]
    usage = read.usage
    return {
        "id": read.id,
        "text": "".join(block.text for block in blocks["text"]),
        "reasoning": "".join(block.thinking for block in blocks["thinking"]),
        "signatures": [block.signature for block in blocks["thinking"]],
        "tool_calls": [
            [use.id, use.name, given] for use, given in zip(uses, arguments, strict=True)
        ],
        "finish_reason": read.stop_reason,
        "usage": [usage.input_tokens + usage.cache_read_input_tokens, usage.output_tokens],
    }


def responses(case: dict[str, Any], client: Any) -> dict[str, Any]:
    body = {"model": "m", "input": "hi"}
    if not case["is_streamed"]:
        return response(client.responses.create(**body))
    grown: dict[int, str] = {}
    numbers = []
    with client.responses.stream(**body) as stream:
        for event in stream:
            numbers.append(event.sequence_number)
            if event.type in DELTAS:
                grown[event.output_index] = grown.get(event.output_index, "") + event.delta
            if event.type in ("response.completed", "response.incomplete"):
                account = response(event.response)
                whole = [told_of(item) for item in event.response.output]
        if account["finish_reason"] == "completed":
            assert response(stream.get_final_response()) == account
    assert numbers == list(range(len(numbers)))
    assert [grown.get(at, "") for at in range(len(whole))] == whole
    return account


DELTAS = (
    "response.output_text.delta",
    "response.reasoning_text.delta",
    "response.function_call_arguments.delta",
    "response.custom_tool_call_input.delta",
)


def told_of(item: Any) -> str:
    match item.type:
        case "function_call":
            return str(item.arguments)
        case "custom_tool_call":
            return str(item.input)
        case _:
            return "".join(part.text for part in item.content)


def response(read: Any) -> dict[str, Any]:
    items: dict[str, list[Any]] = {"reasoning": [], "message": []}
    calls = []
    for item in read.output:
        if item.type in items:
            items[item.type].append(item)
        else:
            named = f"{item.namespace}.{item.name}" if item.namespace else item.name
            calls.append([item.call_id, named, told_of(item)])
    return {
        "id": read.id,
        "text": read.output_text,
        "reasoning": "".join(told_of(item) for item in items["reasoning"]),
        "encrypted": [item.encrypted_content for item in items["reasoning"]],
        "tool_calls": calls,
        "finish_reason": read.status,
        "usage": read.usage and [read.usage.input_tokens, read.usage.output_tokens],
    }


READERS = {
    "responses": (responses, openai.OpenAI, OPENAI_ERRORS),
    "chat": (chat, openai.OpenAI, OPENAI_ERRORS),
    "messages": (messages, anthropic.Anthropic, ANTHROPIC_ERRORS),
}


def told(case: dict[str, Any]) -> dict[str, Any]:
    read, cls, errors = READERS[case["dialect"]]
    client, asked = client_of(case, cls)
    try:
        account: dict[str, Any] = read(case, client)
        return account
    except errors as exc:
        return {
            "error": type(exc).__name__,
            "message": str(exc),
            "code": getattr(exc, "code", None),
            "asked": len(asked),
        }


def main() -> None:
    json.dump([told(case) for case in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
