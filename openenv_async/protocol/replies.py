"""The server's side of exactly-once: which requests are new, and the replies kept for the rest.

Rules:

- The first request of a session has seq 1, each further one the next number.
- A request whose seq is the next one is new and is taken, whatever its fate.
- A request that was taken and answered is answered again with the same reply.
- A request that was taken and still runs joins the running one: it is answered once.
- A seq further ahead is a gap, one below the acknowledgement is stale: both are errors.
- An acknowledgement forgets the replies up to it. Over the byte budget the oldest go first.
"""

from __future__ import annotations

import enum
from typing import Generic, TypeVar

from openenv_async.errors import ProtocolError

__all__ = ["Order", "ReplyLog"]

ReplyT = TypeVar("ReplyT")


class Order(enum.Enum):
    """What a request's seq says of it."""

    NEW = enum.auto()
    RUNNING = enum.auto()
    ANSWERED = enum.auto()


class ReplyLog(Generic[ReplyT]):
    """Sequence numbers of one session and the replies not yet acknowledged.

    ``taken`` and ``replies`` are read and, for the common case (next seq, all before it
    acknowledged), written by the session itself; everything else goes through the methods.
    """

    __slots__ = ("acked", "budget", "replies", "size", "taken")

    def __init__(self, budget: int) -> None:
        self.taken = 0
        self.acked = 0
        self.size = 0
        self.budget = budget
        self.replies: dict[int, tuple[ReplyT, int]] = {}

    def order(self, seq: int) -> Order:
        """Classify ``seq`` and take it when it is new.

        Raises:
            ProtocolError: a gap, or a request whose reply was forgotten.
        """
        if seq == self.taken + 1:
            self.taken = seq
            return Order.NEW
        if seq > self.taken:
            raise ProtocolError(
                f"request {seq} leaves a gap: the next one is {self.taken + 1}",
                expected=self.taken + 1,
            )
        if seq in self.replies:
            return Order.ANSWERED
        if seq <= self.acked or seq < 1:
            raise ProtocolError(
                f"request {seq} is stale: its reply was acknowledged or dropped",
                acknowledged=self.acked,
            )
        return Order.RUNNING

    def keep(self, seq: int, reply: ReplyT, size: int) -> None:
        """Keep the reply of a taken request until it is acknowledged."""
        self.replies[seq] = (reply, size)
        self.size += size
        if self.size > self.budget:
            self._shrink()

    def acknowledge(self, ack: int) -> None:
        """Forget the replies up to ``ack``. A number beyond what was taken is ignored."""
        replies = self.replies
        if ack == self.acked + 1 and ack in replies:  # the common case, one at a time
            self.acked = ack
            self.size -= replies.pop(ack)[1]
            return
        if not self.acked < ack <= self.taken:
            return
        self.acked = ack
        for seq in [seq for seq in replies if seq <= ack]:
            self.size -= replies.pop(seq)[1]

    def _shrink(self) -> None:
        """Drop the oldest replies over the budget, the newest one never."""
        for seq in sorted(self.replies)[:-1]:
            if self.size <= self.budget:
                return
            self.size -= self.replies.pop(seq)[1]
            self.acked = max(self.acked, seq)
