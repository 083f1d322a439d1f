"""System messages for models whose chat template takes one of them, as the first message."""

from __future__ import annotations

from typing import Any

from openenv_async.gateway.calls import Call, Message

__all__ = ["put_system_first"]


def put_system_first(call: Call) -> None:
    """Make one of the first system messages; later ones become the user's.

    The call notes what was done in ``left_out``. Agents send them anywhere, and an engine whose
    template refuses that refuses the whole call.
    """
    messages = call.messages
    leading = 0
    while leading < len(messages) and messages[leading]["role"] == "system":
        leading += 1
    rest = messages[leading:]
    if leading > 1:
        call.left_out["messages[].role system, first ones"] = "joined, for the model takes one"
    if any(message["role"] == "system" for message in rest):
        call.left_out["messages[].role system, later ones"] = "the user's, for the model takes one"
        rest = [
            {**message, "role": "user"} if message["role"] == "system" else message
            for message in rest
        ]
    call.messages = [*_joined(messages[:leading]), *rest]


def _joined(messages: list[Message]) -> list[Message]:
    if len(messages) < 2:
        return messages
    contents = [message["content"] for message in messages]
    if all(isinstance(content, str) for content in contents):
        return [{"role": "system", "content": "\n\n".join(contents)}]
    parts: list[dict[str, Any]] = []
    for content in contents:
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [{"role": "system", "content": parts}]
