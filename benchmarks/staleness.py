"""Episodes that a learner throws away for their age, and groups that come whole.

A learner takes a batch of groups, learns for a while (it sleeps, as one that computes on an
accelerator does for the CPU) and publishes the next version of its policy, while episodes of
varied length are played on a real server. Reported are the share of episodes that were thrown
away, the share of groups that were whole when they were handed over, whole groups a second, and
the share of the time in which the learner waited.

    python -m benchmarks.staleness                  # a learner at half the pace of the players
    python -m benchmarks.staleness --all            # every case, see CASES
    python -m benchmarks.staleness --base c39159a   # an earlier revision as well, in turns

An episode counts as thrown away when its first action was chosen more than ``max_staleness``
versions before the learner was given it, whatever the library says. The pace of the players is
measured first, by a learner that does nothing but take groups, and is then the same for all runs
of a case. The first two versions, in which a stream learns the learner's pace, are left out of the
figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from openenv_async import Environment, serve
from openenv_async.rollouts import VersionedPolicy, stream_groups
from openenv_async.server import create_app

ROOT: Final = Path(__file__).resolve().parent.parent
CASES: Final[dict[str, list[str]]] = {
    "the usual case": [],
    "max_staleness 0": ["--max-staleness", "0"],
    "max_staleness 2": ["--max-staleness", "2"],
    "max_staleness 4": ["--max-staleness", "4"],
    "batches of 16 groups": ["--batch", "16"],
    "batches of 4 groups": ["--batch", "4"],
    "groups of 4": ["--group-size", "4", "--batch", "16"],
    "groups of 16": ["--group-size", "16", "--batch", "4"],
    "steps of one length": ["--spread", "0", "--between", "0"],
    "a long tail": ["--between", "0.8"],
    "published every other batch": ["--publish-every", "2"],
    "players as fast as the learner": ["--pace", "1"],
    "players half as fast": ["--pace", "2"],
    "published by the clock": ["--clock", "--pace", "0.8"],
    "players that stall": ["--stall", "1"],
}
"""Cases by name: arguments that differ from the usual case."""
WARM_UP: Final = 2
"""Versions of which nothing is counted."""


@dataclass
class Move:
    """An action."""

    amount: int = 1


@dataclass
class Seen:
    """An observation: steps so far."""

    count: int
    reward: float | None = None
    done: bool = False


class Waiting(Environment[Move, Seen, dict[str, Any]]):
    """Waits in each step; how long and for how many steps is drawn, in part by the seed."""

    isolation = "inline"
    options: argparse.Namespace

    async def reset(self, seed: int | None = None) -> Seen:
        options = self.options
        self.random = random.Random()
        between = options.between
        task = random.Random(seed).lognormvariate(-between * between / 2, between)
        self.seconds = options.step_time * task
        self.steps = self.random.randint(options.shortest, options.longest)
        self.count = 0
        return Seen(0)

    async def step(self, action: Move) -> Seen:
        spread = self.options.spread
        seconds = self.seconds * self.random.lognormvariate(-spread * spread / 2, spread)
        loop = asyncio.get_running_loop()
        stall = self.options.stall
        if stall and loop.time() % (5 * stall) < stall:
            seconds += stall - loop.time() % (5 * stall)
        await asyncio.sleep(seconds)
        self.count += 1
        return Seen(self.count, 1.0, self.count >= self.steps)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--concurrency", type=int, default=64, help="episodes at once")
    parser.add_argument("--batch", type=int, default=8, help="groups that the learner takes")
    parser.add_argument("--publish-every", type=int, default=1, help="batches of a version")
    parser.add_argument("--max-staleness", type=int, default=1)
    parser.add_argument("--pace", type=float, default=0.5, help="of the learner, players' is 1")
    parser.add_argument("--clock", action="store_true", help="publish by the clock alone")
    parser.add_argument("--whole", action="store_true", help="the learner counts whole groups only")
    parser.add_argument("--step-time", type=float, default=0.05, help="mean seconds of a step")
    parser.add_argument("--spread", type=float, default=0.5, help="sigma of a step's seconds")
    parser.add_argument("--between", type=float, default=0.25, help="sigma between the groups")
    parser.add_argument("--shortest", type=int, default=8, help="steps of the shortest episode")
    parser.add_argument("--longest", type=int, default=16, help="and of the longest")
    parser.add_argument("--stall", type=float, default=0.0, help="seconds of five times as many")
    parser.add_argument("--versions", type=int, default=12, help="that are published")
    parser.add_argument("--capacity", type=float, help="groups that are played in a second")
    parser.add_argument("--all", action="store_true", help="play every case")
    parser.add_argument("--base", help="play an earlier revision as well")
    parser.add_argument("--pairs", type=int, default=3, help="turns of both")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


async def players_pace(options: argparse.Namespace, source: Any) -> float:
    """Return the groups that are played in a second when nobody is slow."""
    loop = asyncio.get_running_loop()
    policy = VersionedPolicy(lambda observation: {"amount": 1})
    at_once: int = max(1, options.concurrency // options.group_size)
    async with stream_groups(
        source, policy, group_size=options.group_size, concurrency=options.concurrency, record=False
    ) as groups:
        for _ in range(2 * at_once):
            await anext(groups)
        begun = loop.time()
        for _ in range(4 * at_once):
            await anext(groups)
        seconds = loop.time() - begun
    return 4 * at_once / seconds


async def measure(options: argparse.Namespace, source: Any) -> dict[str, Any]:
    """Return the figures of one run."""
    loop = asyncio.get_running_loop()
    policy = VersionedPolicy(lambda observation: {"amount": 1})
    per_second = options.capacity or await players_pace(options, source)
    training = options.batch / (per_second * options.pace)
    size, most = options.group_size, options.max_staleness
    waited = learnt = 0.0
    groups_given = whole_given = used = 0
    begun = loop.time()
    ages: list[int] = []
    async with contextlib.AsyncExitStack() as stack:
        groups = await stack.enter_async_context(
            stream_groups(
                source,
                policy,
                group_size=size,
                concurrency=options.concurrency,
                max_staleness=most,
                record=False,
            )
        )
        if options.clock:  # beside the loop below, which does nothing but read
            await stack.enter_async_context(published_by_the_clock(policy, training))
        for number in range(options.versions * options.publish_every):
            if number == WARM_UP * options.publish_every:
                waited = learnt = 0.0
                groups_given = whole_given = used = 0
                ages.clear()
                begun = loop.time()
            taken = 0
            since = loop.time()
            while taken < options.batch:
                group = await anext(groups)
                fresh = [
                    each.usable and policy.version - each.versions[0] <= most
                    for each in group.episodes
                ]
                ages += [
                    policy.version - each.versions[0] for each in group.episodes if each.usable
                ]
                groups_given += 1
                whole_given += all(fresh)
                used += sum(fresh)
                taken += all(fresh) or not options.whole
            waited += loop.time() - since
            if options.clock:
                continue
            since = loop.time()
            await asyncio.sleep(training)
            learnt += loop.time() - since
            if (number + 1) % options.publish_every == 0:
                policy.publish()
        seconds = loop.time() - begun
    return {
        "capacity": per_second,
        "thrown": 1 - used / (size * groups_given),
        "whole": whole_given / groups_given,
        "whole_per_second": whole_given / seconds,
        "waits": math.nan if options.clock else waited / (waited + learnt),
        "pace": whole_given / seconds / per_second,
        "age": statistics.fmean(ages) if ages else 0.0,
    }


@contextlib.asynccontextmanager
async def published_by_the_clock(policy: VersionedPolicy, seconds: float) -> AsyncIterator[None]:
    """Publish a version every so many seconds, also while the learner waits."""

    async def publish() -> None:
        while True:
            await asyncio.sleep(seconds)
            policy.publish()

    publishing = asyncio.create_task(publish())
    try:
        yield
    finally:
        publishing.cancel()
        await asyncio.wait([publishing])


async def play(options: argparse.Namespace) -> dict[str, Any]:
    """Play one run on a server of its own."""
    Waiting.options = options
    async with serve(create_app(Waiting)) as url:
        return await measure(options, url)


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Have a revision of this project beside this one."""
    with tempfile.TemporaryDirectory(prefix="openenv-base-") as folder:
        place = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(place), revision], check=True)
        try:
            yield place
        finally:
            subprocess.run([*git, "remove", "--force", str(place)], check=True)


def play_at(place: Path, arguments: list[str]) -> dict[str, Any]:
    """Play one run in a process of its own, with the library of ``place``."""
    with tempfile.TemporaryDirectory(prefix="openenv-staleness-") as folder:
        script = Path(folder) / "staleness.py"  # nothing else of this revision is in its path
        script.write_bytes(Path(__file__).read_bytes())
        done = subprocess.run(
            [sys.executable, str(script), "--json", *arguments],
            env=os.environ | {"PYTHONPATH": str(place)},
            cwd=folder,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=600,
        )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def compare(sides: dict[str, Path], cases: dict[str, list[str]], pairs: int) -> None:
    """Play the cases at every side in turns, and print the medians."""
    heads = f"{'thrown':>8}{'whole':>8}{'whole/s':>9}{'waits':>8}{'age':>6}"
    print(f"{'':34}{'':>9}{heads}", flush=True)
    for name, arguments in cases.items():
        seen: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        first = play_at(sides["ours"], [*arguments, "--versions", "3"])
        fixed = [*arguments, "--capacity", str(first["capacity"])]
        for pair in range(pairs):
            for side in list(sides) if pair % 2 else list(reversed(sides)):
                seen[side].append(play_at(sides[side], fixed))
        for side, runs in seen.items():
            middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            print(
                f"{name:34}{side:>9}{middle['thrown']:8.1%}{middle['whole']:8.1%}"
                f"{middle['whole_per_second']:9.2f}{middle['waits']:8.1%}{middle['age']:6.2f}",
                flush=True,
            )


def main() -> None:
    options = parse()
    if options.json:
        print(json.dumps(asyncio.run(play(options))))
        return
    shared, own = {"--all", "--base", "--pairs"}, []
    given = iter(sys.argv[1:])
    for argument in given:
        name, equals, _ = argument.partition("=")
        if name not in shared:
            own.append(argument)
        elif name != "--all" and not equals:
            next(given)
    cases = CASES if options.all else {"the usual case": []}
    cases = {name: [*arguments, *own] for name, arguments in cases.items()}
    with contextlib.ExitStack() as stack:
        sides = {"ours": ROOT}
        if options.base:
            sides = {"base": stack.enter_context(checked_out(options.base)), **sides}
        compare(sides, cases, options.pairs)


if __name__ == "__main__":
    main()
