"""Scripted policies: the oracle solves, skill pays, and cheats are paid as chance is."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import pytest
from coding_env import CodingEnv
from coding_env.environment import CodingEnvironment
from coding_env.policies import CHEATS, SKILLS, guess, oracle

from openenv_async import serve
from openenv_async.rollouts import collect_all


async def mean(url: str, policy: Callable[..., Any], episodes: int) -> float:
    outcomes = await collect_all(
        lambda: CodingEnv(url), policy, episodes=episodes, concurrency=4, seeds=0
    )
    assert all(outcome.status.usable for outcome in outcomes), outcomes
    return statistics.mean(outcome.episode_return or 0.0 for outcome in outcomes)


@pytest.mark.parametrize(
    ("episodes", "cheats"),
    [
        (4, ["zero", "patch the grader", "submit the prompt"]),
        pytest.param(100, [*CHEATS], marks=pytest.mark.heavy),
    ],
    ids=["some", "all"],
)
async def test_skill_pays_and_cheats_do_not(episodes: int, cheats: list[str]) -> None:
    params = {"mode": "tasks", "split": None}
    async with serve(CodingEnvironment, params=params) as url:
        assert await mean(url, oracle, episodes) == 1.0
        skills = [await mean(url, policy, 3 * episodes) for policy in SKILLS.values()]
        assert skills == sorted(skills)
        assert skills[0] + 0.05 < skills[1] + 0.05 < skills[2] < 0.9
        chance = await mean(url, guess, episodes)
        assert chance < 0.05
        for name in cheats:
            assert abs(await mean(url, CHEATS[name], episodes) - chance) <= 0.05, name


async def test_a_forged_reply_is_not_paid() -> None:
    params = {"mode": "tasks", "tests": 2}  # each costs a worker that is ended for it
    async with serve(CodingEnvironment, params=params) as url:
        assert await mean(url, CHEATS["forge the reply"], 1) == 0.0
