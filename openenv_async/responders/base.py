"""The interface of responders."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

__all__ = ["Message", "Reply", "Responder", "Usage", "cut", "takes_tools"]

Message: TypeAlias = Mapping[str, Any]
"""A message of a conversation, as OpenAI's chat completions have it.

``role`` is system, user, assistant or tool; ``content`` a text, a list of content blocks
(``{"type": "text", "text": …}``, ``{"type": "image_url", "image_url": {"url": …}}``) or ``None``.
An assistant's may have ``tool_calls``, a tool's has the ``tool_call_id`` that it answers.
"""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one reply cost, as the responder counts them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A message of a responder.

    A fact that a responder was not told is ``None``: it makes none up.

    Attributes:
        text: the message, without stop sequences.
        finish_reason: ``stop``: it ended by itself or at a stop sequence; ``length``: it was cut
            at ``max_tokens``; ``tool_calls``: it calls tools; endpoints may give others.
        usage: ``None`` where nobody counted.
        model: which model answered, where there is one.
        tool_calls: calls of tools, each with ``id``, ``type`` and ``function``, which has a
            ``name`` and ``arguments``, JSON as text.
        content: the content blocks, when the message is not a text alone.
        prompt_ids: token ids of the prompt.
        completion_ids: token ids as sampled.
        logprobs: natural logarithm of the probability of each sampled token.
        weight_version: of the model's weights, where its server says so.
        queue_seconds: that the call waited here for its turn at the model.
        extra: further facts by name, such as ``id`` and ``attempts``.
    """

    text: str
    finish_reason: str = "stop"
    usage: Usage | None = None
    model: str | None = None
    tool_calls: Sequence[Mapping[str, Any]] = ()
    content: Sequence[Mapping[str, Any]] | None = None
    prompt_ids: Sequence[int] | None = None
    completion_ids: Sequence[int] | None = None
    logprobs: Sequence[float] | None = None
    weight_version: str | int | None = None
    queue_seconds: float = 0.0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def message(self) -> dict[str, Any]:
        """Return the assistant's message, as the next call of the conversation repeats it."""
        content: Any = self.text if self.content is None else list(self.content)
        if not self.tool_calls:
            return {"role": "assistant", "content": content}
        calls = [dict(call) for call in self.tool_calls]
        return {"role": "assistant", "content": content or None, "tool_calls": calls}


@runtime_checkable
class Responder(Protocol):
    """A responder to conversations. One serves many at once: it keeps nothing of any of them.

    One whose model can call tools takes ``tools`` and ``tool_choice`` as well, as OpenAI's chat
    completions have them.
    """

    async def respond(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] | None = None,
    ) -> Reply:
        """Return the next message of a conversation.

        Args:
            messages: each with ``role`` (system, user, assistant or tool) and ``content``.
            max_tokens: of the reply, at most.
            temperature: of sampling; 0 is greedy. ``None``: the responder's own.
            seed: what sampling draws from; the same gives the same, as far as it can.
            stop: texts at which the reply ends; they are not a part of it.

        Raises:
            ResponderFailed: there is no answer, and trying again did not help.
            DeadlineExceeded: it took too long.
        """
        ...

    async def aclose(self) -> None:
        """Release its connections. Idempotent."""
        ...


def takes_tools(responder: Any) -> bool:
    """Return whether a responder can be given tools."""
    try:
        parameters = inspect.signature(responder.respond).parameters
    except (TypeError, ValueError):
        return False
    return "tools" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def cut(text: str, stop: Sequence[str] | None) -> str:
    """Return ``text`` up to the first stop sequence in it."""
    places = [place for mark in stop or () if mark and (place := text.find(mark)) >= 0]
    return text[: min(places)] if places else text
