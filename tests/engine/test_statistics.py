"""Histograms count by size; a step timer stands in for an executor for one request."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.engine import statistics
from openenv_async.engine.requests import Codecs
from openenv_async.engine.statistics import (
    PHASES,
    EngineStats,
    Histogram,
    StepTimer,
    TimedCodecs,
)
from openenv_async.protocol.frames import Reset, Step
from openenv_async.spec import EnvironmentSpec
from openenv_async.testing import BenchEnvironment, BenchObservation
from tests.helpers import pack

CODECS = Codecs(EnvironmentSpec(BenchEnvironment), "msgpack")
STEP = Step(1, 1, 0, pack({"message": "hi"}))


class Clock:
    """Moves a second with every look at it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(statistics, "perf_counter", self)

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


class Recording:
    """An executor that notes what it is asked."""

    timed = False
    direct = True

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []

    def start(self, call: Any, request: Any) -> None:
        self.asked.append(("start", request))

    def interrupt(self, call: Any) -> bool:
        self.asked.append(("interrupt", call))
        return True

    def credited(self, call: Any, units: int) -> None:
        self.asked.append(("credited", units))

    def abandon(self, call: Any) -> None:
        self.asked.append(("abandon", call))

    async def aclose(self) -> None:
        self.asked.append(("aclose", None))


class Call:
    """As much of a session as a timer touches."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.codecs: Any = CODECS


def armed() -> tuple[Any, Recording, Any]:
    executor = Recording()
    timer, call = StepTimer(), Call(executor)
    calls: Any = [call]
    timer.arm(calls, executor)
    return timer, executor, call


def test_durations_are_counted_by_size() -> None:
    histogram = Histogram()
    bounds = Histogram.bounds
    assert len(histogram.counts) == len(bounds) + 1
    for seconds in (0.0, 1e-5, 1.1e-5, 0.5, 300.0, 301.0, 1e6):
        histogram.add(seconds)
    assert histogram.counts[0] == 2  # the bound itself is in its bucket
    assert histogram.counts[1] == 1
    assert histogram.counts[bounds.index(1.0)] == 1
    assert histogram.counts[-2:] == [1, 2]
    assert histogram.count == 7
    assert histogram.sum == pytest.approx(0.5 + 601.0 + 1e6, abs=1e-3)
    assert list(bounds) == sorted(bounds)


def test_the_counters_begin_at_nothing_and_share_none() -> None:
    first, second = EngineStats(), EngineStats()
    first.errors["a"] = 1
    assert second.errors == {}
    names = [name for name in EngineStats.__slots__ if name != "errors"]
    assert {getattr(second, name) for name in names} == {0}


def test_one_step_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timer, executor, call = armed()
    Clock(monkeypatch)
    assert call.executor is timer
    assert (timer.timed, timer.direct) == (False, False)
    call.executor.start(call, STEP)
    assert call.executor is executor
    assert executor.asked == [("start", STEP)]
    codecs = call.codecs
    assert type(codecs) is TimedCodecs  # begun at 1
    assert codecs.place is CODECS.place
    for name in set(Codecs.__slots__) - {"place"}:
        assert getattr(codecs, name) is not None
    assert codecs.format == "msgpack"
    action = codecs.decode_action(STEP.payload)  # from 2 to 3
    assert action.message == "hi"
    payload = codecs.encode_observation(BenchObservation("hi"))  # from 4 to 5
    assert payload == CODECS.encode_observation(BenchObservation("hi"))
    assert {name: found.sum for name, found in timer.histograms.items()} == {
        "queue": 1.0,
        "env": 1.0,
        "serialize": 2.0,
    }
    codecs.decode_action(STEP.payload)
    codecs.encode_observation(BenchObservation("again"))
    assert [found.count for found in timer.histograms.values()] == [1, 1, 1]  # one step only
    assert codecs.encode_state({"a": 1}) == CODECS.encode_state({"a": 1})
    assert codecs.decode_any(codecs.encode_any([1])) == [1]


def test_a_step_elsewhere_tells_its_time_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    timer, _, call = armed()
    clock = Clock(monkeypatch)
    call.executor.start(call, STEP)
    clock.now = 5.0
    call.codecs.replied()
    found = timer.histograms
    assert list(found) == list(PHASES)
    assert [found[name].count for name in PHASES] == [0, 1, 0]
    assert found["env"].sum == 5.0  # from 1 to 6


def test_a_result_without_an_action_is_not_a_sample() -> None:
    """A reset is encoded with the same codecs, when a timed step was never run."""
    timer, _, call = armed()
    call.executor.start(call, STEP)
    call.codecs.encode_observation(BenchObservation("begun"))
    assert [found.count for found in timer.histograms.values()] == [0, 0, 0]


@pytest.mark.parametrize("request_", [Reset(1, 1), Step(1, 1, 0, b"", credit=2)])
def test_other_requests_are_not_timed(request_: Any) -> None:
    _, executor, call = armed()
    call.executor.start(call, request_)
    assert call.codecs is CODECS
    assert executor.asked == [("start", request_)]
    assert call.executor is executor


def test_only_sessions_of_that_executor_are_armed_and_each_once() -> None:
    executor = Recording()
    timer, one, other = StepTimer(), Call(executor), Call(Recording())
    calls: Any = [one, other]
    elsewhere = other.executor
    timer.arm(calls, executor)
    timer.arm(calls, executor)
    assert one.executor is timer
    assert other.executor is elsewhere
    assert timer.executor is executor


async def test_an_armed_session_is_run_by_its_executor() -> None:
    timer, executor, call = armed()
    executor.timed = True
    assert timer.interrupt(call) is True
    timer.credited(call, 3)
    timer.abandon(call)
    await timer.aclose()
    assert executor.asked == [
        ("interrupt", call),
        ("credited", 3),
        ("abandon", call),
        ("aclose", None),
    ]
