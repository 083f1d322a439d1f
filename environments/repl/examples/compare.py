"""The example policy against a random one: ``python examples/compare.py [--episodes 200]``."""

from __future__ import annotations

import argparse
import asyncio
import functools
import statistics

from repl_env import REPLEnv
from repl_env.environment import REPLEnvironment
from repl_env.policies import GrepPolicy

from openenv_async import serve
from openenv_async.rollouts import RandomPolicy, collect_all, fetch_schema


async def compare(episodes: int) -> None:
    for split in ("train", "test"):
        params = {"split": split}
        async with serve(REPLEnvironment, params=params) as url:
            random_policy = RandomPolicy((await fetch_schema(url))["action"], 0)
            for name, policy in (("random", random_policy), ("grep", GrepPolicy())):
                client = functools.partial(REPLEnv, url)
                outcomes = await collect_all(
                    client, policy, episodes=episodes, concurrency=16, seeds=0
                )
                returns = [o.episode_return for o in outcomes if o.episode_return is not None]
                assert len(returns) == episodes
                spread = statistics.stdev(returns) / episodes**0.5
                print(f"{split} {name}: mean return {statistics.mean(returns):.3f} ± {spread:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--episodes", type=int, default=200)
    asyncio.run(compare(parser.parse_args().episodes))
