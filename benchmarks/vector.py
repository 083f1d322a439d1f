"""Steps per second of ``GymVectorEnv`` beside what Gymnasium and EnvPool do on this machine.

``python -m benchmarks.vector`` plays CartPole with 64 environments, in interleaved rounds, and
prints medians:

- ``served``: ``GymVectorEnv``, the environments in one server process of this machine;
- ``served, send/recv``: the same in two halves, so that the server steps one while the other is
  being dealt with here;
- ``AsyncVectorEnv``: Gymnasium's, a process for each environment;
- ``SyncVectorEnv``: Gymnasium's, one after the other in this process: no wire at all;
- ``EnvPool``: the C++ library's own CartPole, if it is installed: no Python environment at all.

CPU time of this process and of the server is read at the edges of each round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from openenv_async.integrations.gymnasium import GymVectorEnv

ID = "CartPole-v1"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-envs", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="every round, as JSON")
    parser.add_argument(
        "--only", action="append", default=[], help="one of the sides; may be repeated"
    )
    return parser.parse_args()


def cpu_of(pid: int | None) -> float:
    """Seconds of CPU that a process has used."""
    if pid is None:
        return 0.0
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def play(step: Callable[[Any], object], count: int, seconds: float) -> float:
    """Steps per second of a loop that only steps, with actions drawn before."""
    rng = np.random.default_rng(0)
    actions = [rng.integers(0, 2, count) for _ in range(256)]
    for t in range(20):
        step(actions[t])
    begun, steps = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        for action in actions[:32]:
            step(action)
        steps += 32
    return steps * count / (time.perf_counter() - begun)


def halves(env: GymVectorEnv) -> Callable[[Any], object]:
    """Steps in two halves: one is under way while the other is received."""
    half = env.num_envs // 2
    parts = [list(range(half)), list(range(half, env.num_envs))]
    env.reset(seed=0)
    env.send(np.zeros(half, np.int64), parts[0])

    def step(actions: Any) -> None:
        env.send(actions[half:], parts[1])
        env.recv(half)
        env.send(actions[:half], parts[0])
        env.recv(half)

    return step


def sides(count: int) -> dict[str, tuple[Callable[[Any], object], int | None, Any]]:
    """Return each side's step function, its server's process, and what to close."""
    made: dict[str, tuple[Callable[[Any], object], int | None, Any]] = {}
    for name in ("served", "served, send/recv"):
        env = GymVectorEnv("gymnasium-inline", count, params={"id": ID}, copy=False)
        env.reset(seed=0)
        step = env.step if name == "served" else halves(env)
        made[name] = (step, env._served.server_pid, env)
    for cls in (gymnasium.vector.AsyncVectorEnv, gymnasium.vector.SyncVectorEnv):
        local: Any = cls([lambda: gymnasium.make(ID)] * count)
        local.reset(seed=0)
        made[cls.__name__] = (local.step, None, local)
    try:
        import envpool  # type: ignore[import-untyped,unused-ignore]  # only some releases have types
    except ModuleNotFoundError:
        return made
    pool = envpool.make_gymnasium(ID, num_envs=count, seed=0)
    pool.reset()
    made["EnvPool"] = (lambda actions: pool.step(actions.astype(np.int32)), None, pool)
    return made


def main() -> None:
    options = parse()
    measured: dict[str, list[dict[str, float]]] = {}
    everything = sides(options.num_envs)
    try:
        for _ in range(options.rounds):
            for name, (step, pid, _) in everything.items():
                if options.only and name not in options.only:
                    continue
                here, there = time.process_time(), cpu_of(pid)
                begun = time.perf_counter()
                rate = play(step, options.num_envs, options.seconds)
                steps = rate * (time.perf_counter() - begun)
                measured.setdefault(name, []).append(
                    {
                        "steps_per_second": rate,
                        "client_us": (time.process_time() - here) / steps * 1e6,
                        "server_us": (cpu_of(pid) - there) / steps * 1e6,
                    }
                )
    finally:
        for _, _, env in everything.values():
            env.close()
    if options.json:
        print(json.dumps(measured, indent=2))
        return
    reference = measured.get("AsyncVectorEnv")
    base = statistics.median(r["steps_per_second"] for r in reference) if reference else None
    print(f"{ID}, {options.num_envs} environments, medians of {options.rounds} rounds")
    print(f"{'':20} {'steps/s':>10} {'spread':>17} {'× Async':>8} {'CPU µs/step here, server':>26}")
    for name, rounds in measured.items():
        rates = sorted(r["steps_per_second"] for r in rounds)
        median = statistics.median(rates)
        times = f"{median / base:.2f}" if base else "-"
        cpu = [statistics.median(r[key] for r in rounds) for key in ("client_us", "server_us")]
        print(
            f"{name:20} {median:10,.0f} {rates[0]:8,.0f}-{rates[-1]:8,.0f} {times:>8}"
            f" {cpu[0]:17.1f}, {cpu[1]:6.1f}"
        )


if __name__ == "__main__":
    main()
