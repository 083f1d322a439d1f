"""The call graph: calls of a session as chains, each with its relation to the others.

A *chain* is a conversation as far as it is exactly what was sampled: each of its calls has the
whole of the one before in its prompt. It becomes one training row. Rules:

1. *Conversations.* Calls are of one conversation if the agent's own names for it agree (headers and
   fields of ``CONVERSATION_NAMES``). Agents that name nothing have one. Calls of different
   conversations are never joined.
2. *Joined.* A call continues the chain of an earlier call if its prompt's token ids begin with the
   ids of that call's prompt and completion, and no other message of the assistant stands between
   them in its history. Of several such calls it is the one with the longest prompt. Without ids
   the messages have to begin with the earlier call's messages and its answer, and the tools have
   to be the same; the spelling of a tool call's arguments does not matter then.
3. *Differences.* A call whose history has the answer of an earlier call in another form, or has
   messages of the assistant that nobody sampled, begins a new chain, which names the difference
   and the call that it comes from. Nearest is the call with the longest history in common, the
   system text not counted; of several the last, with the same system text if there is one.
4. *Heirs.* If several calls continue the same call, the chain goes on with the one from which
   the last call of the session came. One that asked the same as another, or whose answer was left
   out of what came next, and that nothing came from, is ``dropped``, or ``second_sample`` if
   it was asked later than the one that the agent went on with. Another that nothing came from is
   a ``side`` call, else a ``fork``.
5. *Sub-agents.* A conversation is a ``subagent``'s if a name of ``SUBAGENT_NAMES`` says so, or if
   its first user message is, for the most part, a text that an earlier call sampled as an argument
   of a tool call.
6. *Summaries.* A call that nothing comes from is a ``summary`` if a long line of its answer stands
   in a message with which a later conversation begins, up to the first of the assistant: that one
   comes from it, and its difference is ``compacted``. So is one whose last message or system
   text asks for a summary, if its conversation went on otherwise, or it is a side call.
7. *Main and side calls.* The main conversation is the first one with tools, or, if none has any,
   the one with the most calls. One with the same tools or system text is ``main``, too. Another
   is a ``side`` call: it has another system text, or no tools where the main one has; without
   tools, and with "title" in its instructions, it is a ``title``. So is a call that begins with
   a history under another system text, if the conversation goes on without it, its tools are
   others, or it has none and ends the conversation.
8. The agent's own word (``CallRecord.relation``) goes before rules 5 to 7.

Calls without an answer are in no chain.
"""

from __future__ import annotations

import itertools
import re
from array import array
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from openenv_async.gateway.calls import Answer, CallRecord, Message
from openenv_async.gateway.differences import (
    SYSTEM_ROLES,
    Difference,
    DifferenceKind,
    MessageNumbers,
    of_answer,
    same_spelling,
    texts_of,
)

__all__ = ["CONVERSATION_NAMES", "SUBAGENT_NAMES", "Chain", "Relation", "chains"]

Relation: TypeAlias = Literal[
    "main",
    "continuation",
    "subagent",
    "title",
    "summary",
    "side",
    "second_sample",
    "dropped",
    "fork",
]
"""Relations of a chain to its session: the main conversation; its continuation after a difference;
a sub-agent's; a request for a title or a summary, or another one beside the conversation; another
sample for the same request; a sample that the agent did not go on with; a branch."""

CONVERSATION_NAMES: Final = (
    "thread-id",
    "session-id",
    "session_id",
    "x-session-id",
    "x-claude-code-session-id",
    "x-claude-code-agent-id",
)
"""Headers and fields by which agents name a conversation, or the run that it is part of."""
SUBAGENT_NAMES: Final = (
    "x-claude-code-agent-id",
    "x-parent-session-id",
    "x-codex-parent-thread-id",
    "x-openai-subagent",
)
"""Headers that only the calls of a sub-agent have."""

_RELATIONS: Final[tuple[Relation, ...]] = get_args(Relation)
_WORDS: Final[dict[str, dict[str, Relation]]] = {
    "x-openai-subagent": {"compact": "summary", "memory_consolidation": "side"},
    "x-codex-turn-metadata.request_kind": {"compaction": "summary"},
    "x-codex-turn-metadata.thread_source": {"subagent": "subagent", "thread_title": "title"},
}
"""The relations that values of headers and fields say."""
_LEAST_LINE: Final = 24
"""Characters of a line of a summary by which it is known again."""
_LEAST_ARGUMENT: Final = 12
"""Characters of an argument that is a sub-agent's task."""
_MOST_DEEP: Final = 4
_TITLE: Final = re.compile(r"\btitles?\b", re.IGNORECASE)
_SUMMARY: Final = re.compile(r"\bsummar(?:y|ies|i[sz]\w+)\b|\bcompact(?:ion|ing)\b", re.IGNORECASE)


class Chain(msgspec.Struct, kw_only=True):
    """Calls of which each has the whole of the one before in its prompt.

    Attributes:
        calls: their numbers, in order.
        relation: to the session.
        parent: number of the call that it comes from: the one that it continues in another form,
            whose summary it begins with, which began the sub-agent, or from which it branched.
        difference: between its first call's history and what was sampled before; of a dropped
            sample the one by which it is missing.
    """

    calls: list[int]
    relation: Relation
    parent: int | None = None
    difference: Difference | None = None


def chains(records: Sequence[CallRecord]) -> list[Chain]:
    """Return the chains of a session's calls, by the number of their first call.

    Args:
        records: of one session, in any order. Each answered one is in exactly one chain.

    Raises:
        ValueError: they are of several sessions, or two have the same number.
    """
    return _Graph(_ordered(records)).chains()


def _ordered(records: Sequence[CallRecord]) -> list[CallRecord]:
    if len({record.session for record in records}) > 1:
        raise ValueError("records of one session make a call graph, got several sessions")
    ordered = sorted(records, key=lambda record: record.number)
    for one, other in itertools.pairwise(ordered):
        if one.number == other.number:
            raise ValueError(f"call {one.number} of session {one.session} is there twice")
    return [record for record in ordered if record.answer is not None]


class _Node:
    """A call in the graph.

    Attributes:
        numbers: of its messages.
        lead: of them, how many system messages they begin with.
        answer_number: of its answer's message.
        prompt, whole: token ids of its prompt, and those with its completion, to compare.
        parent: the call that it comes from.
        is_joined: it continues the parent's chain, or another that does stands in its place.
        difference: between its history and the parent's.
        word: its relation, where that is known beforehand.
    """

    __slots__ = (
        "answer_number",
        "children",
        "conversation",
        "difference",
        "is_joined",
        "lead",
        "numbers",
        "parent",
        "prompt",
        "record",
        "whole",
        "word",
    )

    def __init__(self, record: CallRecord, numbers: list[int], answer_number: int) -> None:
        self.record = record
        self.conversation = _conversation(record)
        self.numbers = numbers
        self.lead = _first_but(SYSTEM_ROLES, record.messages)
        self.answer_number = answer_number
        self.prompt, self.whole = _ids(record)
        self.parent: _Node | None = None
        self.is_joined = False
        self.difference: Difference | None = None
        self.children: list[_Node] = []
        self.word: Relation | None = _word(record)

    @property
    def number(self) -> int:
        return self.record.number

    @property
    def answer(self) -> Answer:
        assert self.record.answer is not None
        return self.record.answer

    @property
    def system(self) -> list[int]:
        return self.numbers[: self.lead]

    @property
    def turns(self) -> list[int]:
        return self.numbers[self.lead :]

    def has_heir(self) -> bool:
        return any(child.is_joined for child in self.children)

    def asks_as(self, other: _Node) -> bool:
        return self.numbers == other.numbers and self.record.tools == other.record.tools


class _History:
    """The histories of one conversation, as a tree of messages."""

    def __init__(self) -> None:
        self.last: _Node | None = None
        self._edges: dict[tuple[int, int], int] = {}
        self._passing: list[_Node | None] = [None]
        self._passing_as: dict[tuple[int, tuple[int, ...]], _Node] = {}
        self._asking: defaultdict[int, list[_Node]] = defaultdict(list)
        self._answering: defaultdict[int, list[_Node]] = defaultdict(list)
        self._by_length: list[tuple[int, int, _Node]] = []

    def walk(self, turns: Sequence[int]) -> list[int]:
        """Return the places in the tree, the root first, as far as a history is known."""
        path = [0]
        for number in turns:
            place = self._edges.get((path[-1], number))
            if place is None:
                break
            path.append(place)
        return path

    def add(self, node: _Node, path: list[int]) -> None:
        """Add a call whose history is known as far as ``path``."""
        path = list(path)
        for number in node.turns[len(path) - 1 :]:
            path.append(self._grown(path[-1], number))
        end = self._edges.get((path[-1], node.answer_number))
        if end is None:
            end = self._grown(path[-1], node.answer_number)
        system = tuple(node.system)
        for place in (*path[1:], end):
            self._passing[place] = self._passing_as[place, system] = node
        self._asking[path[-1]].append(node)
        self._answering[end].append(node)
        if node.whole is not None:
            entry = (-len(node.whole), -node.number, node)
            insort(self._by_length, entry, key=lambda each: each[:2])
        self.last = node

    def nearest(self, node: _Node, path: list[int]) -> _Node | None:
        """Return the last call with the longest history in common, of one system text if any."""
        same = self._passing_as.get((path[-1], tuple(node.system)))
        return same or self._passing[path[-1]]

    def twin(self, node: _Node, path: list[int]) -> _Node | None:
        """Return a call that asked the same."""
        return next((each for each in self._asking[path[-1]] if each.asks_as(node)), None)

    def answered(self, path: list[int]) -> _Node | None:
        """Return the last call whose answer is in the history."""
        for place in reversed(path):
            if place in self._answering:
                return self._answering[place][-1]
        return None

    def exact(self, node: _Node, path: list[int]) -> _Node | None:
        """Return the call with the longest history that is exactly the beginning of this one."""
        if node.prompt is not None:
            told = [other for place in path for other in self._answering.get(place, ())]
            return self._by_ids(node.prompt, {other.number for other in told})
        for place in reversed(path):
            fitting = [
                other
                for other in self._answering.get(place, ())
                if other.whole is None
                and other.system == node.system
                and other.record.tools == node.record.tools
            ]
            if fitting:
                return next((each for each in fitting if not each.has_heir()), fitting[-1])
        return None

    def _by_ids(self, prompt: bytes, told: Container[int]) -> _Node | None:
        """Return the call with most ids with which the prompt begins.

        Of several with the same ids it is one in ``told``, those whose answers are in the history
        by its messages, and one that nothing continues yet.
        """
        start = bisect_left(self._by_length, (-len(prompt),), key=lambda each: each[:1])
        fitting: list[_Node] = []
        for _, _, node in self._by_length[start:]:
            assert node.whole is not None
            if fitting and node.whole != fitting[0].whole:
                break
            if fitting or prompt.startswith(node.whole):
                fitting.append(node)
        if not fitting:
            return None
        return max(fitting, key=lambda each: (each.number in told, not each.has_heir()))

    def _grown(self, place: int, number: int) -> int:
        self._passing.append(None)
        self._edges[place, number] = grown = len(self._passing) - 1
        return grown


class _Graph:
    def __init__(self, records: Sequence[CallRecord]) -> None:
        self._numbers = MessageNumbers()
        self._histories: defaultdict[tuple[str | None, ...], _History] = defaultdict(_History)
        self._nodes: list[_Node] = []
        for record in records:
            self._add(record)
        self._tasks = _Tasks(self._nodes)
        self._find_summaries()
        self._latest = self._reach()

    # -- the place of each call ------------------------------------------------------------------

    def _add(self, record: CallRecord) -> None:
        assert record.answer is not None
        history = self._histories[_conversation(record)]
        last = history.last
        known = ([], []) if last is None else (last.record.messages, last.numbers)
        numbers = self._numbers.of_all(record.messages, known)
        node = _Node(record, numbers, self._numbers.of(record.answer.message))
        path = history.walk(node.turns)
        self._place(node, history, path)
        if node.parent is not None:
            node.parent.children.append(node)
        history.add(node, path)
        self._nodes.append(node)

    def _place(self, node: _Node, history: _History, path: list[int]) -> None:
        """Find the call that a call comes from, and the difference between them."""
        messages, depth = node.record.messages, node.lead + len(path) - 1
        nearest = history.nearest(node, path)
        exact = history.exact(node, path)
        made_up = _first_of_assistant(messages, 0 if exact is None else _after(exact, node))
        if exact is not None and (made_up is None or nearest is None):
            node.parent, node.is_joined = exact, True
            return
        if nearest is None or made_up is None:
            return
        beside = history.twin(node, path) if depth == len(messages) else None
        asked = len(nearest.record.messages) - nearest.lead + node.lead
        if beside is None and depth == asked and _first_of_assistant(messages, depth) is None:
            beside = nearest  # its answer was left out
        if beside is not None:
            node.parent = beside.parent
            if beside.difference is not None:
                node.difference = msgspec.structs.replace(beside.difference, call=node.number)
            return
        if depth == len(messages):  # the history ends where others go on
            answered = history.answered(path)
            if answered is not None:
                nearest, depth = answered, node.lead + len(answered.turns) + 1
        node.parent, node.difference = nearest, _difference(nearest, node, depth)

    # -- relations -------------------------------------------------------------------------------

    def _find_summaries(self) -> None:
        """Join conversations that begin with a summary to the call that made it."""
        lines = {
            node.number: (node, line)
            for node in self._nodes
            if not node.children and (line := _longest_line(node.answer.text))
        }
        for node in self._nodes:
            if not lines:
                return
            if node.is_joined or self._tasks.giver(node) is not None:
                continue
            place, maker = _summary_in(node, lines)
            if maker is None:
                continue
            if node.parent is not None:
                node.parent.children.remove(node)
            node.parent, node.difference = (
                maker,
                Difference(kind="compacted", call=node.number, sample=maker.number, message=place),
            )
            maker.children.append(node)
            maker.word = maker.word or "summary"
            del lines[maker.number]

    def _reach(self) -> dict[int, int]:
        """Return, by call, the last call that came from it."""
        latest = {node.number: node.number for node in self._nodes}
        for node in reversed(self._nodes):
            if node.parent is not None:
                latest[node.parent.number] = max(latest[node.parent.number], latest[node.number])
        return latest

    def chains(self) -> list[Chain]:
        """Return the chains, by the number of their first call."""
        found: list[Chain] = []
        for root, relation, parent in self._roots():
            self._follow(root, relation, parent, found)
        return sorted(found, key=lambda chain: chain.calls[0])

    def _follow(
        self, root: _Node, relation: Relation, parent: int | None, found: list[Chain]
    ) -> None:
        """Add the chain that begins with a call, and those that come from it."""
        tree: Relation = "main" if relation == "summary" else relation
        waiting = [(root, relation, tree, parent, root.difference)]
        while waiting:
            node, own, tree, parent, difference = waiting.pop()
            chain = Chain(calls=[], relation=own, parent=parent, difference=difference)
            found.append(chain)
            at: _Node | None = node
            while at is not None:
                chain.calls.append(at.number)
                heir = self._heir(at)
                for child in at.children:
                    if child is heir:
                        continue
                    beside, why = self._beside(child, at.children, tree)
                    below = tree if beside in ("continuation", "summary") else beside
                    if beside == "continuation" and tree != "main":
                        beside = tree
                    waiting.append((child, beside, below, at.number, why))
                at = heir

    def _heir(self, node: _Node) -> _Node | None:
        """Return the call that continues the chain of a call."""
        joined = [
            child
            for child in node.children
            if child.is_joined and child.word not in ("title", "summary", "side")
        ]
        if len(joined) < 2:
            return joined[0] if joined else None
        best = max(joined, key=lambda child: self._latest[child.number])
        if best.children:
            return best
        return min((each for each in joined if each.asks_as(best)), key=lambda each: each.number)

    def _beside(
        self, node: _Node, siblings: Sequence[_Node], tree: Relation
    ) -> tuple[Relation, Difference | None]:
        """Return relation and difference of a call that does not continue its parent's chain."""
        rivals = [other for other in siblings if other is not node]
        kind = None if node.difference is None else node.difference.kind
        goes_on = any(self._latest[other.number] > node.number for other in rivals)
        if node.word is not None and node.word != tree:
            return node.word, node.difference
        if not node.children:
            unused = self._unused(node, rivals)
            if unused is not None:
                return unused[0], unused[1] or node.difference
            if goes_on and _SUMMARY.search(_last_request(node.record)):
                return "summary", node.difference
        if node.is_joined:
            return ("fork" if node.children else "side"), node.difference
        if kind == "system_changed" and (goes_on or _is_apart(node)):
            return _side(node), node.difference
        if any(
            other.children
            and other.asks_as(node)
            and self._latest[other.number] > self._latest[node.number]
            for other in rivals
        ):
            return "fork", node.difference
        return "continuation", node.difference

    def _unused(
        self, node: _Node, rivals: Sequence[_Node]
    ) -> tuple[Relation, Difference | None] | None:
        """Return the relation of a sample that nothing came from, if another took its place."""
        for other in rivals:
            if other.asks_as(node) and (other.children or other.number < node.number):
                return ("second_sample" if other.number < node.number else "dropped"), None
        length = len(node.numbers)
        for other in rivals:
            is_after = other.number > node.number and len(other.numbers) > length
            if is_after and other.numbers[:length] == node.numbers:
                return "dropped", Difference(
                    kind="left_out", call=other.number, sample=node.number, message=length
                )
        return None

    def _roots(self) -> Iterator[tuple[_Node, Relation, int | None]]:
        """Yield the calls that come from no other, with their relation and who began them."""
        roots = [node for node in self._nodes if node.parent is None]
        givers = {root.number: self._tasks.giver(root) for root in roots}
        others = [root for root in roots if root.word is None and givers[root.number] is None]
        main = self._main(others)
        for root in roots:
            giver = givers[root.number]
            if root not in others:
                relation = root.word or "subagent"
                yield root, relation, giver if relation == "subagent" else None
                continue
            unused = None
            if not root.children:
                near = [each for each in others if each is not root and _is_near(each, root)]
                unused = self._unused(root, near)
            if unused is None:
                yield root, _beside_main(root, main), None
            else:
                relation, root.difference = unused
                yield root, relation, None

    def _main(self, roots: Sequence[_Node]) -> _Node | None:
        """Return the first call of the main conversation."""
        with_tools = [root for root in roots if root.record.tools]
        if with_tools:
            return with_tools[0]
        sizes = Counter(_root(node).number for node in self._nodes)
        untitled = [root for root in roots if _side(root) == "side"]
        return max(untitled or roots, key=lambda root: sizes[root.number], default=None)


class _Tasks:
    """Texts that were sampled as arguments of tool calls: one may be a sub-agent's task."""

    def __init__(self, nodes: Sequence[_Node]) -> None:
        self._given: defaultdict[str, list[int]] = defaultdict(list)
        for node in nodes:
            for call in node.answer.tool_calls:
                try:
                    arguments = msgspec.json.decode(call.arguments)
                except (ValueError, RecursionError):
                    continue
                for text in _strings(arguments, _MOST_DEEP):
                    self._given[text].append(node.number)

    def giver(self, node: _Node) -> int | None:
        """Return the call that sampled what is asked before the first answer of another."""
        if not self._given:
            return None
        end = _first_of_assistant(node.record.messages, 0)
        for message in node.record.messages[:end]:
            if message.get("role") != "user":
                continue
            for text in texts_of(message):
                numbers = self._given.get(text.strip()) or self._within(text)
                before = [number for number in numbers if number < node.number]
                if before:
                    return before[-1]
        return None

    def _within(self, text: str) -> Sequence[int]:
        return next(
            (
                numbers
                for task, numbers in self._given.items()
                if len(text) <= 2 * len(task) and task in text
            ),
            (),
        )


def _strings(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        text = value.strip()
        if len(text) >= _LEAST_ARGUMENT:
            yield text
    elif depth and isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item, depth - 1)


# -- differences ---------------------------------------------------------------------------------


def _difference(earlier: _Node, node: _Node, depth: int) -> Difference:
    """Return the difference between a history and that of an earlier call with its answer.

    Args:
        earlier: the nearest call.
        node: the call with the history.
        depth: messages with which both begin, those of the system counted as they are in ``node``.
    """
    kind, place, detail = _kind(earlier, node, depth)
    token = None
    if earlier.whole is not None and node.prompt is not None:
        token = _common_tokens(earlier.whole, node.prompt)
    return Difference(
        kind=kind,
        call=node.number,
        sample=earlier.number,
        message=place,
        token=token,
        detail=detail,
    )


def _kind(earlier: _Node, node: _Node, depth: int) -> tuple[DifferenceKind, int | None, str]:
    messages = node.record.messages
    asked = node.lead + len(earlier.turns)
    sampled = earlier.answer.message
    if earlier.system != node.system:
        return "system_changed", 0, ""
    if depth > asked:
        extra = _first_of_assistant(messages, depth)
        if extra is not None:
            return "extra_turn", extra, ""
        if earlier.record.tools != node.record.tools:
            return "tools_changed", None, ""
        if (earlier.whole is None) != (node.prompt is None):
            return "level_changed", None, ""
        if not same_spelling(sampled, messages[asked]):
            return of_answer(sampled, messages[asked])[0], asked, "arguments"
        return "retokenized", asked, ""
    if depth >= len(messages):
        return "history_changed", depth, "it ends before"
    role = messages[depth].get("role")
    if earlier.answer_number in node.numbers[depth:]:
        return ("extra_turn" if role == "assistant" else "history_changed"), depth, f"{role}"
    if role == "assistant" and depth == asked:
        kind, detail = of_answer(sampled, messages[depth])
        return kind, depth, detail
    text = earlier.answer.text
    if role == "assistant" and text and text in "".join(texts_of(messages[depth])):
        return "text_joined", depth, "messages before it are gone"
    return "history_changed", depth, f"{role}"


def _after(exact: _Node, node: _Node) -> int:
    """Return the place after the answer of a call in a history that begins exactly with it."""
    start = len(exact.record.messages)
    for place in range(start, len(node.record.messages)):
        if node.record.messages[place].get("role") != "assistant":
            break
        if node.numbers[place] == exact.answer_number:
            return place + 1
    is_there = _first_of_assistant(node.record.messages[: start + 1], start) is not None
    return start + is_there


def _first_of_assistant(messages: Sequence[Message], start: int) -> int | None:
    for place in range(start, len(messages)):
        if messages[place].get("role") == "assistant":
            return place
    return None


def _first_but(roles: Sequence[str], messages: Sequence[Message]) -> int:
    """Return how many messages of these roles come before any other."""
    for place, message in enumerate(messages):
        if message.get("role") not in roles:
            return place
    return len(messages)


# -- facts of a call -----------------------------------------------------------------------------


def _conversation(record: CallRecord) -> tuple[str | None, ...]:
    return tuple(record.thread.get(name) for name in CONVERSATION_NAMES)


def _word(record: CallRecord) -> Relation | None:
    """Return the relation that the agent itself names."""
    for relation in _RELATIONS:
        if record.relation == relation:
            return relation
    for name, words in _WORDS.items():
        word = words.get(record.thread.get(name, ""))
        if word is not None:
            return word
    return "subagent" if any(name in record.thread for name in SUBAGENT_NAMES) else None


def _root(node: _Node) -> _Node:
    while node.parent is not None:
        node = node.parent
    return node


def _is_near(one: _Node, other: _Node) -> bool:
    return one.conversation == other.conversation and one.record.tools == other.record.tools


def _beside_main(root: _Node, main: _Node | None) -> Relation:
    if main is None or root is main:
        return "main"
    names, others = _tool_names(root), _tool_names(main)
    if (names and names == others) or (root.system == main.system and bool(names) == bool(others)):
        return "main"
    return _side(root)


def _is_apart(node: _Node) -> bool:
    """Return whether a call with another system text is none of the conversation's turns."""
    before = node.parent
    assert before is not None
    if _tool_names(node) != _tool_names(before):
        return True
    is_usual = before.difference is not None and before.difference.kind == "system_changed"
    return not (node.children or node.record.tools or is_usual)


def _side(node: _Node) -> Relation:
    if node.record.tools:
        return "side"
    instructions = _texts(node.record.messages[: node.lead] or node.record.messages)
    if _TITLE.search(instructions):
        return "title"
    return "summary" if _SUMMARY.search(instructions) else "side"


def _tool_names(node: _Node) -> list[Any]:
    return [(tool.get("function") or {}).get("name") for tool in node.record.tools]


def _last_request(record: CallRecord) -> str:
    """Return the system text and the last message of a user."""
    users = [message for message in record.messages if message.get("role") == "user"]
    lead = _first_but(SYSTEM_ROLES, record.messages)
    return _texts([*record.messages[:lead], *users[-1:]])


def _texts(messages: Sequence[Message]) -> str:
    return "\n".join(text for message in messages for text in texts_of(message))


def _longest_line(text: str) -> str | None:
    line = max((line.strip() for line in text.splitlines()), key=len, default="")
    return line if len(line) >= _LEAST_LINE else None


def _summary_in(
    node: _Node, lines: Mapping[int, tuple[_Node, str]]
) -> tuple[int | None, _Node | None]:
    """Return the message with which a conversation begins that has a line of an earlier answer."""
    first = _first_of_assistant(node.record.messages, 0)
    end = len(node.record.messages) if first is None else first + 1
    for place, message in enumerate(node.record.messages[:end]):
        for text in texts_of(message):
            for maker, line in reversed(list(lines.values())):
                is_before = maker.number < node.number and maker.conversation == node.conversation
                if is_before and line in text:
                    return place, maker
    return None, None


# -- token ids -----------------------------------------------------------------------------------


def _ids(record: CallRecord) -> tuple[bytes | None, bytes | None]:
    """Return the ids of a call's prompt, and those with its completion, as bytes to compare."""
    assert record.answer is not None
    tokens = record.answer.tokens
    if tokens.prompt_ids is None or tokens.completion_ids is None:
        return None, None
    prompt = array("q", tokens.prompt_ids).tobytes()
    return prompt, prompt + array("q", tokens.completion_ids).tobytes()


def _common_tokens(one: bytes, other: bytes) -> int:
    """Return the number of tokens with which both begin."""
    low, high = 0, min(len(one), len(other)) // 8
    while low < high:
        middle = (low + high + 1) // 2
        if one[low * 8 : middle * 8] == other[low * 8 : middle * 8]:
            low = middle
        else:
            high = middle - 1
    return low
