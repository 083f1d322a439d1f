"""Replies that are written down or computed: for tests, drills and games with fixed partners."""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from openenv_async.responders.base import Message, Reply, cut

__all__ = ["ScriptedResponder"]

Messages = Sequence[Message]
Rules = Sequence[tuple[str, str | Sequence[str]]]
Answer = str | Reply
Function = Callable[[Messages], Answer | Awaitable[Answer]]


class ScriptedResponder:
    r"""A responder that answers by a script; give exactly one of the three.

    It keeps nothing of a conversation, so that one object serves any number of them: the line
    that comes next is told by how many assistant messages there are already.

    Args:
        lines: said in order; the last one again when they are used up.
        rules: (regular expression, reply) pairs, tried in order on the last user message; the
            reply may name groups (``\1``). Of several replies ``seed`` draws one, the first
            without a seed.
        function: called with the messages; sync (it must not block) or async.
        default: what rules say when none fits.

    ``max_tokens`` counts words here, since there is no tokenizer.
    """

    def __init__(
        self,
        lines: Sequence[str] | None = None,
        *,
        rules: Rules | None = None,
        function: Function | None = None,
        default: str = "",
    ) -> None:
        if sum(given is not None for given in (lines, rules, function)) != 1:
            raise ValueError("give a ScriptedResponder one of lines, rules and function")
        if isinstance(lines, str) or (lines is not None and not lines):
            raise ValueError("lines must be a list of at least one text")
        self._lines = None if lines is None else tuple(lines)
        self._function = function
        self._default = default
        self._rules = [_compiled(*rule) for rule in rules or ()]

    async def respond(
        self,
        messages: Messages,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: Any = None,
    ) -> Reply:
        """Return the script's next message; see ``Responder.respond``.

        Tools are called by a function that returns a ``Reply`` with ``tool_calls``.
        """
        answer = await self._answer(messages, seed)
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        text, reason = cut(reply.text, stop), reply.finish_reason
        if max_tokens is not None:
            words = list(re.finditer(r"\S+", text))
            if len(words) > max_tokens:
                text = text[: words[max_tokens].start()].rstrip()
                reason = "length"
        return replace(reply, text=text, finish_reason=reason)

    async def aclose(self) -> None:
        """Nothing is held."""

    async def _answer(self, messages: Messages, seed: int | None) -> Answer:
        if self._function is not None:
            made = self._function(messages)
            return await made if inspect.isawaitable(made) else made
        if self._lines is not None:
            said: int = sum(message["role"] == "assistant" for message in messages)
            return self._lines[min(said, len(self._lines) - 1)]
        heard = next((_text(m["content"]) for m in reversed(messages) if m["role"] == "user"), "")
        for pattern, replies in self._rules:
            if found := pattern.search(heard):
                return found.expand(
                    replies[0] if seed is None else random.Random(seed).choice(replies)
                )
        return self._default


def _text(content: Any) -> str:
    """Return the text of a message; of content blocks those that are text."""
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content or () if block.get("type") == "text")


def _compiled(pattern: str, replies: str | Sequence[str]) -> tuple[re.Pattern[str], list[str]]:
    try:
        made = re.compile(pattern)
    except re.error as exc:
        raise ValueError(f"{pattern!r} is not a regular expression: {exc}") from None
    alternatives = [replies] if isinstance(replies, str) else list(replies)
    if not alternatives:
        raise ValueError(f"the rule {pattern!r} has no reply")
    return made, alternatives
