"""Vectors of environments as sessions, beside the same vectors in this process.

``python -m benchmarks.hosted`` plays each vector in interleaved rounds and prints medians with
ranges, the share of the rate in process, the microseconds that a batch takes longer, CPU time of
both ends and the load of the machine:

- ``CartPoleVectorEnv``, 64: Gymnasium's own, in NumPy;
- ``EnvPool CartPole``, 64: C++, if EnvPool is installed;
- ``AtariVectorEnv``, 16: C++, frames of 84 × 84 × 4, if ale-py is installed.

Sides: in process; served on this machine at a TCP address; served at an address of this host, where
the transport is the fastest that both ends have.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.vector import cpu_of
from openenv_async.integrations.gymnasium import GymVectorEnv


@dataclass(frozen=True)
class Case:
    """One vector.

    Attributes:
        make: makes it in this process.
        serve: arguments of ``openenv-async serve``.
        count: rows.
        actions: kinds of actions.
        goal: share of the rate in process that it is to have; ``None`` for none.
    """

    make: Callable[[], Any]
    serve: list[str]
    count: int
    actions: int
    goal: float | None = None


def cases(rows: int, atari: int) -> dict[str, Case]:
    """The vectors that can be had here."""
    from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

    found = {
        f"CartPoleVectorEnv {rows}": Case(
            lambda: CartPoleVectorEnv(rows),
            ["gymnasium", "--param", "id=CartPole-v1", "--vector", str(rows)],
            rows,
            2,
        )
    }
    with contextlib.suppress(ModuleNotFoundError):
        import envpool  # type: ignore[import-untyped,import-not-found,unused-ignore]  # if installed

        found[f"EnvPool CartPole {rows}"] = Case(
            lambda: envpool.make_gymnasium("CartPole-v1", num_envs=rows),
            ["gymnasium", "--param", "id=envpool:CartPole-v1", "--vector", str(rows)],
            rows,
            2,
            0.65,
        )
    with contextlib.suppress(ModuleNotFoundError):
        from ale_py.vector_env import AtariVectorEnv

        found[f"AtariVectorEnv {atari}"] = Case(
            lambda: AtariVectorEnv("pong", atari),
            ["ale_py.vector_env:AtariVectorEnv", "--param", "game=pong", "--vector", str(atari)],
            atari,
            6,
            0.85,
        )
    return found


@contextlib.contextmanager
def server(arguments: list[str]) -> Iterator[tuple[str, int]]:
    """The address and the process of a server."""
    command = [sys.executable, "-W", "ignore", "-m", "openenv_async.cli", "serve", *arguments]
    with subprocess.Popen(
        [*command, "--port", "0", "--json", "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            about = json.loads(process.stdout.readline())
            yield about["url"], about["pid"]
        finally:
            process.stdin.close()
            process.wait(20)


@dataclass
class Side:
    """One way to play.

    Attributes:
        step: takes a batch of actions.
        pid: of the server.
        rates: steps of rows per second, by round.
        batch: seconds of a batch, by round.
        here, there: microseconds of CPU a batch of this process and of the server, by round.
    """

    step: Callable[[Any], object]
    pid: int | None
    rates: list[float]
    batch: list[float]
    here: list[float]
    there: list[float]


def play(side: Side, actions: list[Any], seconds: float) -> None:
    """One round."""
    for batch in actions[:20]:
        side.step(batch)
    there, here = cpu_of(side.pid), time.process_time()
    begun, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < seconds:
        for batch in actions[:16]:
            side.step(batch)
        count += 16
    side.rates.append(count * len(actions[0]) / spent)
    side.batch.append(spent / count)
    side.here.append((time.process_time() - here) / count * 1e6)
    side.there.append((cpu_of(side.pid) - there) / count * 1e6)


def measure(name: str, case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Play one vector in each way, print and return what was found."""
    rng = np.random.default_rng(0)
    actions = [rng.integers(0, case.actions, case.count) for _ in range(64)]
    with contextlib.ExitStack() as stack:
        local = case.make()
        stack.callback(local.close)
        local.reset()
        sides = {"in process": Side(local.step, None, [], [], [], [])}
        for label, more in (("served, TCP", ["--no-local"]), ("served, this host", [])):
            url, pid = stack.enter_context(server([*case.serve, *more]))
            env = GymVectorEnv(url)
            stack.callback(env.close)
            env.reset(seed=0)
            sides[label] = Side(env.step, pid, [], [], [], [])
        for _ in range(options.rounds):
            for side in sides.values():
                play(side, actions, options.seconds)
    base = sides["in process"]
    print(f"\n{name}, medians of {options.rounds} rounds, load {os.getloadavg()[0]:.1f}")
    print(
        f"{'':18} {'steps/s':>10} {'range':>19} {'share':>6} {'range':>11} {'µs/batch':>9}"
        f" {'added':>6} {'range':>13} {'CPU µs here, server':>20}"
    )
    for label, side in sides.items():
        shares = sorted(one / other for one, other in zip(side.rates, base.rates, strict=True))
        added = sorted(
            (one - other) * 1e6 for one, other in zip(side.batch, base.batch, strict=True)
        )
        rates = sorted(side.rates)
        middle = statistics.median
        print(
            f"{label:18} {middle(rates):10,.0f} {rates[0]:9,.0f}-{rates[-1]:9,.0f}"
            f" {middle(shares):6.2f} {shares[0]:5.2f}-{shares[-1]:5.2f}"
            f" {middle(side.batch) * 1e6:9.1f} {middle(added):6.1f}"
            f" {added[0]:6.1f}-{added[-1]:6.1f}"
            f" {middle(side.here):10.1f}, {middle(side.there):8.1f}"
        )
    if case.goal is not None:
        print(f"{'wanted':18} {'':10} {'':19} {case.goal:6.2f}")
    return {
        label: {"rates": side.rates, "batch": side.batch, "here": side.here, "there": side.there}
        for label, side in sides.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=64, help="of CartPole")
    parser.add_argument("--atari", type=int, default=16, help="rows of Pong")
    parser.add_argument("--only", action="append", default=[], help="vectors with this in the name")
    parser.add_argument("--json", metavar="FILE", help="write every round there")
    options = parser.parse_args()
    found = {}
    for name, case in cases(options.rows, options.atari).items():
        if not options.only or any(text.lower() in name.lower() for text in options.only):
            found[name] = measure(name, case, options)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=2)


if __name__ == "__main__":
    main()
