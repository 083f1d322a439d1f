"""A long load with abrupt deaths on both sides, and what the server holds over time.

A server of this machine serves an environment in worker processes. Client processes hold
hundreds of sessions each; every few seconds one of them is killed with SIGKILL and replaced,
and so is one of the server's workers. Memory, file descriptors and threads of the server are
printed as they go; after the warm-up they must not grow.

    python -m benchmarks.soak --seconds 600 --sessions 2000

The exit code is 1 when something grew, a session stayed behind, or a step was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from openenv_async import GenericEnvClient, OpenEnvError
from openenv_async.providers.local_server import LocalServer

_CLIENTS: Final = 8
_TARGET: Final = "openenv_async.testing:BenchAsyncEnvironment"
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_MIB: Final = 2**20
_ALLOWED_GROWTH: Final = 0.15
"""Share by which memory may grow from the end of the warm-up to the end."""


# -- one client process -------------------------------------------------------------------


async def hold(url: str, sessions: int) -> None:
    """Hold ``sessions`` sessions and step them, until killed."""
    clients = [GenericEnvClient(url, share=f"lane{n % 4}") for n in range(sessions)]
    failures: Counter[str] = Counter()

    async def play(client: GenericEnvClient, number: int) -> None:
        turn = 0
        while True:
            try:
                await client.reset()
                for _ in range(100):
                    turn += 1
                    message = f"{number}:{turn}"
                    result = await client.step({"message": message})
                    if result.observation["message"] != message:
                        os._exit(3)
                    await asyncio.sleep(0.05)
                if turn % 500 == 0:
                    await client.state()
            except OpenEnvError as exc:
                failures[exc.code] += 1
                await asyncio.sleep(random.uniform(0.05, 0.5))

    await asyncio.gather(*(play(client, number) for number, client in enumerate(clients)))


# -- what is looked at --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """The server's process at one moment; its worker processes beside it."""

    at: float
    rss: int
    descriptors: int
    threads: int
    sessions: int
    steps: int
    workers_rss: int

    def line(self) -> str:
        return (
            f"{self.at:7.0f} s  {self.rss / _MIB:8.1f} MiB  {self.workers_rss / _MIB:8.1f} MiB"
            f"  {self.descriptors:5} fds  {self.threads:4} threads  {self.sessions:6} sessions"
            f"  {self.steps:10,} steps"
        )


def _rss(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except OSError:
        return 0


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def _look(http: aiohttp.ClientSession, url: str, pid: int, began: float) -> Look:
    async with http.get(f"{url}/stats") as response:
        stats: dict[str, Any] = await response.json(content_type=None)
    return Look(
        at=time.monotonic() - began,
        rss=_rss(pid),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=len(os.listdir(f"/proc/{pid}/task")),
        sessions=stats["sessions"],
        steps=stats["steps"],
        workers_rss=sum(map(_rss, _children(pid))),
    )


# -- the run ------------------------------------------------------------------------------


async def _spawn(url: str, sessions: int) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.soak", "--hold", url, "--sessions", str(sessions)),
        stderr=asyncio.subprocess.DEVNULL,
    )


async def soak(seconds: float, sessions: int, seed: int, interval: float) -> int:
    """Run it; the exit code."""
    draw = random.Random(seed)
    each = max(1, sessions // _CLIENTS)
    arguments = ("--workers", "4", "--max-sessions", str(sessions * 4), "--resume-timeout", "5")
    looks: list[Look] = []
    kills: Counter[str] = Counter()
    wrong = 0
    async with (
        LocalServer(_TARGET, arguments=arguments) as server,
        aiohttp.ClientSession(trust_env=False) as http,
    ):
        url, pid, began = server.url, server.pid, time.monotonic()
        holders = [await _spawn(url, each) for _ in range(_CLIENTS)]
        try:
            kill_at, look_at = began + 10.0, began + interval
            while (now := time.monotonic()) < began + seconds:
                await asyncio.sleep(max(0.0, min(kill_at, look_at, began + seconds) - now))
                if time.monotonic() >= look_at:
                    look_at += interval
                    looks.append(await _look(http, url, pid, began))
                    print(looks[-1].line(), flush=True)
                if time.monotonic() >= kill_at:
                    kill_at += 3.0
                    victim = draw.randrange(_CLIENTS)
                    wrong += holders[victim].returncode is not None
                    if holders[victim].returncode is None:
                        holders[victim].kill()
                    await holders[victim].wait()
                    holders[victim] = await _spawn(url, each)
                    kills["clients"] += 1
                    workers = _children(pid)
                    if workers and draw.random() < 0.5:
                        os.kill(draw.choice(workers), signal.SIGKILL)
                        kills["workers"] += 1
        finally:
            for holder in holders:
                wrong += holder.returncode is not None
                if holder.returncode is None:
                    holder.kill()
                await holder.wait()
        for _ in range(30):  # every session that nobody holds goes after Timeouts.resume
            await asyncio.sleep(0.5)
            last = await _look(http, url, pid, began)
            if not last.sessions:
                break
        print(last.line(), flush=True)
    return _verdict(looks, last, kills, wrong)


def _verdict(looks: Sequence[Look], last: Look, kills: Counter[str], wrong: int) -> int:
    print(json.dumps({"kills": dict(kills), "wrong": wrong, "sessions left": last.sessions}))
    steady = looks[len(looks) // 4 :]
    problems = []
    if wrong:
        problems.append(f"{wrong} client processes ended by themselves")
    if last.sessions:
        problems.append(f"{last.sessions} sessions stayed behind")
    if len(steady) >= 4:
        half = len(steady) // 2
        for name in ("rss", "descriptors", "threads"):
            early = max(getattr(look, name) for look in steady[:half])
            late = max(getattr(look, name) for look in steady[half:])
            print(f"{name}: at most {early:,} in the first half after warm-up, {late:,} then")
            if late > early * (1 + _ALLOWED_GROWTH) + 16:
                problems.append(f"{name} grew from {early:,} to {late:,}")
    for problem in problems:
        print(f"FAILED: {problem}")
    return 1 if problems else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--sessions", type=int, default=2000)
    parser.add_argument("--interval", type=float, default=10.0, help="between two lines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hold", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.hold:
        asyncio.run(hold(args.hold, args.sessions))
    else:
        sys.exit(asyncio.run(soak(args.seconds, args.sessions, args.seed, args.interval)))


if __name__ == "__main__":
    main()
