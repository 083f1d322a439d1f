"""Sums and percentiles."""

from __future__ import annotations

import io
import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from openenv_async import EpisodeInfo, Outcome, OutcomeStatus
from openenv_async.errors import EnvironmentRaised, WorkerDied
from openenv_async.rollouts import Reservoir, Summary
from openenv_async.types import Task

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


def test_failures_are_told_by_reason_with_their_first_episode() -> None:
    summary = Summary()
    for index in (7, 3, 5):
        error = EnvironmentRaised(f"step() raised KeyError: {index} of 0x7f{index}a\nand more")
        summary.add(Outcome(index, OutcomeStatus.ENV_ERROR, error=error))
    summary.add(Outcome(0, OutcomeStatus.POLICY_ERROR, error=ZeroDivisionError()))
    summary.add(Outcome(1, OutcomeStatus.CANCELLED))
    summary.add(Outcome(2, OutcomeStatus.COMPLETED))
    found = [(f.status, f.code, f.count, f.first_episode) for f in summary.failure_reasons]
    assert found == [
        ("env_error", "environment_raised", 3, 3),
        ("policy_error", "ZeroDivisionError", 1, 0),
        ("cancelled", "cancelled", 1, 1),
    ]
    assert summary.failure_reasons[0].reason == "step() raised KeyError: 7 of 0x7f7a"
    table = summary.failure_table()
    out = io.StringIO()
    Console(file=out, width=100).print(table)
    assert "KeyError" in out.getvalue()
    assert summary.as_dict()["failures"][0]["count"] == 3
    assert Summary().failure_table() is None


def test_a_failure_knows_how_its_first_episode_is_played_again() -> None:
    summary = Summary()
    for index in (9, 4, 6):
        summary.add(
            Outcome(
                index,
                OutcomeStatus.ENV_ERROR,
                episode=EpisodeInfo("e", 100 + index),
                error=EnvironmentRaised("no [red] at http://me:hunter22@host\x1b[2J"),
                task=Task(f"task-{index}"),
            )
        )
    [failure] = summary.failure_reasons
    assert (failure.first_episode, failure.seed, failure.task_id) == (4, 104, "task-4")
    assert "hunter22" not in json.dumps(summary.as_dict())
    out = io.StringIO()
    Console(file=out, width=120).print(summary.failure_table())
    assert "no [red] at http://***@host\\x1b[2J" in out.getvalue()
    assert "task-4" in out.getvalue()


def test_mistakes_and_waste_are_counted() -> None:
    assert Summary().waste is None
    assert Summary().as_dict()["mistakes"]["per_episode"] is None
    summary = Summary()
    summary.add(Outcome(0, OutcomeStatus.COMPLETED, steps=6, mistakes=3, unreadable=2))
    summary.add(Outcome(1, OutcomeStatus.ENV_ERROR, steps=3, error=OSError("gone")))
    summary.add_repeated(3)
    assert summary.waste == 6 / 12
    assert summary.retried == 1
    assert summary.as_dict()["mistakes"] == {
        "refused_action": 1, "unreadable_reply": 2, "per_episode": 1.5,
    }  # fmt: skip
    for part in ("actions refused", "replies unreadable", "50.0%"):
        assert part in shown(summary)


def test_reasons_without_end_do_not_fill_the_memory() -> None:
    summary = Summary()
    for index in range(1000):
        text = "".join(chr(97 + int(digit)) for digit in str(index))
        summary.add(Outcome(index, OutcomeStatus.ENV_ERROR, error=ValueError(text + "!")))
    assert len(summary.failure_reasons) <= 101
    assert sum(failure.count for failure in summary.failure_reasons) == 1000
    assert summary.failure_reasons[0].reason == "other reasons"


def test_infinite_returns_poison_no_mean() -> None:
    summary = Summary()
    for index, value in enumerate([1.0, math.inf, 3.0, -math.inf, math.inf]):
        summary.add(Outcome(index, OutcomeStatus.COMPLETED, episode_return=value))
    assert (summary.return_mean, summary.return_std) == (2.0, 1.0)
    assert (summary.return_min, summary.return_max) == (-math.inf, math.inf)
    assert summary.returns == 5
    report = json.loads(json.dumps(summary.as_dict(), allow_nan=False))
    assert (report["return_min"], report["return_max"]) == ("-Infinity", "Infinity")
    assert "-inf to inf" in shown(summary)


def test_percentiles_are_of_hundred() -> None:
    reservoir = Reservoir()
    for value in range(1, 1001):
        reservoir.add(value)
    assert [reservoir.percentile(p) for p in (0.1, 50, 90, 99)] == [1, 500, 900, 990]


def test_a_full_reservoir_keeps_its_size_and_takes_later_values() -> None:
    reservoir = Reservoir(size=3)
    for value in range(3):
        reservoir.add(value)
    assert (reservoir.samples, reservoir.count) == ([0, 1, 2], 3)
    for _ in range(200):
        reservoir.add(9)
    assert (len(reservoir.samples), reservoir.count) == (3, 203)
    assert reservoir.samples == [9, 9, 9]


def test_episodes_that_could_not_be_written_are_counted_with_the_first_reason() -> None:
    summary = Summary()
    summary.add_unwritten(OSError("disk full"))
    summary.add_unwritten(OSError("later"))
    assert (summary.unwritten, summary.unwritten_reason) == (2, "disk full")
    summary.retried = 4
    report = summary.as_dict()
    assert (report["unwritten"], report["unwritten_reason"]) == (2, "disk full")
    text = shown(summary)
    for row in ("not written", "played again"):
        assert row in text
    empty = shown(Summary())
    for row in ("not written", "played again", "waits for capacity", "return range"):
        assert row not in empty


def test_reasons_beyond_a_hundred_are_counted_together_without_code_and_status() -> None:
    summary = Summary()
    for index in range(103):
        letters = chr(97 + index // 26) + chr(97 + index % 26)
        for _ in range(2):
            error = ValueError(f"reason {letters}")
            summary.add(Outcome(index, OutcomeStatus.ENV_ERROR, error=error))
    reasons = summary.failure_reasons
    assert len(reasons) == 101
    assert (reasons[0].reason, reasons[0].count, reasons[0].first_episode) == (
        "other reasons",
        6,
        100,
    )
    assert (reasons[0].code, reasons[0].status) == ("", "")
    assert {reason.count for reason in reasons[1:]} == {2}
    assert [reason.first_episode for reason in reasons[1:]] == list(range(100))


def test_the_clock_runs_from_the_first_start_to_the_last_outcome(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 10.0
    monkeypatch.setattr("openenv_async.rollouts.summary.time.perf_counter", lambda: now)
    summary = Summary()
    summary.start()
    now = 12.0
    summary.start()
    assert (summary.duration, summary.steps_per_second) == (0.0, None)
    summary.add(Outcome(0, OutcomeStatus.COMPLETED, steps=8))
    now = 14.0
    assert (summary.duration, summary.steps_per_second) == (2.0, 4.0)


def test_the_log_of_the_first_worker_that_said_something_is_kept() -> None:
    summary = Summary()
    for log_tail in (None, "first", "second"):
        error = WorkerDied("died", phase="step", log_tail=log_tail)
        summary.add(Outcome(0, OutcomeStatus.INFRA_ERROR, error=error))
    (failure,) = summary.failure_reasons
    assert (failure.count, failure.log_tail) == (3, "first")


def test_an_error_without_a_message_has_the_name_of_its_class() -> None:
    summary = Summary()
    summary.add(Outcome(0, OutcomeStatus.ENV_ERROR, error=KeyError()))
    (failure,) = summary.failure_reasons
    assert (failure.code, failure.reason) == ("KeyError", "KeyError")
    assert summary.failures == 1


def test_groups_that_an_earlier_process_played_are_not_counted() -> None:
    summary = Summary()
    for group in (7, 9):
        for member in (0, 1):
            made = Outcome(2 * group + member, OutcomeStatus.COMPLETED, group=group, member=member)
            made.started_at = 1.0
            summary.add(made)
    assert summary.groups == 2


def test_a_notebook_has_its_tables() -> None:
    summary = Summary(total=2)
    summary.add(Outcome(0, OutcomeStatus.COMPLETED, episode_return=4.0, steps=5))
    summary.add(Outcome(1, OutcomeStatus.INFRA_ERROR, error=OSError("<b>marker</b>")))
    summary.warn("loop_blocked", "<b>marker</b>")
    html = summary._repr_html_()
    assert "<b>" not in html
    assert html.count("&lt;b&gt;marker&lt;/b&gt;") == 2
    assert "4.000 ± 0.000" in html
    assert "failures" not in Summary()._repr_html_()
