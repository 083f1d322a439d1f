"""Records of calls as a gateway makes them, by an engine whose tokens are easy to check.

A token is a character, or the mark that begins or ends a message; a chat template of the usual
kind makes a prompt of the messages. So the ids of a row decode to what was said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openenv_async.gateway.calls import (
    Answer,
    CallRecord,
    Level,
    Message,
    SampledTokens,
    ToolCall,
)

__all__ = [
    "Recorder",
    "answer_of",
    "asked",
    "decoded",
    "says",
    "system",
    "tool",
    "tools",
    "user",
]

_END = 0x110000
_ROLES = ("system", "user", "assistant", "tool")


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def tool(text: str, call: str = "c") -> Message:
    return {"role": "tool", "tool_call_id": call, "content": text}


def tools(*names: str) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name}} for name in names]


def answer_of(
    text: str = "",
    *,
    calls: Sequence[tuple[str, str, str]] = (),
    reasoning: str = "",
    finish_reason: str | None = None,
) -> Answer:
    """An answer with calls of tools: id, name, arguments as sampled."""
    return Answer(
        text=text,
        reasoning=reasoning,
        tool_calls=[ToolCall(id=id, name=name, arguments=given) for id, name, given in calls],
        finish_reason=finish_reason or ("tool_calls" if calls else "stop"),
    )


def says(text: str, **fields: Any) -> Message:
    """The assistant's message as it comes back."""
    return answer_of(text, **fields).message


def asked(*, id: str, name: str = "bash", arguments: str = '{"command": "ls"}') -> Answer:
    """An answer that calls one tool."""
    return answer_of(calls=[(id, name, arguments)])


def _body(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    text = content if isinstance(content, str) else "".join(part["text"] for part in content)
    reasoning = message.get("reasoning_content") or ""
    calls = "".join(
        f"<{call['function']['name']} {call['function']['arguments']}>"
        for call in message.get("tool_calls") or ()
    )
    return (f"({reasoning})" if reasoning else "") + text + calls


def _opened(role: str) -> int:
    return _END + 1 + _ROLES.index("system" if role == "developer" else role)


def prompt_ids(messages: Sequence[Message], offered: Sequence[dict[str, Any]]) -> list[int]:
    ids: list[int] = []
    if offered:
        names = ",".join(each["function"]["name"] for each in offered)
        ids += [_opened("system"), *map(ord, f"[{names}]"), _END]
    for message in messages:
        ids += [_opened(message["role"]), *map(ord, _body(message)), _END]
    return [*ids, _opened("assistant")]


def completion_ids(answer: Answer) -> list[int]:
    end = [] if answer.finish_reason == "length" else [_END]
    return [*map(ord, _body(answer.message)), *end]


def decoded(ids: Sequence[int]) -> str:
    return "".join("|" if each >= _END else chr(each) for each in ids)


class Recorder:
    """The records of one session.

    Args:
        level: the facts that the engine tells.
        offered: names of the tools of each call.
    """

    def __init__(self, level: Level = "tokens", offered: Sequence[str] = ("bash",)) -> None:
        self.level: Level = level
        self.tools = tools(*offered)
        self.records: list[CallRecord] = []

    def call(self, messages: Sequence[Message], answer: Answer | None, **fields: Any) -> Message:
        """Record a call; return the message of its answer."""
        offered = fields.pop("tools", self.tools)
        number = len(self.records)
        record = CallRecord(
            session="s",
            number=number,
            dialect="chat",
            messages=list(messages),
            tools=offered,
            answer=answer,
            **fields,
        )
        self.records.append(record)
        if answer is None:
            return {}
        ids = completion_ids(answer)
        if self.level != "text":
            answer.tokens = SampledTokens(
                prompt_ids=prompt_ids(messages, offered) if self.level == "tokens" else None,
                completion_ids=ids if self.level == "tokens" else None,
                logprobs=[-(number + 1.0)] * len(ids),
                versions=answer.tokens.versions,
            )
        return answer.message
