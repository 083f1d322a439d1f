"""Sequence numbers and kept replies, against a model that remembers everything."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from openenv_async.errors import ProtocolError
from openenv_async.protocol.replies import Kept, Order, ReplyLog, Retained, SharedReply, keep_shared

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


def answered(log: ReplyLog[str], *sizes: int) -> ReplyLog[str]:
    """A log that took and answered one request of each size."""
    for size in sizes:
        seq = log.taken + 1
        assert log.order(seq) is Order.NEW
        log.keep(seq, f"reply {seq}", size, "msgpack")
    return log


def test_an_acknowledgement_forgets_what_it_covers_and_nothing_else() -> None:
    for ack in range(5):
        retained = Retained()
        log = answered(ReplyLog(BUDGET, retained), 10, 20, 30, 40)
        log.acknowledge(ack)
        assert list(log.replies) == [seq for seq in (1, 2, 3, 4) if seq > ack]
        assert log.acked == ack
        assert retained.size == sum([10, 20, 30][ack:])  # the last one is not counted
        assert log.size == sum([10, 20, 30, 40][ack:])
        for seq in range(1, 5):
            kept = log.get(seq)
            assert (kept is None) == (seq <= ack)
            assert kept is None or kept.reply == f"reply {seq}"


def test_acknowledgements_one_by_one_and_with_gaps_count_the_same() -> None:
    for acks in ([1, 2, 3], [2, 3], [1, 3], [3], [3, 1, 2]):
        retained = Retained()
        log = answered(ReplyLog(BUDGET, retained), 10, 20, 30, 40)
        for ack in acks:
            log.acknowledge(ack)
        assert list(log.replies) == [4]
        assert (log.size, retained.size, log.acked) == (40, 0, 3)


def test_an_acknowledgement_beyond_what_was_taken_or_before_it_is_ignored() -> None:
    log = answered(ReplyLog(BUDGET), 10, 20)
    log.acknowledge(3)
    assert (log.acked, list(log.replies)) == (0, [1, 2])
    log.acknowledge(1)
    log.acknowledge(0)
    log.acknowledge(-1)
    assert (log.acked, list(log.replies)) == (1, [2])
    log.acknowledge(2)
    assert (log.acked, list(log.replies), log.size) == (2, [], 0)


def test_an_acknowledgement_of_replies_that_came_out_of_order() -> None:
    log: ReplyLog[str] = ReplyLog(BUDGET)
    for seq in (1, 2, 3):
        log.order(seq)
    for seq in (3, 1):
        log.keep(seq, f"reply {seq}", seq, "msgpack")
    log.acknowledge(1)  # the last one that was answered
    assert list(log.replies) == [3]
    assert log.order(2) is Order.RUNNING
    assert log.order(3) is Order.ANSWERED
    log.keep(2, "reply 2", 2, "json", "request 2")
    assert log.get(2) == Kept("reply 2", 2, "json", "request 2")
    assert log.get(3) == Kept("reply 3", 3, "msgpack", None)
    assert log.replies == {3: log.get(3), 2: log.get(2)}


def test_over_the_budget_the_oldest_go_first_and_just_as_many_as_must() -> None:
    retained = Retained()
    log = answered(ReplyLog(100, retained), 40, 40, 20)
    assert list(log.replies) == [1, 2, 3]  # just the budget
    answered(log, 1)
    assert list(log.replies) == [2, 3, 4]
    assert (log.acked, log.size, retained.size) == (1, 61, 60)
    answered(log, 99)
    assert list(log.replies) == [4, 5]
    assert (log.acked, log.size, retained.size) == (3, 100, 1)
    answered(log, 100)
    assert list(log.replies) == [6]
    assert (log.acked, log.size, retained.size) == (5, 100, 0)
    answered(log, 1)
    assert list(log.replies) == [7]
    assert (log.acked, log.size) == (6, 1)


def test_an_eviction_never_takes_an_acknowledgement_back() -> None:
    log: ReplyLog[str] = ReplyLog(100)
    for seq in (1, 2, 3):
        log.order(seq)
    log.acknowledge(2)
    log.keep(1, "late", 90, "msgpack")
    log.keep(3, "next", 90, "msgpack")
    assert list(log.replies) == [3]
    assert log.acked == 2


def test_the_budget_of_all_is_kept_by_the_one_that_adds_to_it() -> None:
    retained = Retained(100)
    quiet = answered(ReplyLog(BUDGET, retained), 60, 5)
    busy = answered(ReplyLog(BUDGET, retained), 40, 5)
    assert retained.size == 100  # just the budget
    answered(busy, 5)
    assert list(busy.replies) == [2, 3]
    assert list(quiet.replies) == [1, 2]
    assert retained.size == 65
    quiet.release()
    assert retained.size == 5
    answered(quiet, 7, 7)
    assert retained.size == 5  # it counts for nobody any more
    quiet.acknowledge(4)
    busy.acknowledge(3)
    assert (retained.size, busy.size, quiet.size) == (0, 0, 0)


def test_a_number_that_was_passed_over_may_be_used_or_left_out() -> None:
    for numbers in ([2, 3], [3, 4]):
        log = answered(ReplyLog(BUDGET), 10)
        log.pass_over(2)
        for seq in numbers:
            assert log.order(seq) is Order.NEW
        assert log.taken == numbers[-1]


def test_only_the_next_number_can_be_passed_over() -> None:
    log = answered(ReplyLog(BUDGET), 10)
    for seq in (0, 1, 3):
        log.pass_over(seq)
        assert log.passed == 0
    log.pass_over(2)
    log.pass_over(3)
    assert log.passed == 3
    log.pass_over(5)
    assert log.passed == 3
    with pytest.raises(ProtocolError, match="request 5 leaves a gap: the next one is 2"):
        log.order(5)
    assert log.order(4) is Order.NEW
    assert log.order(4) is Order.RUNNING
    with pytest.raises(ProtocolError, match="gap"):
        log.order(6)
    assert log.order(5) is Order.NEW


def test_the_first_number_is_one() -> None:
    log: ReplyLog[str] = ReplyLog(BUDGET)
    with pytest.raises(ProtocolError, match="stale"):
        log.order(0)
    with pytest.raises(ProtocolError, match="request 2 leaves a gap: the next one is 1"):
        log.order(2)
    assert log.order(1) is Order.NEW
    assert log.order(1) is Order.RUNNING
    assert (log.replies, log.size, log.get(1)) == ({}, 0, None)


class Together(SharedReply[str]):
    """One reply to several sessions."""

    def __init__(self, logs: list[ReplyLog[str]]) -> None:
        self.logs = logs
        self.asked = 0

    def of(self, log: ReplyLog[str]) -> Kept[str]:
        self.asked += 1
        return Kept(f"part {self.logs.index(log)}", 7, "msgpack", "request")


def shared_by(
    count: int, seq: int, retained: Retained | None = None
) -> tuple[list[ReplyLog[str]], Together]:
    logs: list[ReplyLog[str]] = [ReplyLog(1000, retained) for _ in range(count)]
    for log in logs:
        log.taken = seq
    together = Together(logs)
    assert keep_shared(logs, [seq] * count, together, None) == {}
    return logs, together


def test_a_shared_reply_becomes_a_sessions_own_when_it_is_asked_for() -> None:
    logs, together = shared_by(3, 5)
    assert together.asked == 0
    assert logs[1].order(5) is Order.ANSWERED
    assert logs[1].get(5) == Kept("part 1", 7, "msgpack", "request")
    assert logs[1].size == 7
    assert together.asked == 1  # from now on it is its own
    logs[0].acknowledge(5)
    for log in logs:
        log.settle(together)
    assert together.asked == 2  # of the third: the first had it acknowledged
    assert [log.replies for log in logs] == [{}, {5: logs[1].get(5)}, {5: logs[2].get(5)}]
    with pytest.raises(ProtocolError, match="stale"):
        logs[2].order(4)


def test_a_shared_reply_acknowledges_and_tells_what_is_let_go() -> None:
    retained = Retained()
    logs, together = shared_by(3, 1, retained)
    logs[0].taken = 2
    logs[0].keep(2, "unacknowledged", 10, "msgpack")  # its part of the shared one is put aside
    assert retained.size == 7
    for log in logs:
        log.taken = 3
    after = Together(logs)
    assert keep_shared(logs[:2], [3, 3], after, None) == {together: 1}
    assert retained.size == 0
    assert [sorted(log.replies) for log in logs] == [[3], [3], [1]]
    later = Together(logs)
    assert keep_shared(logs[:2], [4, 4], later, after) == {}  # each has its own by now
    assert keep_shared(logs, [5, 5, 5], Together(logs), later) == {later: 2}


@pytest.mark.parametrize("acked", [0, 1, 2])
@pytest.mark.parametrize("ack", [-1, 0, 1, 2, 3, 9])
@pytest.mark.parametrize("kept", [(), (1,), (2,), (1, 2), (1, 2, 3)])
def test_to_follow_is_to_acknowledge_and_to_keep(
    acked: int, ack: int, kept: tuple[int, ...]
) -> None:
    found = []
    for follows in (True, False):
        retained = Retained()
        log: ReplyLog[str] = ReplyLog(10_000, retained)
        for seq in range(1, 5):
            log.order(seq)
        for seq in kept:
            log.keep(seq, f"reply {seq}", 90, "msgpack", f"request {seq}")
        log.acknowledge(acked)
        if follows:
            log.follow(4, ack, "reply 4", 40, "json", "request 4")
        else:
            log.acknowledge(ack)
            log.keep(4, "reply 4", 40, "json", "request 4")
        found.append((log.acked, log.taken, log.size, retained.size, log.replies))
    assert found[0] == found[1]


def test_every_reply_counts_its_overhead_beside_its_own_bytes() -> None:
    retained = Retained(220, overhead=100)
    log = answered(ReplyLog(BUDGET, retained), 1, 2, 3)
    assert (log.size, retained.size) == (306, 203)  # the last one is not counted by the second
    assert [kept.size for kept in log.replies.values()] == [1, 2, 3]
    answered(log, 4)
    assert (log.acked, log.size, retained.size) == (1, 309, 205)  # the budget of all is 220
    log.acknowledge(3)
    assert (log.size, retained.size) == (104, 0)
    answered(log, 5)
    log.release()
    assert retained.size == 0
