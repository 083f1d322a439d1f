"""A rolling upgrade: servers are replaced one after the other under running episodes.

``python -m benchmarks.upgrade`` starts servers of an async environment (episodes of 40 steps of
50 ms), keeps 200 episodes running on them through a pool that finds them by a callable, and
replaces each: a new one is started, the old address taken out, the old server told to drain by
SIGTERM. It prints how long each took, how many episodes began at an address after it was taken
out, and how many were lost; of these there must be none.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from openenv_async import Environment, EnvPool

STEPS = 40
SECONDS = 0.05


class Paced(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """An episode of so many steps, each of which takes a while."""

    def __init__(self) -> None:
        self.left = 0

    async def reset(self) -> dict[str, Any]:
        self.left = STEPS
        return {"left": self.left}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(SECONDS)
        self.left -= 1
        return {"left": self.left, "reward": 1.0, "done": self.left == 0}


class Server:
    """A process that serves ``Paced``."""

    url: str
    process: asyncio.subprocess.Process

    async def start(self, drain: float) -> None:
        """Return when it listens."""
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "openenv_async.cli", "serve", "benchmarks.upgrade:Paced"),
            *("--port", "0", "--json", "--drain", str(drain)),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self.url = json.loads(await asyncio.wait_for(self.process.stdout.readline(), 60))["url"]

    async def ended(self) -> None:
        """Return when the process has ended."""
        await asyncio.wait_for(self.process.wait(), 120)


@contextlib.asynccontextmanager
async def started(count: int, drain: float) -> AsyncIterator[list[Server]]:
    """Start so many servers; they are ended at the end, with those added to the list."""
    servers = [Server() for _ in range(count)]
    try:
        await asyncio.gather(*(server.start(drain) for server in servers))
        yield servers
    finally:
        for server in servers:
            if server.process.returncode is None:
                server.process.kill()
                await server.ended()


async def main() -> int:
    """Run the upgrade and print what it cost; 1 if an episode was lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--servers", type=int, default=4)
    parser.add_argument("--running", type=int, default=200, help="episodes at once")
    parser.add_argument("--drain", type=float, default=30.0, help="seconds for episodes to end")
    given = parser.parse_args()
    lost: list[BaseException] = []
    lengths: list[int] = []
    late = 0
    removed: dict[str, float] = {}

    async with started(given.servers, given.drain) as servers:
        urls = [server.url for server in servers]
        pool = EnvPool.from_urls(lambda: list(urls), sessions_per_worker=given.running)
        async with pool:
            replaced = asyncio.Event()

            async def play() -> None:
                nonlocal late
                async with pool.session() as env:
                    while not replaced.is_set():
                        try:
                            await env.reset()
                            at = removed.get(env.worker.url)  # type: ignore[attr-defined]  # a leased one has
                            late += at is not None and time.monotonic() - at > 1.0
                            steps = 0
                            while not (await env.step({})).done:
                                steps += 1
                            lengths.append(steps + 1)
                        except Exception as exc:
                            lost.append(exc)

            players = [asyncio.create_task(play()) for _ in range(given.running)]
            await asyncio.sleep(2 * STEPS * SECONDS)
            took = []
            for old in list(servers):
                began = time.monotonic()
                new = Server()
                servers.append(new)
                await new.start(given.drain)
                urls.append(new.url)
                urls.remove(old.url)
                removed[old.url] = time.monotonic()
                old.process.send_signal(signal.SIGTERM)
                await old.ended()
                took.append(time.monotonic() - began)
            await asyncio.sleep(2 * STEPS * SECONDS)
            replaced.set()
            await asyncio.gather(*players)
    print(f"{given.servers} servers replaced under {given.running} running episodes")
    print(f"seconds for each: median {statistics.median(took):.1f}, worst {max(took):.1f}")
    print(f"episodes: {len(lengths)} whole ({set(lengths)} steps), {len(lost)} lost")
    print(f"begun at an address more than 1 s after it was taken out: {late}")
    for error in lost[:5]:
        print(f"  {type(error).__name__}: {error}")
    return 1 if lost or late else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
