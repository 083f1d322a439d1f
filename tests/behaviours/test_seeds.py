"""Seeds mean something: reported, resolved, and per session."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from openenv_async import Environment, GenericEnvClient, HTTPEnvClient, serve
from openenv_async.testing import check_environment


class Walk(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """A random walk with a generator of its own."""

    isolation = "thread"

    def reset(self, *, seed: int | None = None) -> dict[str, Any]:
        self.random = random.Random(seed)
        self.place = 0.0
        return {"place": self.place, "seed": seed}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.place += self.random.gauss(action["drift"], 1.0)
        return {"place": self.place, "reward": -abs(self.place)}


class Careless(Walk):
    """Takes a seed, and draws from the generator that all share."""

    def reset(self, *, seed: int | None = None) -> dict[str, Any]:
        result = super().reset(seed=seed)
        self.random = random  # type: ignore[assignment]  # that is the carelessness
        return result


async def trace(url: str, seed: int | None, steps: int = 20) -> tuple[Any, ...]:
    async with GenericEnvClient(url) as env:
        result = await env.reset(seed=seed)
        seen = [result.observation["place"]]
        for step in range(steps):
            result = await env.step({"drift": step % 3})
            seen += [result.observation["place"], result.reward]
            await asyncio.sleep(0)
        assert env.episode is not None
        return (env.episode.seed, *seen)


async def test_sixteen_sessions_with_one_seed_among_others() -> None:
    async with serve(Walk) as url:
        same = [trace(url, 7) for _ in range(16)]
        others = [trace(url, seed) for seed in range(100, 116)]
        mixed = [call for pair in zip(same, others, strict=True) for call in pair]
        traces = await asyncio.gather(*mixed)
    assert len(set(traces[0::2])) == 1
    assert len(set(traces[1::2])) == 16


@pytest.mark.parametrize("client", [GenericEnvClient, HTTPEnvClient])
async def test_a_seed_that_was_not_given_is_drawn_reported_and_good_for_a_repeat(
    client: Any,
) -> None:
    async with serve(Walk) as url:
        async with client(url) as env:
            result = await env.reset()
            seed = env.episode.seed
            assert type(seed) is int
            assert result.observation["seed"] == seed  # the environment got a concrete one
            first = await trace(url, seed)
            await env.state()
            assert env.episode.seed == seed
            await env.reset(seed=3)
            assert env.episode.seed == 3
        assert await trace(url, seed) == first


async def test_an_environment_that_ignores_its_seed_is_found_out() -> None:
    for env, good in ((Walk, True), (Careless, False)):
        results = await check_environment(env, actions=[{"drift": 1.0}])
        failed = {result.name for result in results if result.status == "failed"}
        assert ("equal_seeds_give_equal_episodes" not in failed) == good
        assert failed <= {"equal_seeds_give_equal_episodes"}
