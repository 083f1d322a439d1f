"""OpenAI's Chat Completions, as agents and engines speak it.

The form of ``Call`` is this dialect's own, so messages pass as they came, except for: a role
``developer`` is ``system``; ``reasoning`` is ``reasoning_content``; an assistant's message with
neither content nor calls has the content ``""``. Reasoning is answered as ``reasoning_content``,
the field that agents send back. Facts that the engine did not tell, such as its count of tokens,
are ``null``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from openenv_async.errors import OpenEnvError, shown
from openenv_async.gateway.calls import Answer, Call, EventWriter, Piece, ToolDelta
from openenv_async.gateway.dialects.failures import failure_of, openai_error, openai_fields
from openenv_async.gateway.dialects.fields import (
    Fields,
    listed,
    mapping,
    read_body,
    refuse,
    text,
    thread_of,
)
from openenv_async.gateway.dialects.sampling import (
    LEFT_OUT,
    NUMBERS,
    PASSED_ON,
    REFUSED,
    read_stop,
)
from openenv_async.gateway.dialects.sent import Sent

__all__ = ["ChatDialect", "function_choice", "usage_of"]

_ROLES: Final = frozenset(("system", "developer", "user", "assistant", "tool"))
_PARTS: Final = {
    "text": "text",
    "image_url": "image_url",
    "input_audio": "input_audio",
    "video_url": "video_url",
    "audio_url": "audio_url",
    "file": "file",
    "refusal": "refusal",
}
"""Types of content parts and the field that each must have."""
_encode: Final = msgspec.json.Encoder().encode
_DONE: Final = b"data: [DONE]\n\n"
_GOES_ON: Final = b',"logprobs":null,"finish_reason":null}]}\n\n'
_GOES_ON_WITH_USAGE: Final = b',"logprobs":null,"finish_reason":null}],"usage":null}\n\n'


class _Form(msgspec.Struct):
    """The facts that an answer is written by.

    Attributes:
        has_usage: the stream ends with a chunk that has the usage.
    """

    has_usage: bool = False


class ChatDialect:
    """``POST /v1/chat/completions``."""

    name = "chat"

    def read(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Return what a request asks for.

        Raises:
            CallRefused: it is not a chat completion, or asks for what cannot be had; its
                ``detail`` has the ``field``.
        """
        fields = read_body(body)
        if fields.rest.get("messages") is None:
            refuse("messages", "is missing: give the conversation")
        messages = fields.list("messages")
        for at, message in enumerate(messages):
            _check_message(message, at, fields)
        asked_model = fields.text("model")
        is_streamed = fields.flag("stream")
        options = fields.mapping("stream_options")
        for name in sorted(options.keys() - {"include_usage"}):
            fields.leave(f"stream_options.{name}", "usage is streamed once, and nothing is hidden")
        if (count := fields.take("n")) is not None and count != 1:
            refuse("n", f"is {shown(count)}: a call has one answer, ask once for each")
        modalities = fields.take("modalities")
        if modalities not in (None, ["text"]):
            refuse("modalities", f"is {shown(modalities)}: only text is answered")
        tools = _read_tools(fields)
        tool_choice, tools = function_choice(fields.take("tool_choice"), tools)
        thread = thread_of(headers)
        if (cache_key := fields.text("prompt_cache_key")) is not None:
            thread["prompt_cache_key"] = cache_key
        return Call(
            dialect="chat",
            messages=messages,
            tools=tools,
            tool_choice=tool_choice,
            sampling=_read_sampling(fields),
            is_streamed=is_streamed,
            asked_model=asked_model,
            left_out=_left_out(fields),
            thread=thread,
            form=_Form(has_usage=options.get("include_usage") is True),
        )

    def whole(self, call: Call, call_id: str, answer: Answer, created_at: float = 0.0) -> bytes:
        """Return the body of an answer that is not streamed."""
        message = answer.message
        message["refusal"] = None
        return _encode(
            {
                "id": f"chatcmpl-{call_id}",
                "object": "chat.completion",
                "created": int(created_at or time.time()),
                "model": call.asked_model or answer.model or "",
                "choices": [
                    {
                        "index": 0,
                        "message": message,
                        "logprobs": None,
                        "finish_reason": answer.finish_reason,
                    }
                ],
                "usage": usage_of(answer),
            }
        )

    def events(self, call: Call, call_id: str, created_at: float) -> EventWriter:
        """Return what writes the answer as chunks."""
        return _Chunks(call, call_id, created_at)

    def error(self, error: OpenEnvError) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of an error."""
        return openai_error(error)


class _Chunks:
    """A writer of chunks: one for each piece, whatever it holds."""

    __slots__ = ("_goes_on", "_has_usage", "_prefix", "_sent", "_start")

    def __init__(self, call: Call, call_id: str, created_at: float) -> None:
        self._has_usage: bool = call.form.has_usage
        head = {
            "id": f"chatcmpl-{call_id}",
            "object": "chat.completion.chunk",
            "created": int(created_at),
            "model": call.asked_model or "",
        }
        self._start = b"data: " + _encode(head)[:-1]
        self._prefix = self._start + b',"choices":[{"index":0,"delta":'
        self._goes_on = _GOES_ON_WITH_USAGE if self._has_usage else _GOES_ON
        self._sent = Sent()

    def begin(self) -> bytes:
        return self._prefix + b'{"role":"assistant","content":""}' + self._goes_on

    def piece(self, piece: Piece) -> bytes:
        if piece.tool_calls or piece.reasoning:
            return self._mixed(piece)
        if not (text := piece.text):
            return b""
        self._sent.text += len(text)
        return b"".join((self._prefix, b'{"content":', _encode(text), b"}", self._goes_on))

    def _mixed(self, piece: Piece) -> bytes:
        delta: dict[str, Any] = {}
        if piece.reasoning:
            self._sent.reasoning += len(piece.reasoning)
            delta["reasoning_content"] = piece.reasoning
        if piece.text:
            self._sent.text += len(piece.text)
            delta["content"] = piece.text
        if piece.tool_calls:
            delta["tool_calls"] = [self._tool_delta(part) for part in piece.tool_calls]
        return self._prefix + _encode(delta) + self._goes_on

    def _tool_delta(self, part: ToolDelta) -> dict[str, Any]:
        if self._sent.add(part):
            return {
                "index": part.index,
                "id": part.id,
                "type": "function",
                "function": {"name": part.name, "arguments": part.arguments},
            }
        return {"index": part.index, "function": {"arguments": part.arguments}}

    def end(self, answer: Answer) -> bytes:
        usage = b""
        if self._has_usage:
            usage = self._start + b',"choices":[],"usage":' + _encode(usage_of(answer)) + b"}\n\n"
        return b"".join(
            (
                self.piece(self._sent.rest(answer)),
                self._prefix,
                b'{},"logprobs":null,"finish_reason":',
                _encode(answer.finish_reason),
                b'}],"usage":null}\n\n' if self._has_usage else b"}]}\n\n",
                usage,
                _DONE,
            )
        )

    def fail(self, error: OpenEnvError) -> bytes:
        fields = openai_fields(error, failure_of(error).kind)
        return b"data: " + _encode({"error": fields}) + b"\n\n"


def usage_of(answer: Answer) -> dict[str, Any] | None:
    """Return the usage as chat completions have it, ``None`` where the engine told nothing."""
    prompt, completion = answer.prompt_tokens, answer.completion_tokens
    if prompt is None or completion is None:
        return None
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if answer.cached_tokens is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": answer.cached_tokens}
    return usage


# -- reading ------------------------------------------------------------------------------------


def _check_message(message: Any, at: int, fields: Fields) -> None:
    """Refuse a message that is not one, and give it the one form where there are several."""
    if not isinstance(message, dict):
        refuse(f"messages[{at}]", f"is {shown(message)}: give an object")
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        refuse(
            f"messages[{at}].role",
            f"is {shown(role)}: give system, developer, user, assistant or tool",
        )
    if role == "developer":
        message["role"] = "system"
    content = message.get("content")
    if isinstance(content, list):
        for part_at, part in enumerate(content):
            _check_part(part, f"messages[{at}].content[{part_at}]", fields)
    elif content is not None and not isinstance(content, str):
        refuse(
            f"messages[{at}].content",
            f"is {shown(content)}: give a text or a list of content parts",
        )
    if "cache_control" in message:
        del message["cache_control"]
        fields.leave("messages[].cache_control", "the engine keeps its own cache")
    if role == "assistant":
        _check_assistant(message, at)
    elif role == "tool":
        text(message.get("tool_call_id"), f"messages[{at}].tool_call_id")
    elif content is None:
        refuse(f"messages[{at}].content", "is missing: give a text or a list of content parts")


def _check_part(part: Any, path: str, fields: Fields) -> None:
    kind = mapping(part, path).get("type")
    field = _PARTS.get(kind) if isinstance(kind, str) else None
    if field is None:
        refuse(f"{path}.type", f"is {shown(kind)}: give one of {', '.join(_PARTS)}")
    value = part.get(field)
    if field in ("text", "refusal"):
        text(value, f"{path}.{field}")
    elif field == "image_url":
        if isinstance(value, str):
            part["image_url"] = {"url": value}
        else:
            text(mapping(value, f"{path}.image_url").get("url"), f"{path}.image_url.url")
    else:
        mapping(value, f"{path}.{field}")
    if "cache_control" in part:
        del part["cache_control"]
        fields.leave("messages[].content[].cache_control", "the engine keeps its own cache")


def _check_assistant(message: dict[str, Any], at: int) -> None:
    if (reasoning := message.pop("reasoning", None)) is not None:
        message.setdefault("reasoning_content", reasoning)
    if (reasoning := message.get("reasoning_content")) is not None:
        text(reasoning, f"messages[{at}].reasoning_content")
    if message.get("function_call") is not None:
        refuse(f"messages[{at}].function_call", "is not served by the gateway: use tool_calls")
    calls = message.get("tool_calls")
    if calls:
        for call_at, call in enumerate(listed(calls, f"messages[{at}].tool_calls")):
            path = f"messages[{at}].tool_calls[{call_at}]"
            kind = mapping(call, path).get("type", "function")
            if kind != "function":
                refuse(f"{path}.type", f"is {shown(kind)}: only function is served")
            text(call.get("id"), f"{path}.id")
            function = mapping(call.get("function"), f"{path}.function")
            text(function.get("name"), f"{path}.function.name")
            text(function.get("arguments"), f"{path}.function.arguments")
    elif message.get("content") is None:
        message["content"] = ""


def _read_tools(fields: Fields) -> list[dict[str, Any]]:
    tools = []
    for at, tool in enumerate(fields.list("tools")):
        path = f"tools[{at}]"
        kind = mapping(tool, path).get("type")
        if kind == "function":
            function = mapping(tool.get("function"), f"{path}.function")
            text(function.get("name"), f"{path}.function.name")
            if len(tool) > 2:
                for name in sorted(tool.keys() - {"type", "function"}):
                    fields.leave(f"tools[].{name}", "engines know no such key of a tool")
                tool = {"type": "function", "function": function}
            tools.append(tool)
        elif kind == "custom":
            refuse(path, "is a custom tool: Chat Completions are served functions only")
        else:
            fields.leave(f"{path}", f"a tool of type {shown(kind)} is not run by the gateway")
    return tools


def function_choice(choice: Any, tools: list[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]]]:
    """Return a choice among tools as engines take it, and the tools on offer under it.

    Args:
        choice: as Chat Completions and Responses have it; of the latter with ``function`` or
            without.
        tools: functions on offer.

    Raises:
        CallRefused: it is not one of these, or names a tool that is not on offer.
    """
    names = [tool["function"]["name"] for tool in tools]
    if choice in (None, "auto", "none"):
        return choice if tools else None, tools
    if choice == "required":
        if not tools:
            refuse("tool_choice", "is 'required' and no tool is on offer: give tools")
        return choice, tools
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        mode = mapping(allowed, "tool_choice").get("mode", "auto")
        if mode not in ("auto", "required"):
            refuse("tool_choice.mode", f"is {shown(mode)}: give auto or required")
        wanted = [
            _chosen_name(tool, names)
            for tool in listed(allowed.get("tools"), "tool_choice.tools")
            if isinstance(tool, dict) and tool.get("type") in ("function", "custom")
        ]
        return function_choice(mode, [t for t in tools if t["function"]["name"] in wanted])
    if kind in ("function", "custom"):
        return {"type": "function", "function": {"name": _chosen_name(choice, names)}}, tools
    refuse(
        "tool_choice",
        f"is {shown(choice)}: give auto, none, required, or one function that is on offer",
    )


def _chosen_name(choice: dict[str, Any], names: list[str]) -> str:
    named = choice.get("function") or choice.get("custom") or choice
    name = text(named.get("name") if isinstance(named, dict) else None, "tool_choice.name")
    if name not in names:
        refuse("tool_choice", f"names {name!r}, which is not among the tools: give it, too")
    return name


def _read_sampling(fields: Fields) -> dict[str, Any]:
    sampling = fields.numbers(NUMBERS)
    most = fields.count("max_tokens")
    newer = fields.count("max_completion_tokens")
    if most is not None and newer is not None and most != newer:
        fields.leave("max_tokens", "max_completion_tokens is given, too")
    if (limit := newer or most) is not None:
        sampling["max_tokens"] = limit
    if stop := read_stop(fields):
        sampling["stop"] = stop
    sampling.update(fields.known(PASSED_ON))
    return sampling


def _left_out(fields: Fields) -> dict[str, str]:
    fields.leave_rest(LEFT_OUT, REFUSED)
    return fields.left_out
