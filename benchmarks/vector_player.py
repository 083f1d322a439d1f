"""One side of ``vector.py`` in a process of its own: plays when it is told to, and says how fast.

It is run as a file, so that the package of any revision may stand in ``PYTHONPATH``. Each line of
its input is the seconds of a round; each line of its output a map: steps per second, and CPU
microseconds a step of this process and of the server.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

ID = "CartPole-v1"


def cpu_of(pid: int | None) -> float:
    """Seconds of CPU that a process has used, all its threads together."""
    if pid is None:
        return 0.0
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def halves(env: Any) -> Callable[[Any], object]:
    """Steps in two halves: one is under way while the other is received."""
    half = env.num_envs // 2
    parts = [list(range(half)), list(range(half, env.num_envs))]
    env.send(np.zeros(half, np.int64), parts[0])

    def step(actions: Any) -> None:
        env.send(actions[half:], parts[1])
        env.recv(half)
        env.send(actions[:half], parts[0])
        env.recv(half)

    return step


def served(count: int, *arguments: str) -> tuple[Any, int]:
    """A vector of what ``serve`` with these arguments serves, and the process of that."""
    from openenv_async.integrations.gymnasium import GymVectorEnv

    command = [sys.executable, "-W", "ignore", "-m", "openenv_async.cli", "serve", *arguments]
    process = subprocess.Popen(
        [*command, "--port", "0", "--json", "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    about = json.loads(process.stdout.readline())
    env = GymVectorEnv(about["url"], count, copy=False)
    env.reset(seed=0)
    return env, about["pid"]


def side(name: str, count: int) -> tuple[Callable[[Any], object], int | None, Any]:
    """The step function of a side, the process of its server, and what to close."""
    match name:
        case "SyncVectorEnv" | "AsyncVectorEnv":
            cls: Any = getattr(gymnasium.vector, name)
            env = cls([lambda: gymnasium.make(ID)] * count)
            env.reset(seed=0)
            return env.step, None, env
        case "EnvPool":
            import envpool  # type: ignore[import-untyped,unused-ignore]  # only some releases have types

            pool = envpool.make_gymnasium(ID, num_envs=count, seed=0)
            pool.reset()
            return lambda actions: pool.step(actions.astype(np.int32)), None, pool
        case "bare id":
            env, pid = served(count, ID)
        case "nothing":
            env, pid = served(count, "benchmarks.vector_targets:Nothing")
        case "package, inline" | "inline, send/recv":
            env, pid = served(count, "gymnasium-inline", "--param", f"id={ID}")
        case "package, 2 workers":
            env, pid = served(count, "gymnasium", "--param", f"id={ID}", "--workers", "2")
        case _:  # of an earlier revision too
            env, pid = served(count, "gymnasium", "--param", f"id={ID}")
    return (halves(env) if name == "inline, send/recv" else env.step), pid, env


def processes(pid: int) -> list[int]:
    """Return a process and all that it, and they, have started."""
    found = [pid]
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children") as file:
            for child in file.read().split():
                found += processes(int(child))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side")
    parser.add_argument("count", type=int)
    options = parser.parse_args()
    step, pid, env = side(options.side, options.count)
    rng = np.random.default_rng(0)
    actions = [rng.integers(0, 2, options.count) for _ in range(64)]
    for batch in actions:
        step(batch)
    others = processes(pid) if pid is not None else processes(os.getpid())[1:]
    print("ready", flush=True)
    for line in sys.stdin:
        seconds = float(line)
        for batch in actions[:8]:
            step(batch)
        here, there = time.process_time(), sum(map(cpu_of, others))
        begun, count = time.perf_counter(), 0
        while (spent := time.perf_counter() - begun) < seconds:
            for batch in actions:
                step(batch)
            count += len(actions)
        steps = count * options.count
        figures = {
            "rate": steps / spent,
            "here": (time.process_time() - here) / steps * 1e6,
            "there": (sum(map(cpu_of, others)) - there) / steps * 1e6,
        }
        print(json.dumps(figures), flush=True)
    env.close()


if __name__ == "__main__":
    main()
