"""Two teams, three environments, one server: what a loud team costs a quiet one.

``python -m benchmarks.teams`` starts one server of three environments (inline, thread, async) with
two tokens. The quiet team plays one episode in each at its own pace, open loop: each step is due at
a time that does not depend on the last reply, and its latency counts from then. First it is alone;
then the loud team asks for three times the steps a second that its quota allows, and for more
sessions than it may have. It prints the latencies of the quiet team and what the loud one got, and
ends with 1 if the quiet team's 99th percentile is neither within 50 % nor within 5 ms of alone, or
a quota did not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from openenv_async import Environment, GenericEnvClient
from openenv_async.errors import QuotaReached
from openenv_async.server.callers import digest_of

NAMES = ("inline", "thread", "task")
WORK = 20_000
"""Bytes whose sum a step takes: about 0.1 ms."""


class Inline(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """A step of a little work."""

    isolation = "inline"

    def __init__(self) -> None:
        self.data = bytes(WORK)

    def reset(self) -> dict[str, Any]:
        return {"sum": 0}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return {"sum": sum(self.data), "reward": 1.0}


class Thread(Inline):
    """The same in a thread."""

    isolation = "thread"  # type: ignore[assignment]  # the other one's is inline


class Task(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """A step that waits for a millisecond."""

    async def reset(self) -> dict[str, Any]:
        return {"sum": 0}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0.001)
        return {"sum": 0, "reward": 1.0}


@contextlib.asynccontextmanager
async def served(quota: float, sessions: int) -> AsyncIterator[str]:
    """A server in a process of its own."""
    config = {
        "environments": {
            name: {"target": f"benchmarks.teams:{name.capitalize()}"} for name in NAMES
        },
        "tokens": {
            "quiet": {"digest": f"sha256:{digest_of('quiet').hex()}"},
            "loud": {
                "digest": f"sha256:{digest_of('loud').hex()}",
                "steps_per_second": quota,
                "burst": quota / 10,
                "max_sessions": sessions,
            },
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "teams.yaml"
        path.write_text(json.dumps(config))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "openenv_async.cli", "serve", "--config", str(path)),
            *("--port", "0", "--json"),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            yield json.loads(await asyncio.wait_for(process.stdout.readline(), 60))["url"]
        finally:
            process.terminate()
            await asyncio.wait_for(process.wait(), 30)


async def paced(env: GenericEnvClient, rate: float, seconds: float) -> list[float]:
    """Step at a rate; return the latency of each step, from when it was due."""
    loop = asyncio.get_running_loop()
    begin = loop.time()
    latencies = []
    for number in range(int(rate * seconds)):
        due = begin + number / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        await env.step({})
        latencies.append(loop.time() - due)
    return latencies


async def quiet(url: str, rate: float, seconds: float) -> list[float]:
    """Play at a rate in each of the three; return the latencies of all."""
    async with contextlib.AsyncExitStack() as stack:
        envs = [
            await stack.enter_async_context(GenericEnvClient(f"{url}/{name}", token="quiet"))
            for name in NAMES
        ]
        for env in envs:
            await env.reset()
        found = await asyncio.gather(*(paced(env, rate, seconds) for env in envs))
    return [latency for each in found for latency in each]


async def loud(url: str, quota: float, sessions: int, seconds: float) -> dict[str, Any]:
    """Ask for three times the quota; return what came of it."""
    loop = asyncio.get_running_loop()
    done = refused = 0
    async with contextlib.AsyncExitStack() as stack:
        envs = []
        beyond = 0
        for number in range(sessions + 8):
            env = GenericEnvClient(f"{url}/{NAMES[number % 3]}", token="loud")
            try:
                envs.append(await stack.enter_async_context(env))
            except QuotaReached:
                beyond += 1
        for env in envs:
            await env.reset()
        begin, rate = loop.time(), 3 * quota / len(envs)
        end = begin + seconds

        async def play(env: GenericEnvClient) -> None:
            nonlocal done, refused
            number = 0
            while loop.time() < end:
                await asyncio.sleep(max(0.0, begin + number / rate - loop.time()))
                number += 1
                try:
                    await env.step({}, timeout=2.0)
                    done += 1
                except QuotaReached:
                    refused += 1

        await asyncio.gather(*map(play, envs))
        elapsed = loop.time() - begin
    return {
        "sessions": len(envs),
        "sessions_refused": beyond,
        "steps_per_second": done / elapsed,
        "steps_refused": refused,
    }


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


async def measured(arguments: argparse.Namespace) -> bool:
    """Measure and print; return whether it is as it should be."""
    rate, seconds, rounds = arguments.rate, arguments.seconds, arguments.rounds
    alone: list[float] = []
    beside: list[float] = []
    holds = True
    async with served(arguments.quota, arguments.sessions) as url:
        await quiet(url, rate, 1)
        for _ in range(rounds):
            alone += await quiet(url, rate, seconds)
            noise = asyncio.ensure_future(
                loud(url, arguments.quota, arguments.sessions, seconds + 1)
            )
            await asyncio.sleep(0.5)
            beside += await quiet(url, rate, seconds)
            got = await noise
            most = arguments.quota * (1 + 0.1 / seconds) + 1
            holds &= got["sessions"] == arguments.sessions and got["steps_per_second"] <= most
            print(
                f"loud: {got['sessions']} sessions ({got['sessions_refused']} refused),"
                f" {got['steps_per_second']:.0f} steps/s of {arguments.quota:g} allowed"
                f" ({3 * arguments.quota:g} asked), {got['steps_refused']} refused"
            )
    for name, found in (("alone", alone), ("beside a loud team", beside)):
        print(
            f"quiet, {name}: p50 {1e3 * percentile(found, 50):.2f} ms,"
            f" p99 {1e3 * percentile(found, 99):.2f} ms, {len(found)} steps"
        )
    before, after = percentile(alone, 99), percentile(beside, 99)
    is_fair = after <= 1.5 * before or after <= before + 0.005
    print(f"quotas {'hold' if holds else 'DO NOT HOLD'}; {'fair' if is_fair else 'NOT FAIR'}")
    return holds and is_fair


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quota", type=float, default=600, help="steps a second of the loud team")
    parser.add_argument("--sessions", type=int, default=48, help="sessions of the loud team")
    parser.add_argument("--rate", type=float, default=50, help="steps a second of each quiet one")
    parser.add_argument("--seconds", type=float, default=8, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    sys.exit(0 if asyncio.run(measured(parser.parse_args())) else 1)


if __name__ == "__main__":
    main()
