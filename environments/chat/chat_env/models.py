"""Actions, observations and state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["ChatAction", "ChatObservation", "ChatState", "Message"]


@dataclass
class Message:
    """One message of the conversation.

    Attributes:
        role: ``assistant`` is the agent, ``user`` its partner.
        content: its text, without the template's special tokens.
    """

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass
class ChatAction:
    """The agent's next message; give exactly one of the two.

    Attributes:
        tokens: int [length], 1 to 8,192 ids of the server's tokenizer. Text after the template's
            end of turn is dropped; a missing end of turn is added.
        message: the text instead.
    """

    tokens: list[int] | None = None
    message: str | None = None


@dataclass
class ChatObservation:
    """The agent's view of the conversation.

    Attributes:
        messages: the conversation so far, the system message included.
        tokens: int [length], that conversation as the model is to see it, up to and with the
            beginning of its next message.
        response: the partner's last message, the task after a reset; empty at the end.
        response_tokens: int [length], what comes after the action's own tokens in ``tokens``:
            the end of turn if it was missing, the partner's message, the beginning of the next.
            The whole of ``tokens`` after a reset.
        score: of the agent's last message, 0 to 1; 0 after a reset.
        solved: whether the task is.
        turns_left: messages that the agent may still send.
    """

    messages: list[Message]
    tokens: list[int]
    response: str
    response_tokens: list[int]
    score: float = 0.0
    solved: bool = False
    turns_left: int = 0


@dataclass
class ChatState:
    """The position of the episode.

    Attributes:
        task_id, kind, split: of the task.
        turns: messages that the agent has sent.
        max_turns: how many it may.
        best_score: of them, 0 to 1.
        history_messages, history_tokens: as in the observation.
    """

    task_id: str = ""
    kind: str = ""
    split: str = ""
    turns: int = 0
    max_turns: int = 0
    best_score: float = 0.0
    history_messages: list[Message] = field(default_factory=list)
    history_tokens: list[int] = field(default_factory=list)
