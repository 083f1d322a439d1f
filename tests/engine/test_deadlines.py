"""Deadlines are decided on times alone: every decision, its boundaries and its next look."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.engine.deadlines import (
    LATE,
    NEWS_INTERVAL,
    Action,
    PeerAction,
    PeerTimes,
    Times,
    decide,
    decide_peer,
    due_at,
    shorter,
)

NOW = 0.0  # so that sums with it are exact
SOON, PAST = NOW + 5.0, NOW - 0.1
moments = st.one_of(st.just(inf), st.floats(NOW - 10, NOW + 10))
times = st.builds(
    Times, moments, moments, moments, st.booleans(), st.booleans(), st.booleans(), st.booleans()
)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        pytest.param(Times(), (Action.WAIT, inf), id="nothing"),
        pytest.param(Times(idle_at=SOON), (Action.WAIT, SOON), id="idle soon"),
        pytest.param(Times(idle_at=inf, parked_until=SOON), (Action.WAIT, SOON), id="parked"),
        pytest.param(
            Times(idle_at=SOON, parked_until=SOON - 1), (Action.WAIT, SOON - 1), id="the earlier"
        ),
        pytest.param(Times(idle_at=NOW), (Action.CLOSE_IDLE, inf), id="idle now"),
        pytest.param(Times(parked_until=NOW), (Action.CLOSE_PARKED, inf), id="parked until now"),
        pytest.param(
            Times(parked_until=NOW, idle_at=NOW), (Action.CLOSE_PARKED, inf), id="parked and idle"
        ),
        pytest.param(
            Times(parked_until=NOW, due=PAST, is_running=True),
            (Action.CLOSE_PARKED, inf),
            id="parked and overdue",
        ),
        # A running request.
        pytest.param(
            Times(due=SOON, is_running=True), (Action.WAIT, SOON), id="running, due later"
        ),
        pytest.param(
            Times(due=inf, idle_at=PAST, is_running=True),
            (Action.WAIT, NOW + 1.0),
            id="running, never due, idle time over",
        ),
        pytest.param(
            Times(due=inf, idle_at=SOON, is_running=True),
            (Action.WAIT, SOON),
            id="running, never due, idle later",
        ),
        pytest.param(
            Times(due=inf, parked_until=NOW + 0.5, idle_at=PAST, is_running=True),
            (Action.WAIT, NOW + 0.5),
            id="running, parked",
        ),
        pytest.param(
            Times(due=NOW, is_running=True), (Action.INTERRUPT, inf), id="running, due now"
        ),
        pytest.param(
            Times(due=NOW - LATE, is_running=True),
            (Action.INTERRUPT, inf),
            id="just not late",
        ),
        pytest.param(
            Times(due=NOW - 1.5 * LATE, is_running=True),
            (Action.POSTPONE, NOW + LATE / 2),
            id="a late look",
        ),
        pytest.param(
            Times(due=NOW - 1.5 * LATE, is_running=True, is_postponed=True),
            (Action.INTERRUPT, inf),
            id="late once more",
        ),
        pytest.param(
            Times(due=NOW, is_running=True, is_interrupted=True),
            (Action.ABANDON, inf),
            id="it does not stop",
        ),
        pytest.param(
            Times(due=NOW - 1.5 * LATE, is_running=True, is_interrupted=True),
            (Action.POSTPONE, NOW + LATE / 2),
            id="a late look at its grace",
        ),
        pytest.param(
            Times(due=PAST, idle_at=SOON), (Action.WAIT, SOON), id="due, but nothing runs"
        ),
        # Waiting for capacity.
        pytest.param(
            Times(due=SOON, is_waiting=True),
            (Action.TELL_POSITION, NOW + NEWS_INTERVAL),
            id="waiting",
        ),
        pytest.param(
            Times(due=NOW + 0.5, is_waiting=True),
            (Action.TELL_POSITION, NOW + 0.5),
            id="waiting, due before the next news",
        ),
        pytest.param(
            Times(parked_until=NOW + 0.25, due=NOW + 0.5, is_waiting=True),
            (Action.TELL_POSITION, NOW + 0.25),
            id="waiting, parked",
        ),
        pytest.param(
            Times(due=NOW, is_waiting=True, is_running=True),
            (Action.REFUSE_WAITING, inf),
            id="waited too long",
        ),
        pytest.param(
            Times(due=NOW - 1, is_waiting=True, is_running=True),
            (Action.REFUSE_WAITING, inf),
            id="waited too long, seen late",
        ),
        pytest.param(
            Times(due=NOW, parked_until=NOW, is_waiting=True, is_running=True),
            (Action.FORGET_WAITING, inf),
            id="waited for a client that is gone",
        ),
        pytest.param(
            Times(due=inf, idle_at=PAST, is_waiting=True, is_running=True),
            (Action.TELL_POSITION, NOW + NEWS_INTERVAL),
            id="waiting is not idle",
        ),
    ],
)
def test_a_decision_about_a_session(times: Times, expected: tuple[Action, float]) -> None:
    assert decide(times, NOW) == expected


@given(times)
def test_what_ends_something_asks_for_no_further_look(times: Times) -> None:
    action, again = decide(times, NOW)
    if action in (Action.WAIT, Action.POSTPONE, Action.TELL_POSITION):
        assert again > NOW
    else:
        assert again == inf


@given(times)
def test_a_session_without_times_that_have_come_waits(times: Times) -> None:
    later = replace(times, due=SOON, parked_until=SOON, idle_at=SOON)
    action, again = decide(later, NOW)
    assert action is (Action.TELL_POSITION if times.is_waiting else Action.WAIT)
    assert again <= SOON


@given(times)
def test_a_deadline_is_postponed_once(times: Times) -> None:
    assert decide(replace(times, is_postponed=True), NOW)[0] is not Action.POSTPONE


@given(times)
def test_a_request_is_interrupted_before_it_is_abandoned(times: Times) -> None:
    assert decide(replace(times, is_interrupted=False), NOW)[0] is not Action.ABANDON
    assert decide(replace(times, is_interrupted=True), NOW)[0] is not Action.INTERRUPT


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        pytest.param(PeerTimes(), (PeerAction.WAIT, NOW + 2.0), id="no deadlines"),
        pytest.param(
            PeerTimes(lease_ends=NOW + 1), (PeerAction.WAIT, NOW + 1), id="the lease ends soon"
        ),
        pytest.param(
            PeerTimes(lease_ends=SOON, write_ends=NOW + 1),
            (PeerAction.WAIT, NOW + 1),
            id="the write ends first",
        ),
        pytest.param(
            PeerTimes(lease_ends=SOON), (PeerAction.WAIT, NOW + 2.0), id="the interval is shorter"
        ),
        pytest.param(
            PeerTimes(lease_ends=NOW, look_at=NOW), (PeerAction.CUT, inf), id="silent too long"
        ),
        pytest.param(
            PeerTimes(write_ends=NOW, look_at=NOW - LATE), (PeerAction.CUT, inf), id="just not late"
        ),
        pytest.param(
            PeerTimes(write_ends=PAST, look_at=NOW - 1.5 * LATE),
            (PeerAction.POSTPONE, NOW + LATE),
            id="a late look",
        ),
        pytest.param(
            PeerTimes(lease_ends=PAST, look_at=NOW - 1.5 * LATE, postponed=PAST),
            (PeerAction.CUT, inf),
            id="late again",
        ),
        pytest.param(
            PeerTimes(lease_ends=PAST, look_at=NOW - 1.5 * LATE, postponed=PAST - 1),
            (PeerAction.POSTPONE, NOW + LATE),
            id="late for another deadline",
        ),
    ],
)
def test_a_decision_about_a_peer(times: PeerTimes, expected: tuple[PeerAction, float]) -> None:
    assert decide_peer(times, NOW, 2.0) == expected


def test_a_peer_is_dead_at_the_earlier_of_its_times() -> None:
    assert PeerTimes(lease_ends=2.0, write_ends=1.0).dead_at == 1.0
    assert PeerTimes(lease_ends=1.0, write_ends=2.0).dead_at == 1.0


@pytest.mark.parametrize(
    ("own", "asked", "expected"),
    [
        (None, 0, None),
        (None, None, None),
        (None, -1.0, None),
        (None, 3.0, 3.0),
        (2.0, 0, 2.0),
        (2.0, None, 2.0),
        (2.0, -1.0, 2.0),
        (2.0, 3.0, 2.0),
        (2.0, 1.0, 1.0),
        (2.0, 0.5, 0.5),
    ],
)
def test_the_shorter_of_two_timeouts_counts(
    own: float | None, asked: float | None, expected: float | None
) -> None:
    assert shorter(own, asked) == expected
    assert due_at(NOW, own, asked, inf) == (inf if expected is None else NOW + expected)


@pytest.mark.parametrize(("own", "due"), [(2.0, NOW + 2.0), (9.0, SOON), (None, SOON)])
def test_a_request_ends_with_its_episode(own: float | None, due: float) -> None:
    assert due_at(NOW, own, 0, SOON) == due


def test_the_times_that_the_pages_tell() -> None:
    """A client hears its position every second; a look may come a fifth of one late."""
    assert (NEWS_INTERVAL, LATE) == (1.0, 0.2)
