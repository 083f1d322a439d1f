"""Warnings of a run while it goes on."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import math
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest
from rich.console import Console

from openenv_async import Environment, Outcome, OutcomeStatus, StepResult
from openenv_async.rollouts import Stop, Summary, collect, collect_all
from openenv_async.rollouts.run import Rollout
from openenv_async.rollouts.watching import LoopWatch, RunWatch, place_of
from openenv_async.testing import ManualClock
from tests.rollouts.environments import Counting, Move


@dataclass
class Running:
    """A rollout as far as a watch looks at it."""

    index: int = 0
    steps: int = 0
    seconds: float = 1.0
    phase: str = "step"
    policy_seconds: float = 0.0
    environment_seconds: float = 0.0
    policy_awaits: bool = False


class Watched:
    """A watch on rollouts that are made up, and its summary."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock()
        self.summary = Summary()
        self.running: list[Any] = []
        self.sessions = (64, 0)
        self.watch = RunWatch(
            self.summary, lambda: self.running, lambda: self.sessions, clock=self.clock, **options
        )

    def end(self, count: int, **values: Any) -> None:
        for _ in range(count):
            self.watch.ended(Running(**values))  # type: ignore[arg-type]  # all that it looks at

    def look(self, seconds: float = 1.0) -> list[str]:
        self.clock.advance(seconds)
        self.watch.look()
        return [warning.kind for warning in self.summary.warnings]


def test_an_episode_far_beyond_the_others_is_named_with_what_it_waits_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = Watched()
    watched.end(19, steps=24)
    long = Running(index=17, steps=5_012, phase="policy")
    watched.running = [long, Running(index=18, steps=30)]
    assert watched.look() == []  # 19 are too few to compare with
    watched.end(1, steps=24)
    assert watched.look() == ["episode_without_end"]
    [warning] = watched.summary.warnings
    assert warning.episode == 17
    assert warning.message == (
        "episode 17 has no end: it is at step 5,012, where half of those that ended had at most"
        " 24; it is in the policy. Bound episodes with max_steps or timeout"
    )
    assert watched.look() == ["episode_without_end"]
    assert warning.count == 1  # the same episode again
    watched.running.append(Running(index=40, steps=900))
    watched.look()
    assert warning.count == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_bounded_and_short_episodes_are_never_long() -> None:
    watched = Watched(max_steps=10_000, timeout=3600.0)
    watched.end(30, steps=2)
    watched.running = [Running(steps=9_000, seconds=3_000.0)]
    assert watched.look() == []
    watched = Watched()
    watched.end(30, steps=2)
    watched.running = [Running(steps=100)]
    assert watched.look() == []


@pytest.mark.parametrize(("ended", "said"), [
    (0, "it has run for 20 min, at step 3; it is in reset()"),
    (30, "it has run for 20 min, where half of those that ended took at most 2.0 s"),
])  # fmt: skip
def test_an_episode_that_does_not_end_for_minutes_is_named(ended: int, said: str) -> None:
    watched = Watched()
    watched.end(ended, steps=3, seconds=2.0)
    watched.running = [Running(index=3, steps=3, seconds=1_200.0, phase="reset")]
    assert watched.look() == ["episode_without_end"]
    assert said in watched.summary.warnings[0].message


def test_a_look_at_thousands_of_long_episodes_is_short() -> None:
    """The medians are made once for all of them: a look is in the loop's thread."""
    watched = Watched()
    for index in range(1_000):
        watched.end(1, steps=500 + index)
    watched.running = [Running(index=i, steps=5_000, seconds=900.0) for i in range(4_000)]
    begun = time.process_time()
    watched.look()
    assert time.process_time() - begun < 0.1
    assert watched.watch._usual == (999.5, 1.0)


def test_sessions_that_wait_for_room_are_told_after_a_while() -> None:
    watched = Watched()
    watched.sessions = (64, 40)
    assert watched.look(20.0) == []
    watched.sessions = (64, 10)
    assert watched.look(20.0) == []  # it went on meanwhile
    watched.sessions = (64, 40)
    watched.look(29.0)
    assert watched.look(1.0) == ["sessions_starved"]
    assert watched.look(100.0) == ["sessions_starved"]
    [warning] = watched.summary.warnings
    assert warning.count == 1
    assert "40 of 64 sessions have waited" in warning.message
    assert "set concurrency to 24" in warning.message


def test_a_slow_policy_is_told() -> None:
    watched = Watched()
    watched.end(10, policy_seconds=95.0, environment_seconds=5.0, policy_awaits=True)
    assert watched.look(29.0) == []
    assert watched.look(1.0) == ["bound_by_policy"]
    assert "takes 95% of the time of the episodes" in watched.summary.warnings[0].message
    fast = Watched()
    fast.end(10, policy_seconds=5.0, environment_seconds=95.0, policy_awaits=True)
    assert fast.look(60.0) == []


def test_that_a_language_model_takes_the_time_is_a_fact_and_no_warning() -> None:
    watched = Watched(model=True)
    watched.end(10, policy_seconds=95.0, environment_seconds=5.0, policy_awaits=True)
    assert watched.look(60.0) == []
    assert watched.summary.as_dict()["waited"] == {"policy": 950.0, "environment": 50.0}


@pytest.mark.parametrize("corrects", [False, True])
async def test_a_collection_says_whether_its_policy_is_a_model(
    corrects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Policy:
        corrects_mistakes = corrects

        def __call__(self, observation: Any) -> Move:
            return Move(1)

    told: list[bool] = []

    class Watch(RunWatch):
        def __init__(self, *args: Any, **options: Any) -> None:
            told.append(options["model"])
            super().__init__(*args, **options)

    monkeypatch.setattr("openenv_async.rollouts.collection.RunWatch", Watch)
    await collect_all(Counting, Policy(), episodes=1, max_steps=2)
    assert told == [corrects]


def test_a_sync_policy_is_measured_by_the_clock() -> None:
    """An environment that waits for the loop meanwhile counts as waiting for the policy."""
    watched = Watched()
    watched.running = [Running(policy_seconds=57.0, environment_seconds=900.0)]
    assert watched.look(60.0) == ["bound_by_policy"]
    assert "95% of the time, and" in watched.summary.warnings[0].message
    assert "BatchedPolicy" in watched.summary.warnings[0].message


def test_rewards_that_are_no_finite_numbers_are_told_as_they_come() -> None:
    summary = Summary()
    summary.add(Outcome(3, OutcomeStatus.COMPLETED, episode_return=math.inf))
    [warning] = summary.warnings
    assert "episode 3 was given an infinite reward" in warning.message
    summary.add(Outcome(4, OutcomeStatus.COMPLETED, episode_return=-math.inf))
    summary.add(Outcome(5, OutcomeStatus.COMPLETED, episode_return=1.0))
    assert (warning.count, warning.episode) == (2, 3)
    assert json.loads(json.dumps(summary.as_dict()))["warnings"][0]["count"] == 2


class NanRewards(Environment[Move, dict[str, Any], dict[str, Any]]):
    isolation = "inline"

    def reset(self, seed: int | None = None) -> dict[str, Any]:
        return {}

    def step(self, action: Move) -> StepResult[dict[str, Any]]:
        return StepResult({}, math.nan)


async def test_nan_rewards_are_told(caplog: pytest.LogCaptureFixture) -> None:
    summary = Summary()
    await collect_all(NanRewards, lambda seen: {"amount": 1}, episodes=3, summary=summary)
    [warning] = summary.warnings
    assert (warning.kind, warning.count) == ("reward_not_finite", 3)
    assert "was given the reward nan" in warning.message
    assert "counts as failed" in warning.message
    assert len(caplog.records) >= 1


def blocks(observation: Any) -> dict[str, int]:
    time.sleep(1.5)  # what is warned of
    return {"amount": 1}


async def test_what_blocks_the_loop_is_named(caplog: pytest.LogCaptureFixture) -> None:
    summary = Summary()
    await collect_all(
        Counting, blocks, episodes=1, concurrency=1, params={"goal": 3}, summary=summary
    )
    found = [warning for warning in summary.warnings if warning.kind == "loop_blocked"]
    assert found, "a policy of 1.5 s blocks"
    assert "by blocks (" in found[0].message
    assert "test_watching.py:" in found[0].message
    assert "asyncio.to_thread" in found[0].message


async def test_a_summary_has_what_was_waited_for() -> None:
    async def waits(observation: Any) -> dict[str, int]:
        await asyncio.sleep(0.1)
        return {"amount": 1}

    summary = Summary()
    await collect_all(Counting, waits, episodes=2, params={"goal": 2}, summary=summary)
    assert summary.policy_seconds >= 4 * 0.1 * 0.9
    assert 0 < summary.environment_seconds < summary.policy_seconds
    waited = summary.as_dict()["waited"]
    assert waited == {
        "policy": summary.policy_seconds, "environment": summary.environment_seconds,
    }  # fmt: skip
    out = io.StringIO()
    Console(file=out, width=80).print(summary.table())
    assert "time in policy" in out.getvalue()


async def test_a_policy_that_awaits_blocks_nothing() -> None:
    async def waits(observation: Any) -> dict[str, int]:
        await asyncio.sleep(1.2)
        return {"amount": 1}

    summary = Summary()
    await collect_all(
        Counting, waits, episodes=1, concurrency=1, params={"goal": 2}, summary=summary
    )
    assert [each for each in summary.warnings if each.kind == "loop_blocked"] == []


async def test_a_watch_leaves_no_thread() -> None:
    watch = LoopWatch(lambda seconds, place: None)
    watch.start()
    assert any(thread.name == "openenv-watch" for thread in threading.enumerate())
    watch.stop()
    watch.stop()
    assert not any(thread.name == "openenv-watch" for thread in threading.enumerate())


def test_a_place_is_in_code_of_the_users() -> None:
    found: list[str | None] = []

    def mine() -> None:
        json.loads('{"a": 1}', object_hook=lambda pairs: found.append(place_of(sys._getframe())))

    mine()
    [place] = found
    assert place is not None
    assert "test_watching.py" in place

    class Library:
        f_back = None

        class f_code:
            co_filename = json.__file__
            co_qualname = "loads"

    assert place_of(Library()) is None  # type: ignore[arg-type]  # a frame as far as it is looked at


async def test_a_collection_is_watched_while_it_runs() -> None:
    """An episode that never ends is told before it is stopped."""
    told = asyncio.Event()

    class Telling(Summary):
        def warn(self, kind: str, message: str, episode: int | None = None) -> None:
            super().warn(kind, message, episode)
            told.set()

    async def policy(observation: Any, turn: Any) -> dict[str, int]:
        return {"amount": 1 if turn.index else 0}

    summary, stop = Telling(), Stop()
    stream = collect(
        Counting, policy, episodes=40, concurrency=4, summary=summary, stop=stop, record=False
    )

    async def end() -> None:
        await told.wait()
        stop()

    ending = asyncio.create_task(end())
    outcomes = [outcome.index async for outcome in stream]
    await ending
    assert sorted(outcomes) == list(range(1, 40))
    kinds = [warning.kind for warning in summary.warnings]
    assert "episode_without_end" in kinds
    assert summary.running == 0


def test_seconds_of_a_rollout_are_those_since_it_began() -> None:
    assert 0.0 <= Rollout(lambda seen: 1).seconds < 60.0


async def test_a_collection_that_is_stopped_hands_over_what_has_ended() -> None:
    """Outcomes that nobody had asked for yet, too; an episode that runs gives nothing."""
    ended, stop = asyncio.Event(), Stop()

    class Counted(Summary):
        def add(self, outcome: Outcome) -> None:
            super().add(outcome)
            if self.episodes == 6:
                ended.set()

    async def policy(observation: Any, turn: Any) -> dict[str, int]:
        if turn.index >= 6:
            await asyncio.get_running_loop().create_future()
        return {"amount": 9}

    stream = collect(Counting, policy, episodes=100, concurrency=4, stop=stop, summary=Counted())
    first = await anext(stream)
    await ended.wait()
    assert stop() is True
    rest = [outcome async for outcome in stream]
    assert sorted(outcome.index for outcome in [first, *rest]) == list(range(6))
    assert {outcome.status for outcome in rest} == {OutcomeStatus.COMPLETED}


async def test_a_collection_that_is_stopped_before_it_began_plays_nothing() -> None:
    stop = Stop()
    assert stop() is False
    assert [o async for o in collect(Counting, blocks, episodes=100, stop=stop)] == []


async def test_only_some_of_the_episodes_are_played_each_as_among_all() -> None:
    def policy(observation: Any) -> dict[str, int]:
        return {"amount": 9}

    rows = [{"id": f"t{i}", "goal": i} for i in range(50)]
    whole = await collect_all(Counting, policy, episodes=20, seeds=100, tasks=rows, group_size=2)
    some = await collect_all(
        Counting, policy, episodes=20, seeds=100, tasks=rows, group_size=2, only=[3, 17]
    )
    assert [outcome.index for outcome in some] == [3, 17]
    for outcome in some:
        same = whole[outcome.index]
        assert outcome.task == same.task
        assert outcome.episode is not None
        assert same.episode is not None
        assert (outcome.group, outcome.member) == (same.group, same.member)
        assert outcome.episode.seed == same.episode.seed


def test_a_warning_is_logged_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "openenv_async.rollouts"):
        Summary().warn("odd", "at http://me:hunter22hunter@host")
    assert "hunter22" not in caplog.text
