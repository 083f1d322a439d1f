"""Play on the environment that is certified."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from openenv_async import serve
from openenv_async.checks.certify.subject import Returns, Subject
from openenv_async.checks.registry import CheckFailed, Skipped
from openenv_async.checks.validation.candidate import Candidate
from openenv_async.spec import EnvironmentSpec
from tests.checks.certify import broken


def subject(url: str, **given: Any) -> Subject:
    book = EnvironmentSpec(broken.Good).tasks
    candidate = Candidate(url=url, schema={"action": {"type": "object"}})
    options = {"split": "train", "tasks": 64, "episodes": 8, **given}
    return Subject(candidate, broken.STATED, book, **options)


async def test_the_oracle_alone_sees_the_private_part() -> None:
    seen: list[Any] = []

    def looks(observation: Any, turn: Any) -> broken.Answer:
        seen.append(dict(turn.task.private))
        return broken.Answer("?")

    async with serve(broken.Good) as url:
        await subject(url).play(looks, 2)
        await subject(url).play(looks, 2, privileged=True)
    assert seen[:2] == [{}, {}]
    assert all(private["answer"] for private in seen[2:])


async def test_all_policies_play_the_same_tasks_and_later_ones_go_on() -> None:
    async with serve(broken.Good) as url:
        one = await subject(url).play(broken.multiplies, 6)
        first = await subject(url).play(broken.appends_a_zero, 3)
        rest = await subject(url).play(broken.appends_a_zero, 3, first=3)
        round_again = await subject(url).play(broken.multiplies, 70)
    ids = sorted(outcome.task.id for outcome in one if outcome.task)
    assert sorted(outcome.task.id for outcome in (*first, *rest) if outcome.task) == ids
    assert len({outcome.task.id for outcome in round_again if outcome.task}) == 64


@pytest.mark.parametrize(("limit", "episodes"), [(None, 8), (0.05, 8), (0.5, 128)])
async def test_more_is_played_while_the_mean_is_near_the_limit(
    limit: float | None, episodes: int
) -> None:
    async with serve(broken.Good) as url:
        found = await subject(url).measured(broken.appends_a_zero, limit)
    assert len(found.values) == episodes or (limit == 0.05 and len(found.values) <= 32)


async def test_chance_is_measured_once() -> None:
    async with serve(broken.Good) as url:
        certified = subject(url)
        assert await certified.chance() == 0.0
        assert await certified.limit() == pytest.approx(0.05)
        played = certified.returns[2]
        await certified.limit()
    assert certified.returns[2] == played


async def test_without_any_reward_there_is_no_score() -> None:
    class Free(broken.Good):
        def step(self, action: broken.Answer) -> broken.Seen:
            return broken.Seen("", done=True)

    async with serve(Free) as url:
        with pytest.raises(Skipped, match="gives no reward"):
            await subject(url).measured(broken.multiplies)


async def test_an_episode_that_fails_is_no_score() -> None:
    class Breaks(broken.Good):
        def step(self, action: broken.Answer) -> broken.Seen:
            raise RuntimeError("out of order")

    async with serve(Breaks) as url:
        with pytest.raises(CheckFailed, match=r"4 of 4 episodes ended with env_error: .*order"):
            await subject(url).play(broken.multiplies, 4)


async def test_after_episodes_that_hang_nothing_more_is_played(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hangs(broken.Good):
        isolation = "thread"
        calls = 0

        def step(self, action: broken.Answer) -> broken.Seen:
            Hangs.calls += 1
            forever.wait(1)
            return broken.Seen("", done=True)

    forever = threading.Event()
    monkeypatch.setattr("openenv_async.checks.certify.subject._EPISODE_TIMEOUT", 0.3)
    async with serve(Hangs) as url:
        hanging = subject(url)
        with pytest.raises(CheckFailed, match="4 of 4 episodes ended with timeout"):
            await hanging.play(broken.multiplies, 4)
        calls = Hangs.calls
        with pytest.raises(CheckFailed, match=r"not played: 4 episodes before took"):
            await hanging.play(broken.multiplies, 4)
        assert Hangs.calls == calls
        forever.set()


def test_returns() -> None:
    found = Returns([0.0, 1.0, 1.0, 0.0])
    assert (found.mean, str(found)) == (0.5, "0.5 (of 4 episodes)")
    assert found.error == pytest.approx(0.2887, abs=1e-4)
