"""The part of an answer that is on its way already."""

from __future__ import annotations

from openenv_async.gateway.calls import Answer, Piece, ToolDelta

__all__ = ["Sent"]


class Sent:
    """A count of the characters that left, so that the end adds what is missing.

    Attributes:
        text, reasoning: characters.
        arguments: characters of each tool call that has begun.
    """

    __slots__ = ("arguments", "reasoning", "text")

    def __init__(self) -> None:
        self.text = 0
        self.reasoning = 0
        self.arguments: list[int] = []

    def add(self, delta: ToolDelta) -> bool:
        """Count a part of a tool call; return whether it is the call's first."""
        index = delta.index
        begun = len(self.arguments)
        if index >= begun:
            self.arguments += [0] * (index + 1 - begun)
        self.arguments[index] += len(delta.arguments)
        return index >= begun

    def rest(self, answer: Answer) -> Piece:
        """Return the piece that makes the answer whole."""
        calls = []
        for index, call in enumerate(answer.tool_calls):
            if index >= len(self.arguments):
                delta = ToolDelta(index=index, id=call.id, name=call.name, arguments=call.arguments)
            elif missing := call.arguments[self.arguments[index] :]:
                delta = ToolDelta(index=index, arguments=missing)
            else:
                continue
            calls.append(delta)
        return Piece(
            text=answer.text[self.text :],
            reasoning=answer.reasoning[self.reasoning :],
            tool_calls=calls,
        )
