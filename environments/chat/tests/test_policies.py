"""Scripted policies: the oracle solves, skill pays, and cheats are paid as chance is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from chat_env.environment import ChatEnvironment
from chat_env.policies import CHEATS, SKILLS, guess, oracle

from openenv_async.rollouts import collect_all

SCRIPT = Path(__file__).parents[1] / "examples" / "compare.py"


def check(means: dict[str, float]) -> None:
    assert means["oracle"] >= 0.98
    skills = [means[f"skill: {name}"] for name in SKILLS]
    assert skills[0] + 0.1 < skills[1] < skills[2] - 0.1
    chance = means["valid answers at random"]
    assert chance <= 0.25
    for name, mean in means.items():
        if name.startswith("cheat") or name == "random actions":
            assert mean <= chance + 0.05, name


async def test_skill_pays_and_cheats_do_not() -> None:
    cheats = ("the last word of the prompt", "the first option", "a tool that scores")
    policies: dict[str, Callable[..., Any]] = {
        "oracle": oracle,
        "valid answers at random": guess,
        **{f"skill: {name}": policy for name, policy in SKILLS.items()},
        **{f"cheat: {name}": CHEATS[name] for name in cheats},
    }
    means = {}
    for name, policy in policies.items():
        outcomes = await collect_all(ChatEnvironment, policy, tasks="test", concurrency=8, seeds=0)
        assert all(outcome.status.usable for outcome in outcomes), outcomes
        means[name] = fmean(outcome.episode_return or 0.0 for outcome in outcomes)
    check(means)


@pytest.mark.heavy
@pytest.mark.parametrize("split", ["train", "test"])
def test_so_it_is_for_every_cheat_and_task(split: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--split", split, "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    means = json.loads(done.stdout)
    assert {f"cheat: {name}" for name in CHEATS} < means.keys()
    check(means)
