"""Anthropic's Messages, as its SDK and its coding agent speak it.

The form of a conversation differs from that of chat completions, so that some things are spelled
anew on their way to the engine; nothing that was sampled is, on its way to the agent:

- A list of one text block is its text; several stay a list. Texts of one assistant's turn are
  joined as they are, since an answer's text may have come as several blocks.
- The arguments of a tool call are text here and an object there. An agent is streamed the text;
  in a whole answer, arguments that are not a JSON object are ``{"__unparsedToolInput": {"raw":
  TEXT, "len": N}}``, which is how such a call comes back from an agent, too. An object that comes
  back is written as models mostly write it: ``{"a": 1, "b": "é"}``.
- A tool result is a message of role ``tool``. Its mark ``is_error`` is left out.
- Blocks of other types that a user or a tool sends become the text of their JSON. Those of an
  assistant that was not the gateway's model are left out.
- Thinking is answered as a block with a signature that says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from openenv_async.errors import OpenEnvError, shown
from openenv_async.gateway.calls import Answer, Call, EventWriter, Message, Piece, ToolDelta
from openenv_async.gateway.dialects.chat import function_choice
from openenv_async.gateway.dialects.failures import Kind, failure_of
from openenv_async.gateway.dialects.fields import (
    Fields,
    listed,
    mapping,
    read_body,
    refuse,
    text,
    thread_of,
)
from openenv_async.gateway.dialects.sampling import NUMBERS, PASSED_ON, REFUSED, read_stop
from openenv_async.gateway.dialects.sent import Sent

__all__ = ["MessagesDialect"]

_UNPARSED: Final = "__unparsedToolInput"
_CACHE: Final = "the engine keeps its own cache"
_ONE_TIER: Final = "there is one tier"
_TOOL_KEYS: Final = frozenset(("type", "name", "description", "input_schema", "strict"))
_LEFT_OUT: Final = {
    "betas": "names no field of the gateway's",
    "billing_policy": _ONE_TIER,
    "cache_control": _CACHE,
    "compaction": "the gateway takes nothing out of a conversation",
    "container": "the gateway runs nothing",
    "context_management": "the gateway takes nothing out of a conversation",
    "diagnostics": _CACHE,
    "fallback_credit_token": _ONE_TIER,
    "fallbacks": "the session's model answers",
    "inference_geo": _ONE_TIER,
    "mcp_servers": "the gateway calls no servers: let the agent do so",
    "metadata": "names nothing that is sampled",
    "service_tier": _ONE_TIER,
    "speed": _ONE_TIER,
    "thinking": "the engine and its template decide on reasoning",
    "user_profile_id": "names nothing that is sampled",
    "workspace_id": "names nothing that is sampled",
}
_STOP_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_ERROR_TYPES: Final[dict[Kind, tuple[str, int | None]]] = {
    "refused": ("invalid_request_error", None),
    "missing": ("not_found_error", None),
    "unauthorized": ("authentication_error", None),
    "too_large": ("request_too_large", None),
    "context": ("invalid_request_error", None),
    "rate": ("rate_limit_error", None),
    "overloaded": ("overloaded_error", 529),
    "failed": ("api_error", None),
}
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


class MessagesDialect:
    """``POST /v1/messages`` and its count of tokens."""

    name = "messages"

    def read(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Return what a request asks for; one to count tokens is read alike.

        Raises:
            CallRefused: it is not of this dialect, or asks for what cannot be had; its
                ``detail`` has the ``field``.
        """
        fields = read_body(body)
        if fields.rest.get("messages") is None:
            refuse("messages", "is missing: give the conversation")
        asked_model = fields.text("model")
        is_streamed = fields.flag("stream")
        thread = thread_of(headers)
        if (user := _user_of(fields)) is not None:
            thread["metadata.user_id"] = user
        messages = _read_messages(fields)
        tools = _read_tools(fields)
        sampling = _read_sampling(fields)
        tool_choice, tools = _read_choice(fields, tools, sampling)
        if messages and messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]:
            # The answer goes on with the words of the last turn.
            sampling["add_generation_prompt"] = False
            sampling["continue_final_message"] = True
        fields.leave_rest(_LEFT_OUT, REFUSED)
        return Call(
            dialect="messages",
            messages=messages,
            tools=tools,
            tool_choice=tool_choice,
            sampling=sampling,
            is_streamed=is_streamed,
            asked_model=asked_model,
            left_out=fields.left_out,
            thread=thread,
        )

    def whole(self, call: Call, call_id: str, answer: Answer, created_at: float = 0.0) -> bytes:
        """Return the body of an answer that is not streamed."""
        content: list[dict[str, Any]] = []
        if answer.reasoning:
            signature = _signature(call_id)
            content.append(
                {"type": "thinking", "thinking": answer.reasoning, "signature": signature}
            )
        if answer.text:
            content.append({"type": "text", "text": answer.text})
        content += [
            {"type": "tool_use", "id": c.id, "name": c.name, "input": _input(c.arguments)}
            for c in answer.tool_calls
        ]
        return _encode(
            {
                **_head(call, call_id),
                "content": content,
                "stop_reason": _stop_reason(answer),
                "stop_sequence": answer.stop_sequence,
                "usage": _usage(answer),
            }
        )

    def events(self, call: Call, call_id: str, created_at: float) -> EventWriter:
        """Return what writes the answer as events."""
        return _Events(call, call_id)

    def error(self, error: OpenEnvError) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of an error."""
        failure = failure_of(error)
        _, status = _ERROR_TYPES[failure.kind]
        return status or failure.status, failure.headers, _encode(_error_body(error))


class _Events:
    """A writer of events: content blocks that begin, grow and stop one after the other.

    A part of a tool call for which its block has stopped already is written to that block, which
    clients tell by its index.
    """

    __slots__ = ("_blocks", "_call_id", "_delta", "_head", "_open", "_sent", "_tools")

    def __init__(self, call: Call, call_id: str) -> None:
        self._head = _head(call, call_id)
        self._call_id = call_id
        self._sent = Sent()
        self._blocks = 0
        self._open: str | int | None = None  # "text", "thinking" or the index of a tool call
        self._delta = b""
        self._tools: list[int] = []

    def begin(self) -> bytes:
        message = {
            **self._head,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return b'event: message_start\ndata: {"type":"message_start","message":%b}\n\n' % (
            _encode(message)
        )

    def piece(self, piece: Piece) -> bytes:
        if piece.reasoning or piece.tool_calls:
            return self._mixed(piece)
        if not (text := piece.text):
            return b""
        self._sent.text += len(text)
        if self._open == "text":
            return self._delta + _encode(text) + b"}}\n\n"
        return self._started("text", {"type": "text", "text": ""}, b"text_delta", b"text") + (
            self._delta + _encode(text) + b"}}\n\n"
        )

    def _mixed(self, piece: Piece) -> bytes:
        out = []
        if reasoning := piece.reasoning:
            self._sent.reasoning += len(reasoning)
            if self._open != "thinking":
                block = {"type": "thinking", "thinking": "", "signature": ""}
                out.append(self._started("thinking", block, b"thinking_delta", b"thinking"))
            out += (self._delta, _encode(reasoning), b"}}\n\n")
        if piece.text:
            out.append(self.piece(Piece(text=piece.text)))
        out += [self._tool_delta(part) for part in piece.tool_calls]
        return b"".join(out)

    def _tool_delta(self, part: ToolDelta) -> bytes:
        started = b""
        if self._sent.add(part):
            block = {"type": "tool_use", "id": part.id, "name": part.name, "input": {}}
            self._tools.append(self._blocks)
            started = self._started(part.index, block, b"input_json_delta", b"partial_json")
        if not part.arguments:
            return started
        delta = self._delta
        if self._open != part.index:
            delta = _delta_of(self._tools[part.index], b"input_json_delta", b"partial_json")
        return started + delta + _encode(part.arguments) + b"}}\n\n"

    def _started(self, key: str | int, block: dict[str, Any], kind: bytes, field: bytes) -> bytes:
        """Stop the block that is open and start one."""
        stopped = self._stopped()
        index = self._blocks
        self._open = key
        self._blocks += 1
        self._delta = _delta_of(index, kind, field)
        return stopped + (
            b'event: content_block_start\ndata: {"type":"content_block_start","index":%d,'
            b'"content_block":%b}\n\n' % (index, _encode(block))
        )

    def _stopped(self) -> bytes:
        if self._open is None:
            return b""
        index = self._blocks - 1
        signed = b""
        if self._open == "thinking":
            signature = _encode(_signature(self._call_id))
            signed = _delta_of(index, b"signature_delta", b"signature") + signature + b"}}\n\n"
        self._open = None
        return signed + (
            b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % index
        )

    def end(self, answer: Answer) -> bytes:
        delta = {
            "type": "message_delta",
            "delta": {
                "stop_reason": _stop_reason(answer),
                "stop_sequence": answer.stop_sequence,
            },
            "usage": _usage(answer),
        }
        return b"".join(
            (
                self.piece(self._sent.rest(answer)),
                self._stopped(),
                b"event: message_delta\ndata: ",
                _encode(delta),
                b'\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n',
            )
        )

    def fail(self, error: OpenEnvError) -> bytes:
        return b"event: error\ndata: %b\n\n" % _encode(_error_body(error))


def _delta_of(index: int, kind: bytes, field: bytes) -> bytes:
    return (
        b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,'
        b'"delta":{"type":"%b","%b":' % (index, kind, field)
    )


def _head(call: Call, call_id: str) -> dict[str, Any]:
    return {
        "id": f"msg_{call_id}",
        "type": "message",
        "role": "assistant",
        "model": call.asked_model or "",
    }


def _signature(call_id: str) -> str:
    return f"openenv-{call_id}"


def _input(arguments: str) -> dict[str, Any]:
    """Return the arguments of a call as the object that they are, or as what is not one."""
    if not arguments:
        return {}
    try:
        read = _decode(arguments)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        read = None
    if isinstance(read, dict):
        return read
    return {_UNPARSED: {"raw": arguments, "len": len(arguments)}}


def _stop_reason(answer: Answer) -> str:
    if answer.stop_sequence is not None:
        return "stop_sequence"
    if answer.tool_calls and answer.finish_reason == "stop":
        return "tool_use"
    return _STOP_REASONS.get(answer.finish_reason, "end_turn")


def _usage(answer: Answer) -> dict[str, int]:
    """Return the usage; clients need numbers, so one that the engine did not tell is 0."""
    cached = answer.cached_tokens or 0
    return {
        "input_tokens": max(0, (answer.prompt_tokens or 0) - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": answer.completion_tokens or 0,
    }


def _error_body(error: OpenEnvError) -> dict[str, Any]:
    failure = failure_of(error)
    kind, _ = _ERROR_TYPES[failure.kind]
    message = failure.message
    if failure.kind == "context":
        message = f"prompt is too long: {message}"
    return {"type": "error", "error": {"type": kind, "message": message}}


# -- reading ------------------------------------------------------------------------------------


def _user_of(fields: Fields) -> str | None:
    """Return the id of the conversation, which an agent may give in JSON within its user's."""
    metadata = fields.rest.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, dict) else None
    if not isinstance(user, str):
        return None
    try:
        read = _decode(user)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return user
    session = read.get("session_id") if isinstance(read, dict) else None
    return session if isinstance(session, str) else user


def _read_messages(fields: Fields) -> list[Message]:
    messages: list[Message] = []
    if (system := fields.take("system")) is not None:
        content = _content(system, "system", fields)
        if content:
            messages.append({"role": "system", "content": content})
    for at, message in enumerate(fields.list("messages")):
        path = f"messages[{at}]"
        role = mapping(message, path).get("role")
        content = message.get("content")
        if len(message) > 2:
            for name in sorted(message.keys() - {"role", "content"}):
                fields.leave(f"messages[].{name}", "engines know no such key of a message")
        if isinstance(content, str):
            if role not in ("user", "assistant", "system"):
                refuse(f"{path}.role", f"is {shown(role)}: give user, assistant or system")
            messages.append({"role": role, "content": content})
            continue
        if not isinstance(content, list):
            refuse(f"{path}.content", f"is {shown(content)}: give a text or a list of blocks")
        if role == "user":
            messages += _user_messages(content, f"{path}.content", fields)
        elif role == "assistant":
            messages.append(_assistant_message(content, f"{path}.content", fields))
        elif role == "system":
            read = _content(content, f"{path}.content", fields)
            messages.append({"role": "system", "content": read})
        else:
            refuse(f"{path}.role", f"is {shown(role)}: give user, assistant or system")
    return messages


def _content(content: Any, path: str, fields: Fields) -> str | list[dict[str, Any]]:
    """Return a text or blocks as the content of a message."""
    if isinstance(content, str):
        return content
    parts = []
    for at, block in enumerate(listed(content, path)):
        parts += _parts(block, f"{path}[{at}]", fields)
    return _one_text(parts)


def _one_text(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """Return the text of a list that holds just one, the list of another."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        only: str = parts[0]["text"]
        return only
    return parts


def _user_messages(blocks: list[Any], path: str, fields: Fields) -> list[Message]:
    """Return a user's turn: its tool results, and what else it says, in order."""
    messages: list[Message] = []
    parts: list[dict[str, Any]] = []
    for at, block in enumerate(blocks):
        where = f"{path}[{at}]"
        if mapping(block, where).get("type") != "tool_result":
            parts += _parts(block, where, fields)
            continue
        if parts:
            messages.append({"role": "user", "content": _one_text(parts)})
            parts = []
        content = block.get("content")
        messages.append(
            {
                "role": "tool",
                "tool_call_id": text(block.get("tool_use_id"), f"{where}.tool_use_id"),
                "content": _content("" if content is None else content, where, fields),
            }
        )
        if block.get("is_error"):
            fields.leave("messages[].content[].is_error", "a message of a tool has no such mark")
        if "cache_control" in block:
            fields.leave("messages[].content[].cache_control", _CACHE)
    if parts or not messages:
        messages.append({"role": "user", "content": _one_text(parts)})
    return messages


def _parts(block: Any, path: str, fields: Fields) -> list[dict[str, Any]]:
    """Return a block as content parts of chat completions."""
    kind = mapping(block, path).get("type")
    if "cache_control" in block:
        fields.leave("messages[].content[].cache_control", _CACHE)
    if kind == "text":
        return [{"type": "text", "text": text(block.get("text"), f"{path}.text")}]
    if kind == "image":
        url = _url_of(mapping(block.get("source"), f"{path}.source"), f"{path}.source")
        return [{"type": "image_url", "image_url": {"url": url}}]
    if kind == "document":
        return _document(block, path, fields)
    if not isinstance(kind, str):
        refuse(f"{path}.type", f"is {shown(kind)}: give the type of the block")
    kept = {name: value for name, value in block.items() if name != "cache_control"}
    return [{"type": "text", "text": json.dumps(kept, ensure_ascii=False)}]


def _url_of(source: dict[str, Any], path: str) -> str:
    kind = source.get("type")
    if kind == "url":
        return text(source.get("url"), f"{path}.url")
    if kind != "base64":
        refuse(f"{path}.type", f"is {shown(kind)}: give base64 or url, the gateway keeps no files")
    media_type = text(source.get("media_type"), f"{path}.media_type")
    return f"data:{media_type};base64,{text(source.get('data'), f'{path}.data')}"


def _document(block: dict[str, Any], path: str, fields: Fields) -> list[dict[str, Any]]:
    source = mapping(block.get("source"), f"{path}.source")
    parts = [
        {"type": "text", "text": value}
        for name in ("title", "context")
        if isinstance(value := block.get(name), str) and value
    ]
    if source.get("type") == "text":
        data = text(source.get("data"), f"{path}.source.data")
        return [*parts, {"type": "text", "text": data}]
    if source.get("type") == "content":
        content = _content(source.get("content"), f"{path}.source.content", fields)
        inner = [{"type": "text", "text": content}] if isinstance(content, str) else content
        return [*parts, *inner]
    return [*parts, {"type": "file", "file": {"file_data": _url_of(source, f"{path}.source")}}]


def _assistant_message(blocks: list[Any], path: str, fields: Fields) -> Message:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for at, block in enumerate(blocks):
        where = f"{path}[{at}]"
        kind = mapping(block, where).get("type")
        if kind == "text":
            texts.append(text(block.get("text"), f"{where}.text"))
        elif kind == "thinking":
            thoughts.append(text(block.get("thinking"), f"{where}.thinking"))
        elif kind == "tool_use":
            name = text(block.get("name"), f"{where}.name")
            arguments = _arguments(mapping(block.get("input"), f"{where}.input"))
            calls.append(
                {
                    "id": text(block.get("id"), f"{where}.id"),
                    "type": "function",
                    "function": {"name": name, "arguments": arguments},
                }
            )
        elif isinstance(kind, str):
            fields.leave(f"messages[].content[] {kind}", "not a block of the gateway's model")
        else:
            refuse(f"{where}.type", f"is {shown(kind)}: give the type of the block")
        if "cache_control" in block:
            fields.leave("messages[].content[].cache_control", _CACHE)
    joined = "".join(texts)
    message: Message = {"role": "assistant", "content": joined}
    if reasoning := "".join(thoughts):
        message["reasoning_content"] = reasoning
    if calls:
        message["content"] = joined or None
        message["tool_calls"] = calls
    return message


def _arguments(given: dict[str, Any]) -> str:
    """Return the text of a call's arguments, as sampled where it could not be read."""
    unparsed = given.get(_UNPARSED)
    if len(given) == 1 and isinstance(unparsed, dict) and isinstance(unparsed.get("raw"), str):
        raw: str = unparsed["raw"]
        return raw
    return json.dumps(given, ensure_ascii=False)


def _read_tools(fields: Fields) -> list[dict[str, Any]]:
    tools = []
    for at, tool in enumerate(fields.list("tools")):
        path = f"tools[{at}]"
        kind = mapping(tool, path).get("type")
        if kind not in (None, "custom") or "input_schema" not in tool:
            if kind in (None, "custom"):
                refuse(f"{path}.input_schema", "is missing: give the schema of its input")
            fields.leave(path, f"a tool of type {shown(kind)} is not run by the gateway")
            continue
        function: dict[str, Any] = {"name": text(tool.get("name"), f"{path}.name")}
        if (description := tool.get("description")) is not None:
            function["description"] = text(description, f"{path}.description")
        function["parameters"] = mapping(tool["input_schema"], f"{path}.input_schema")
        if (strict := tool.get("strict")) is not None:
            function["strict"] = strict
        for name in sorted(tool.keys() - _TOOL_KEYS):
            fields.leave(f"tools[].{name}", "engines know no such key of a tool")
        tools.append({"type": "function", "function": function})
    return tools


def _read_choice(
    fields: Fields, tools: list[dict[str, Any]], sampling: dict[str, Any]
) -> tuple[Any, list[dict[str, Any]]]:
    choice = fields.mapping("tool_choice")
    if not choice:
        return None, tools
    if choice.get("disable_parallel_tool_use"):
        sampling["parallel_tool_calls"] = False
    match choice.get("type"):
        case "auto" | "none" as kind:
            return function_choice(kind, tools)
        case "any":
            return function_choice("required", tools)
        case "tool":
            return function_choice({"type": "function", "name": choice.get("name")}, tools)
        case other:
            refuse("tool_choice.type", f"is {shown(other)}: give auto, any, tool or none")


def _read_sampling(fields: Fields) -> dict[str, Any]:
    sampling = fields.numbers(NUMBERS)
    if (limit := fields.count("max_tokens")) is not None:
        sampling["max_tokens"] = limit
    if stop := read_stop(fields, "stop_sequences"):
        sampling["stop"] = stop
    sampling.update(fields.known(PASSED_ON))
    output = fields.mapping("output_config")
    form = output.pop("format", None)
    if (older := fields.take("output_format")) is not None:
        form = older
    if form is not None:
        sampling["response_format"] = _response_format(form)
    for name in output:
        fields.leave(f"output_config.{name}", "names levels of a hosted model")
    return sampling


def _response_format(form: Any) -> dict[str, Any]:
    if not isinstance(form, dict) or form.get("type") != "json_schema":
        refuse("output_config.format", f"is {shown(form)}: give a json_schema")
    schema = mapping(form.get("schema"), "output_config.format.schema")
    return {"type": "json_schema", "json_schema": {"name": "output", "schema": schema}}
