"""Sequence numbers and kept replies, against a model that remembers everything."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from openenv_async.errors import ProtocolError
from openenv_async.protocol.replies import Kept, Order, ReplyLog, Retained

BUDGET = 1000


class Replies(RuleBasedStateMachine):
    """A client that does anything, and a server that answers in any order.

    The model keeps every reply for ever; the log may forget one only when it was acknowledged
    or when the budget is spent, and must never give another answer than the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self.log: ReplyLog[str] = ReplyLog(BUDGET)
        self.taken = 0
        self.acked = 0
        self.running: set[int] = set()
        self.answers: dict[int, Kept[str]] = {}
        self.evicted = 0

    @rule()
    def new(self) -> None:
        assert self.log.order(self.taken + 1) is Order.NEW
        self.taken += 1
        self.running.add(self.taken)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), size=st.integers(1, 400))
    def answer(self, data: st.DataObject, size: int) -> None:
        seq = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(seq)
        self.answers[seq] = Kept(f"reply {seq}", size, "msgpack")
        self.log.keep(seq, *self.answers[seq])

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def duplicate(self, data: st.DataObject) -> None:
        seq = data.draw(st.integers(1, self.taken))
        if seq <= self.log.acked and seq not in self.log.replies:
            with pytest.raises(ProtocolError, match="stale") as caught:
                self.log.order(seq)
            assert caught.value.detail["acknowledged"] == self.log.acked
            return
        order = self.log.order(seq)
        if order is Order.ANSWERED:
            assert self.log.replies[seq] == self.answers[seq]
        else:
            assert order is Order.RUNNING
            assert seq in self.running

    @rule(ahead=st.integers(2, 100))
    def gap(self, ahead: int) -> None:
        with pytest.raises(ProtocolError, match="gap") as caught:
            self.log.order(self.taken + ahead)
        assert caught.value.detail["expected"] == self.taken + 1

    @rule(seq=st.integers(-100, 0))
    def never_a_number(self, seq: int) -> None:
        with pytest.raises(ProtocolError, match="stale"):
            self.log.order(seq)

    @rule(ack=st.integers(-5, 60))
    def acknowledge(self, ack: int) -> None:
        before = self.log.acked
        self.log.acknowledge(ack)
        if before < ack <= self.taken:
            assert self.log.acked == ack
            self.acked = ack
        else:
            assert self.log.acked == before

    @invariant()
    def counted(self) -> None:
        assert self.log.taken == self.taken

    @invariant()
    def size_is_the_sum(self) -> None:
        assert self.log.size == sum(kept.size for kept in self.log.replies.values())

    @invariant()
    def within_budget(self) -> None:
        assert self.log.size <= BUDGET or len(self.log.replies) == 1

    @invariant()
    def nothing_lost_without_reason(self) -> None:
        """A reply is kept unless it is at or below the acknowledgement, dropped ones included."""
        for seq, reply in self.answers.items():
            if seq > self.log.acked:
                assert self.log.replies[seq] == reply

    @invariant()
    def nothing_invented(self) -> None:
        assert all(self.answers[seq] == reply for seq, reply in self.log.replies.items())


TestReplies = Replies.TestCase


def test_the_newest_reply_is_kept_whatever_its_size() -> None:
    log: ReplyLog[str] = ReplyLog(10)
    for seq in (1, 2):
        assert log.order(seq) is Order.NEW
        log.keep(seq, "big", 1000, "msgpack")
    assert list(log.replies) == [2]
    assert log.acked == 1
    with pytest.raises(ProtocolError, match="stale"):
        log.order(1)
    assert log.order(2) is Order.ANSWERED


def test_an_acknowledged_request_that_still_runs_is_stale_when_repeated() -> None:
    log: ReplyLog[str] = ReplyLog(10)
    log.order(1)
    log.acknowledge(1)
    with pytest.raises(ProtocolError, match="stale"):
        log.order(1)


def test_all_logs_of_a_server_are_bounded_together() -> None:
    """Each alone was bounded, which is no bound for a client with many sessions."""
    retained = Retained(1000)
    logs: list[ReplyLog[str]] = [ReplyLog(BUDGET, retained) for _ in range(10)]
    for seq in range(1, 6):
        for log in logs:
            assert log.order(seq) is Order.NEW
            log.keep(seq, f"reply {seq}", 90, "msgpack")
    assert retained.size <= 1000
    for log in logs:
        kept = log.get(5)
        assert kept is not None  # the last one of each is there
        assert kept.reply == "reply 5"
    for log in logs[:5]:
        log.acknowledge(5)
    for log in logs[5:]:
        log.release()
    assert retained.size == 0
