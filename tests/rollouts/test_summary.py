"""Sums and percentiles."""

from __future__ import annotations

import io
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from openenv_async import Outcome, OutcomeStatus
from openenv_async.rollouts import Reservoir, Summary

FINITE = st.floats(-1e6, 1e6)


def shown(summary: Summary) -> str:
    out = io.StringIO()
    Console(file=out, width=100).print(summary.table("title"))
    return out.getvalue()


@given(st.lists(st.one_of(st.none(), FINITE), max_size=50))
def test_returns_without_a_value_do_not_enter(returns: list[float | None]) -> None:
    summary = Summary()
    for index, value in enumerate(returns):
        summary.add(Outcome(index, OutcomeStatus.COMPLETED, episode_return=value, steps=2))
    given = [value for value in returns if value is not None]
    assert summary.episodes == len(returns)
    assert summary.steps == 2 * len(returns)
    assert summary.returns == len(given)
    if given:
        assert summary.return_mean == pytest.approx(statistics.fmean(given), abs=1e-6)
        assert summary.return_std == pytest.approx(statistics.pstdev(given), abs=1e-3)
        assert (summary.return_min, summary.return_max) == (min(given), max(given))
    else:
        assert (summary.return_mean, summary.return_std) == (None, None)
        assert (summary.return_min, summary.return_max) == (None, None)


def test_a_failure_changes_no_mean() -> None:
    summary = Summary(total=3)
    summary.add(Outcome(0, OutcomeStatus.COMPLETED, episode_return=4.0))
    summary.add(Outcome(1, OutcomeStatus.INFRA_ERROR, error=OSError("gone")))
    summary.add(Outcome(2, OutcomeStatus.INFRA_ERROR, error=OSError("later")))
    assert summary.return_mean == 4.0
    assert summary.failures == 2
    assert summary.errors == {OutcomeStatus.INFRA_ERROR: "gone"}
    report = summary.as_dict()
    assert report["outcomes"] == {"completed": 1, "infra_error": 2}
    assert report["errors"] == {"infra_error": "gone"}
    assert "infra_error" in shown(summary)


def test_an_empty_summary_can_be_shown() -> None:
    summary = Summary()
    assert summary.steps_per_second is None
    assert summary.duration == 0.0
    assert summary.as_dict()["step_latency"] == {"p50": None, "p90": None, "p99": None}
    assert "none given" in shown(summary)


def test_everything_is_shown() -> None:
    summary = Summary()
    summary.add(Outcome(0, OutcomeStatus.COMPLETED, episode_return=1.0, steps=10))
    summary.latencies.add(0.002)
    summary.refused = 3
    text = shown(summary)
    for part in ("title", "1.000 ± 0.000", "2.00 ms", "waits for capacity", "steps/s"):
        assert part in text


def test_a_small_stream_is_kept_whole() -> None:
    reservoir = Reservoir()
    for value in range(1, 101):
        reservoir.add(value)
    assert [reservoir.percentile(p) for p in (0, 1, 50, 90, 99, 100)] == [1, 1, 50, 90, 99, 100]
    assert Reservoir().percentile(50) is None


def test_a_long_stream_is_sampled_evenly() -> None:
    reservoir = Reservoir(size=500)
    for value in range(50_000):
        reservoir.add(value)
    assert len(reservoir.samples) == 500
    assert reservoir.count == 50_000
    middle = reservoir.percentile(50)
    assert middle is not None
    assert 20_000 < middle < 30_000
