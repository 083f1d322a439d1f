"""Trajectories written to a file: CPU seconds, memory and size, beside an earlier revision.

Episodes of ten steps are written as they would come from ``collect``, each made anew; what making
them costs is measured by itself and taken off. A process a run; revisions take turns. CPU time is
that of the whole process, threads included; memory is the growth of the peak resident size
over that after the first 1,024 episodes were made, before anything is written.

    python -m benchmarks.trajectory_files --base c39159a --episodes 20000 --rounds 3

The earlier revision is checked out beside this one for as long as the run takes, and runs in the
same virtual environment. Its records have fewer fields: it leaves out what it has no place for.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
STEPS: Final = 10
_WARM: Final = 1024
_ENVIRONMENT: Final = {"name": "echo", "version": "1.0.0"}


def _observation(kind: str, number: int) -> Any:
    import numpy as np

    if kind == "array":
        return np.full(4, number, np.float32)
    if kind == "text":
        return {"text": f"guess a digit, this is number {number}", "tries": number % 10}
    return np.full((84, 84), number % 256, np.uint8)


def _outcome(kind: str, index: int) -> Any:
    from openenv_async import EpisodeInfo, Outcome, OutcomeStatus
    from openenv_async.rollouts import Trajectory, Transition

    outcome: Any = Outcome(
        index,
        OutcomeStatus.COMPLETED,
        EpisodeInfo(f"{index:016x}", index),
        episode_return=float(STEPS),
        steps=STEPS,
        duration=0.25,
    )
    trajectory: Any = Trajectory(index)
    trajectory.begin(outcome.episode)
    more = "timings" in Transition.__dataclass_fields__
    for t in range(STEPS):
        step: Any = Transition(t, _observation(kind, index + t), t % 2, 1.0, t == STEPS - 1)
        if more:
            step.timings = {"policy": 1e-4 * t, "environment": 2e-4 * t}
        trajectory.transitions.append(step)
    trajectory.final_observation = _observation(kind, index + STEPS)
    if more:
        trajectory.environment = _ENVIRONMENT  # as a collection has it: one for all
        trajectory.reset_options = {"size": 3}
    trajectory.finish(outcome)
    outcome.trajectory = trajectory
    return outcome


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def child(kind: str, suffix: str, episodes: int) -> None:
    """Write a file and print the figures."""
    from openenv_async.rollouts import open_writer

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"file.{suffix}"
        with open_writer(Path(folder) / f"warm.{suffix}") as writer:
            for index in range(16):
                writer.write(_outcome(kind, index))
        begun = time.process_time()
        for index in range(min(episodes, 4 * _WARM)):
            _outcome(kind, index)
        making = (time.process_time() - begun) / min(episodes, 4 * _WARM)
        before, begun, started = _peak(), time.process_time(), time.perf_counter()
        with open_writer(path) as writer:
            for index in range(episodes):
                writer.write(_outcome(kind, index))
        figures = {
            "cpu": time.process_time() - begun - making * episodes,
            "wall": time.perf_counter() - started,
            "memory": _peak() - before,
            "size": path.stat().st_size,
        }
    print(json.dumps(figures))


def measure(root: Path, kind: str, suffix: str, episodes: int) -> dict[str, float]:
    """Return the figures of one run of a revision."""
    code = "import sys; from trajectory_files import child; child(*sys.argv[1:3], int(sys.argv[3]))"
    found = subprocess.run(
        [sys.executable, "-c", code, kind, suffix, str(episodes)],
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{Path(__file__).parent}"},
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=3600,
    )
    figures: dict[str, float] = json.loads(found.stdout)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", help="the earlier revision")
    parser.add_argument("--episodes", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kind", choices=["array", "text", "image"], action="append")
    parser.add_argument("--suffix", choices=["parquet", "jsonl"], default="parquet")
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        sides = {"now": ROOT}
        if args.base is not None:
            from benchmarks.revisions import checked_out

            sides["before"] = stack.enter_context(checked_out(args.base))
        for kind in args.kind or ["array", "text"]:
            runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
            for number in range(args.rounds):
                for side in sorted(sides, reverse=number % 2 == 0):
                    runs[side].append(measure(sides[side], kind, args.suffix, args.episodes))
            for side, figures in runs.items():
                cpu = [each["cpu"] / args.episodes * 1e5 for each in figures]
                print(
                    f"{kind:6} {side:7} {statistics.median(cpu):6.1f} CPU s per 100,000 episodes"
                    f" ({min(cpu):.1f} to {max(cpu):.1f}),"
                    f" memory +{max(each['memory'] for each in figures) / 1e6:.0f} MB,"
                    f" file {figures[0]['size'] / args.episodes:,.0f} bytes an episode"
                )
            if args.base is not None:
                ratios = [
                    now["cpu"] / before["cpu"]
                    for now, before in zip(runs["now"], runs["before"], strict=True)
                ]
                print(
                    f"{kind:6} ratio   {statistics.median(ratios):.2f}"
                    f" ({min(ratios):.2f} to {max(ratios):.2f})"
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
