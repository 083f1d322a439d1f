"""The share of the cores that a CPU-bound sync environment gets under process isolation.

``python -m benchmarks.cores``: steps of 5 ms of pure Python, eight sessions, one worker process
per core. The ideal is the same work in as many plain processes with nothing around it. Both are
run in turn, round after round; the figure is the median of the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Final

from openenv_async import EngineOptions, EnvClient, Environment, serve

STEP: Final = 0.005
"""CPU seconds of a step, on the machine that ``calibrate`` ran on."""


@dataclass
class Work:
    """Loop iterations to do."""

    iterations: int


@dataclass
class Done:
    """The measured work."""

    total: int


def work(iterations: int) -> int:
    """Pure Python that holds the GIL."""
    total = 0
    for number in range(iterations):
        total += number & 7
    return total


class Busy(Environment[Work, Done, dict[str, Any]]):
    """Computes."""

    isolation = "process"

    def reset(self) -> Done:
        return Done(0)

    def step(self, action: Work) -> Done:
        return Done(work(action.iterations))


def calibrate() -> int:
    """Return the number of iterations that take ``STEP`` seconds of CPU here."""
    iterations, best = 10_000, float("inf")
    for _ in range(200):
        begin = time.process_time()
        work(iterations)
        best = min(best, time.process_time() - begin)
    return round(iterations * STEP / best)


def plain(iterations: int, seconds: float, processes: int) -> float:
    """Steps a second of so many processes that do nothing else."""
    code = (
        "import sys, time; from benchmarks.cores import work; "
        f"work({iterations}); print('ready', flush=True); sys.stdin.readline(); n = 0; "
        f"end = time.perf_counter() + {seconds}\n"
        f"while time.perf_counter() < end: work({iterations}); n += 1\n"
        "print(n)"
    )
    pipe = subprocess.PIPE
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
        for _ in range(processes)
    ]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    done = 0
    for process in running:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in running:
        done += int(process.communicate()[0])
    return done / seconds


async def served(iterations: int, seconds: float, workers: int, sessions: int) -> float:
    """Steps a second of ``sessions`` closed loops through a server with ``workers``."""
    steps = 0
    async with serve(Busy, options=EngineOptions(workers=workers)) as url:
        clients = [EnvClient[Work, Done, dict[str, Any]](url) for _ in range(sessions)]
        await asyncio.gather(*(client.reset() for client in clients))
        await asyncio.gather(*(client.step(Work(iterations)) for client in clients))
        end = time.perf_counter() + seconds

        async def play(client: EnvClient[Work, Done, dict[str, Any]]) -> None:
            nonlocal steps
            while time.perf_counter() < end:
                await client.step(Work(iterations))
                steps += time.perf_counter() < end

        await asyncio.gather(*(play(client) for client in clients))
        await asyncio.gather(*(client.close() for client in clients))
    return steps / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=8)
    args = parser.parse_args()
    workers = len(os.sched_getaffinity(0))
    iterations = calibrate()
    ratios = []
    for number in range(1, args.rounds + 1):
        ideal = plain(iterations, args.seconds, workers)
        ours = asyncio.run(served(iterations, args.seconds, workers, args.sessions))
        ratios.append(ours / ideal)
        print(f"{number}: plain {ideal:.0f}/s  served {ours:.0f}/s  {ratios[-1]:.1%}", flush=True)
    print(f"median {statistics.median(ratios):.1%} of {workers} cores")


if __name__ == "__main__":
    main()
