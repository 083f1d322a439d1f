"""The share of the time that many concurrent episodes keep a batched policy busy.

A model that takes 20 ms a batch is the scarce thing of a training run; the environments and what
carries them should never let it wait. ``python -m benchmarks.policy_busy`` plays 256 episodes at
once with such a policy (it sleeps, as one that computes on an accelerator does for the CPU) and
reports the share of the time, from its first call to its last, in which it was at work. The
start, when every session is opened, is part of it unless ``--warm-up`` seconds are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import time
from typing import Any

from openenv_async.providers.local_server import LocalServer
from openenv_async.rollouts import BatchedPolicy, Summary, stream

MESSAGE = {"message": "hello"}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="echo", help="environment to serve")
    parser.add_argument("--concurrency", type=int, default=256, help="episodes at once")
    parser.add_argument("--batch-time", type=float, default=0.02, help="seconds a batch takes")
    parser.add_argument("--max-batch", type=int, default=128)
    parser.add_argument("--max-steps", type=int, default=20, help="steps of an episode")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to play")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds left out first")
    return parser.parse_args()


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    def model(observations: list[Any]) -> list[Any]:
        time.sleep(options.batch_time)
        return [MESSAGE] * len(observations)

    summary = Summary()
    arguments = ("--max-sessions", str(2 * options.concurrency))
    async with (
        LocalServer(options.target, arguments=arguments) as server,
        BatchedPolicy(model, max_batch=options.max_batch, max_wait=0.005) as policy,
        stream(
            server.url,
            policy,
            concurrency=options.concurrency,
            max_steps=options.max_steps,
            record=False,
            summary=summary,
        ) as episodes,
    ):
        loop = asyncio.get_running_loop()
        await anext(episodes)
        marks: list[tuple[float, float, int, int]] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(options.warm_up):
                async for _ in episodes:
                    pass
        marks.append((loop.time(), policy.busy_time(), policy.calls, policy.decisions))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(options.seconds):
                async for _ in episodes:
                    pass
        marks.append((loop.time(), policy.busy_time(), policy.calls, policy.decisions))
        (t0, b0, c0, d0), (t1, b1, c1, d1) = marks
        return {
            "concurrency": options.concurrency,
            "batch_time": options.batch_time,
            "max_batch": options.max_batch,
            "seconds": t1 - t0,
            "busy": (b1 - b0) / (t1 - t0),
            "calls": c1 - c0,
            "mean_batch": (d1 - d0) / max(1, c1 - c0),
            "steps_per_second": (d1 - d0) / (t1 - t0),
            "episodes": summary.episodes,
        }


def main() -> None:
    print(json.dumps(asyncio.run(measure(parse())), indent=2))


if __name__ == "__main__":
    main()
