"""Looking out before sleeping: only after short waits, for a moment, and with another core."""

from __future__ import annotations

from pathlib import Path

import pytest

from openenv_async.endpoints.alertness import (
    MOMENT,
    Alertness,
    available_cores,
    granted_cores,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def waited(alertness: Alertness, clock: Clock, seconds: float) -> bool:
    """A wait of so long; whether it began with looking out."""
    looks = alertness.begin()
    clock.now += seconds
    alertness.end()
    return looks


def test_a_wait_is_looked_out_for_after_a_short_one_only() -> None:
    clock = Clock()
    alertness = Alertness(2, clock)
    assert waited(alertness, clock, MOMENT / 2)
    assert waited(alertness, clock, MOMENT * 5)
    assert not waited(alertness, clock, MOMENT * 5)
    assert not waited(alertness, clock, MOMENT / 2)
    assert waited(alertness, clock, MOMENT / 2)


def test_looking_out_ends_after_a_moment_or_with_the_wait() -> None:
    clock = Clock()
    alertness = Alertness(2, clock)
    assert not alertness.goes_on()
    alertness.begin()
    assert alertness.goes_on()
    clock.now += MOMENT * 1.01
    assert not alertness.goes_on()
    alertness.begin()
    assert alertness.goes_on()
    alertness.end()
    assert not alertness.goes_on()


def test_an_end_without_a_wait_says_nothing_about_the_peer() -> None:
    clock = Clock()
    alertness = Alertness(2, clock)
    waited(alertness, clock, MOMENT * 5)
    alertness.end()
    assert not alertness.begin()


@pytest.mark.parametrize(("cores", "looks"), [(1, False), (1.5, False), (2, True), (64, True)])
def test_nobody_looks_out_where_the_peer_could_not_work(cores: float, looks: bool) -> None:
    assert Alertness(cores).begin() is looks


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, float("inf")),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, float("inf")),
        ({}, float("inf")),
    ],
)
def test_a_quota_bounds_the_cores(tmp_path: Path, files: dict[str, str], cores: float) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert granted_cores(tmp_path) == cores


def test_there_is_a_core() -> None:
    assert available_cores() > 0
