"""The cost of opening costly sessions, to a session that steps beside them.

``python -m benchmarks.openings``: a server of Atari games in a process of its own, one session that
steps without pause, and 64 that open and reset at once from the same client; then each of these
takes some steps. Printed for each round are the median, the 99th percentile and the worst of the
steps of the first session: before, while the others open, and while they step; and how long an
opening takes by itself, one after the other. The medians of the rounds follow. A machine that
does other things adds to it: that is what the steps before are for.

``--revision c39159a`` measures the environment of an earlier revision of this project.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from benchmarks.revisions import checked_out

ROOT: Final = Path(__file__).parent.parent
PHASES: Final = ("alone", "opening", "stepping")


async def steps(env: Any, until: asyncio.Event) -> list[float]:
    """Milliseconds of each step until the event is set."""
    from atari_env import AtariAction

    took = []
    while not until.is_set():
        begun = time.perf_counter()
        result = await env.step(AtariAction(0))
        took.append((time.perf_counter() - begun) * 1e3)
        if result.done:
            await env.reset()
    return took


async def beside(env: Any, work: Awaitable[Any]) -> dict[str, float]:
    """Figures of the steps that a session makes while others work, in milliseconds."""
    ended = asyncio.Event()
    stepping = asyncio.create_task(steps(env, ended))
    begun = time.perf_counter()
    await work
    whole = time.perf_counter() - begun
    ended.set()
    took = await stepping
    p50, p99 = np.percentile(took, [50, 99])
    return {"p50": p50, "p99": p99, "worst": max(took), "steps": len(took), "seconds": whole}


async def run(url: str, sessions: int, turns: int) -> dict[str, dict[str, float]]:
    """Figures of one round by phase."""
    from atari_env import AtariAction, AtariEnv

    others = [AtariEnv(url, share=False) for _ in range(sessions)]

    async def opened(env: Any) -> None:
        await env.open()
        await env.reset()

    async def played(env: Any) -> None:
        for _ in range(turns):
            if (await env.step(AtariAction(0))).done:
                await env.reset()

    async with AtariEnv(url) as env:
        await env.reset()
        found = {"alone": await beside(env, asyncio.sleep(1.0))}
        found["opening"] = await beside(env, asyncio.gather(*map(opened, others)))
        found["stepping"] = await beside(env, asyncio.gather(*map(played, others)))
        each = []
        for _ in range(20):
            begun = time.perf_counter()
            others.append(AtariEnv(url))
            await opened(others[-1])
            each.append((time.perf_counter() - begun) * 1e3)
        found["one"] = {"p50": statistics.median(each), "worst": max(each)}
    await asyncio.gather(*(other.close() for other in others))
    return found


def server(tree: Path, arguments: list[str]) -> tuple[subprocess.Popen[str], str, float]:
    """A server of a revision's Atari: its process, its address, seconds until it was ready."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [
            *(sys.executable, "-W", "ignore", "-m", "openenv_async.cli", "serve", "atari"),
            *("--json", "--port", "0", "--until-stdin-closes", *arguments),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'environments' / 'atari'}"},
    )
    assert process.stdout is not None
    url: str = json.loads(process.stdout.readline())["url"]
    return process, url, time.perf_counter() - begun


def measure(tree: Path, rounds: int, sessions: int, turns: int, arguments: list[str]) -> None:
    """Print the rounds, each on a server of its own: consoles that were used are kept."""
    all_found = []
    for number in range(rounds):
        process, url, started = server(tree, arguments)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                found = runner.run(run(url, sessions, turns))
        finally:
            process.communicate(timeout=60)
        all_found.append(found)
        print(f"round {number + 1}: ready in {started:.1f} s; {told(found)}", flush=True)
    medians = {
        phase: {
            name: statistics.median(found[phase][name] for found in all_found)
            for name in all_found[0][phase]
        }
        for phase in all_found[0]
    }
    print(f"medians: {told(medians)}")


def told(found: dict[str, dict[str, float]]) -> str:
    """Figures of a round in words."""
    texts = [
        f"{phase} {figures['seconds']:.2f} s, {figures['steps']:.0f} steps: p50"
        f" {figures['p50']:.2f}, p99 {figures['p99']:.2f}, worst {figures['worst']:.1f} ms"
        for phase, figures in ((phase, found[phase]) for phase in PHASES)
    ]
    one = found["one"]
    return "; ".join([*texts, f"one opening p50 {one['p50']:.2f}, worst {one['worst']:.1f} ms"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--turns", type=int, default=50, help="steps of each that was opened")
    parser.add_argument("--revision", help="an earlier one, in place of this")
    options, arguments = parser.parse_known_args()
    figures = (options.rounds, options.sessions, options.turns, arguments)
    if options.revision:
        with checked_out(options.revision) as tree:
            measure(tree, *figures)
    else:
        measure(ROOT, *figures)


if __name__ == "__main__":
    main()
