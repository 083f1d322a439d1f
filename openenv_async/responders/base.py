"""The interface of responders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

__all__ = ["Reply", "Responder", "Usage", "cut"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that one reply cost, as the responder counts them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    """A message of a responder.

    Attributes:
        text: the message, without stop sequences.
        finish_reason: ``stop``: it ended by itself or at a stop sequence; ``length``: it was cut
            at ``max_tokens``; endpoints may give others.
        usage: ``None`` where nobody counted.
        model: which model answered, where there is one.
    """

    text: str
    finish_reason: str = "stop"
    usage: Usage | None = None
    model: str | None = None


@runtime_checkable
class Responder(Protocol):
    """A responder to conversations. One serves many at once: it keeps nothing of any of them."""

    async def respond(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] | None = None,
    ) -> Reply:
        """Return the next message of a conversation.

        Args:
            messages: each with ``role`` (system, user or assistant) and ``content``.
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


def cut(text: str, stop: Sequence[str] | None) -> str:
    """Return ``text`` up to the first stop sequence in it."""
    places = [place for mark in stop or () if mark and (place := text.find(mark)) >= 0]
    return text[: min(places)] if places else text
