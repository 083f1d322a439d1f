"""The cost of each environment of this repository: steps/s in process and served, memory.

``python -m benchmarks.environments``: random actions of the environment's own schema, resets
included. In process: one session through ``connect``, the same engine without a socket. Served: a
server process and sixteen sessions. Memory: what the server's processes grew by (PSS) while all
sessions had an episode, over their number; the first session, which loads what all share, is not
counted.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import psutil  # type: ignore[import-untyped]

from openenv_async import GenericEnvClient, connect
from openenv_async.errors import CallerError
from openenv_async.providers.local_server import LocalServer
from openenv_async.rollouts import RandomPolicy, rollout
from openenv_async.targets.discovery import find_target

PARAMS: Final[Mapping[str, dict[str, Any]]] = {
    "gymnasium": {"id": "CartPole-v1"},
    "browsergym": {"task_name": "click-test"},
}
NAMES: Final = (
    *("echo", "gymnasium", "coding", "repl", "chat", "browsergym", "openspiel", "atari", "finrl"),
    "sqlite_questions",
)


async def play(client: Any, policy: RandomPolicy, until: float) -> int:
    """Episodes of at most 200 steps until the time has come; how many steps."""
    steps = 0
    while time.perf_counter() < until:
        outcome = await rollout(client, policy, max_steps=200, timeout=30.0, record=False)
        if isinstance(outcome.error, CallerError):
            raise outcome.error
        steps += outcome.steps
    return steps


async def in_process(name: str, seconds: float) -> float:
    spec = find_target(name, PARAMS.get(name))
    from openenv_async.engine import Engine

    engine = Engine(spec)
    try:
        async with connect(engine, client=GenericEnvClient) as env:
            policy = RandomPolicy(spec.schema["action"], 0)
            await play(env, policy, time.perf_counter())
            begin = time.perf_counter()
            steps = await play(env, policy, begin + seconds)
            return steps / (time.perf_counter() - begin)
    finally:
        await engine.aclose()


async def served(name: str, seconds: float, sessions: int) -> tuple[float, float]:
    """Steps/s, and MiB per session."""
    schema = find_target(name, PARAMS.get(name)).schema["action"]
    async with LocalServer(name, PARAMS.get(name)) as server:
        clients = [GenericEnvClient(server.url) for _ in range(sessions)]
        await clients[0].reset()
        await asyncio.sleep(1.0)
        before = held(server.pid)
        await asyncio.gather(*(client.reset() for client in clients[1:]))
        await asyncio.sleep(1.0)
        memory = (held(server.pid) - before) / (sessions - 1)
        begin = time.perf_counter()
        policies = [RandomPolicy(schema, seed) for seed in range(sessions)]
        counts = await asyncio.gather(
            *(
                play(client, policy, begin + seconds)
                for client, policy in zip(clients, policies, strict=True)
            )
        )
        rate = sum(counts) / (time.perf_counter() - begin)
        await asyncio.gather(*(client.close() for client in clients))
        return rate, memory


def held(pid: int) -> float:
    """MiB of a process and all that it started, shared pages shared out."""
    process = psutil.Process(pid)
    total = 0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += each.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / (1 << 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--only", action="append", choices=NAMES, help="repeatable")
    args = parser.parse_args()
    print("environment | in process, steps/s | served, steps/s | memory per session, MiB")
    for name in args.only or NAMES:
        alone = asyncio.run(in_process(name, args.seconds))
        rate, memory = asyncio.run(served(name, args.seconds, args.sessions))
        print(f"{name} | {alone:,.0f} | {rate:,.0f} | {memory:.3g}", flush=True)


if __name__ == "__main__":
    main()
