"""The cost of surviving: this project as it comes, and with nothing of it switched on.

``python -m benchmarks.bare``: the bare side has no deadlines (so no heap, no timer), no lease, no
resume and no idle clock. Replies are kept until they are acknowledged on both sides: without that
there is no exactly-once, and no switch. Both sides are run in turn, round after round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys

from benchmarks import compare

SIDES: tuple[compare.SideName, ...] = ("ours", "bare")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured, per run")
    parser.add_argument(
        "--only", action="append", default=[], choices=[w.name for w in compare.WORKLOADS]
    )
    args = parser.parse_args()
    ours = compare.Side(
        sys.executable, "benchmarks.ours_server", "benchmarks.ours_client", (), ("--uvloop",)
    )
    bare = compare.Side(
        sys.executable, ours.server, ours.client, ("--bare",), ("--uvloop", "--bare")
    )
    wanted = args.only or ["inline-64", "inline-1024", "thread-64", "latency", "open", "memory"]
    workloads = [w for w in compare.WORKLOADS if w.name in wanted]
    options = compare.Options(
        rounds=args.rounds,
        seconds=args.seconds,
        warmup=1.0,
        pin=False,
        workloads=workloads,
        sides={"ours": ours, "bare": bare},
        cores=sorted(os.sched_getaffinity(0))[:2],
    )
    os.sched_setaffinity(0, options.cores)
    for workload in workloads:
        figures: dict[compare.SideName, list[float]] = {side: [] for side in SIDES}
        for _ in range(args.rounds):
            for side in SIDES:
                result = compare.measure(side, workload, options)
                figures[side].append(result[workload.metric])
        with_all, without = (statistics.median(figures[side]) for side in SIDES)
        print(
            f"{workload.name:12} with {compare.amount(with_all)} {workload.unit},"
            f" without {compare.amount(without)}: {workload.times_better(with_all, without):.0%}"
            " of the speed without",
            flush=True,
        )


if __name__ == "__main__":
    main()
