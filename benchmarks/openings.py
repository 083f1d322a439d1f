"""The cost of opening costly sessions, to a session that steps beside them.

``python -m benchmarks.openings``: a server of Atari games in a process of its own, one session that
steps without pause, and sixteen that open at once from another client. The figure of a round is the
worst step while they open; the median of the rounds is printed, and all of them. A machine that
does other things adds to it: the same steps without openings are measured before each round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time

from atari_env import AtariAction, AtariEnv


async def steps(env: AtariEnv, until: asyncio.Event) -> list[float]:
    """Seconds of each step until the event is set."""
    took = []
    while not until.is_set():
        begun = time.perf_counter()
        result = await env.step(AtariAction(0))
        took.append(time.perf_counter() - begun)
        if result.done:
            await env.reset()
    return took


async def beside(url: str, env: AtariEnv, sessions: int) -> tuple[float, float, float]:
    """The worst step without openings, with them, and how long the openings took."""
    ended = asyncio.Event()
    stepping = asyncio.create_task(steps(env, ended))
    await asyncio.sleep(0.5)
    ended.set()
    alone = max(await stepping)
    ended = asyncio.Event()
    stepping = asyncio.create_task(steps(env, ended))
    opening = [AtariEnv(url, share=False) for _ in range(sessions)]
    begun = time.perf_counter()
    await asyncio.gather(*(each.open() for each in opening))
    took = time.perf_counter() - begun
    ended.set()
    worst = max(await stepping)
    await asyncio.gather(*(each.close() for each in opening))
    return alone, worst, took


async def measure(rounds: int, sessions: int, arguments: list[str]) -> None:
    """Print the rounds, each on a server of its own: consoles that were used are kept."""
    worsts = []
    for number in range(rounds):
        server = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "openenv_async.cli", "serve", "atari", "--json"),
            *("--port", "0", *arguments),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert server.stdout is not None
        begun = time.perf_counter()
        url = json.loads(await server.stdout.readline())["url"]
        started = time.perf_counter() - begun
        try:
            async with AtariEnv(url) as env:
                await env.reset()
                alone, worst, took = await beside(url, env, sessions)
        finally:
            server.terminate()
            await server.wait()
        worsts.append(worst)
        print(
            f"round {number + 1}: worst step {worst * 1e3:.1f} ms while {sessions} opened in"
            f" {took:.2f} s; {alone * 1e3:.1f} ms without; the server started in {started:.1f} s"
        )
    print(f"median of the worst steps: {statistics.median(worsts) * 1e3:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=16)
    options, arguments = parser.parse_known_args()
    asyncio.run(measure(options.rounds, options.sessions, arguments))


if __name__ == "__main__":
    main()
