"""Steps per second of ``GymVectorEnv`` beside an earlier revision, Gymnasium and EnvPool.

``python -m benchmarks.vector`` plays CartPole, one environment a session, with 64 and with 256 of
them, in rounds in which the sides take turns, each in a process of its own, and prints medians with
ranges:

- ``package``: ``GymVectorEnv`` of ``serve gymnasium --param id=CartPole-v1``, as it is by default:
  one server process, whose environments have models and run in threads;
- ``package, inline``: the same of ``gymnasium-inline``, whose environments run in its loop;
- ``package, 2 workers``: as ``package`` with ``--workers 2``;
- ``bare id``: the same of ``serve CartPole-v1``: Gymnasium's class hosted as it is, in threads;
- ``before``: the command of ``package`` with the packages of the revision ``--base``;
- ``SyncVectorEnv``: Gymnasium's, one after the other in this process: no wire at all;
- ``AsyncVectorEnv``: Gymnasium's, a process for each environment;
- ``EnvPool``: the C++ library's own CartPole, if it is installed: no Python environment at all;
- ``nothing``: an environment that does nothing, in the loop: what the runtime itself costs;
- ``inline, send/recv``: as ``package, inline`` in two halves, one under way while the other is
  dealt with.

The goals are those of the fastest of the first four, which is named.

CPU time of each side and of its server is read at the edges of each round.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.compare import ROOT
from benchmarks.revisions import checked_out
from benchmarks.vector_player import cpu_of

__all__ = ["cpu_of"]

PLAYER: Final = ROOT / "benchmarks" / "vector_player.py"
SERVED: Final = ("package", "package, inline", "package, 2 workers", "bare id")
"""Sides that a command of the documentation serves."""
SIDES: Final = (
    *SERVED,
    *("before", "SyncVectorEnv", "AsyncVectorEnv", "EnvPool", "nothing", "inline, send/recv"),
)
GOALS: Final = {
    ("before", 64): 2.3,
    ("SyncVectorEnv", 64): 0.8,
    ("AsyncVectorEnv", 64): 5.0,
    ("AsyncVectorEnv", 256): 10.0,
}
"""The least ratios of the fastest of ``SERVED`` to other sides, by side and environments."""
Figures = dict[str, float]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", help="the earlier revision, such as c39159a; else it is left out")
    parser.add_argument("--counts", default="64,256", help="environments, by commas")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write every round there")
    parser.add_argument("--only", action="append", choices=SIDES, help="may be repeated")
    return parser.parse_args()


@contextlib.contextmanager
def player(side: str, count: int, tree: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that plays one side with the package in a folder."""
    path = os.pathsep.join([str(tree), str(tree / "environments" / "gymnasium")])
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(PLAYER), side, str(count)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{side} with {count} environments did not start")
        yield process
    finally:
        process.communicate(timeout=60)  # which ends its input


def play(process: subprocess.Popen[str], seconds: float) -> Figures:
    """One round."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    figures: Figures = json.loads(process.stdout.readline())
    return figures


def measure(count: int, sides: list[str], options: argparse.Namespace, base: Path | None) -> None:
    """Play all sides with a number of environments, and print what was found."""
    found: dict[str, list[Figures]] = {side: [] for side in sides}
    loads = [os.getloadavg()[0]]
    with contextlib.ExitStack() as stack:
        players = {}
        for side in sides:
            tree = base if side == "before" and base is not None else ROOT
            players[side] = stack.enter_context(player(side, count, tree))
        for number in range(options.rounds):
            for side in sides if number % 2 == 0 else reversed(sides):
                found[side].append(play(players[side], options.seconds))
            loads.append(os.getloadavg()[0])
    print(
        f"\nCartPole-v1, {count} environments, medians of {options.rounds} rounds of"
        f" {options.seconds:g} s, load {min(loads):.1f} to {max(loads):.1f}"
    )
    medians = {
        side: statistics.median(each["rate"] for each in rounds) for side, rounds in found.items()
    }
    best = max((side for side in SERVED if side in medians), key=medians.__getitem__, default="")
    if best:
        print(f"the fastest of what is served: {best}")
    print(
        f"{'':18} {'steps/s':>10} {'range':>19} {'fastest is ×':>12} {'range':>13} {'wanted':>7}"
        f" {'CPU µs/step here, server':>25}"
    )
    for side, rounds in found.items():
        rates = sorted(each["rate"] for each in rounds)
        line = f"{side:18} {medians[side]:10,.0f} {rates[0]:9,.0f}-{rates[-1]:9,.0f}"
        ratios = sorted(
            mine["rate"] / other["rate"]
            for mine, other in zip(found.get(best, ()), rounds, strict=False)
        )
        if ratios and side != best:
            goal = GOALS.get((side, count))
            line += f" {statistics.median(ratios):12.2f} {ratios[0]:6.2f}-{ratios[-1]:6.2f}"
            line += f" {goal:7.1f}" if goal else " " * 8
        else:
            line += " " * 35
        here, there = (statistics.median(each[key] for each in rounds) for key in ("here", "there"))
        print(f"{line} {here:17.2f}, {there:6.2f}")
    if options.json:
        with open(options.json, "a") as file:
            file.write(json.dumps({"count": count, "rounds": found}) + "\n")


def main() -> None:
    options = parse()
    sides = [side for side in SIDES if not options.only or side in options.only]
    if importlib.util.find_spec("envpool") is None and "EnvPool" in sides:
        sides.remove("EnvPool")
    with contextlib.ExitStack() as stack:
        base = None
        if options.base is not None:
            base = stack.enter_context(checked_out(options.base))
        elif "before" in sides:
            sides.remove("before")
        for count in map(int, options.counts.split(",")):
            measure(count, sides, options, base)


if __name__ == "__main__":
    main()
