"""The server's side of exactly-once: which requests are new, and the replies kept for the rest.

Rules:

- The first request of a session has seq 1, each further one the next number.
- A request whose seq is the next one is new and is taken, whatever its fate.
- A request that was taken and answered is answered again with the same reply.
- A request that was taken and still runs joins the running one: it is answered once.
- A number belongs to its request: what that was is kept beside the reply, so that another one
  under the same number is told from it.
- A number whose request could not be read is passed over: the client may use it again or not.
- A seq further ahead is a gap, one below the acknowledgement is stale: both are errors.
- The replies of many sessions that came as one are kept as one, until something is asked of a
  single one, or the caller settles them.
- An acknowledgement forgets the replies up to it. Over the byte budget the oldest go first; so
  they do over that of all sessions together, those of the session that adds to it.
"""

from __future__ import annotations

import enum
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from math import inf
from typing import Any, Generic, NamedTuple, TypeVar

from openenv_async.errors import ProtocolError
from openenv_async.models import Format

__all__ = ["Kept", "Order", "ReplyLog", "Retained", "SharedReply", "keep_shared"]

ReplyT = TypeVar("ReplyT")


class Order(enum.Enum):
    """The meaning of a request's seq."""

    NEW = enum.auto()
    RUNNING = enum.auto()
    ANSWERED = enum.auto()


class Kept(NamedTuple, Generic[ReplyT]):
    """A reply that may be asked for again.

    Attributes:
        reply: the reply.
        size: bytes that it counts, the overhead not among them.
        format: of its payload, and of the request's.
        request: what it answers, as it is remembered.
    """

    reply: ReplyT
    size: int
    format: Format
    request: Any = None


class SharedReply(Generic[ReplyT]):
    """One reply to requests of many sessions, as their logs keep it."""

    __slots__ = ()

    @abstractmethod
    def of(self, log: ReplyLog[ReplyT]) -> Kept[ReplyT]:
        """Return the part of one session, as its log keeps what is its own."""


class Retained:
    """Bytes that the logs of a server keep together, the last reply of each not counted.

    Args:
        budget: bytes at most.
        overhead: bytes that each reply counts beside its own.
    """

    __slots__ = ("budget", "overhead", "size")

    def __init__(self, budget: float = inf, overhead: int = 0) -> None:
        self.budget = budget
        self.overhead = overhead
        self.size = 0


class ReplyLog(Generic[ReplyT]):
    """Sequence numbers of one session and the replies not yet acknowledged.

    ``taken`` is read and, for the common case (the next seq), written by the session itself;
    everything else goes through the methods. A client that awaits each answer has one reply kept
    at a time, so the last one is here itself, and only those before it are in a dict.

    Attributes:
        observer: of a log that tells what it keeps; others have none, and do not ask for it.
    """

    __slots__ = (
        "_earlier",
        "_earlier_size",
        "_format",
        "_last",
        "_request",
        "_retained",
        "_seq",
        "_size",
        "acked",
        "budget",
        "observer",
        "passed",
        "taken",
    )

    observer: Any

    def __init__(self, budget: int, retained: Retained | None = None) -> None:
        self._retained = retained or Retained()
        self.taken = 0
        self.passed = 0
        self.acked = 0
        self.budget = budget
        self._seq = 0
        self._last: ReplyT | SharedReply[ReplyT] | None = None
        self._size = 0
        self._format: Format = "msgpack"
        self._request: Any = None
        self._earlier: OrderedDict[int, Kept[ReplyT]] | None = None
        self._earlier_size = 0

    @property
    def replies(self) -> dict[int, Kept[ReplyT]]:
        """All that is kept, by number, in the order they were answered."""
        kept = dict(self._earlier or {})
        if self._last is not None:
            kept[self._seq] = self._kept()
        return kept

    @property
    def size(self) -> int:
        """Bytes kept."""
        if self._last is None:
            return self._earlier_size
        return self._earlier_size + self._kept().size + self._retained.overhead

    def get(self, seq: int) -> Kept[ReplyT] | None:
        """The kept reply of request ``seq``."""
        if self._last is not None and seq == self._seq:
            return self._kept()
        return None if self._earlier is None else self._earlier.get(seq)

    def _kept(self) -> Kept[ReplyT]:
        """Return the last reply; from now on it is this session's own."""
        last = self._last
        if isinstance(last, SharedReply):
            kept = last.of(self)
            self._last, self._size, self._format, self._request = kept
            return kept
        assert last is not None
        return Kept(last, self._size, self._format, self._request)

    def settle(self, shared: SharedReply[ReplyT]) -> None:
        """Keep this session's part of a shared reply, if that is its last one, as its own."""
        if self._last is shared:
            self._kept()

    def order(self, seq: int) -> Order:
        """Classify ``seq`` and take it when it is new.

        Raises:
            ProtocolError: a gap, or a request whose reply was forgotten.
        """
        if seq == self.taken + 1:
            self.taken = seq
            return Order.NEW
        if self.taken < seq <= self.passed + 1:
            self.taken = seq
            return Order.NEW
        if seq > self.taken:
            raise ProtocolError(
                f"request {seq} leaves a gap: the next one is {self.taken + 1}",
                expected=self.taken + 1,
            )
        if self.get(seq) is not None:
            return Order.ANSWERED
        if seq <= self.acked or seq < 1:
            raise ProtocolError(
                f"request {seq} is stale: its reply was acknowledged or dropped",
                acknowledged=self.acked,
            )
        return Order.RUNNING

    def pass_over(self, seq: int) -> None:
        """Request ``seq`` was refused unread; the next one may have this number or the next."""
        if seq == max(self.taken, self.passed) + 1:
            self.passed = seq

    def keep(self, seq: int, reply: ReplyT, size: int, format: Format, request: Any = None) -> None:
        """Keep the reply of a taken request until it is acknowledged.

        Args:
            seq: the request's number.
            reply: the reply.
            size: bytes that it counts.
            format: of its payload.
            request: what it answers.
        """
        if self._last is not None:
            self._put_aside(self._kept())
        self._seq, self._last, self._size, self._format = seq, reply, size, format
        self._request = request
        if self._earlier is not None:
            self._shrink(self._earlier)

    def follow(
        self, seq: int, ack: int, reply: ReplyT, size: int, format: Format, request: Any
    ) -> None:
        """Acknowledge up to ``ack``, then keep, as the two methods do; ``request`` said both."""
        if self.acked <= ack == self._seq and self._earlier is None:  # it awaited the one before
            self.acked = ack
            self._seq, self._last, self._size, self._format = seq, reply, size, format
            self._request = request
            return
        self.acknowledge(ack)
        self.keep(seq, reply, size, format, request)

    def release(self) -> None:
        """Count the kept replies of a session that is over no more."""
        self._retained.size -= self._earlier_size
        self._retained = Retained(overhead=self._retained.overhead)

    def acknowledge(self, ack: int) -> None:
        """Forget the replies up to ``ack``. A number beyond what was taken is ignored."""
        if not self.acked < ack <= self.taken:
            return
        if self._earlier is not None:
            self._forget(self._earlier, ack)
        self.acked = ack
        if self._seq <= ack:
            self._last = None

    def _put_aside(self, last: Kept[ReplyT]) -> None:
        if self._earlier is None:
            self._earlier = OrderedDict()
        self._earlier[self._seq] = last
        size = last.size + self._retained.overhead
        self._earlier_size += size
        self._retained.size += size

    def _forget(self, earlier: OrderedDict[int, Kept[ReplyT]], ack: int) -> None:
        """Forget those up to ``ack``."""
        one_more = ack == self.acked + 1 and ack in earlier
        for seq in [ack] if one_more else [seq for seq in earlier if seq <= ack]:
            size = earlier.pop(seq).size + self._retained.overhead
            self._earlier_size -= size
            self._retained.size -= size

    def _shrink(self, earlier: OrderedDict[int, Kept[ReplyT]]) -> None:
        """Drop the oldest replies over the budget, the last one never."""
        retained = self._retained
        while earlier and (self.size > self.budget or retained.size > retained.budget):
            seq, kept = earlier.popitem(last=False)
            size = kept.size + retained.overhead
            self._earlier_size -= size
            retained.size -= size
            self.acked = max(self.acked, seq)
        if not earlier:
            self._earlier = None


def keep_shared(
    logs: Sequence[ReplyLog[ReplyT]],
    seqs: Sequence[int],
    shared: SharedReply[ReplyT],
    before: SharedReply[ReplyT] | None,
) -> dict[SharedReply[ReplyT], int]:
    """Keep one reply in many logs, whose requests acknowledge all that was before them.

    Args:
        logs: of the sessions.
        seqs: the number of the request of each, which was taken.
        shared: the reply to all of them.
        before: what most of them have kept until now.

    Returns:
        How many logs have let go of each shared reply.
    """
    others: dict[SharedReply[ReplyT], int] = {}
    same = len(logs)
    for log, seq in zip(logs, seqs, strict=True):
        if log._last is not before:
            same -= 1
            if isinstance(log._last, SharedReply):
                others[log._last] = others.get(log._last, 0) + 1
            if log._earlier is not None:
                log._forget(log._earlier, seq - 1)
                log._earlier = None
        log._seq, log._last, log.acked = seq, shared, seq - 1
    if before is not None and same:
        others[before] = same
    return others
