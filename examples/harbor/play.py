r"""Harbor tasks, each played with its reference solution and with nothing at all.

    python examples/harbor/play.py examples/harbor --episodes 100 \\
        --images '{"python:3.11-slim": "openenv-async-base:latest"}'

The solution must be worth 1, and nothing 0: what tells a task that grades from one that does not.
Needs a Docker Engine; ``--images`` names local images where no registry can be reached.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence

from openenv_async import EnvPool, StepResult, resolve
from openenv_async.compat.harbor.models import HarborAction

SOLVE = HarborAction("bash /solution/solve.sh", submit=True)
NOTHING = HarborAction(submit=True)


async def play(
    folder: str, *, episodes: int, at_once: int, images: dict[str, str]
) -> dict[str, list[float | None]]:
    """Play episodes over the tasks of a folder, by turns solved and left alone.

    Returns:
        The rewards by task and way, such as ``fix-script solved``.
    """
    target = resolve(f"harbor:{folder}")
    params = {"images": images, "with_solution": True}
    rewards: dict[str, list[float | None]] = {}
    async with EnvPool(target.with_arguments(params), sessions_per_worker=at_once) as pool:
        async with pool.session() as env:
            tasks = [task.id for task in await (await env.tasks()).range("all")]

        async def one(number: int) -> None:
            task = tasks[number // 2 % len(tasks)]
            solved = number % 2 == 0
            async with pool.session() as env:
                await env.reset(task_id=task)
                result: StepResult[object] = await env.step(SOLVE if solved else NOTHING)
            name = f"{task} {'solved' if solved else 'left alone'}"
            rewards.setdefault(name, []).append(result.reward)

        numbers = iter(range(episodes))

        async def player() -> None:
            for number in numbers:
                await one(number)

        await asyncio.gather(*(player() for _ in range(at_once)))
    return rewards


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, and print a line for each task and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--episodes", type=int, default=12)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--images", type=json.loads, default={})
    given = parser.parse_args(arguments)
    begun = time.monotonic()
    rewards = asyncio.run(
        play(given.folder, episodes=given.episodes, at_once=given.at_once, images=given.images)
    )
    right = True
    for name, got in sorted(rewards.items()):
        expected = 1.0 if name.endswith("solved") else 0.0
        right &= all(reward == expected for reward in got)
        sys.stdout.write(f"{name}: {len(got)} episodes, rewards {sorted(set(got), key=str)}\n")
    sys.stdout.write(f"{sum(map(len, rewards.values()))} episodes in"
                     f" {time.monotonic() - begun:.1f} s\n")  # fmt: skip
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
