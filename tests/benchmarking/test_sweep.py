"""The knee: which levels are measured, what breaks them, and what is said of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async import EngineOptions, Environment, serve
from openenv_async.benchmarking import Bounds, Level, Load, sweep
from openenv_async.benchmarking.sweep import climb
from openenv_async.errors import ServerError
from openenv_async.testing import BenchEnvironment

LOAD = Load(seconds=0.1, warmup=0.02)


@given(st.integers(0, 5000), st.integers(1, 5000))
async def test_the_knee_is_found_to_an_eighth(knee: int, most: int) -> None:
    asked: list[int] = []

    async def measure(sessions: int) -> Level:
        asked.append(sessions)
        return Level(sessions, broke=None if sessions <= knee else "p99", kind="p99")

    levels = await climb(measure, most)
    held = max((level.sessions for level in levels if level.broke is None), default=0)
    assert [level.sessions for level in levels] == sorted(set(asked))
    assert held <= min(knee, most)
    assert min(knee, most) - held <= max(1, held // 8)
    assert len(asked) <= 24


async def test_one_hiccup_decides_nothing() -> None:
    seen: set[int] = set()

    async def measure(sessions: int) -> Level:
        first = sessions not in seen
        seen.add(sessions)
        return Level(sessions, broke="p99" if first and sessions == 4 else None)

    levels = await climb(measure, 16)
    assert [(level.sessions, level.broke) for level in levels] == [
        (number, None) for number in (1, 2, 4, 8, 16)
    ]


async def test_a_sweep_of_a_server() -> None:
    levels: list[Level] = []
    async with serve(BenchEnvironment) as url:
        report = await sweep(url, LOAD, Bounds(8), target="bench", on_level=levels.append)
    assert report.sessions == 8
    assert report.levels == levels
    assert "stands at least 8 sessions of bench at p99 < 100 ms" in report.sentence
    assert "nothing broke" in report.limited_by
    assert report.memory_per_session is not None
    assert levels[-1].memory_bytes is not None


async def test_a_full_server_is_the_limit() -> None:
    async with serve(BenchEnvironment, options=EngineOptions(max_sessions=3)) as url:
        report = await sweep(url, LOAD, Bounds(64))
    assert report.sessions == 3
    assert "server_busy" in report.limited_by
    assert report.levels[-1].kind == "opening"


class Fails(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """An environment whose steps fail as soon as a second session is open."""

    isolation = "inline"
    open_now = 0

    def __init__(self) -> None:
        type(self).open_now += 1

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        if type(self).open_now > 1:
            raise RuntimeError("crowded")
        return {}

    def close(self) -> None:
        type(self).open_now -= 1


async def test_failures_and_memory_break_a_level() -> None:
    async with serve(Fails) as url:
        report = await sweep(url, LOAD, Bounds(8))
        assert report.sessions == 1
        assert report.limited_by.startswith("errors")
        with pytest.raises(ServerError, match="MiB of memory"):
            await sweep(url, LOAD, Bounds(8, max_memory=1))


@pytest.mark.parametrize(
    ("level", "said"),
    [
        (Level(2, machine_cpu=0.95), "every core"),
        (Level(2, server_cores=0.99, client_cores=0.4), "of the server"),
        (Level(2, server_cores=0.5, client_cores=1.0), "load generator"),
        (Level(2, server_cores=0.1, client_cores=0.1), "waiting inside"),
    ],
)
async def test_what_gave_out_first(level: Level, said: str) -> None:
    from openenv_async.benchmarking.sweep import _limit

    assert said in _limit(dataclasses.replace(level, broke="p99 200 ms", kind="p99"), 1)


@pytest.mark.parametrize(
    "wrong", [{"max_sessions": 0}, {"max_p99": 0.0}, {"max_failures": 1.0}, {"max_memory": 0}]
)
def test_bounds_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="max_"):
        Bounds(**wrong)
