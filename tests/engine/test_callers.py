"""Callers, and the buckets that their steps and bytes are taken from."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.engine.callers import OWNER, Bucket, Caller, Quota
from openenv_async.errors import AccessRefused


def test_what_a_caller_may_see_and_do() -> None:
    red, boss = Caller("red", environments=["echo"]), Caller("boss", is_admin=True)

    class Session:
        caller = red

    assert red.may_see(Session())
    assert boss.may_see(Session())
    assert OWNER.may_see(Session())
    assert not Caller("red").may_see(Session())  # another one, of the same name
    red.check_environment("echo")
    red.check_environment(None)
    boss.check_admin("draining")
    with pytest.raises(AccessRefused, match=r"'red' does not open the environment 'code', only ec"):
        red.check_environment("code")
    with pytest.raises(AccessRefused, match=r"draining needs .* the token 'red' is not"):
        red.check_admin("draining")


def test_a_bucket_goes_into_debt_and_makes_up_for_it() -> None:
    bucket = Bucket(10, 20)
    assert [bucket.take(20, 0.0), bucket.take(5, 0.0), bucket.take(5, 0.0)] == [0.0, 0.5, 1.0]
    bucket.give_back(5)
    assert bucket.take(0, 0.0) == 0.5
    assert bucket.take(0, 0.5) == 0.0
    assert bucket.take(20, 100.0) == 0.0  # never more than it holds
    assert bucket.take(1, 100.0) == pytest.approx(0.1)
    assert Bucket().take(1e12, 0.0) == 0.0


@given(
    st.floats(1, 1000),
    st.floats(1, 1000),
    st.lists(st.tuples(st.floats(0, 2), st.integers(1, 50)), min_size=1, max_size=60),
)
def test_no_more_passes_than_the_rate(
    rate: float, size: float, asked: list[tuple[float, int]]
) -> None:
    bucket, now, taken = Bucket(rate, size), 0.0, 0
    turns: list[float] = []
    for pause, count in asked:
        now += pause
        taken += count
        turn = now + bucket.take(count, now)
        assert taken <= size + rate * turn + 1e-6
        turns.append(turn)
    assert all(one <= other + 1e-6 for one, other in itertools.pairwise(turns))


def test_a_caller_changes_and_keeps_its_sessions_and_debts() -> None:
    caller = Caller("red", quota=Quota(steps_per_second=10, burst=10), labels={"a": "b"})
    caller.sessions = 3
    assert caller.step_bucket.take(20, 0.0) == 1.0
    caller.become(Caller("red", quota=Quota(steps_per_second=20), is_admin=True, expires_at=100.0))
    assert (caller.sessions, caller.is_admin, caller.labels) == (3, True, {})
    assert caller.step_bucket.take(0, 0.0) == 0.5
    assert [caller.is_valid(99.0), caller.is_valid(100.0)] == [True, False]
    caller.become(Caller("red"))
    assert caller.step_bucket.take(1000, 0.0) == 0.0
