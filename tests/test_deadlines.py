"""One heap, one timer; on a clock that the test moves."""

from __future__ import annotations

from math import inf
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from openenv_async.deadlines import Deadlines
from openenv_async.testing import ManualClock


class Item:
    """Wants a look at ``due``; notes when it got one."""

    def __init__(self, clock: ManualClock, due: float) -> None:
        self.clock = clock
        self.due = due
        self.scheduled = inf
        self.fired: list[float] = []
        self.again: float | None = None

    def check(self, now: float) -> float | None:
        if now < self.due:
            return self.due
        self.fired.append(now)
        again, self.again = self.again, None
        if again is not None:
            self.due = now + again
            return self.due
        self.due = inf
        return None


def make() -> tuple[ManualClock, Deadlines]:
    clock = ManualClock()
    return clock, Deadlines(clock, clock.call_at)


def test_looks_come_when_they_are_due_and_not_before() -> None:
    clock, deadlines = make()
    items = [Item(clock, clock.now + seconds) for seconds in (3.0, 1.0, 2.0)]
    for item in items:
        deadlines.watch(item, item.due)
    assert clock.armed == 1
    for expected in ([], [1], [1, 2], [0, 1, 2]):
        assert sorted(i for i, item in enumerate(items) if item.fired) == expected
        clock.advance(1.0)
    assert clock.armed == 0


def test_an_earlier_deadline_moves_the_timer_and_a_later_one_costs_nothing() -> None:
    clock, deadlines = make()
    item = Item(clock, clock.now + 10.0)
    deadlines.watch(item, item.due)
    item.due = clock.now + 2.0
    deadlines.watch(item, item.due)
    deadlines.watch(item, clock.now + 50.0)
    assert clock.armed == 1
    clock.advance(2.0)
    assert item.fired == [1002.0]
    clock.advance(100.0)
    assert item.fired == [1002.0]


def test_a_deadline_that_was_moved_later_is_looked_at_and_put_back() -> None:
    clock, deadlines = make()
    item = Item(clock, clock.now + 1.0)
    deadlines.watch(item, item.due)
    for _ in range(5):
        item.due = clock.now + 1.0
        clock.advance(0.9)
        assert item.fired == []
    clock.advance(1.0)
    assert len(item.fired) == 1


def test_an_item_may_ask_again() -> None:
    clock, deadlines = make()
    item = Item(clock, clock.now)
    deadlines.watch(item, item.due)
    item.again = 5.0
    clock.advance(1.0)
    assert item.fired == [1000.0]
    clock.advance(5.0)
    assert item.fired == [1000.0, 1005.0]


def test_an_item_that_is_due_again_at_once_cannot_hold_the_loop() -> None:
    clock, deadlines = make()

    class Restless(Item):
        def check(self, now: float) -> float | None:
            self.fired.append(now)
            return now

    item = Restless(clock, clock.now)
    deadlines.watch(item, clock.now)
    clock.advance(0.1)
    assert 2 <= len(item.fired) <= 102


def test_close_forgets_everything() -> None:
    clock, deadlines = make()
    item = Item(clock, clock.now + 1.0)
    deadlines.watch(item, item.due)
    deadlines.close()
    deadlines.close()
    clock.advance(10.0)
    assert item.fired == []
    assert clock.armed == 0


def test_a_short_deadline_for_each_step_beside_a_long_one_keeps_two_entries() -> None:
    """Each step left an entry of the long one behind, until its time."""
    clock, deadlines = make()
    items = [Item(clock, clock.now + 1800.0) for _ in range(10)]
    for item in items:
        deadlines.watch(item, item.due)
    for _ in range(500):
        for item in items:
            item.due = clock.now + 0.1
            deadlines.watch(item, item.due)
        clock.advance(0.05)
        for item in items:
            item.due = clock.now + 1800.0
        clock.advance(0.1)
    assert len(deadlines._heap) <= 2 * len(items) + 64
    assert not any(item.fired for item in items)
    clock.advance(1800.0)
    assert all(len(item.fired) == 1 for item in items)


def test_entries_are_bounded_however_deadlines_move() -> None:
    clock, deadlines = make()
    items = [Item(clock, inf) for _ in range(10)]
    for turn in range(3000):
        item = items[turn % 10]
        item.due = clock.now + (0.1, 500.0, 3.0, 0.01, 90.0)[turn % 5 - turn // 10 % 3]
        deadlines.watch(item, item.due)
        clock.advance(0.02)
        if turn % 17 == 0:
            deadlines.forget(items[turn % 7])
        assert len(deadlines._heap) <= 2 * (2 * len(items) + 64) + 1


class Heap(RuleBasedStateMachine):
    """Random deadlines moved at random; each is met, none early, one timer at most."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.deadlines = make()
        self.items: list[Item] = []
        self.expected: list[int] = []

    @rule(seconds=st.floats(0.0, 20.0))
    def add(self, seconds: float) -> None:
        item = Item(self.clock, self.clock.now + seconds)
        self.items.append(item)
        self.expected.append(0)
        self.deadlines.watch(item, item.due)

    @rule(data=st.data(), seconds=st.floats(0.0, 20.0))
    def move(self, data: st.DataObject, seconds: float) -> None:
        if self.items:
            item = data.draw(st.sampled_from(self.items))
            item.due = self.clock.now + seconds
            self.deadlines.watch(item, item.due)

    @rule(seconds=st.floats(0.0, 30.0))
    def wait(self, seconds: float) -> None:
        due: list[Any] = [item for item in self.items if item.due <= self.clock.now + seconds]
        before = {id(item): len(item.fired) for item in self.items}
        moments = {id(item): item.due for item in due}
        self.clock.advance(seconds)
        for item in self.items:
            fired = item.fired[before[id(item)] :]
            if id(item) in moments:
                assert len(fired) == 1
                # A millisecond late at most: that is how far two looks are kept apart.
                assert moments[id(item)] <= fired[0] <= moments[id(item)] + 0.0011
            else:
                assert not fired

    @invariant()
    def one_timer(self) -> None:
        assert self.clock.armed <= 1


TestHeap = Heap.TestCase


@given(st.lists(st.floats(0, 100), max_size=20))
def test_the_manual_clock_fires_in_order(moments: list[float]) -> None:
    clock = ManualClock(0.0)
    seen: list[float] = []
    for moment in moments:
        clock.call_at(moment, lambda moment=moment: seen.append(moment))  # type: ignore[misc]  # mypy cannot infer the default's type
    clock.advance(200.0)
    assert seen == sorted(moments)
    assert clock() == 200.0
