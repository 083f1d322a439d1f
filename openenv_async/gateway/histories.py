"""Records of calls that share what they have in common: messages, tools and token ids.

Each call of an agent sends its whole history, and each prompt repeats the one before. Here

- a message is held once for all sessions whose ``Histories`` have the same ``Shared``, and so is
  a list of tools;
- a history is a node of the tree of its session: its parent's messages, and one more;
- the ids of a prompt that begins with the prompt and the completion of an earlier call are that
  call and the ids that come after it.

``Histories.read`` finds the node of a call: it compares with the histories that were seen last,
and makes digests of new messages alone. ``pack`` makes a record small, ``unpack`` makes it whole
again: equal to what was packed. Messages and tools are shared by those who read them: to change
one, copy it.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from openenv_async.gateway.calls import CallRecord, Delivery, Message, SampledTokens

__all__ = ["Histories", "History", "PackedCall", "Shared"]

_MAX_RECENT: Final = 8
"""Histories with which the next one is compared: more than agents that share a session have."""
_MAX_DEPTH: Final = 64
"""Calls that one prompt is put together from; the next has its ids whole."""
_ENCODER: Final = msgspec.json.Encoder()
_SORTED: Final = msgspec.json.Encoder(order="deterministic")
_PACKER: Final = msgspec.msgpack.Encoder()
_IDS: Final = msgspec.msgpack.Decoder(list[int])
_LOGPROBS: Final = msgspec.msgpack.Decoder(list[float])
_RECORDS: Final = msgspec.json.Decoder(CallRecord)
_MARK: Final = "cache_control"
_MARK_BYTES: Final = b'"cache_control"'


class SharedMessage:
    """A message, or a list of tools, held once.

    Attributes:
        value: the message or the list.
        digest: of its canonical JSON, without marks for caches.
        is_exact: Python's ``==`` tells it from all other JSON (``1 == True`` does not occur).
        encoded: JSON of a list of tools, to compare with; of a message empty.
        place: where a writer has it: number of the file, and number in the file.
    """

    __slots__ = ("__weakref__", "digest", "encoded", "is_exact", "place", "value")

    def __init__(self, value: Any, encoded: bytes, keep: bool) -> None:
        bare = _without_marks(value) if _MARK_BYTES in encoded else value
        self.value = value
        self.digest = hashlib.blake2b(_SORTED.encode(bare), digest_size=16).digest()
        self.is_exact = not keep and _has_only_texts(value)
        self.encoded = encoded if keep else b""
        self.place = (-1, -1)


class Shared:
    """Messages and lists of tools that are in use, each held once."""

    def __init__(self) -> None:
        self._held: weakref.WeakValueDictionary[bytes, SharedMessage] = (
            weakref.WeakValueDictionary()
        )

    def __len__(self) -> int:
        return len(self._held)

    def message(self, message: Message) -> SharedMessage:
        """Return the one that is equal to a message, spelled in the same order."""
        return self._held_one(message, _ENCODER.encode(message), keep=False)

    def tools(self, tools: list[dict[str, Any]], encoded: bytes) -> SharedMessage:
        """Return the one that is equal to a list of tools, of which ``encoded`` is the JSON."""
        return self._held_one(tools, encoded, keep=True)

    def _held_one(self, value: Any, encoded: bytes, *, keep: bool) -> SharedMessage:
        key = hashlib.blake2b(encoded, digest_size=16).digest()
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = SharedMessage(value, encoded, keep)
        return held


class History:
    """A history of messages.

    Attributes:
        parent: the history without its last message; ``None`` for the empty one.
        last: the last message.
        length: count of messages.
        digest: of all of them, the same however keys are ordered and caches marked.
        call: the last packed call of this history, if any.
        place: where a writer has it: number of the file, and number in the file.
    """

    __slots__ = ("call", "children", "digest", "last", "length", "parent", "place")

    def __init__(self, parent: History | None, last: SharedMessage | None) -> None:
        self.parent = parent
        self.last = last
        self.children: dict[int, History] = {}
        self.call: PackedCall | None = None
        self.place = (-1, -1)
        if parent is None or last is None:
            self.length, self.digest = 0, bytes(16)
        else:
            self.length = parent.length + 1
            chained = parent.digest + last.digest
            self.digest = hashlib.blake2b(chained, digest_size=16).digest()

    def after(self, message: SharedMessage) -> History:
        """Return this history with one message more."""
        node = self.children.get(id(message))
        if node is None:  # a child holds its message, so that no other one has its id
            node = self.children[id(message)] = History(self, message)
        return node

    def upwards(self) -> Iterator[History]:
        """Yield this history, and the shorter ones down to the empty one."""
        node: History | None = self
        while node is not None:
            yield node
            node = node.parent

    @property
    def messages(self) -> list[Message]:
        """The messages, in a new list."""
        found: list[Message] = [node.last.value for node in self.upwards() if node.last is not None]
        found.reverse()
        return found


class PackedCall:
    """A record of a call that shares what others have too.

    Attributes:
        number: of the call.
        history, tools: of the call.
        rest: the record without messages, tools, deliveries, ids and log probabilities, as JSON.
        deliveries: of the record; append to it.
        base: the call with whose prompt and completion the prompt begins; ``None`` without.
        shared: how many ids of ``base``.
        prompt: the ids after these, as msgpack; ``None``: not told.
        completion, logprobs: of the completion, likewise.
        depth: how many calls its prompt is put together from, beside its own.
        place: number of the file that a writer has it in.
        size: bytes there.
    """

    __slots__ = (
        "base",
        "completion",
        "deliveries",
        "depth",
        "history",
        "logprobs",
        "number",
        "place",
        "prompt",
        "rest",
        "shared",
        "size",
        "tools",
    )

    def __init__(
        self,
        number: int,
        history: History,
        tools: SharedMessage,
        rest: bytes,
        deliveries: list[Delivery],
        *,
        prompt: bytes | None = None,
        completion: bytes | None = None,
        logprobs: bytes | None = None,
        base: PackedCall | None = None,
        shared: int = 0,
    ) -> None:
        self.number = number
        self.history = history
        self.tools = tools
        self.rest = rest
        self.deliveries = deliveries
        self.base = base
        self.shared = shared
        self.prompt = prompt
        self.completion = completion
        self.logprobs = logprobs
        self.depth: int = 0 if base is None else base.depth + 1
        self.place = -1
        self.size = 0

    def prompt_ids(self) -> list[int] | None:
        """Return the ids of the prompt; ``None`` when they were not told."""
        if self.prompt is None:
            return None
        return _IDS.decode(_listed(*self._joined_prompt()))

    def joined(self) -> tuple[int, bytes]:
        """Return prompt and completion, one after the other: count of ids, and their msgpack."""
        count, joined = self._joined_prompt()
        assert self.completion is not None  # of a base both are told
        more, ids = _bare(self.completion)
        joined += ids
        return count + more, bytes(joined)

    def _joined_prompt(self) -> tuple[int, bytearray]:
        chain: list[PackedCall] = [self]
        while (base := chain[-1].base) is not None:
            chain.append(base)
        count, joined = 0, bytearray()
        for call in reversed(chain):
            if call.base is not None:
                assert call.base.completion is not None  # of a base both are told
                more, ids = _bare(call.base.completion)
                joined += ids
                count += more
                if call.shared != count:
                    kept = _IDS.decode(_listed(count, joined))[: call.shared]
                    joined = bytearray(_bare(_PACKER.encode(kept))[1])
                    count = call.shared
            assert call.prompt is not None  # of a base both are told
            more, ids = _bare(call.prompt)
            joined += ids
            count += more
        return count, joined


class Histories:
    """The histories and records of one session.

    Args:
        shared: what holds messages; one of its own unless given.
    """

    def __init__(self, shared: Shared | None = None) -> None:
        self.shared = Shared() if shared is None else shared
        self.root = History(None, None)
        self.no_tools = self.shared.tools([], b"[]")
        self._tools = self.no_tools
        self._recent: list[_Path] = []

    def read(self, messages: Sequence[Message]) -> History:
        """Return the history with these messages.

        Args:
            messages: JSON values; they are held, and are not to be changed afterwards.
        """
        best, shared = None, 0
        for path in self._recent:
            if best is not None and not path.may_share_more(messages, shared):
                continue
            count = path.shared_with(messages)
            if count > shared:
                best, shared = path, count
                if count == len(messages) or count == len(path.nodes):
                    break
        node = self.root if best is None else best.nodes[shared - 1]
        if best is None or shared < len(best.nodes):
            if shared == len(messages):
                return node
            taken = [] if best is None else best.nodes[:shared]
            best = _Path(taken)
            if len(self._recent) == _MAX_RECENT:
                self._recent.pop()
        else:
            self._recent.remove(best)
        self._recent.insert(0, best)
        for message in messages[shared:]:
            node = node.after(self.shared.message(message))
            best.append(node)
        return node

    def tools(self, tools: list[dict[str, Any]]) -> SharedMessage:
        """Return the one list that is held of these tools."""
        encoded = _ENCODER.encode(tools)
        if encoded != self._tools.encoded:
            self._tools = self.shared.tools(tools, encoded)
        return self._tools

    def clear(self) -> None:
        """Forget the tree, so that nothing waits for a search for cycles. Records stay whole."""
        self._recent.clear()
        left = [self.root]
        while left:
            node = left.pop()
            left += node.children.values()
            node.children = {}
            node.call = None

    def pack(
        self,
        record: CallRecord,
        history: History | None = None,
        tools: SharedMessage | None = None,
    ) -> PackedCall:
        """Return a record that shares what it has in common with the others.

        Args:
            record: a call of this session.
            history, tools: what ``read`` and ``tools`` returned of it, if they were asked.
        """
        history = self.read(record.messages) if history is None else history
        tools = self.tools(record.tools) if tools is None else tools
        answer = record.answer
        prompt, completion, logprobs, base, shared = None, None, None, None, 0
        if answer is not None:
            tokens = answer.tokens
            if tokens.completion_ids is not None:
                completion = _PACKER.encode(tokens.completion_ids)
            if tokens.logprobs is not None:
                logprobs = _PACKER.encode(tokens.logprobs)
            if tokens.prompt_ids is not None:
                prompt = _PACKER.encode(tokens.prompt_ids)
                base = _base_of(history)
                if base is not None:
                    shared, prompt = _after_base(base, tokens.prompt_ids, prompt)
                    base = base if shared else None
            bare = SampledTokens(versions=tokens.versions)
            answer = msgspec.structs.replace(answer, tokens=bare)
        rest = msgspec.structs.replace(record, messages=[], tools=[], deliveries=[], answer=answer)
        packed = PackedCall(
            record.number,
            history,
            tools,
            _ENCODER.encode(rest),
            list(record.deliveries),
            prompt=prompt,
            completion=completion,
            logprobs=logprobs,
            base=base,
            shared=shared,
        )
        if prompt is not None and completion is not None:
            history.call = packed
        return packed

    def unpack(self, packed: PackedCall) -> CallRecord:
        """Return a whole record."""
        record = _RECORDS.decode(packed.rest)
        record.messages = packed.history.messages
        record.tools = packed.tools.value
        record.deliveries = list(packed.deliveries)
        if record.answer is not None:
            tokens = record.answer.tokens
            tokens.prompt_ids = packed.prompt_ids()
            if packed.completion is not None:
                tokens.completion_ids = _IDS.decode(packed.completion)
            if packed.logprobs is not None:
                tokens.logprobs = _LOGPROBS.decode(packed.logprobs)
        return record


class _Path:
    """A history as lists, to compare with: its nodes, and their messages."""

    __slots__ = ("inexact", "messages", "nodes")

    def __init__(self, nodes: list[History]) -> None:
        self.nodes: list[History] = []
        self.messages: list[Message] = []
        self.inexact: list[int] = []
        for node in nodes:
            self.append(node)

    def append(self, node: History) -> None:
        assert node.last is not None
        if not node.last.is_exact:
            self.inexact.append(len(self.nodes))
        self.nodes.append(node)
        self.messages.append(node.last.value)

    def may_share_more(self, messages: Sequence[Message], count: int) -> bool:
        """Return whether more than ``count`` messages at the beginning may be equal."""
        if count >= len(self.messages) or count >= len(messages):
            return False
        return self.messages[count] == messages[count]

    def shared_with(self, messages: Sequence[Message]) -> int:
        """Return how many messages at the beginning are equal."""
        own = self.messages
        length = min(len(own), len(messages))
        if messages[:length] == own[:length]:
            count = length
        else:
            count = 0
            for mine, other in zip(own, messages, strict=False):
                if mine != other:
                    break
                count += 1
        for place in self.inexact:
            if place >= count:
                break
            if _ENCODER.encode(own[place]) != _ENCODER.encode(messages[place]):
                return place
        return count


def _base_of(history: History) -> PackedCall | None:
    """The call whose prompt and completion a prompt of this history is likely to begin with."""
    for node in history.upwards():
        if node.call is not None:
            return node.call if node.call.depth < _MAX_DEPTH else None
    return None


def _after_base(base: PackedCall, ids: list[int], packed: bytes) -> tuple[int, bytes]:
    """Return how many ids of a prompt a call and its answer ended with, and the others as msgpack.

    Args:
        base: the call.
        ids: of the prompt.
        packed: the same as msgpack.
    """
    count, known = base.joined()
    all_ids, body = _bare(packed)
    if body.startswith(known):
        return count, _listed(all_ids - count, body[len(known) :])
    before = _IDS.decode(_listed(count, known))
    low, high = 0, min(count, len(ids))
    while low < high:
        middle = (low + high + 1) // 2
        if ids[low:middle] == before[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low, _PACKER.encode(ids[low:]) if low else packed


def _bare(packed: bytes) -> tuple[int, bytes]:
    """Return the count of a list that is msgpack, and its items without the list's head."""
    head = packed[0]
    if head == 0xDC:
        return int.from_bytes(packed[1:3], "big"), packed[3:]
    if head == 0xDD:
        return int.from_bytes(packed[1:5], "big"), packed[5:]
    return head & 0x0F, packed[1:]


def _listed(count: int, items: bytes | bytearray) -> bytes:
    """Return the msgpack of a list of so many items."""
    if count < 16:
        return bytes((0x90 | count,)) + items
    if count < 65536:
        return b"\xdc" + count.to_bytes(2, "big") + items
    return b"\xdd" + count.to_bytes(4, "big") + items


def _has_only_texts(value: Any) -> bool:
    """Tell whether a JSON value is made of texts alone, without numbers and truth values."""
    if isinstance(value, dict):
        return all(map(_has_only_texts, value.values()))
    if isinstance(value, list):
        return all(map(_has_only_texts, value))
    return value is None or isinstance(value, str)


def _without_marks(value: Any) -> Any:
    """A JSON value without the marks by which agents ask for caches."""
    if isinstance(value, dict):
        return {name: _without_marks(each) for name, each in value.items() if name != _MARK}
    if isinstance(value, list):
        return [_without_marks(each) for each in value]
    return value
