"""Messages as agents keep them, and the differences between a history and what was sampled.

Two messages are the same message if they are equal as JSON, apart from what no agent keeps:

- ``cache_control`` and other marks beside the text of a content block;
- a list of one text block for a plain text, and ``None`` or nothing for an empty one;
- ``developer`` for ``system``;
- the spelling of a tool call's arguments, where they are JSON.

All else counts: reasoning, ids of tool calls, blanks and newlines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import msgspec

from openenv_async.gateway.calls import Message

__all__ = [
    "SYSTEM_ROLES",
    "Difference",
    "DifferenceKind",
    "MessageNumbers",
    "of_answer",
    "same_spelling",
    "texts_of",
]

DifferenceKind: TypeAlias = Literal[
    "arguments_respelled",
    "arguments_changed",
    "ids_changed",
    "tool_calls_changed",
    "text_joined",
    "text_cut",
    "text_changed",
    "reasoning_left_out",
    "reasoning_changed",
    "extra_turn",
    "left_out",
    "retokenized",
    "tools_changed",
    "system_changed",
    "history_changed",
    "level_changed",
    "compacted",
]
"""Ways in which an agent's history differs from what was sampled:

- ``arguments_respelled``, ``arguments_changed``, ``ids_changed``, ``tool_calls_changed``: tool
  calls have their arguments in another spelling, other arguments, other ids, or are others;
- ``text_joined``, ``text_cut``, ``text_changed``: the text has more in one piece than was sampled,
  less, or is another;
- ``reasoning_left_out``, ``reasoning_changed``: of the reasoning;
- ``extra_turn``: a message of the assistant that nobody sampled stands before the sample or after;
- ``left_out``: the sample is not in the history;
- ``retokenized``: the messages are the same, and the engine's template made other tokens of them;
- ``tools_changed``, ``system_changed``, ``history_changed``: the sample came back as it was, but
  not the tools, the system text, or another message before it;
- ``level_changed``: one of the two calls has token ids and the other none;
- ``compacted``: a summary stands for the history.
"""

SYSTEM_ROLES: Final = ("system", "developer")
_MARKS: Final = frozenset({"cache_control", "annotations"})


class Difference(msgspec.Struct, kw_only=True, frozen=True):
    """A place at which the history of a call is not what an earlier call had, or sampled.

    Attributes:
        kind: of the difference.
        call: number of the call whose history it is.
        sample: number of the earlier call that the history was held against.
        message: place in the history of ``call``, from 0.
        token: place in its prompt's tokens, where both calls have ids.
        detail: what it is about, such as the name of a tool.
    """

    kind: DifferenceKind
    call: int
    sample: int
    message: int | None = None
    token: int | None = None
    detail: str = ""


class MessageNumbers:
    """Numbers for messages, such that the same message has the same number."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def of(self, message: Message) -> int:
        """Return the number of a message."""
        form = _plain(message)
        try:
            key = msgspec.json.encode(form, order="sorted")
        except (ValueError, TypeError, RecursionError):  # half of a character, or no JSON
            key = repr(form).encode(errors="backslashreplace")
        return self._numbers.setdefault(key, len(self._numbers))

    def of_all(
        self, messages: Sequence[Message], known: tuple[Sequence[Message], Sequence[int]]
    ) -> list[int]:
        """Return the numbers of a history.

        Args:
            messages: of the history.
            known: messages of another one with their numbers. It is quick where both begin alike.
        """
        numbers: list[int] = []
        for message, (other, number) in zip(messages, zip(*known, strict=True), strict=False):
            if message is not other and message != other:
                break
            numbers.append(number)
        numbers += map(self.of, messages[len(numbers) :])
        return numbers


def _plain(message: Message) -> list[Any]:
    """Return what counts of a message."""
    role = message.get("role")
    return [
        "system" if role in SYSTEM_ROLES else role,
        _content(message.get("content")),
        _text(message.get("reasoning_content")),
        [[_id(call), *_function(call)] for call in message.get("tool_calls") or ()],
        message.get("tool_call_id"),
        message.get("name"),
    ]


def _content(content: Any) -> Any:
    if not isinstance(content, list):
        return _text(content)
    blocks = [
        {name: value for name, value in block.items() if name not in _MARKS}
        if isinstance(block, dict)
        else block
        for block in content
    ]
    if not blocks:
        return ""
    if len(blocks) == 1 and isinstance(blocks[0], dict) and set(blocks[0]) == {"type", "text"}:
        return blocks[0]["text"]
    return blocks


def _text(value: Any) -> Any:
    return "" if value is None else value


def _id(call: Any) -> Any:
    return call.get("id") if isinstance(call, Mapping) else None


def _function(call: Any) -> tuple[Any, Any]:
    """Return name and arguments of a tool call, these as JSON where they are."""
    if not isinstance(call, Mapping):
        return None, call
    function = call.get("function")
    if not isinstance(function, Mapping):
        return None, call
    return function.get("name"), _json(function.get("arguments"))


def _json(arguments: Any) -> Any:
    if not isinstance(arguments, str):
        return arguments
    try:
        return msgspec.json.decode(arguments)
    except (ValueError, RecursionError):
        return arguments


def texts_of(message: Message) -> list[str]:
    """Return the texts of a message: its content, or that of each of its text blocks."""
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    blocks = content if isinstance(content, list) else ()
    found = [block.get("text") for block in blocks if isinstance(block, dict)]
    return [text for text in found if isinstance(text, str)]


def same_spelling(one: Message, other: Message) -> bool:
    """Return whether the arguments of two messages' tool calls are spelled alike."""
    return [_spelling(call) for call in one.get("tool_calls") or ()] == [
        _spelling(call) for call in other.get("tool_calls") or ()
    ]


def _spelling(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    return function.get("arguments") if isinstance(function, Mapping) else None


def of_answer(sampled: Message, found: Message) -> tuple[DifferenceKind, str]:
    """Return the difference between an answer and the assistant's message in its place.

    Args:
        sampled: the message of the answer.
        found: the one in a later history; not the same message, or spelled otherwise.
    """
    calls, others = sampled.get("tool_calls") or [], found.get("tool_calls") or []
    names = [_function(call)[0] for call in calls]
    if names != [_function(call)[0] for call in others]:
        return "tool_calls_changed", _shown(others)
    text, other = "".join(texts_of(sampled)), "".join(texts_of(found))
    if text != other:
        if text and text in other:
            return "text_joined", f"{len(other) - len(text)} more characters"
        if other in text:
            return "text_cut", f"{len(text) - len(other)} fewer characters"
        return "text_changed", ""
    for call, back in zip(calls, others, strict=True):
        name, arguments = _function(call)
        if arguments != _function(back)[1]:
            return "arguments_changed", f"arguments of {name}"
    reasoning = _text(sampled.get("reasoning_content"))
    if reasoning != _text(found.get("reasoning_content")):
        left_out = not found.get("reasoning_content")
        return ("reasoning_left_out" if left_out else "reasoning_changed"), ""
    if [_id(call) for call in calls] != [_id(call) for call in others]:
        return "ids_changed", _shown(calls)
    for call, back in zip(calls, others, strict=True):
        if _spelling(call) != _spelling(back):
            return "arguments_respelled", f"arguments of {_function(call)[0]}"
    return "text_changed", "content blocks"


def _shown(calls: Sequence[Any]) -> str:
    return ", ".join(str(_function(call)[0]) for call in calls)[:80] or "none"
