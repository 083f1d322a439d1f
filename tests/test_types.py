"""Values that every layer shares: their defaults, what they refuse, and how an episode is noted."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest

from openenv_async.errors import EnvironmentRaised
from openenv_async.types import (
    MAX_SECONDS,
    EpisodeInfo,
    Limits,
    Outcome,
    OutcomeStatus,
    StepResult,
    Timeouts,
    Trajectory,
    Transition,
)


@pytest.mark.parametrize(
    ("terminated", "truncated", "done"),
    [(False, False, False), (True, False, True), (False, True, True), (True, True, True)],
)
def test_a_result_is_done_for_either_reason(terminated: bool, truncated: bool, done: bool) -> None:
    assert StepResult("seen", None, terminated, truncated).done is done


def test_each_result_has_its_own_info() -> None:
    one, other = StepResult("a"), StepResult("b")
    one.info["x"] = 1
    assert other.info == {}
    assert (one.reward, one.terminated, one.truncated) == (None, False, False)
    assert EpisodeInfo("e", 3).step_count == 0


def test_usable_are_the_episodes_that_ended_as_they_should() -> None:
    usable = {status for status in OutcomeStatus if status.usable}
    assert usable == {OutcomeStatus.COMPLETED, OutcomeStatus.TRUNCATED}


def test_an_outcome_says_nothing_that_it_was_not_told() -> None:
    outcome = Outcome[str, int](3, OutcomeStatus.TIMEOUT)
    assert outcome == Outcome(3, OutcomeStatus.TIMEOUT, None, None, 0, 0.0, None, None)


def test_a_trajectory_notes_how_its_episode_began_and_ended() -> None:
    trajectory = Trajectory[str, int](0)
    trajectory.begin(None)
    assert (trajectory.episode_id, trajectory.seed) == (None, None)
    trajectory.begin(EpisodeInfo("e", 7, 9))
    assert (trajectory.episode_id, trajectory.seed) == ("e", 7)
    trajectory.finish(
        Outcome(0, OutcomeStatus.COMPLETED, episode_return=2.5, steps=4, duration=0.5)
    )
    assert trajectory == Trajectory(
        0, "e", 7, status=OutcomeStatus.COMPLETED, episode_return=2.5, steps=4, duration=0.5
    )


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (EnvironmentRaised("boom"), EnvironmentRaised.code, "boom"),
        (KeyError("a"), "KeyError", "'a'"),
    ],
)
def test_a_trajectory_notes_what_ended_its_episode(
    error: Exception, code: str, message: str
) -> None:
    trajectory = Trajectory[str, int](0)
    trajectory.finish(Outcome(0, OutcomeStatus.ENV_ERROR, error=error))
    assert (trajectory.error_code, trajectory.error_message) == (code, message)


def test_transitions_and_trajectories_share_no_lists() -> None:
    one = Transition("a", 1, "b")  # type: ignore[arg-type]  # only its defaults matter
    one.info["x"] = one.extra["x"] = 1
    other = Transition(0, "a", 1)
    assert (other.info, other.extra) == ({}, {})
    assert (other.reward, other.terminated, other.truncated) == (None, False, False)
    first, second = Trajectory[Any, Any](0), Trajectory[Any, Any](1)
    first.transitions.append(other)
    first.reset_info["x"] = first.extra["x"] = 1
    assert (second.transitions, second.reset_info, second.extra) == ([], {}, {})


# -- timeouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 1, 0.001, MAX_SECONDS, np.float32(2.5), np.int64(3)])
def test_a_timeout_is_a_positive_number_or_none(value: Any) -> None:
    held = Timeouts(step=value).step
    assert held == value
    assert held is None or type(held) in (int, float)


@pytest.mark.parametrize(
    "value", [0, -1, True, False, "3", MAX_SECONDS * 1.01, float("nan"), float("inf"), 10**400, [1]]
)
@pytest.mark.parametrize("name", ["connect", "write"])
def test_another_timeout_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"timeout '{name}' must be a positive number"):
        Timeouts(**{name: value})


def test_timeouts_have_their_documented_defaults() -> None:
    defaults = {item.name: getattr(Timeouts(), item.name) for item in fields(Timeouts)}
    assert defaults == {
        "connect": 10.0,
        "open": 60.0,
        "reset": 60.0,
        "step": 60.0,
        "state": 30.0,
        "close": 10.0,
        "episode": None,
        "idle": 1800.0,
        "lease": 180.0,
        "resume": 60.0,
        "write": 30.0,
    }


def test_timeouts_are_changed_in_a_copy() -> None:
    one = Timeouts(step=1.0)
    other = one.replace(reset=2.0, step=None)
    assert (other.reset, other.step, other.connect) == (2.0, None, one.connect)
    assert (one.step, one.reset) == (1.0, 60.0)
    with pytest.raises(TypeError, match="unknown timeout 'rest'; known: connect, open"):
        one.replace(rest=1.0)
    with pytest.raises(FrozenInstanceError):
        one.step = 3.0  # type: ignore[misc]  # which it refuses


def test_timeouts_come_from_the_environment_of_a_process() -> None:
    variables = {
        "OPENENV_TIMEOUT_STEP": "30",
        "OPENENV_TIMEOUT_IDLE": "None",
        "OPENENV_TIMEOUT_LEASE": "0",
        "OPENENV_STEP": "7",
    }
    assert Timeouts.from_environ(variables) == Timeouts(step=30.0, idle=None, lease=None)
    assert Timeouts.from_environ({}) == Timeouts()
    with pytest.raises(ValueError, match="OPENENV_TIMEOUT_OPEN must be seconds or 'none', got 'x'"):
        Timeouts.from_environ({"OPENENV_TIMEOUT_OPEN": "x"})


# -- limits ---------------------------------------------------------------------------------------

POSITIVE = ("max_message_size", "max_batch_size", "chunk_size", "max_frames")


@pytest.mark.parametrize("name", [item.name for item in fields(Limits)])
def test_a_limit_is_a_whole_number(name: str) -> None:
    least = 1 if name in POSITIVE else 0
    assert getattr(Limits(**{name: least}), name) == least
    wrong: list[Any] = [least - 1, True, 1.5, None, "1"]
    for value in wrong:
        with pytest.raises(
            ValueError, match=f"'{name}' must be a whole number of at least {least}"
        ):
            Limits(**{name: value})


def test_limits_have_their_documented_defaults() -> None:
    mib = 1024 * 1024
    defaults = {item.name: getattr(Limits(), item.name) for item in fields(Limits)}
    assert defaults == {
        "max_message_size": 64 * mib,
        "max_batch_size": mib // 4,
        "chunk_size": mib,
        "max_channels": 65_536,
        "max_retained_size": 16 * mib,
        "max_credit": 1024,
        "max_abandoned_calls": 16,
        "max_error_size": 16 * 1024,
        "max_frames": 16_384,
        "max_containers": 65_536,
        "max_bad_frames": 256,
        "max_unsent_size": 12 * mib,
        "max_retained_total": 64 * mib,
        "max_shared_size": 256 * mib,
    }


def test_notebooks_show_outcomes_and_trajectories_escaped() -> None:
    marker = "<b>marker</b>"
    steps = [Transition(t, marker, {"text": marker}, 1.0) for t in range(60)]
    record = Trajectory(3, "e", 7, steps, marker)
    outcome = Outcome(3, OutcomeStatus.POLICY_ERROR, error=ValueError(marker), trajectory=record)
    record.finish(outcome)
    shown = outcome._repr_html_()
    assert "<b>" not in shown
    assert shown.count("&lt;b&gt;marker") == 2 * 50 + 2
    assert "the first 50; 10 more" in shown
    assert "<details>" in shown
    assert "ValueError" in shown
    assert "<details>" not in Outcome(0, OutcomeStatus.COMPLETED)._repr_html_()
