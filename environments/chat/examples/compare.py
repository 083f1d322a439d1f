"""Returns of skill, chance and cheats on every task of a split: ``python examples/compare.py``."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections.abc import Callable
from typing import Any

from chat_env import ChatEnv
from chat_env.environment import ChatEnvironment
from chat_env.policies import CHEATS, SKILLS, guess, oracle

from openenv_async import serve
from openenv_async.rollouts import RandomPolicy, collect_all, fetch_schema


async def compare(split: str) -> dict[str, list[float]]:
    """Return the returns of each policy; every policy plays the same tasks."""
    returns: dict[str, list[float]] = {}
    async with serve(ChatEnvironment) as url:
        random_policy = RandomPolicy((await fetch_schema(url))["action"], 0)
        policies: dict[str, Callable[..., Any]] = {
            "valid answers at random": guess,
            "random actions": random_policy,
            **{f"cheat: {name}": policy for name, policy in CHEATS.items()},
            **{f"skill: {name}": policy for name, policy in SKILLS.items()},
            "oracle": oracle,
        }
        for name, policy in policies.items():
            outcomes = await collect_all(
                lambda: ChatEnv(url), policy, tasks=split, concurrency=16, seeds=0
            )
            assert all(outcome.status.usable for outcome in outcomes), outcomes
            returns[name] = [outcome.episode_return or 0.0 for outcome in outcomes]
    return returns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--split", default="test")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    returns = asyncio.run(compare(args.split))
    if args.json:
        print(json.dumps({name: statistics.mean(each) for name, each in returns.items()}))
        return
    for name, each in returns.items():
        spread = statistics.stdev(each) / len(each) ** 0.5
        print(f"{args.split}, {name}: {statistics.mean(each):.3f} ± {spread:.3f} ({len(each)})")


if __name__ == "__main__":
    main()
