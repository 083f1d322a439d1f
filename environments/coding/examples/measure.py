"""The cost of the sandbox: ``python examples/measure.py [--sessions 64] [--interpreter cpython]``.

Prints JSON: latency and CPU time of ``x = 1 + 1`` in microseconds, start and restart in
milliseconds, memory per session in MiB (proportional set size), and steps per second in process
and over the wire.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from coding_env import CodeAction, CodingEnv
from coding_env.environment import CodingEnvironment
from coding_env.sandbox import Sandbox

from openenv_async import EnvClient, connect, serve

ACTION = CodeAction("x = 1 + 1")


def sandboxes() -> list[int]:
    """Processes under this one: zygote and workers."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    return [pid for pid in parents if os.getpid() in (parents[pid], parents.get(parents[pid]))]


def proportional_mib(pids: list[int]) -> float:
    """Memory of processes, what they share divided among them."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                total += int(line.split()[1]) if line.startswith("Pss:") else 0
    return total / 1024


async def steps_per_second(envs: list[Any], seconds: float) -> float:
    end = time.perf_counter() + seconds
    done = 0

    async def play(env: Any) -> None:
        nonlocal done
        while time.perf_counter() < end:
            await env.step(ACTION)
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*map(play, envs))
    return done / (time.perf_counter() - began)


async def resets(envs: list[Any]) -> float:
    """Seconds for all to reset at once."""
    began = time.perf_counter()
    await asyncio.gather(*(env.reset(seed=0) for env in envs))
    return time.perf_counter() - began


@contextlib.asynccontextmanager
async def clients(
    sessions: int, params: dict[str, Any], wire: bool
) -> AsyncIterator[list[EnvClient[Any, Any, Any]]]:
    async with contextlib.AsyncExitStack() as stack:
        if not wire:
            from openenv_async.engine import Engine
            from openenv_async.spec import EnvironmentSpec

            engine = Engine(EnvironmentSpec(CodingEnvironment, params=params))
            stack.push_async_callback(engine.aclose)
            yield [
                await stack.enter_async_context(connect(engine, client=CodingEnv))
                for _ in range(sessions)
            ]
            return
        url = await stack.enter_async_context(serve(CodingEnvironment, params=params))
        yield [await stack.enter_async_context(CodingEnv(url)) for _ in range(sessions)]


def worker_cpu(env: CodingEnvironment) -> float:
    """CPU seconds of the interpreter; 0 for Monty's, which does not tell."""
    return env._runner.cpu_time() if isinstance(env._runner, Sandbox) else 0.0


async def measure(sessions: int, interpreter: str, seconds: float) -> dict[str, Any]:
    params: dict[str, Any] = {"interpreter": interpreter}
    found: dict[str, Any] = {"sessions": sessions, "interpreter": interpreter}
    env = CodingEnvironment(**params)
    began = time.perf_counter()
    await env.reset(seed=0)
    found["first_start_ms"] = (time.perf_counter() - began) * 1e3
    restarts, latencies = [], []
    for _ in range(20):
        began = time.perf_counter()
        await env.reset(seed=0)
        restarts.append(time.perf_counter() - began)
    server, worker = time.process_time(), worker_cpu(env)
    for _ in range(3000):
        began = time.perf_counter()
        await env.step(ACTION)
        latencies.append(time.perf_counter() - began)
    found["server_cpu_us_per_exec"] = (time.process_time() - server) / 3000 * 1e6
    found["worker_cpu_us_per_exec"] = (worker_cpu(env) - worker) / 3000 * 1e6
    found["restart_p50_ms"] = statistics.median(restarts) * 1e3
    found["exec_p50_us"] = statistics.median(latencies) * 1e6
    found["exec_best_us"] = min(latencies) * 1e6
    await env.close()
    for name, wire in (("in_process", False), ("over_the_wire", True)):
        async with clients(sessions, params, wire) as envs:
            seconds_to_reset = await resets(envs)
            found[f"{name}_reset_all_s"] = seconds_to_reset
            found[f"{name}_steps_per_s"] = await steps_per_second(envs, seconds)
            if not wire:
                found["mib_per_session"] = proportional_mib(sandboxes()) / sessions
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--interpreter", default="cpython")
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    found = asyncio.run(measure(given.sessions, given.interpreter, given.seconds))
    print(json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in found.items()}))


if __name__ == "__main__":
    main()
