"""Returns of skill, chance and cheats: ``python examples/compare.py [--episodes 200]``."""

from __future__ import annotations

import argparse
import asyncio
import functools
import statistics
from collections.abc import Callable
from typing import Any, get_args

from repl_env import REPLEnv
from repl_env.environment import REPLEnvironment
from repl_env.policies import CHEATS, SKILLS, guess, oracle
from repl_env.tasks import LENGTH, Split

from openenv_async import serve
from openenv_async.rollouts import RandomPolicy, collect_all, fetch_schema


async def compare(episodes: int, length: int) -> None:
    for split in get_args(Split):
        params = {"split": split, "context_length": length}
        async with serve(REPLEnvironment, params=params) as url:
            random_policy = RandomPolicy((await fetch_schema(url))["action"], 0)
            policies: dict[str, Callable[..., Any]] = {
                "valid answers at random": guess,
                "random actions": random_policy,
                **{f"cheat: {name}": policy for name, policy in CHEATS.items()},
                **{f"skill: {name}": policy for name, policy in SKILLS.items()},
                "oracle": oracle(split, length),
            }
            for name, policy in policies.items():
                client = functools.partial(REPLEnv, url)
                outcomes = await collect_all(
                    client, policy, episodes=episodes, concurrency=8, seeds=0
                )
                returns = [o.episode_return for o in outcomes if o.episode_return is not None]
                assert len(returns) == episodes
                spread = statistics.stdev(returns) / episodes**0.5
                print(f"{split}, {name}: {statistics.mean(returns):.3f} ± {spread:.3f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--length", type=int, default=LENGTH)
    given = parser.parse_args()
    asyncio.run(compare(given.episodes, given.length))
