"""Random histories of a scheduler, against what must hold after each of them; and its rules."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from openenv_async.pool.scheduler import Plan, PoolSettings, ProviderRules, Scheduler, WorkerPhase


def grown(scheduler: Scheduler, now: float = 0.0) -> Plan:
    """Plan, and let every start succeed at once."""
    plan = scheduler.plan(now)
    for worker, _ in plan.starts:
        scheduler.ready(worker, now)
    later = scheduler.plan(now)
    return Plan(
        plan.grants + later.grants,
        plan.starts + later.starts,
        plan.ends + later.ends,
        later.wake_at,
    )


def owned(max_workers: int = 4, sessions: int = 2) -> ProviderRules:
    return ProviderRules(max_workers, sessions)


def test_first_come_first_served_on_the_least_loaded() -> None:
    scheduler = Scheduler([owned(2, 4)], min_workers=2)
    grown(scheduler)
    tickets = [scheduler.ask() for _ in range(6)]
    assert scheduler.plan(0.0).grants == list(zip(tickets, [1, 2, 1, 2, 1, 2], strict=True))


def test_workers_are_started_for_who_waits_and_no_more() -> None:
    scheduler = Scheduler([owned(4, 2)])
    for _ in range(5):
        scheduler.ask()
    plan = scheduler.plan(0.0)
    assert [source for _, source in plan.starts] == [0, 0, 0]
    assert scheduler.plan(0.0).starts == []  # those under way will do
    for _ in range(50):
        scheduler.ask()
    assert len(scheduler.plan(0.0).starts) == 1  # max_workers


def test_a_dead_worker_of_a_full_group_is_replaced_by_exactly_one() -> None:
    scheduler = Scheduler([owned(8, 1)], min_workers=8)
    grown(scheduler)
    for _ in range(8):
        scheduler.ask()
    assert len(scheduler.plan(1.0).grants) == 8
    assert len(scheduler.died(3, 7.0)) == 1
    scheduler.ask()  # its caller plays again
    plan = grown(scheduler, 7.0)
    assert (len(plan.starts), len(plan.grants)) == (1, 1)


def test_idle_workers_end_the_youngest_first_and_the_kept_ones_stay() -> None:
    scheduler = Scheduler([owned(4, 1)], min_workers=1, idle_ttl=10.0)
    leases = [scheduler.ask() for _ in range(3)]
    grown(scheduler)
    for lease in leases:
        scheduler.release(lease, 5.0)
    assert scheduler.plan(5.0).wake_at == 15.0
    assert scheduler.plan(14.9).ends == []
    assert scheduler.plan(15.0).ends == [3, 2]
    assert list(scheduler.workers) == [1]
    assert scheduler.plan(1e9).ends == []


def test_a_worker_in_use_does_not_idle() -> None:
    scheduler = Scheduler([owned(2, 1)], idle_ttl=10.0)
    lease = scheduler.ask()
    grown(scheduler)
    assert scheduler.plan(1000.0).ends == []
    scheduler.release(lease, 1000.0)
    assert scheduler.plan(1009.0).ends == []
    assert scheduler.plan(1010.0).ends == [1]


def test_warm_workers_are_refilled() -> None:
    scheduler = Scheduler([owned(4, 1)], warm_workers=1)
    assert len(grown(scheduler).starts) == 1
    for running in range(1, 4):
        scheduler.ask()
        plan = grown(scheduler, float(running))
        assert (len(plan.grants), len(plan.starts)) == (1, 1)
    scheduler.ask()
    assert scheduler.plan(9.0).starts == []  # max_workers


def test_an_old_worker_drains_and_is_replaced() -> None:
    scheduler = Scheduler([owned(2, 2)], min_workers=1, max_lifetime=100.0)
    lease = scheduler.ask()
    assert grown(scheduler).wake_at == 100.0
    plan = scheduler.plan(100.0)
    assert (len(plan.starts), plan.ends) == (1, [])
    assert scheduler.workers[1].phase is WorkerPhase.DRAINING
    scheduler.ready(2, 101.0)
    other = scheduler.ask()
    assert scheduler.plan(101.0).grants == [(other, 2)]
    scheduler.release(lease, 102.0)
    assert scheduler.plan(102.0).ends == [1]


def test_a_worker_that_served_its_uses_is_replaced_within_max_workers() -> None:
    scheduler = Scheduler([owned(1, 1)], max_uses=1)
    first = scheduler.ask()
    assert len(grown(scheduler).grants) == 1
    scheduler.ask()
    assert scheduler.plan(1.0).starts == []  # it still holds the only place
    scheduler.release(first, 2.0)
    plan = grown(scheduler, 2.0)
    assert (plan.ends, len(plan.starts), len(plan.grants)) == ([1], 1, 1)


def test_sources_are_used_in_order_and_within_their_room() -> None:
    scheduler = Scheduler([owned(1, 1), owned(9, 1)])
    scheduler.set_room(1, 2)
    for _ in range(9):
        scheduler.ask()
    assert [source for _, source in scheduler.plan(0.0).starts] == [0, 1, 1]


def test_what_costs_nothing_is_taken_at_once_and_never_ended() -> None:
    scheduler = Scheduler([ProviderRules(100, 8, free=True)], idle_ttl=1.0, max_lifetime=1.0)
    scheduler.set_room(0, 3)
    assert len(grown(scheduler).starts) == 3
    plan = scheduler.plan(1e6)
    assert (plan.ends, plan.wake_at) == ([], inf)


def test_a_full_server_is_left_alone_for_a_while() -> None:
    scheduler = Scheduler([owned(1, 8)], min_workers=1)
    grown(scheduler)
    scheduler.full(1, 5.0)
    ticket = scheduler.ask()
    plan = scheduler.plan(1.0)
    assert (plan.grants, plan.wake_at) == ([], 5.0)
    assert scheduler.plan(5.0).grants == [(ticket, 1)]


def test_a_resting_worker_serves_only_if_no_other_can() -> None:
    scheduler = Scheduler([owned(2, 1)], min_workers=2)
    grown(scheduler)
    scheduler.rest(1, 5.0)
    first, second = scheduler.ask(), scheduler.ask()
    assert scheduler.plan(1.0).grants == [(first, 2), (second, 1)]


def test_a_source_pauses_twice_as_long_after_each_failure() -> None:
    scheduler = Scheduler([owned(1, 1)])
    scheduler.ask()
    now, pauses = 0.0, []
    for _ in range(9):
        (started,) = [worker for worker, _ in scheduler.plan(now).starts]
        scheduler.start_failed(started, now)
        plan = scheduler.plan(now)
        assert plan.starts == []
        pauses.append(plan.wake_at - now)
        now = plan.wake_at
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert scheduler.statistics(now).starts_failed == 9


def test_failures_at_one_time_count_as_one() -> None:
    scheduler = Scheduler([owned(3, 1)], min_workers=3)
    assert [worker for worker, _ in scheduler.plan(0.0).starts] == [1, 2, 3]
    for worker, now in ((1, 0.0), (2, 0.0), (3, 0.49)):
        scheduler.start_failed(worker, now)
    assert scheduler.plan(0.49).wake_at == 0.5
    for worker, _ in scheduler.plan(0.5).starts:
        scheduler.start_failed(worker, 0.5)
    assert scheduler.plan(0.5).wake_at == 1.5  # the second failure, not the fourth


def test_a_pause_is_jittered_and_of_one_source() -> None:
    scheduler = Scheduler([owned(1, 1), owned(1, 1)], min_workers=2)
    scheduler.plan(0.0)
    scheduler.start_failed(1, 0.0, 1.25)
    scheduler.start_failed(2, 0.0, 0.75)
    assert scheduler.plan(0.0).wake_at == 0.375
    assert scheduler.plan(0.375).starts == [(3, 1)]
    assert scheduler.plan(0.375).wake_at == 0.625
    assert scheduler.plan(0.625).starts == [(4, 0)]


def test_a_death_soon_after_the_start_counts_as_a_failed_start() -> None:
    scheduler = Scheduler([owned(1, 1)], min_workers=1)
    grown(scheduler)
    assert scheduler.is_short_lived(1, 4.99)
    assert not scheduler.is_short_lived(1, 5.0)
    scheduler.died(1, 4.0, 0.5)
    assert (scheduler.plan(4.0).starts, scheduler.plan(4.0).wake_at) == ([], 4.25)
    grown(scheduler, 4.25)
    scheduler.died(2, 9.25)  # old enough
    assert scheduler.plan(9.25).starts == [(3, 0)]


def test_failures_are_forgotten_once_a_worker_has_been_up_for_a_while() -> None:
    scheduler = Scheduler([owned(1, 1), owned(1, 1)], min_workers=2)
    for now in (0.0, 0.5):
        for worker, _ in scheduler.plan(now).starts:
            scheduler.start_failed(worker, now)
    (first, _), _ = scheduler.plan(1.5).starts
    scheduler.ready(first, 1.5)
    scheduler.forgive(6.49)
    scheduler.start_failed(first + 1, 6.5)  # of the other source, whose failures are its own
    scheduler.died(first, 6.49)
    assert scheduler.plan(6.5).wake_at == 8.49  # the third failure: two more seconds
    (first, _), *_ = scheduler.plan(8.5).starts
    scheduler.ready(first, 8.5)
    scheduler.forgive(13.5)
    scheduler.died(first, 13.4)
    assert scheduler.plan(13.4).wake_at == 13.9


def test_every_count_is_of_what_happened() -> None:
    scheduler = Scheduler([owned(3, 2)], min_workers=1, idle_ttl=1.0)
    lease, revoked, third = (scheduler.ask() for _ in range(3))
    assert len(scheduler.plan(0.0).starts) == 2
    scheduler.ready(1, 1.0)
    assert len(scheduler.plan(1.0).grants) == 2
    scheduler.revoke(revoked, 1.0)
    now = scheduler.statistics(1.0)
    assert (now.ready, now.starting, now.draining, now.capacity) == (1, 1, 0, 2)
    assert (now.sessions, now.waiting, now.sessions_leased) == (1, 1, 1)
    assert scheduler.plan(1.0).grants == [(third, 1)]
    scheduler.ready(2, 2.0)
    scheduler.drain(1)
    scheduler.release(third, 2.0)
    now = scheduler.statistics(2.0)
    assert (now.ready, now.starting, now.draining, now.capacity) == (1, 0, 1, 2)
    scheduler.release(lease, 2.0)
    assert scheduler.plan(2.0).ends == [1]
    scheduler.died(2, 10.0)
    scheduler.start_failed(scheduler.plan(10.0).starts[0][0], 10.0)
    now = scheduler.statistics(10.0)
    assert (now.ready, now.starting, now.draining, now.capacity) == (0, 0, 0, 0)
    assert (now.sessions_leased, now.peak_workers) == (2, 2)
    counts = (now.workers_started, now.starts_failed, now.workers_died, now.workers_ended)
    assert counts == (2, 1, 1, 1)
    assert now.as_dict()["seconds"]["starting"] == 3.0


def test_every_second_is_counted_once() -> None:
    scheduler = Scheduler([owned(1, 2)], min_workers=1)
    scheduler.plan(0.0)
    scheduler.ready(1, 2.0)  # starting 2
    lease = scheduler.ask()
    scheduler.plan(5.0)  # idle 3
    scheduler.release(lease, 9.0)  # used 4
    early, late = scheduler.ask(), scheduler.ask()
    scheduler.plan(10.0)  # idle 1
    scheduler.release(early, 12.0)
    assert late in scheduler.holders
    scheduler.died(1, 20.0)  # the late one ran since 10
    sums = scheduler.seconds_at(25.0)
    assert (sums.starting, sums.idle, sums.used, sums.wasted) == (2.0, 4.0, 4.0, 10.0)


def settings_of(**changes: Any) -> PoolSettings:
    defaults: dict[str, Any] = {
        "max_workers": None,
        "sessions_per_worker": 64,
        "min_workers": 1,
        "warm_workers": 0,
        "idle_ttl": 300.0,
        "max_lifetime": None,
        "max_uses": None,
        "acquire_timeout": 60.0,
        "start_timeout": 60.0,
        "connections": 1,
    }
    return PoolSettings(**{**defaults, **changes})


class Five:
    """An integer of another kind, as NumPy's are."""

    def __index__(self) -> int:
        return 5


@pytest.mark.parametrize(
    "name", ["max_workers", "sessions_per_worker", "max_uses", "connections", "min_workers"]
)
def test_integers_of_other_kinds_become_plain_ones(name: str) -> None:
    value = getattr(settings_of(**{name: Five()}), name)
    assert (type(value), value) == (int, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(
            ({name: 0}, f"{name} must be at least 1")
            for name in ("max_workers", "sessions_per_worker", "max_uses", "connections")
        ),
        *(({name: -1}, f"{name} must be at least 0") for name in ("min_workers", "warm_workers")),
        *(
            ({name: 3, "max_workers": 2}, rf"{name} must be 0 to 2 \(max_workers\), got 3")
            for name in ("min_workers", "warm_workers")
        ),
        *(
            ({name: value}, f"{name} must be at least 0 seconds")
            for name in ("idle_ttl", "max_lifetime", "acquire_timeout", "start_timeout")
            for value in (-0.1, float("nan"))
        ),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_of(**changes)


@pytest.mark.parametrize("name", ["idle_ttl", "max_lifetime", "acquire_timeout", "start_timeout"])
@pytest.mark.parametrize("value", ["5", True])
def test_seconds_are_numbers(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} must be a number of seconds"):
        settings_of(**{name: value})


def test_settings_at_the_bounds_are_taken() -> None:
    settings_of(max_workers=2, min_workers=2, warm_workers=2)
    settings_of(min_workers=0, max_workers=1, idle_ttl=0, max_lifetime=0.0, acquire_timeout=None)


@pytest.mark.parametrize(
    ("changes", "owned", "max_workers"),
    [
        ({}, True, 8),
        ({"min_workers": 12}, True, 12),
        ({"max_workers": 3}, True, 3),
        ({"max_workers": 3}, False, 3),
        ({}, False, 1 << 20),
    ],
)
def test_the_workers_of_a_provider_are_bounded(
    changes: dict[str, Any], owned: bool, max_workers: int
) -> None:
    scheduler = settings_of(**changes, sessions_per_worker=7).scheduler([owned, not owned])
    assert scheduler.sources[0] == ProviderRules(max_workers, 7, free=not owned)
    assert scheduler.sources[1].free is owned


def test_the_scheduler_has_the_rules_of_the_settings() -> None:
    rules = settings_of(
        min_workers=1, warm_workers=1, idle_ttl=10.0, max_lifetime=100.0, max_uses=3
    )
    scheduler = rules.scheduler([True])
    assert len(grown(scheduler).starts) == 1
    held = [scheduler.ask() for _ in range(3)]
    assert len(grown(scheduler, 1.0).grants) == 3  # used up: it drains, one more is kept
    assert scheduler.workers[1].phase is WorkerPhase.DRAINING
    assert len(scheduler.workers) == 2
    for lease in held:
        scheduler.release(lease, 1.0)
    scheduler.plan(1.0)
    (worker,) = scheduler.workers.values()
    assert scheduler.plan(worker.ready_at + 99.9).ends == []
    assert scheduler.plan(worker.ready_at + 100.0).ends == [worker.id]


def test_a_full_server_serves_again_at_its_time_and_others_meanwhile() -> None:
    scheduler = Scheduler([owned(1, 8)], min_workers=1)
    grown(scheduler)
    scheduler.full(1, 5.0)
    ticket = scheduler.ask()
    assert scheduler.plan(4.9).wake_at == 5.0
    plan = scheduler.plan(5.0)
    assert (plan.grants, plan.wake_at) == ([(ticket, 1)], inf)
    scheduler.full(1, 9.0)
    assert scheduler.plan(6.0).wake_at == inf  # there is no ticket that waits


def test_a_full_server_wakes_the_scheduler_only_while_it_is_full() -> None:
    scheduler = Scheduler([owned(2, 1)], min_workers=2)
    grown(scheduler)
    for _ in range(3):
        scheduler.ask()
    scheduler.full(1, 5.0)
    scheduler.full(2, 3.0)
    assert scheduler.plan(1.0).wake_at == 3.0
    plan = scheduler.plan(5.0)
    assert len(plan.grants) == 2
    assert plan.wake_at == inf


def test_a_resting_worker_serves_as_the_others_do_from_its_time_on() -> None:
    scheduler = Scheduler([owned(2, 2)], min_workers=2)
    grown(scheduler)
    scheduler.rest(1, 5.0)
    early, late = scheduler.ask(), None
    assert scheduler.plan(4.9).grants == [(early, 2)]
    scheduler.release(early, 4.9)
    late = scheduler.ask()
    assert scheduler.plan(5.0).grants == [(late, 1)]


def test_load_is_relative_to_the_capacity() -> None:
    scheduler = Scheduler([owned(2, 8)], min_workers=2)
    scheduler.plan(0.0)
    scheduler.ready(1, 0.0, 2)
    scheduler.ready(2, 0.0)
    tickets = [scheduler.ask() for _ in range(5)]
    assert [worker for _, worker in scheduler.plan(0.0).grants] == [1, 2, 2, 2, 2]
    assert len(tickets) == 5


@pytest.mark.parametrize(("said", "capacity"), [(None, 4), (2, 2), (4, 4), (9, 4), (0, 1)])
def test_a_server_may_have_fewer_slots_but_never_more(said: int | None, capacity: int) -> None:
    scheduler = Scheduler([owned(1, 4)], min_workers=1)
    scheduler.plan(0.0)
    scheduler.ready(1, 0.0, said)
    assert scheduler.workers[1].capacity == capacity


def test_a_worker_leaves_that_drains_before_its_sessions_are_used_up() -> None:
    scheduler = Scheduler([owned(2, 2)], max_uses=2)
    first, second = scheduler.ask(), scheduler.ask()
    grown(scheduler)
    assert not scheduler.leaves(1)
    scheduler.plan(0.0)
    assert scheduler.workers[1].phase is WorkerPhase.DRAINING
    assert not scheduler.leaves(1)  # its sessions may go on with it
    scheduler.release(first, 1.0)
    scheduler.release(second, 1.0)
    scheduler = Scheduler([owned(1, 2)], min_workers=1)
    grown(scheduler)
    scheduler.drain(1)
    assert scheduler.leaves(1)


def test_what_a_source_can_make_is_counted_down() -> None:
    scheduler = Scheduler([owned(8, 1), owned(8, 1)])
    scheduler.set_room(0, 2)
    for _ in range(5):
        scheduler.ask()
    assert [source for _, source in scheduler.plan(0.0).starts] == [0, 0, 1, 1, 1]
    scheduler.set_room(0, None)
    scheduler.ask()
    assert [source for _, source in scheduler.plan(0.0).starts] == [0]


def test_seconds_so_far_are_those_of_what_is_under_way() -> None:
    scheduler = Scheduler([owned(3, 1)], min_workers=3)
    scheduler.plan(0.0)
    scheduler.ready(1, 1.0)
    scheduler.ready(2, 1.0)
    scheduler.ask()
    scheduler.plan(2.0)
    sums = scheduler.seconds_at(10.0)
    assert (sums.starting, sums.idle, sums.used, sums.wasted) == (12.0, 10.0, 8.0, 0.0)
    assert sums.total == 30.0
    assert scheduler.seconds.used == 0.0  # a reading changes nothing
    assert scheduler.close(10.0) == [1, 2]
    assert (scheduler.seconds.used, scheduler.seconds.wasted) == (8.0, 10.0)
    assert (scheduler.waiting, scheduler.holders) == ({}, {})


def test_a_start_that_is_abandoned_is_wasted_and_no_failure() -> None:
    scheduler = Scheduler([owned()], min_workers=1)
    scheduler.plan(0.0)
    scheduler.start_abandoned(1, 3.0)
    now = scheduler.statistics(3.0)
    assert (now.seconds.wasted, now.starts_failed) == (3.0, 0)
    assert len(scheduler.plan(3.0).starts) == 1  # at once


def test_idle_workers_are_kept_while_somebody_waits() -> None:
    scheduler = Scheduler([owned(2, 1)], idle_ttl=1.0)
    first, second = scheduler.ask(), scheduler.ask()
    grown(scheduler)
    scheduler.release(first, 1.0)
    scheduler.release(second, 1.0)
    scheduler.full(1, 9.0)
    scheduler.full(2, 9.0)
    scheduler.ask()
    assert scheduler.plan(5.0).ends == []


def test_rows_of_a_table_say_what_happened() -> None:
    scheduler = Scheduler([owned()], min_workers=1)
    scheduler.plan(0.0)
    scheduler.start_failed(1, 1.5)
    rows: list[tuple[str, str]] = []

    class Table:
        def add_row(self, name: str, value: str) -> None:
            rows.append((name, value))

    scheduler.statistics(1.5).add_to(Table())  # type: ignore[arg-type]  # all that it needs
    assert rows == [
        ("workers started", "0"),
        ("starts failed", "1"),
        ("worker seconds used", "0.0"),
        ("worker seconds idle", "0.0"),
        ("worker seconds starting", "0.0"),
        ("worker seconds wasted", "1.5"),
    ]


def test_every_idle_worker_counts_once_among_the_warm_ones() -> None:
    scheduler = Scheduler([owned(6, 1)], warm_workers=3)
    assert len(scheduler.plan(0.0).starts) == 3
    for worker in (1, 2, 3):
        scheduler.ready(worker, 0.0)
    scheduler.ask()
    assert len(scheduler.plan(1.0).starts) == 1  # two are idle
    scheduler.ask()
    assert len(scheduler.plan(1.0).starts) == 1  # one is idle, one starts


def test_a_worker_whose_last_use_is_granted_drains_and_is_replaced_in_the_same_plan() -> None:
    scheduler = Scheduler([owned(2, 1)], min_workers=1, max_uses=1)
    grown(scheduler)
    ticket = scheduler.ask()
    plan = scheduler.plan(1.0)
    assert (plan.grants, plan.starts, plan.ends) == ([(ticket, 1)], [(2, 0)], [])
    assert scheduler.workers[1].phase is WorkerPhase.DRAINING


def test_the_seconds_of_a_worker_that_is_ended_are_counted() -> None:
    scheduler = Scheduler([owned(1, 1)], idle_ttl=4.0)
    lease = scheduler.ask()
    grown(scheduler)
    scheduler.release(lease, 3.0)
    assert scheduler.plan(7.0).ends == [1]
    sums = scheduler.seconds_at(50.0)
    assert (sums.used, sums.idle, sums.starting, sums.wasted) == (3.0, 4.0, 0.0, 0.0)


def test_a_scheduler_without_rules_keeps_and_ends_nothing() -> None:
    scheduler = Scheduler([owned(4, 1)])
    assert scheduler.plan(0.0) == Plan()
    lease = scheduler.ask()
    plan = grown(scheduler)
    assert (plan.grants, plan.wake_at) == ([(lease, 1)], inf)
    scheduler.release(lease, 1.0)
    assert scheduler.plan(1e9) == Plan()


def test_the_longest_idle_of_spare_workers_is_ended_and_the_next_in_its_turn() -> None:
    scheduler = Scheduler([owned(3, 1)], min_workers=1, idle_ttl=10.0)
    leases = [scheduler.ask() for _ in range(3)]
    grown(scheduler)
    for seconds, lease in enumerate(leases):
        scheduler.release(lease, float(seconds))
    plan = scheduler.plan(10.0)
    assert (plan.ends, plan.wake_at) == ([1], 11.0)
    assert scheduler.plan(11.0).ends == [2]
    assert scheduler.plan(1e9).ends == []


def test_a_source_is_passed_over_while_it_pauses_and_asked_again_when_that_is_over() -> None:
    scheduler = Scheduler([owned(1, 1), owned(1, 1)])
    scheduler.ask()
    assert scheduler.plan(0.0).starts == [(1, 0)]
    scheduler.start_failed(1, 0.0)
    plan = scheduler.plan(0.0)
    assert (plan.starts, plan.wake_at) == ([(2, 1)], 0.5)
    scheduler.start_failed(2, 0.2)
    assert scheduler.plan(0.4).wake_at == 0.5
    assert scheduler.plan(0.5).starts == [(3, 0)]


def test_failures_double_the_pause_no_further_than_half_a_minute() -> None:
    scheduler = Scheduler([owned(1, 1)], min_workers=1)
    now = 0.0
    for _ in range(1100):  # 2**1100 is beyond floats
        ((worker, _),) = scheduler.plan(now).starts
        scheduler.start_failed(worker, now)
        now = scheduler.plan(now).wake_at
    assert scheduler.plan(now - 1.0).wake_at == now


def test_what_a_worker_did_before_the_sessions_that_it_lost_was_used() -> None:
    scheduler = Scheduler([owned(1, 2)], min_workers=1)
    grown(scheduler)
    first = scheduler.ask()
    scheduler.plan(0.0)
    second = scheduler.ask()
    scheduler.plan(5.0)
    scheduler.release(first, 8.0)
    assert scheduler.died(1, 10.0) == [second]
    sums = scheduler.seconds_at(10.0)
    assert (sums.used, sums.wasted, sums.idle, sums.starting) == (5.0, 5.0, 0.0, 0.0)


def test_no_source_starts_a_worker_for_those_whose_slots_come_from_another() -> None:
    scheduler = Scheduler([owned(4, 1), owned(4, 4)])
    scheduler.set_room(0, 0)
    for _ in range(3):
        scheduler.ask()
    assert scheduler.plan(0.0).starts == [(1, 1)]
    scheduler.set_room(0, None)
    assert scheduler.plan(0.0).starts == []


class Histories(RuleBasedStateMachine):
    """Any facts in any order."""

    @initialize(
        sources=st.lists(
            st.builds(ProviderRules, st.integers(1, 3), st.integers(1, 3), st.booleans()),
            min_size=1,
            max_size=3,
        ),
        min_workers=st.integers(0, 2),
        warm_workers=st.integers(0, 2),
        idle_ttl=st.none() | st.integers(1, 20),
        max_lifetime=st.none() | st.integers(1, 50),
        max_uses=st.none() | st.integers(1, 4),
    )
    def begin(self, sources: list[ProviderRules], **rules: Any) -> None:
        self.scheduler = Scheduler(sources, **rules)
        self.now = 0.0
        self.asked: list[int] = []
        self.held: dict[int, int] = {}
        self.born: dict[int, float] = {}
        self.lived = 0.0
        self.obey()

    def obey(self) -> None:
        """Plan, and check that the plan is as it says."""
        scheduler, before = self.scheduler, list(self.scheduler.waiting)
        plan = scheduler.plan(self.now)
        assert [ticket for ticket, _ in plan.grants] == before[: len(plan.grants)]
        self.held.update(plan.grants)
        self.born.update(dict.fromkeys((worker for worker, _ in plan.starts), self.now))
        for ended in plan.ends:
            assert ended not in self.held.values()
            self.gone(ended)
        assert plan.wake_at > self.now
        for worker in scheduler.workers.values():
            assert worker.phase is not WorkerPhase.DRAINING or worker.leases
        # A ticket waits because there is no slot, and none can be made.
        if scheduler.waiting:
            assert not any(
                worker.phase is WorkerPhase.READY
                and len(worker.leases) < worker.capacity
                and worker.full_until <= self.now
                for worker in scheduler.workers.values()
            )
            coming = sum(
                worker.capacity
                for worker in scheduler.workers.values()
                if worker.phase is WorkerPhase.STARTING
            )
            for index, rules in enumerate(scheduler.sources):
                count = sum(worker.source == index for worker in scheduler.workers.values())
                assert (
                    len(scheduler.waiting) <= coming
                    or count >= rules.max_workers
                    or scheduler._rooms[index] < 1
                    or scheduler._held_until[index] > self.now
                )
        again = scheduler.plan(self.now)
        assert (again.grants, again.starts, again.ends) == ([], [], [])

    def gone(self, worker: int) -> None:
        self.lived += self.now - self.born.pop(worker)

    def some(self, phase: WorkerPhase) -> list[int]:
        return [w.id for w in self.scheduler.workers.values() if w.phase is phase]

    @rule(count=st.integers(1, 5))
    def ask(self, count: int) -> None:
        for _ in range(count):
            self.asked.append(self.scheduler.ask())
        self.obey()

    @precondition(lambda self: self.scheduler.waiting)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        self.scheduler.withdraw(data.draw(st.sampled_from(sorted(self.scheduler.waiting))))
        self.obey()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.held)))
        del self.held[lease]
        self.scheduler.release(lease, self.now)
        self.scheduler.release(lease, self.now)  # twice does no harm
        self.obey()

    @precondition(lambda self: self.some(WorkerPhase.STARTING))
    @rule(data=st.data(), capacity=st.none() | st.integers(0, 4))
    def ready(self, data: st.DataObject, capacity: int | None) -> None:
        worker = data.draw(st.sampled_from(self.some(WorkerPhase.STARTING)))
        self.scheduler.ready(worker, self.now, capacity)
        self.obey()

    @precondition(lambda self: self.some(WorkerPhase.STARTING))
    @rule(data=st.data(), jitter=st.floats(0.75, 1.25))
    def fail(self, data: st.DataObject, jitter: float) -> None:
        worker = data.draw(st.sampled_from(self.some(WorkerPhase.STARTING)))
        self.scheduler.start_failed(worker, self.now, jitter)
        self.gone(worker)
        self.obey()

    @rule()
    def forgive(self) -> None:
        self.scheduler.forgive(self.now)

    @precondition(lambda self: self.some(WorkerPhase.READY) + self.some(WorkerPhase.DRAINING))
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        worker = data.draw(
            st.sampled_from(self.some(WorkerPhase.READY) + self.some(WorkerPhase.DRAINING))
        )
        lost = self.scheduler.died(worker, self.now)
        assert sorted(lost) == sorted(t for t, w in self.held.items() if w == worker)
        for ticket in lost:
            del self.held[ticket]
        self.gone(worker)
        self.obey()

    @precondition(lambda self: self.some(WorkerPhase.READY))
    @rule(data=st.data(), what=st.sampled_from(["drain", "full", "rest"]))
    def trouble(self, data: st.DataObject, what: str) -> None:
        worker = data.draw(st.sampled_from(self.some(WorkerPhase.READY)))
        if what == "drain":
            self.scheduler.drain(worker)
        else:
            getattr(self.scheduler, what)(worker, self.now + 3)
        self.obey()

    @rule(data=st.data(), room=st.none() | st.integers(0, 3))
    def room(self, data: st.DataObject, room: int | None) -> None:
        self.scheduler.set_room(data.draw(st.integers(0, len(self.scheduler.sources) - 1)), room)
        self.obey()

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds: int) -> None:
        self.now += seconds
        self.obey()

    @invariant()
    def holds(self) -> None:
        scheduler = self.scheduler
        on_workers = {t: w.id for w in scheduler.workers.values() for t in w.leases}
        assert on_workers == self.held == scheduler.holders
        for worker in scheduler.workers.values():
            assert len(worker.leases) <= worker.capacity
        for index, rules in enumerate(scheduler.sources):
            assert sum(w.source == index for w in scheduler.workers.values()) <= rules.max_workers
        alive = sum(self.now - born for born in self.born.values())
        assert abs(scheduler.seconds_at(self.now).total - self.lived - alive) < 1e-6
        assert set(self.born) == set(scheduler.workers)

    def teardown(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.close(self.now)
            assert not self.scheduler.workers
            assert not self.scheduler.holders


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
