"""Random histories of a book, against what must hold after every one of them; and its rules."""

from __future__ import annotations

from math import inf
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from openenv_async.pool.book import Book, Phase, Plan, SourceRules


def grown(book: Book, now: float = 0.0) -> Plan:
    """Plan, and let every start succeed at once."""
    plan = book.plan(now)
    for worker, _ in plan.starts:
        book.ready(worker, now)
    later = book.plan(now)
    return Plan(
        plan.grants + later.grants,
        plan.starts + later.starts,
        plan.ends + later.ends,
        later.wake_at,
    )


def owned(max_workers: int = 4, sessions: int = 2) -> SourceRules:
    return SourceRules(max_workers, sessions)


def test_first_come_first_served_on_the_least_loaded() -> None:
    book = Book([owned(2, 4)], min_workers=2)
    grown(book)
    tickets = [book.ask() for _ in range(6)]
    assert book.plan(0.0).grants == list(zip(tickets, [1, 2, 1, 2, 1, 2], strict=True))


def test_workers_are_started_for_who_waits_and_no_more() -> None:
    book = Book([owned(4, 2)])
    for _ in range(5):
        book.ask()
    plan = book.plan(0.0)
    assert [source for _, source in plan.starts] == [0, 0, 0]
    assert book.plan(0.0).starts == []  # those under way will do
    for _ in range(50):
        book.ask()
    assert len(book.plan(0.0).starts) == 1  # max_workers


def test_a_dead_worker_of_a_full_group_is_replaced_by_exactly_one() -> None:
    """R43."""
    book = Book([owned(8, 1)], min_workers=8)
    grown(book)
    for _ in range(8):
        book.ask()
    assert len(book.plan(1.0).grants) == 8
    assert len(book.died(3, 2.0)) == 1
    book.ask()  # whoever was there plays again
    plan = grown(book, 2.0)
    assert (len(plan.starts), len(plan.grants)) == (1, 1)


def test_idle_workers_end_the_youngest_first_and_the_kept_ones_stay() -> None:
    book = Book([owned(4, 1)], min_workers=1, idle_ttl=10.0)
    leases = [book.ask() for _ in range(3)]
    grown(book)
    for lease in leases:
        book.release(lease, 5.0)
    assert book.plan(5.0).wake_at == 15.0
    assert book.plan(14.9).ends == []
    assert book.plan(15.0).ends == [3, 2]
    assert list(book.workers) == [1]
    assert book.plan(1e9).ends == []


def test_a_worker_in_use_does_not_idle() -> None:
    book = Book([owned(2, 1)], idle_ttl=10.0)
    lease = book.ask()
    grown(book)
    assert book.plan(1000.0).ends == []
    book.release(lease, 1000.0)
    assert book.plan(1009.0).ends == []
    assert book.plan(1010.0).ends == [1]


def test_warm_workers_are_refilled() -> None:
    book = Book([owned(4, 1)], warm_workers=1)
    assert len(grown(book).starts) == 1
    for running in range(1, 4):
        book.ask()
        plan = grown(book, float(running))
        assert (len(plan.grants), len(plan.starts)) == (1, 1)
    book.ask()
    assert book.plan(9.0).starts == []  # max_workers


def test_an_old_worker_drains_and_is_replaced() -> None:
    book = Book([owned(2, 2)], min_workers=1, max_lifetime=100.0)
    lease = book.ask()
    assert grown(book).wake_at == 100.0
    plan = book.plan(100.0)
    assert (len(plan.starts), plan.ends) == (1, [])
    assert book.workers[1].phase is Phase.DRAINING
    book.ready(2, 101.0)
    other = book.ask()
    assert book.plan(101.0).grants == [(other, 2)]
    book.release(lease, 102.0)
    assert book.plan(102.0).ends == [1]


def test_a_worker_that_served_its_uses_is_replaced_within_max_workers() -> None:
    book = Book([owned(1, 1)], max_uses=1)
    first = book.ask()
    assert len(grown(book).grants) == 1
    book.ask()
    assert book.plan(1.0).starts == []  # it still holds the only place
    book.release(first, 2.0)
    plan = grown(book, 2.0)
    assert (plan.ends, len(plan.starts), len(plan.grants)) == ([1], 1, 1)


def test_sources_are_used_in_order_and_within_their_room() -> None:
    book = Book([owned(1, 1), owned(9, 1)])
    book.set_room(1, 2)
    for _ in range(9):
        book.ask()
    assert [source for _, source in book.plan(0.0).starts] == [0, 1, 1]


def test_what_costs_nothing_is_taken_at_once_and_never_ended() -> None:
    book = Book([SourceRules(100, 8, free=True)], idle_ttl=1.0, max_lifetime=1.0)
    book.set_room(0, 3)
    assert len(grown(book).starts) == 3
    plan = book.plan(1e6)
    assert (plan.ends, plan.wake_at) == ([], inf)


def test_a_full_server_is_left_alone_for_a_while() -> None:
    book = Book([owned(1, 8)], min_workers=1)
    grown(book)
    book.full(1, 5.0)
    ticket = book.ask()
    plan = book.plan(1.0)
    assert (plan.grants, plan.wake_at) == ([], 5.0)
    assert book.plan(5.0).grants == [(ticket, 1)]


def test_a_resting_worker_serves_only_if_no_other_can() -> None:
    book = Book([owned(2, 1)], min_workers=2)
    grown(book)
    book.rest(1, 5.0)
    first, second = book.ask(), book.ask()
    assert book.plan(1.0).grants == [(first, 2), (second, 1)]


def test_a_held_source_starts_later() -> None:
    book = Book([owned()])
    book.ask()
    book.hold(0, 7.0)
    plan = book.plan(0.0)
    assert (plan.starts, plan.wake_at) == ([], 7.0)
    assert len(book.plan(7.0).starts) == 1


def test_every_second_is_counted_once() -> None:
    book = Book([owned(1, 2)], min_workers=1)
    book.plan(0.0)
    book.ready(1, 2.0)  # starting 2
    lease = book.ask()
    book.plan(5.0)  # idle 3
    book.release(lease, 9.0)  # used 4
    early, late = book.ask(), book.ask()
    book.plan(10.0)  # idle 1
    book.release(early, 12.0)
    assert late in book.holders
    book.died(1, 20.0)  # the late one ran since 10
    sums = book.seconds_at(25.0)
    assert (sums.starting, sums.idle, sums.used, sums.wasted) == (2.0, 4.0, 4.0, 10.0)


class Histories(RuleBasedStateMachine):
    """Any facts in any order."""

    @initialize(
        sources=st.lists(
            st.builds(SourceRules, st.integers(1, 3), st.integers(1, 3), st.booleans()),
            min_size=1,
            max_size=3,
        ),
        min_workers=st.integers(0, 2),
        warm_workers=st.integers(0, 2),
        idle_ttl=st.none() | st.integers(1, 20),
        max_lifetime=st.none() | st.integers(1, 50),
        max_uses=st.none() | st.integers(1, 4),
    )
    def begin(self, sources: list[SourceRules], **rules: Any) -> None:
        self.book = Book(sources, **rules)
        self.now = 0.0
        self.asked: list[int] = []
        self.held: dict[int, int] = {}
        self.born: dict[int, float] = {}
        self.lived = 0.0
        self.obey()

    def obey(self) -> None:
        """Plan, and check that the plan is as it says."""
        book, before = self.book, list(self.book.waiting)
        plan = book.plan(self.now)
        assert [ticket for ticket, _ in plan.grants] == before[: len(plan.grants)]
        self.held.update(plan.grants)
        self.born.update(dict.fromkeys((worker for worker, _ in plan.starts), self.now))
        for ended in plan.ends:
            assert ended not in self.held.values()
            self.gone(ended)
        assert plan.wake_at > self.now
        for worker in book.workers.values():
            assert worker.phase is not Phase.DRAINING or worker.leases
        # Whoever still waits does so because there is no slot, and none can be made.
        if book.waiting:
            assert not any(
                worker.phase is Phase.READY
                and len(worker.leases) < worker.capacity
                and worker.full_until <= self.now
                for worker in book.workers.values()
            )
            coming = sum(
                worker.capacity
                for worker in book.workers.values()
                if worker.phase is Phase.STARTING
            )
            for index, rules in enumerate(book.sources):
                count = sum(worker.source == index for worker in book.workers.values())
                assert (
                    len(book.waiting) <= coming
                    or count >= rules.max_workers
                    or book._rooms[index] < 1
                    or book._held_until[index] > self.now
                )
        again = book.plan(self.now)
        assert (again.grants, again.starts, again.ends) == ([], [], [])

    def gone(self, worker: int) -> None:
        self.lived += self.now - self.born.pop(worker)

    def some(self, phase: Phase) -> list[int]:
        return [w.id for w in self.book.workers.values() if w.phase is phase]

    @rule(count=st.integers(1, 5))
    def ask(self, count: int) -> None:
        for _ in range(count):
            self.asked.append(self.book.ask())
        self.obey()

    @precondition(lambda self: self.book.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        self.book.withdraw(data.draw(st.sampled_from(sorted(self.book.waiting))))
        self.obey()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.held)))
        del self.held[lease]
        self.book.release(lease, self.now)
        self.book.release(lease, self.now)  # twice does no harm
        self.obey()

    @precondition(lambda self: self.some(Phase.STARTING))
    @rule(data=st.data(), capacity=st.none() | st.integers(0, 4))
    def ready(self, data: st.DataObject, capacity: int | None) -> None:
        worker = data.draw(st.sampled_from(self.some(Phase.STARTING)))
        self.book.ready(worker, self.now, capacity)
        self.obey()

    @precondition(lambda self: self.some(Phase.STARTING))
    @rule(data=st.data(), pause=st.integers(0, 9))
    def fail(self, data: st.DataObject, pause: int) -> None:
        worker = data.draw(st.sampled_from(self.some(Phase.STARTING)))
        source = self.book.workers[worker].source
        self.book.start_failed(worker, self.now)
        self.gone(worker)
        self.book.hold(source, self.now + pause)
        self.obey()

    @precondition(lambda self: self.some(Phase.READY) + self.some(Phase.DRAINING))
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(self.some(Phase.READY) + self.some(Phase.DRAINING)))
        lost = self.book.died(worker, self.now)
        assert sorted(lost) == sorted(t for t, w in self.held.items() if w == worker)
        for ticket in lost:
            del self.held[ticket]
        self.gone(worker)
        self.obey()

    @precondition(lambda self: self.some(Phase.READY))
    @rule(data=st.data(), what=st.sampled_from(["drain", "full", "rest"]))
    def trouble(self, data: st.DataObject, what: str) -> None:
        worker = data.draw(st.sampled_from(self.some(Phase.READY)))
        if what == "drain":
            self.book.drain(worker)
        else:
            getattr(self.book, what)(worker, self.now + 3)
        self.obey()

    @rule(data=st.data(), room=st.none() | st.integers(0, 3))
    def room(self, data: st.DataObject, room: int | None) -> None:
        self.book.set_room(data.draw(st.integers(0, len(self.book.sources) - 1)), room)
        self.obey()

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.obey()

    @invariant()
    def holds(self) -> None:
        book = self.book
        on_workers = {t: w.id for w in book.workers.values() for t in w.leases}
        assert on_workers == self.held == book.holders
        for worker in book.workers.values():
            assert len(worker.leases) <= worker.capacity
        for index, rules in enumerate(book.sources):
            assert sum(w.source == index for w in book.workers.values()) <= rules.max_workers
        alive = sum(self.now - born for born in self.born.values())
        assert abs(book.seconds_at(self.now).total - self.lived - alive) < 1e-6
        assert set(self.born) == set(book.workers)

    def teardown(self) -> None:
        if hasattr(self, "book"):
            self.book.close(self.now)
            assert not self.book.workers
            assert not self.book.holders


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
