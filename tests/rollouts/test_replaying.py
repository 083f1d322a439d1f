"""Replay: what was recorded is played again, and the first difference is named."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openenv_async import Environment, GenericEnvClient, StepResult, serve
from openenv_async.rollouts import Trajectory, collect_all, open_writer, read_trajectories, replay
from openenv_async.rollouts.replaying import _compare
from tests.rollouts.environments import Counting, Move, RaisesInReset, RaisesInStep, Seen


class Drawing(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Draws arrays from its seed."""

    isolation = "inline"

    def reset(self, seed: int = 0, scale: float = 1.0) -> dict[str, Any]:
        self.rng = np.random.default_rng(seed)
        self.scale = scale
        return self.shown()

    def shown(self) -> dict[str, Any]:
        return {"drawn": self.rng.random((2, 2)) * self.scale, "nan": math.nan, "t": (1, b"x")}

    def step(self, action: dict[str, Any]) -> StepResult[dict[str, Any]]:
        return StepResult(self.shown(), float(self.rng.random()), info={"again": self.rng.random()})


class Slipping(Counting):
    """Counts otherwise from the second step on."""

    def step(self, action: Move) -> StepResult[Seen]:
        result = super().step(action)
        if self.total == 2:
            result.observation.total = 20
        return result


def move(observation: Any) -> dict[str, int]:
    return {"amount": 1}


async def recorded(env: Any, path: Path, **options: Any) -> list[Trajectory]:
    async with serve(env) as url:
        outcomes = await collect_all(url, move, episodes=2, seeds=5, **options)
    with open_writer(path) as writer:
        for outcome in outcomes:
            writer.write(outcome)
    return list(read_trajectories(path))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
async def test_the_same_environment_gives_the_same(tmp_path: Path, suffix: str) -> None:
    options = {"scale": 2.0}
    trajectories = await recorded(
        Drawing, tmp_path / f"a.{suffix}", max_steps=4, reset_options=options
    )
    async with serve(Drawing) as url, GenericEnvClient(url) as env:
        for trajectory in trajectories:
            assert await replay(env, trajectory) is None
            found = await replay(env, trajectory, reset_options={"scale": 1.0})
            assert found is not None
            assert (found.t, found.field, found.path) == (0, "observation", ".drawn[0, 0]")
            assert found.recorded == pytest.approx(2 * found.replayed)


async def test_the_first_difference_is_named(tmp_path: Path) -> None:
    (trajectory, _) = await recorded(Counting, tmp_path / "a.jsonl")
    async with serve(Slipping) as url, GenericEnvClient(url) as env:
        found = await replay(env, trajectory)
        assert str(found) == "step 2: observation.total was 2, is 20"
        assert await replay(env, trajectory, tolerance=18.0) is None
        assert await replay(env, trajectory, ignore=["observation"]) is None
        with pytest.raises(ValueError, match="cannot be ignored"):
            await replay(env, trajectory, ignore=["colour"])
    other = dataclasses.replace(trajectory)
    other.transitions = [dataclasses.replace(step) for step in trajectory.transitions]
    other.transitions[0].reward = None
    async with serve(Counting) as url, GenericEnvClient(url) as env:
        assert str(await replay(env, other)) == "step 1: reward was None, is 1.0"
        assert await replay(env, other, ignore=["reward"]) is None


async def test_failures_are_differences_and_failed_episodes_have_steps(tmp_path: Path) -> None:
    (whole, _) = await recorded(Counting, tmp_path / "a.jsonl")
    (failed, _) = await recorded(RaisesInStep, tmp_path / "b.jsonl")
    (unseeded, _) = await recorded(RaisesInReset, tmp_path / "c.jsonl")
    async with serve(RaisesInStep) as url, GenericEnvClient(url) as env:
        found = await replay(env, whole)
        assert found is not None
        assert (found.t, found.field) == (1, "error")
        assert "broken" in str(found)
    async with serve(Counting) as url, GenericEnvClient(url) as env:
        assert await replay(env, failed) is None
        with pytest.raises(ValueError, match="no seed"):
            await replay(env, unseeded)


@pytest.mark.parametrize(
    ("a", "b", "tolerance", "path"),
    [
        (1, 1.0, 0.0, None),
        (True, 1, 0.0, None),
        (None, 0, 0.0, ""),
        (math.nan, math.nan, 0.0, None),
        ("a", "b", 9.0, ""),
        ([1, 2], [1, 2, 3], 0.0, ""),
        ({"a": 1}, {"a": 1, "b": 2}, 0.0, ".b"),
        ({"a": [1, {"c": 2}]}, {"a": [1, {"c": 3}]}, 0.5, ".a[1].c"),
        (np.array([1, 2]), np.array([1, 2]), 0.0, None),
        (np.array([1.0, math.nan]), np.array([1.0, math.nan]), 0.0, None),
        (np.array([1, 2]), np.array([1.0, 2.0]), 0.0, ""),
        (np.array([[1.0, 2.0]]), np.array([[1.0, 2.1]]), 0.0, "[0, 1]"),
        (np.array([[1.0, 2.0]]), np.array([[1.0, 2.1]]), 0.2, None),
        (np.array(1), np.array(2), 0.0, ""),
        (np.array(["a"]), np.array(["b"]), 1.0, "[0]"),
    ],
)
def test_values_are_compared_all_the_way_down(
    a: Any, b: Any, tolerance: float, path: str | None
) -> None:
    found = _compare(a, b, tolerance, "")
    assert (found and found[0]) == path
