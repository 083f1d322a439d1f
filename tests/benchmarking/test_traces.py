"""Recorded episodes as a load: what is kept of them, and that sessions play it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from openenv_async import Environment, serve
from openenv_async.benchmarking import Load, RecordedEpisode, bench, read_trace
from openenv_async.types import Mistake, Trajectory, Transition


def episode(index: int, *steps: Transition) -> Trajectory:
    return Trajectory(index, "e", 7 + index, list(steps), reset_options={"level": index})


def test_actions_and_think_times_are_kept_and_mistakes_are_thinking() -> None:
    wrong = Mistake("refused_action", "no", "invalid_action")
    trace = read_trace(
        [
            episode(0),
            episode(
                1,
                Transition(0, "o", "a", timings={"policy": 0.5, "environment": 9.0}),
                Transition(1, "o", "bad", mistake=wrong, timings={"policy": 1.0}),
                Transition(1, "o", "b", timings={"policy": 2.0}),
                Transition(2, "o", "c"),
            ),
        ],
        think=0.5,
    )
    assert trace == [RecordedEpisode(8, {"level": 1}, [(0.25, "a"), (1.5, "b"), (0.0, "c")])]


@pytest.mark.parametrize("think", [-1.0, float("nan"), float("inf")])
def test_a_factor_that_makes_no_sense(think: float) -> None:
    with pytest.raises(ValueError, match="factor"):
        read_trace([episode(0, Transition(0, 0, 1))], think=think)


def test_a_trace_without_steps() -> None:
    with pytest.raises(ValueError, match="no episode with a step"):
        read_trace([episode(0)])


class Notes(Environment[Any, Any, Any]):
    isolation = "inline"
    seen: ClassVar[set[tuple[Any, ...]]] = set()

    def reset(self, seed: int, level: int) -> int:
        self.begun = (seed, level)
        self.seen.add(self.begun)
        return 0

    def step(self, action: Any) -> int:
        self.seen.add((*self.begun, action))
        return 0


async def test_sessions_play_the_trace() -> None:
    trace = [RecordedEpisode(n, {"level": n}, [(0.0, f"a{n}"), (0.001, f"b{n}")]) for n in (1, 2)]
    async with serve(Notes) as url:
        load = Load(sessions=2, seconds=0.2, warmup=0.0)
        report = await bench(url, load, trace=trace)
    assert report.steps > 0
    assert report.failures == {}
    each = ((n, n, *action) for n in (1, 2) for action in ((), (f"a{n}",), (f"b{n}",)))
    assert set(each) == Notes.seen
