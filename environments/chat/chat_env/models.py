"""Actions, observations and state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

__all__ = ["ChatAction", "ChatObservation", "ChatState", "Message", "ToolCall"]


class ToolCall(msgspec.Struct):
    """A call of a tool.

    Attributes:
        name: of the tool.
        arguments: by name.
        id: which its result refers to; the environment gives one where there is none.
    """

    name: str
    arguments: dict[str, Any] = {}
    id: str = ""


class Message(msgspec.Struct, omit_defaults=True):
    """One message of the conversation.

    Attributes:
        role: ``assistant`` is the agent, ``user`` its partner, ``tool`` the result of a call.
        content: its text, without the template's special tokens; or content blocks, as OpenAI's
            API has them: ``{"type": "text", "text": …}``, ``{"type": "image_url", "image_url":
            {"url": "data:…"}}`` and so on.
        tool_calls: of an assistant's message.
        tool_call_id, name: of a tool's message: the call that it answers, and the tool.
    """

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]]
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """The content's text: that of blocks, a line each."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(each["text"] for each in self.content if each["type"] == "text")


@dataclass
class ChatAction:
    """The agent's next message: tokens, or a text and calls of tools.

    Attributes:
        tokens: int [length], 1 to 8,192 ids of the server's tokenizer. Text after the template's
            end of turn is dropped; a missing end of turn is added. If the task has tools, calls
            are written in it: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, or as such
            an object alone.
        message: the text instead; calls may be written in it as well.
        tool_calls: calls of tools, beside a message or alone.
    """

    tokens: list[int] | None = None
    message: str | None = None
    tool_calls: list[ToolCall] | None = None


@dataclass
class ChatObservation:
    """The agent's view of the conversation.

    Attributes:
        messages: the conversation so far, the system message included; with ``history=new`` those
            since the last observation.
        tokens: int [length], the same as the model is to see it, up to and with the beginning of
            its next message.
        response: what is new and not the agent's: the partner's message, or the results of tools;
            the task after a reset; empty at the end.
        response_tokens: int [length], what comes after the action's own tokens: the end of turn if
            it was missing, the new messages, the beginning of the next. After a reset all tokens.
        score: of the agent's last message, 0 to 1; 0 after a reset.
        solved: whether the task is.
        turns_left: messages that the agent may still send.
        tools: after a reset those of the task, as OpenAI's API has them; later empty.
    """

    messages: list[Message]
    tokens: list[int]
    response: str
    response_tokens: list[int]
    score: float = 0.0
    solved: bool = False
    turns_left: int = 0
    tools: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class ChatState:
    """The position of the episode.

    Attributes:
        task_id, kind, split: of the task.
        turns: messages that the agent has sent.
        max_turns: how many it may.
        best_score: of them, 0 to 1.
        history_messages, history_tokens: the whole conversation.
        judge_calls: how often a judge was asked.
    """

    task_id: str = ""
    kind: str = ""
    split: str = ""
    turns: int = 0
    max_turns: int = 0
    best_score: float = 0.0
    history_messages: list[Message] = field(default_factory=list)
    history_tokens: list[int] = field(default_factory=list)
    judge_calls: int = 0
