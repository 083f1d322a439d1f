"""Scripted policies: the oracle solves, skill pays, and cheats are paid as chance is."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, get_args

import pytest
from repl_env import REPLEnv
from repl_env.environment import REPLEnvironment
from repl_env.policies import CHEATS, SKILLS, guess, oracle
from repl_env.tasks import Split

from openenv_async import serve
from openenv_async.rollouts import collect_all


async def mean(url: str, policy: Callable[..., Any], episodes: int) -> float:
    outcomes = await collect_all(
        lambda: REPLEnv(url), policy, episodes=episodes, concurrency=4, seeds=0
    )
    assert all(outcome.status.usable for outcome in outcomes), outcomes
    return statistics.mean(outcome.episode_return or 0.0 for outcome in outcomes)


@pytest.mark.parametrize(
    ("episodes", "splits", "cheats"),
    [
        (6, ["test"], ["looks for the answer", "equals everything"]),
        pytest.param(200, get_args(Split), [*CHEATS], marks=pytest.mark.heavy),
    ],
    ids=["some", "all"],
)
async def test_skill_pays_and_cheats_do_not(
    episodes: int, splits: list[Split], cheats: list[str]
) -> None:
    for split in splits:
        async with serve(REPLEnvironment, params={"split": split}) as url:
            assert await mean(url, oracle(split), episodes) == 1.0
            skims, greps, tabulates = [
                await mean(url, policy, 2 * episodes) for policy in SKILLS.values()
            ]
            chance = await mean(url, guess, episodes)
            assert chance <= 0.05
            assert skims < greps - 0.1 < tabulates - 0.2 < 0.7, (skims, greps, tabulates)
            assert episodes < 100 or skims > chance
            for name in cheats:
                assert abs(await mean(url, CHEATS[name], episodes) - chance) <= 0.05, name
