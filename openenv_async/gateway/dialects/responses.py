"""OpenAI's Responses, as its SDKs and its coding agent speak it.

A conversation is a list of items here and of messages there. Some things are spelled anew on their
way to the engine; nothing that was sampled is, on its way to the agent:

- Reasoning, text and calls that follow each other are one message of the assistant. A message that
  follows another one, and reasoning that follows either, begin a new one.
- Reasoning is answered as the content of a reasoning item. If ``reasoning.encrypted_content`` is
  included, that is the reasoning itself behind ``openenv.reasoning:``, so that it comes back from
  agents that drop the content. Reasoning that others have encrypted is left out.
- A custom tool is a function with one text, ``input``; its grammar is told in its description and
  is not enforced. Its calls are answered as custom calls. Arguments that are not of that form are
  the input as they are.
- The tools of a namespace are functions named ``NAMESPACE__TOOL``; the namespace's description
  stands before that of its first tool. Their calls are answered with name and namespace.
- Tools that a provider would run itself, such as ``web_search``, are left out.
- Nothing is kept for later requests: ``previous_response_id`` is refused, ``store`` left out. The
  answer does not repeat the request.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from openenv_async.errors import OpenEnvError, shown
from openenv_async.gateway.calls import Answer, Call, EventWriter, Message, Piece, ToolDelta
from openenv_async.gateway.dialects.chat import function_choice
from openenv_async.gateway.dialects.failures import Kind, failure_of, openai_error
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

__all__ = ["ResponsesDialect"]

_REASONING: Final = "openenv.reasoning:"
_ENCRYPTED: Final = "reasoning.encrypted_content"
_EFFORTS: Final = ("low", "medium", "high")
_TEXTS: Final = ("input_text", "output_text", "text", "summary_text")
_TOOL_KEYS: Final = frozenset(
    ("type", "name", "description", "parameters", "strict", "format", "tools")
)
_NOT_KEPT: Final = "the gateway keeps nothing for later requests: send the whole conversation"
_LEFT_OUT: Final = {
    **LEFT_OUT,
    "access_programs": "there is one tier",
    "client_metadata": "names nothing that is sampled",
    "context_management": "the gateway takes nothing out of a conversation",
    "image": "the gateway takes nothing out of a conversation",
    "max_tool_calls": "the gateway runs no tools",
    "stream_options": "nothing is hidden in the stream",
    "truncation": "the gateway takes nothing out of a conversation",
}
_REFUSED: Final = {
    **REFUSED,
    "background": "wait for the answer, or stream it",
    "conversation": _NOT_KEPT,
    "previous_response_id": _NOT_KEPT,
    "prompt": _NOT_KEPT,
}
_FAILURE_CODES: Final[dict[Kind, str]] = {
    "refused": "invalid_prompt",
    "unauthorized": "invalid_prompt",
    "too_large": "invalid_prompt",
    "context": "context_length_exceeded",
    "rate": "rate_limit_exceeded",
}
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode


class _Named(msgspec.Struct):
    """A tool as the agent names it."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


class _Form(msgspec.Struct):
    """The facts that an answer is written by.

    Attributes:
        has_encrypted: reasoning items have an encrypted content.
        named: tools by the names of their functions, where these differ or are custom.
    """

    has_encrypted: bool = False
    named: dict[str, _Named] = {}


class ResponsesDialect:
    """``POST /v1/responses`` and its count of tokens."""

    name = "responses"

    def read(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Return what a request asks for; one to count tokens is read alike.

        Raises:
            CallRefused: it is not of this dialect, or asks for what cannot be had; its
                ``detail`` has the ``field``.
        """
        fields = read_body(body)
        asked_model = fields.text("model")
        is_streamed = fields.flag("stream")
        reader = _Tools(fields)
        reader.read(fields.list("tools"), "tools")
        messages = _read_messages(fields, reader)
        thread = thread_of(headers)
        if (cache_key := fields.text("prompt_cache_key")) is not None:
            thread["prompt_cache_key"] = cache_key
        sampling = _read_sampling(fields)
        has_encrypted = _read_include(fields)
        tool_choice, tools = function_choice(fields.take("tool_choice"), reader.tools)
        if fields.rest.get("truncation") == "disabled":
            del fields.rest["truncation"]
        fields.leave_rest(_LEFT_OUT, _REFUSED)
        return Call(
            dialect="responses",
            messages=messages,
            tools=tools,
            tool_choice=tool_choice,
            sampling=sampling,
            is_streamed=is_streamed,
            asked_model=asked_model,
            left_out=fields.left_out,
            thread=thread,
            form=_Form(has_encrypted=has_encrypted, named=reader.named),
        )

    def whole(self, call: Call, call_id: str, answer: Answer, created_at: float = 0.0) -> bytes:
        """Return the body of an answer that is not streamed."""
        items = _Items(call, call_id)
        output = []
        if answer.reasoning:
            output.append(items.reasoning(0, answer.reasoning))
        if answer.text or not answer.tool_calls:
            output.append(items.message(len(output), answer.text))
        for made in answer.tool_calls:
            output.append(items.call(len(output), made.id, made.name, made.arguments))
        head = _head(call, call_id, created_at or time.time())
        return _encode(_ended(head, answer, output))

    def events(self, call: Call, call_id: str, created_at: float) -> EventWriter:
        """Return what writes the answer as events."""
        return _Events(call, call_id, created_at)

    def error(self, error: OpenEnvError) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of an error."""
        return openai_error(error)


def _head(call: Call, call_id: str, created_at: float) -> dict[str, Any]:
    return {
        "id": f"resp_{call_id}",
        "object": "response",
        "created_at": int(created_at),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "model": call.asked_model or "",
        "output": [],
        "parallel_tool_calls": call.sampling.get("parallel_tool_calls", True),
        "tool_choice": "auto",
        "tools": [],
        "temperature": call.sampling.get("temperature"),
        "top_p": call.sampling.get("top_p"),
        "usage": None,
    }


def _ended(head: dict[str, Any], answer: Answer, output: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the response with its answer."""
    reason = {"length": "max_output_tokens", "content_filter": "content_filter"}.get(
        answer.finish_reason
    )
    return {
        **head,
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "output": output,
        "usage": _usage(answer),
    }


def _usage(answer: Answer) -> dict[str, Any] | None:
    """Return the usage, ``None`` where the engine told nothing.

    Clients need numbers beside it: tokens that were cached or reasoning and not told are 0.
    """
    if answer.prompt_tokens is None or answer.completion_tokens is None:
        return None
    return {
        "input_tokens": answer.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": answer.cached_tokens or 0,
            "cache_write_tokens": 0,
        },
        "output_tokens": answer.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
    }


class _Items:
    """The items of an answer's output, by their index in it."""

    __slots__ = ("_call_id", "_form")

    def __init__(self, call: Call, call_id: str) -> None:
        self._form: _Form = call.form
        self._call_id = call_id

    def named(self, name: str) -> _Named:
        """Return a tool as the agent names it."""
        return self._form.named.get(name) or _Named(name)

    def reasoning(self, index: int, words: str | None) -> dict[str, Any]:
        """Return a reasoning item, one that has just begun where it has no words."""
        item: dict[str, Any] = {
            "id": f"rs_{self._call_id}_{index}",
            "type": "reasoning",
            "summary": [],
        }
        if words is None:
            return item
        item["content"] = [{"type": "reasoning_text", "text": words}]
        if self._form.has_encrypted:
            item["encrypted_content"] = _REASONING + words
        return item

    def message(self, index: int, words: str | None) -> dict[str, Any]:
        """Return a message, one that has just begun where it has no words."""
        return {
            "id": f"msg_{self._call_id}_{index}",
            "type": "message",
            "status": "in_progress" if words is None else "completed",
            "role": "assistant",
            "content": [] if words is None else [_output_text(words)],
        }

    def call(self, index: int, call_id: str, name: str, arguments: str | None) -> dict[str, Any]:
        """Return a call, one that has just begun where it has no arguments."""
        named = self.named(name)
        item: dict[str, Any] = {
            "id": f"{'ctc' if named.is_custom else 'fc'}_{self._call_id}_{index}",
            "type": "custom_tool_call" if named.is_custom else "function_call",
            "status": "in_progress" if arguments is None else "completed",
            "call_id": call_id,
            "name": named.name,
        }
        if named.namespace is not None:
            item["namespace"] = named.namespace
        if named.is_custom:
            item["input"] = "" if arguments is None else _custom_input(arguments)
        else:
            item["arguments"] = arguments or ""
        return item


def _output_text(words: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": words}


def _custom_input(arguments: str) -> str:
    """Return the input of a custom tool, the arguments themselves where they are not its form."""
    try:
        read = _decode(arguments)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return arguments
    if isinstance(read, dict) and len(read) == 1 and isinstance(read.get("input"), str):
        given: str = read["input"]
        return given
    return arguments


class _Events:
    """A writer of events: items that begin, grow and end one after the other."""

    __slots__ = (
        "_begun",
        "_call",
        "_calls",
        "_delta",
        "_head",
        "_items",
        "_kind",
        "_number",
        "_output",
        "_sent",
        "_tail",
        "_words",
    )

    def __init__(self, call: Call, call_id: str, created_at: float) -> None:
        self._head = _head(call, call_id, created_at)
        self._items = _Items(call, call_id)
        self._sent = Sent()
        self._number = 0
        self._output: list[dict[str, Any]] = []  # that have ended
        self._kind: Literal["reasoning", "message", "call"] | None = None  # of the open item
        self._begun: dict[str, Any] = {}  # the open item as it began
        self._call = ToolDelta(index=0)  # first part of the open call
        self._calls: list[bytes] = []  # beginning of each call's deltas
        self._words: list[str] = []  # of the open item
        self._delta = b""
        self._tail = b""

    def begin(self) -> bytes:
        return self._event("response.created", response=self._head) + self._event(
            "response.in_progress", response=self._head
        )

    def piece(self, piece: Piece) -> bytes:
        if piece.reasoning or piece.tool_calls:
            return self._mixed(piece)
        if not (words := piece.text):
            return b""
        self._sent.text += len(words)
        begun = b"" if self._kind == "message" else self._begin_message()
        return begun + self._grown(words)

    def _mixed(self, piece: Piece) -> bytes:
        out = []
        if words := piece.reasoning:
            self._sent.reasoning += len(words)
            if self._kind != "reasoning":
                out.append(self._begin_reasoning())
            out.append(self._grown(words))
        if piece.text:
            out.append(self.piece(Piece(text=piece.text)))
        out += [self._tool_delta(part) for part in piece.tool_calls]
        return b"".join(out)

    def _grown(self, words: str) -> bytes:
        self._words.append(words)
        return self._delta_event(self._delta, words)

    def _delta_event(self, delta: bytes, words: str) -> bytes:
        number = self._number
        self._number += 1
        return b"%b%b%b%d}\n\n" % (delta, _encode(words), self._tail, number)

    def _begin_reasoning(self) -> bytes:
        ended = self._end_item()
        index = len(self._output)
        return ended + self._begin_item(
            "reasoning",
            self._items.reasoning(index, None),
            "response.reasoning_text.delta",
            {"type": "reasoning_text", "text": ""},
        )

    def _begin_message(self) -> bytes:
        ended = self._end_item()
        item = self._items.message(len(self._output), None)
        return ended + self._begin_item(
            "message", item, "response.output_text.delta", _output_text("")
        )

    def _begin_item(
        self,
        kind: Literal["reasoning", "message", "call"],
        item: dict[str, Any],
        delta: str,
        part: dict[str, Any] | None,
    ) -> bytes:
        index = len(self._output)
        self._kind = kind
        self._begun = item
        self._words = []
        about = {"type": delta, "item_id": item["id"], "output_index": index}
        added = self._event("response.output_item.added", output_index=index, item=item)
        self._tail = b',"sequence_number":'
        if part is not None:
            about["content_index"] = 0
            added += self._part("added", part)
            if kind == "message":
                self._tail = b',"logprobs":[],"sequence_number":'
        self._delta = b"event: %b\ndata: %b" % (delta.encode(), _encode(about)[:-1] + b',"delta":')
        return added

    def _part(self, what: Literal["added", "done"], part: dict[str, Any]) -> bytes:
        return self._event(
            f"response.content_part.{what}",
            item_id=self._begun["id"],
            output_index=len(self._output),
            content_index=0,
            part=part,
        )

    def _tool_delta(self, part: ToolDelta) -> bytes:
        begun = b""
        if self._sent.add(part):
            ended = self._end_item()
            item = self._items.call(len(self._output), part.id, part.name, None)
            begun = ended + self._begin_item(
                "call", item, "response.function_call_arguments.delta", None
            )
            self._call = part
            self._calls.append(self._delta)
        if not part.arguments:
            return begun
        if self._call.index != part.index or self._kind != "call":
            # A part of a call that has ended already: clients tell it by its index.
            return self._delta_event(self._calls[part.index], part.arguments)
        if self._begun["type"] == "custom_tool_call":
            self._words.append(part.arguments)  # the input is known when it is whole
            return begun
        return begun + self._grown(part.arguments)

    def _end_item(self) -> bytes:
        """Return the events that end the open item."""
        kind = self._kind
        if kind is None:
            return b""
        words = "".join(self._words)
        index = len(self._output)
        place = {"item_id": self._begun["id"], "output_index": index}
        if kind == "reasoning":
            item = self._items.reasoning(index, words)
            done = self._event(
                "response.reasoning_text.done", **place, content_index=0, text=words
            ) + self._part("done", item["content"][0])
        elif kind == "message":
            item = self._items.message(index, words)
            done = self._event(
                "response.output_text.done", **place, content_index=0, text=words, logprobs=[]
            ) + self._part("done", item["content"][0])
        else:
            item = self._items.call(index, self._call.id, self._call.name, words)
            if item["type"] == "custom_tool_call":
                given = item["input"]
                kept = "response.custom_tool_call_input"
                done = self._event(f"{kept}.delta", **place, delta=given) if given else b""
                done += self._event(f"{kept}.done", **place, input=given)
            else:
                done = self._event(
                    "response.function_call_arguments.done",
                    **place,
                    name=item["name"],
                    arguments=words,
                )
        done += self._event("response.output_item.done", output_index=index, item=item)
        self._output.append(item)
        self._kind = None
        return done

    def end(self, answer: Answer) -> bytes:
        last = self.piece(self._sent.rest(answer))
        if not answer.text and not answer.tool_calls:
            last += self._begin_message()
        last += self._end_item()
        response = _ended(self._head, answer, self._output)
        return last + self._event(f"response.{response['status']}", response=response)

    def fail(self, error: OpenEnvError) -> bytes:
        failure = failure_of(error)
        code = _FAILURE_CODES.get(failure.kind, "server_error")
        response = {
            **self._head,
            "status": "failed",
            "error": {"code": code, "message": failure.message},
        }
        return self._event("response.failed", response=response)

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, **fields, "sequence_number": self._number}
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(data))


# -- reading ------------------------------------------------------------------------------------


def _function_name(name: str, namespace: Any) -> str:
    return f"{namespace}__{name}" if isinstance(namespace, str) and namespace else name


class _Tools:
    """The functions that tools of all kinds become.

    Attributes:
        tools: the functions.
        named: the tools that agents name otherwise, by the function's name.
    """

    def __init__(self, fields: Fields) -> None:
        self.tools: list[dict[str, Any]] = []
        self.named: dict[str, _Named] = {}
        self._fields = fields

    def read(self, tools: list[Any], path: str, namespace: str | None = None) -> None:
        """Add the tools of a list.

        Args:
            tools: as a request has them.
            path: of the list.
            namespace: that they belong to.
        """
        for at, tool in enumerate(tools):
            where = f"{path}[{at}]"
            kind = mapping(tool, where).get("type")
            if kind == "namespace":
                self._read_namespace(tool, where)
            elif kind in ("function", "custom"):
                self._add(tool, where, namespace)
            else:
                why = f"a tool of type {shown(kind)} is not run by the gateway"
                self._fields.leave(where, why)

    def _read_namespace(self, tool: dict[str, Any], where: str) -> None:
        name = text(tool.get("name"), f"{where}.name")
        first = len(self.tools)
        self.read(listed(tool.get("tools"), f"{where}.tools"), f"{where}.tools", name)
        about = tool.get("description")
        if isinstance(about, str) and about and len(self.tools) > first:
            function = self.tools[first]["function"]
            own = function.get("description")
            function["description"] = f"{about}\n\n{own}" if own else about

    def _add(self, tool: dict[str, Any], where: str, namespace: str | None) -> None:
        name = text(tool.get("name"), f"{where}.name")
        about = tool.get("description")
        function: dict[str, Any] = {"name": _function_name(name, namespace)}
        if about is not None:
            function["description"] = text(about, f"{where}.description")
        if tool["type"] == "custom":
            self._add_input(tool, function, where)
        else:
            if (parameters := tool.get("parameters")) is not None:
                function["parameters"] = mapping(parameters, f"{where}.parameters")
            if (strict := tool.get("strict")) is not None:
                function["strict"] = strict
        is_custom = tool["type"] == "custom"
        if is_custom or namespace is not None:
            self.named[function["name"]] = _Named(name, namespace, is_custom)
        for key in sorted(tool.keys() - _TOOL_KEYS):
            self._fields.leave(f"tools[].{key}", "engines know no such key of a tool")
        self.tools.append({"type": "function", "function": function})

    def _add_input(self, tool: dict[str, Any], function: dict[str, Any], where: str) -> None:
        form = tool.get("format")
        given = {"type": "string"}
        if form is not None and mapping(form, f"{where}.format").get("type") == "grammar":
            syntax = text(form.get("syntax"), f"{where}.format.syntax")
            definition = text(form.get("definition"), f"{where}.format.definition")
            given["description"] = f"Text of this {syntax} grammar:\n{definition}"
            self._fields.leave(
                "tools[].format", "the grammar is told in the description, and is not enforced"
            )
        function["parameters"] = {
            "type": "object",
            "properties": {"input": given},
            "required": ["input"],
            "additionalProperties": False,
        }


def _read_messages(fields: Fields, tools: _Tools) -> list[Message]:
    messages: list[Message] = []
    if instructions := fields.text("instructions"):
        messages.append({"role": "system", "content": instructions})
    given = fields.take("input")
    if given is None:
        refuse("input", "is missing: give a text or a list of items")
    if isinstance(given, str):
        messages.append({"role": "user", "content": given})
        return messages
    turn: Message | None = None  # of the assistant, to which more items may belong
    for at, item in enumerate(listed(given, "input")):
        path = f"input[{at}]"
        kind = mapping(item, path).get("type") or ("message" if "role" in item else None)
        match kind:
            case "message":
                role = _role(item, path)
                content = _content(item.get("content"), f"{path}.content", fields)
                if role != "assistant":
                    turn = None
                    messages.append({"role": role, "content": content})
                    continue
                words = _joined(content)
                if turn is None or (turn["content"] is not None and "tool_calls" not in turn):
                    turn = _new_turn(messages)
                turn["content"] = (turn["content"] or "") + words
            case "reasoning":
                if (thought := _reasoning(item, path, fields)) is None:
                    continue
                if turn is None or turn["content"] is not None or "tool_calls" in turn:
                    turn = _new_turn(messages)
                turn["reasoning_content"] = turn.get("reasoning_content", "") + thought
            case "function_call" | "custom_tool_call":
                turn = _new_turn(messages) if turn is None else turn
                turn.setdefault("tool_calls", []).append(_tool_call(item, kind, path))
            case "function_call_output" | "custom_tool_call_output":
                turn = None
                messages.append(
                    {
                        "role": "tool",
                        "tool_call_id": text(item.get("call_id"), f"{path}.call_id"),
                        "content": _content(item.get("output"), f"{path}.output", fields),
                    }
                )
            case "additional_tools":
                tools.read(listed(item.get("tools"), f"{path}.tools"), f"{path}.tools")
            case "item_reference":
                refuse(path, f"refers to an item of an earlier request: {_NOT_KEPT}")
            case str():
                fields.leave(f"input[] {kind}", "not an item of the gateway's model")
            case _:
                refuse(f"{path}.type", f"is {shown(kind)}: give the type of the item")
    for message in messages:
        if message["content"] is None and "tool_calls" not in message:
            message["content"] = ""
        elif message["content"] == "" and "tool_calls" in message:
            message["content"] = None
    return messages


def _new_turn(messages: list[Message]) -> Message:
    turn: Message = {"role": "assistant", "content": None}
    messages.append(turn)
    return turn


def _role(item: dict[str, Any], path: str) -> str:
    match item.get("role"):
        case "developer":
            return "system"
        case "user" | "system" | "assistant" as role:
            return str(role)
        case other:
            refuse(f"{path}.role", f"is {shown(other)}: give user, system, developer or assistant")


def _content(content: Any, path: str, fields: Fields) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = []
    for at, part in enumerate(listed(content, path)):
        where = f"{path}[{at}]"
        kind = mapping(part, where).get("type")
        if kind in _TEXTS:
            parts.append({"type": "text", "text": text(part.get("text"), f"{where}.text")})
        elif kind == "refusal":
            parts.append({"type": "text", "text": text(part.get("refusal"), f"{where}.refusal")})
        elif kind == "input_image":
            url = text(part.get("image_url"), f"{where}.image_url")
            image = {"url": url}
            if isinstance(detail := part.get("detail"), str):
                image["detail"] = detail
            parts.append({"type": "image_url", "image_url": image})
        elif kind == "input_file":
            file = {"file_data": text(part.get("file_data"), f"{where}.file_data")}
            if isinstance(name := part.get("filename"), str):
                file["filename"] = name
            parts.append({"type": "file", "file": file})
        elif kind == "input_audio":
            audio = mapping(part.get("input_audio"), f"{where}.input_audio")
            parts.append({"type": "input_audio", "input_audio": audio})
        elif isinstance(kind, str):
            fields.leave(f"input[].content[] {kind}", "engines know no such content")
        else:
            refuse(f"{where}.type", f"is {shown(kind)}: give the type of the content")
    if not parts:
        return ""
    if len(parts) == 1 and parts[0]["type"] == "text":
        only: str = parts[0]["text"]
        return only
    return parts


def _joined(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _reasoning(item: dict[str, Any], path: str, fields: Fields) -> str | None:
    """Return the reasoning of an item, ``None`` where it cannot be read."""
    encrypted = item.get("encrypted_content")
    if isinstance(encrypted, str) and encrypted.startswith(_REASONING):
        return encrypted[len(_REASONING) :]
    content = item.get("content")
    if content:
        return _joined(
            [
                {"type": "text", "text": text(mapping(part, path).get("text"), f"{path}.content")}
                for part in listed(content, f"{path}.content")
            ]
        )
    fields.leave("input[] reasoning", "holds no reasoning of the gateway's model")
    return None


def _tool_call(item: dict[str, Any], kind: str, path: str) -> dict[str, Any]:
    if kind == "custom_tool_call":
        given = text(item.get("input"), f"{path}.input")
        arguments = json.dumps({"input": given}, ensure_ascii=False)
    else:
        arguments = text(item.get("arguments"), f"{path}.arguments")
    name = text(item.get("name"), f"{path}.name")
    return {
        "id": text(item.get("call_id"), f"{path}.call_id"),
        "type": "function",
        "function": {
            "name": _function_name(name, item.get("namespace")),
            "arguments": arguments,
        },
    }


def _read_sampling(fields: Fields) -> dict[str, Any]:
    sampling = fields.numbers(NUMBERS)
    if (limit := fields.count("max_output_tokens")) is not None:
        sampling["max_tokens"] = limit
    if stop := read_stop(fields):
        sampling["stop"] = stop
    sampling.update(fields.known(PASSED_ON))
    reasoning = fields.mapping("reasoning")
    effort = reasoning.pop("effort", None)
    if effort in _EFFORTS:
        sampling["reasoning_effort"] = effort
    elif effort is not None:
        fields.leave("reasoning.effort", f"engines know {', '.join(_EFFORTS)}")
    for name in reasoning:
        fields.leave(f"reasoning.{name}", "reasoning is answered as it is")
    form = fields.mapping("text")
    if (asked := form.pop("format", None)) is not None:
        _read_format(mapping(asked, "text.format"), sampling)
    for name in form:
        fields.leave(f"text.{name}", "a hint to a hosted model")
    return sampling


def _read_format(asked: dict[str, Any], sampling: dict[str, Any]) -> None:
    match asked.get("type"):
        case "text":
            pass
        case "json_object":
            sampling["response_format"] = {"type": "json_object"}
        case "json_schema":
            schema = {name: value for name, value in asked.items() if name != "type"}
            mapping(schema.get("schema"), "text.format.schema")
            sampling["response_format"] = {"type": "json_schema", "json_schema": schema}
        case other:
            refuse("text.format.type", f"is {shown(other)}: give text, json_object or json_schema")


def _read_include(fields: Fields) -> bool:
    has_encrypted = False
    for name in fields.list("include"):
        if name == _ENCRYPTED:
            has_encrypted = True
        elif isinstance(name, str) and name.endswith("logprobs"):
            refuse("include", f"has {name!r}: {REFUSED['logprobs']}")
        else:
            fields.leave(f"include {name}", "the gateway's answers have none")
    return has_encrypted
