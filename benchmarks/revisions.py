"""This project beside an earlier revision of itself, in interleaved pairs.

Each pair runs one workload of ``compare.py`` with both revisions, one right after the other, in
turns of who goes first; what is judged is the ratio within a pair, so a slow minute of the
machine hits both. Printed are the median ratio (below 1: slower than before) and its 95 %
confidence interval from order statistics of the binomial distribution (Conover, *Practical
Nonparametric Statistics*, section 3.2), and the medians of both revisions with their CPU time.

    python -m benchmarks.revisions --base c39159a --only inline-64 --pairs 9 --seconds 3

The earlier revision is checked out beside this one for as long as the run takes, and runs in the
same virtual environment.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from benchmarks.compare import (
    ROOT,
    WORKLOADS,
    Figures,
    Options,
    Side,
    Workload,
    amount,
    log,
    measure,
)

OURS: Final = ("benchmarks.ours_server", "benchmarks.ours_client")
DEFAULT_WORKLOADS: Final = ("inline-64", "inline-1024", "latency", "frame-16")
Pair = tuple[Figures, Figures]
"""A measurement of the earlier revision, and one of this right after or before it."""


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of the median, as the two order statistics that bound it.

    With fewer than six values no interval of 95 % exists: then it is the whole range.
    """
    ordered = sorted(values)
    n = len(ordered)
    rank, below = 0, 0.5**n
    while rank + 1 < n / 2 and 2 * (below + math.comb(n, rank + 1) * 0.5**n) <= 1 - confidence:
        rank += 1
        below += math.comb(n, rank) * 0.5**n
    return ordered[rank], ordered[n - 1 - rank]


@contextlib.contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A worktree of an earlier revision, removed afterwards."""
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "before"
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def ratio(workload: Workload, pair: Pair) -> float:
    """Return how many times as good this revision was within one pair."""
    before, now = (figures[workload.metric] for figures in pair)
    return workload.times_better(now, before)


def result_table(pairs: dict[str, list[Pair]], workloads: Sequence[Workload]) -> Table:
    table = Table(title="This revision beside the earlier one (ratio below 1: worse than before)")
    for heading in ("workload", "unit", "before", "now", "ratio", "95 %", "CPU µs before", "now"):
        table.add_column(heading)
    for workload in workloads:
        done = pairs[workload.name]
        ratios = [ratio(workload, pair) for pair in done]
        low, high = interval(ratios)
        cells = []
        for side in (0, 1):
            both = [
                amount(statistics.median(pair[side][key] for pair in done))
                for key in ("server_cpu_us", "client_cpu_us")
                if key in done[0][side]
            ]
            cells.append(" + ".join(both))
        table.add_row(
            workload.name,
            workload.unit,
            amount(statistics.median(pair[0][workload.metric] for pair in done)),
            amount(statistics.median(pair[1][workload.metric] for pair in done)),
            f"{statistics.median(ratios):.3f}",
            f"{low:.3f} to {high:.3f}",
            *cells,
        )
    return table


def main() -> int:
    names = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--base", required=True, help="the earlier revision")
    parser.add_argument("--only", action="append", choices=names, help="may be repeated")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured, per run")
    parser.add_argument("--warmup", type=float, default=0.5)
    args = parser.parse_args()
    wanted = args.only or DEFAULT_WORKLOADS
    workloads = [workload for workload in WORKLOADS if workload.name in wanted]
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)  # inherited: both ends share the same two cores
    pairs: dict[str, list[Pair]] = {workload.name: [] for workload in workloads}
    with checked_out(args.base) as tree:
        options = [
            Options(
                rounds=args.pairs,
                seconds=args.seconds,
                warmup=args.warmup,
                pin=False,
                workloads=workloads,
                sides={"ours": Side(sys.executable, *OURS, client_flags=("--uvloop",), root=root)},
                cores=cores,
            )
            for root in (tree, ROOT)
        ]
        for number in range(args.pairs):
            for workload in workloads:
                done: dict[int, Figures] = {}
                for side in (0, 1) if number % 2 == 0 else (1, 0):
                    done[side] = measure("ours", workload, options[side])
                pair = done[0], done[1]
                pairs[workload.name].append(pair)
                log.print(
                    f"{number + 1}/{args.pairs} {workload.name}: {ratio(workload, pair):.3f}",
                    highlight=False,
                )
    console = Console()
    if not console.is_terminal:
        console.width = 120
    console.print(result_table(pairs, workloads))
    return 0


if __name__ == "__main__":
    sys.exit(main())
