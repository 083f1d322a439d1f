"""The cost of a container: starting one, and stepping through it against a local process.

    python -m benchmarks.containers [--image echo-env:latest] [--rounds 5]

Cold start is from asking for a container to the first observation, image present. The cost of a
step is CPU time per step of everything that works for it: the client, the server process, and for
a container also docker-proxy, which carries the port with ``--published``. Rounds of both
alternate; medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has none

from openenv_async import GenericEnvClient
from openenv_async.client.launch import launch
from openenv_async.providers.base import Worker
from openenv_async.providers.docker import DockerProvider, DockerWorker
from openenv_async.providers.docker.client import DockerClient
from openenv_async.providers.process import ProcessProvider, ProcessWorker


async def first_observation(provider: DockerProvider) -> float:
    """Seconds from asking for a container to its first observation."""
    at = time.perf_counter()
    worker = await launch(provider)
    async with GenericEnvClient(worker.url, token=worker.token) as env:
        await env.reset()
        took = time.perf_counter() - at
    await worker.aclose()
    return took


async def processes_of(engine: DockerClient, worker: Worker) -> list[psutil.Process]:
    """Everything on this machine that runs for a worker."""
    if isinstance(worker, ProcessWorker):
        root = psutil.Process(worker.pid)
        return [root, *root.children(recursive=True)]
    info = await engine.inspect(worker.name)
    root = psutil.Process(info["State"]["Pid"])
    assert isinstance(worker, DockerWorker)
    port = worker.published_url.rpartition(":")[2]
    proxies = [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "docker-proxy" and port in (process.info["cmdline"] or ())
    ]
    return [root, *root.children(recursive=True), *proxies]


def cpu(processes: Iterable[psutil.Process]) -> float:
    """CPU seconds used so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def play(worker: Worker, sessions: int, steps: int) -> None:
    """Step many sessions at once."""

    async def one() -> None:
        async with GenericEnvClient(worker.url, token=worker.token) as env:
            await env.reset()
            for _ in range(steps):
                await env.step({"message": "hello"})

    await asyncio.gather(*(one() for _ in range(sessions)))


async def microseconds(
    engine: DockerClient, worker: Worker, sessions: int, steps: int
) -> dict[str, float]:
    """CPU µs a step, of the client and of the rest, and steps a second."""
    theirs = await processes_of(engine, worker)
    own = psutil.Process()
    await play(worker, sessions, max(1, steps // 10))
    before, own_before, at = cpu(theirs), cpu([own]), time.perf_counter()
    await play(worker, sessions, steps)
    count = sessions * steps
    return {
        "client": (cpu([own]) - own_before) / count * 1e6,
        "server": (cpu(theirs) - before) / count * 1e6,
        "per_second": count / (time.perf_counter() - at),
    }


def median(rounds: list[dict[str, float]], of: Callable[[dict[str, float]], float]) -> float:
    return round(statistics.median(map(of, rounds)), 2)


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--image", default="echo-env:latest")
    parser.add_argument("--environment", default="echo")
    parser.add_argument("--published", action="store_true", help="by the port on 127.0.0.1")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--steps", type=int, default=500)
    asked = parser.parse_args()
    report: dict[str, Any] = {}
    async with (
        DockerProvider(asked.image, direct=not asked.published) as containers,
        ProcessProvider(asked.environment) as here,
    ):
        engine = DockerClient(None, max_calls=4, redact=str)
        try:
            report["image_mb"] = round((await engine.image(asked.image))["Size"] / 1e6, 1)
            await first_observation(containers)
            starts = [await first_observation(containers) for _ in range(asked.rounds)]
            report["cold_start_s"] = [round(seconds, 2) for seconds in sorted(starts)]
            workers = {"container": await launch(containers), "process": await launch(here)}
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
            for _ in range(asked.rounds):
                for name, worker in workers.items():
                    rounds[name].append(
                        await microseconds(engine, worker, asked.sessions, asked.steps)
                    )
        finally:
            await engine.aclose()
    for name, measured in rounds.items():
        report[name] = {
            "client_us": median(measured, lambda one: one["client"]),
            "server_us": median(measured, lambda one: one["server"]),
            "all_us": median(measured, lambda one: one["client"] + one["server"]),
            "steps_per_second": median(measured, lambda one: one["per_second"]),
        }
    report["ratio"] = round(report["container"]["all_us"] / report["process"]["all_us"], 2)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
