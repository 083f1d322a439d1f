"""Thousands of sessions whose steps take a second and end one by one, on one server.

Each session opens, resets and then steps in a closed loop; a step sleeps for a second in the
environment. First steps are spread over a second, so that replies hardly ever come together. The
columns are those of upstream's own scaling study (success, connect, reset, step, total, requests
per second, effective concurrency), and beside them what it costs: CPU of both ends for each step,
around the measured window only, and the server's memory.

    python -m benchmarks.scale                              # 8,192, 16,384 and 32,768 sessions
    python -m benchmarks.scale --base c39159a --sessions 8192 --rounds 5
    python -m benchmarks.scale --connections 1 --connections 8 --sessions 8192

Sides are run in turn, round after round, each with a fresh server process and a fresh client
process; printed is the median over the rounds with the range. An earlier revision is checked out
beside this one for as long as the run takes, and runs in the same virtual environment. The row
"asyncio alone" has no server: one process whose tasks sleep in the same way, which is the part of
the server's CPU that is the environment's own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import logging
import os
import random
import statistics
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

STEP_SECONDS: Final = 1.0
OPENINGS: Final = 256
"""Sessions that open at once; with all of them at once the first would wait for the last."""
ASYNCIO: Final = "asyncio alone"
HERE: Final = Path(__file__).resolve()
Figures = dict[str, float]


# --- the processes: only of the package, which may be an earlier revision ------------------------


def serve(sessions: int) -> None:
    """Serve the environment until standard input closes."""
    from openenv_async import EngineOptions, Environment, StepResult
    from openenv_async.server.run import run_server

    class Sleeper(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
        """A step that sleeps, as one does that waits for a program or a model."""

        async def reset(self) -> dict[str, Any]:
            return {}

        async def step(self, action: dict[str, Any]) -> StepResult[dict[str, Any]]:
            await asyncio.sleep(action["seconds"])
            return StepResult({"waited": action["seconds"]}, 1.0)

    def announce(url: str) -> None:
        logging.disable(logging.ERROR)  # thousands may fail in the same way: the client tells one
        print(json.dumps({"url": url, "pid": os.getpid()}), flush=True)

    options = EngineOptions(max_sessions=sessions + 64)
    run_server(Sleeper, port=0, options=options, on_listening=announce, until_stdin_closes=True)


def cpu_seconds(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat[stat.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return float(line.split()[1]) / 1024


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


async def drive(args: argparse.Namespace) -> Figures:
    """Open the sessions, step them, and measure a window."""
    from openenv_async import GenericEnvClient

    clock = time.perf_counter
    turn = asyncio.Semaphore(OPENINGS)
    times: dict[str, array[float]] = {
        name: array("d") for name in ("connect", "reset", "step", "total")
    }
    ready, all_open = asyncio.Event(), asyncio.Event()
    counts = {"opened": 0, "failed": 0}
    measuring = stopping = False
    phases = [number / args.sessions * STEP_SECONDS for number in range(args.sessions)]
    random.Random(0).shuffle(phases)
    action = {"seconds": STEP_SECONDS}

    async def session(number: int) -> None:
        env = GenericEnvClient(args.url, share=f"c{number % args.connections}")
        try:
            async with turn:
                begin = clock()
                await env.open()
                opened = clock()
                await env.reset()
                life = clock() - begin
            times["connect"].append(opened - begin)
            times["reset"].append(life - (opened - begin))
            counts["opened"] += 1
            if counts["opened"] + counts["failed"] == args.sessions:
                all_open.set()
            await ready.wait()
            await asyncio.sleep(phases[number])
            step, record = env.step, times["step"].append
            first = True
            begin = clock()
            while not stopping:
                result = await step(action)
                end = clock()
                if first:
                    assert result.reward == 1.0
                    times["total"].append(life + end - begin)
                    first = False
                elif measuring:
                    record(end - begin)
                begin = end
            await env.close()
        except Exception as exc:
            if not counts["failed"]:
                print(f"the first failure: {exc!r}", file=sys.stderr)
            counts["failed"] += 1
            if counts["opened"] + counts["failed"] == args.sessions:
                all_open.set()

    tasks = [asyncio.ensure_future(session(number)) for number in range(args.sessions)]
    begun = clock()
    await all_open.wait()
    opening = clock() - begun
    gc.freeze()  # the collector of this process would walk the sessions, and is not measured
    ready.set()
    await asyncio.sleep(STEP_SECONDS * 3 + args.warmup)
    before = clock(), time.process_time(), cpu_seconds(args.pid)
    measuring = True
    await asyncio.sleep(args.seconds)
    measuring = False
    after = clock(), time.process_time(), cpu_seconds(args.pid)
    elapsed, client, server = (end - start for start, end in zip(before, after, strict=True))
    memory = rss_mib(args.pid)
    stopping = True
    await asyncio.gather(*tasks)
    steps = times["step"]
    done = max(len(steps), 1)
    return {
        "success": 100.0 * (1 - counts["failed"] / args.sessions),
        "opened_per_s": args.sessions / opening,
        **{
            f"{name}_p{share}": percentile(times[name], share / 100)
            for name in times
            for share in (50, 99)
        },
        "per_s": len(steps) / elapsed,
        "concurrency": len(steps) * STEP_SECONDS / elapsed,
        "server_us": server / done * 1e6,
        "client_us": client / done * 1e6,
        "server_mib": memory,
    }


async def sleep_alone(args: argparse.Namespace) -> Figures:
    """Sleep as the environments do, in as many tasks, without a server."""
    count = 0
    stopping = False

    async def sleeper(phase: float) -> None:
        nonlocal count
        await asyncio.sleep(phase)
        while not stopping:
            await asyncio.sleep(STEP_SECONDS)
            count += 1

    tasks = [
        asyncio.ensure_future(sleeper(number / args.sessions * STEP_SECONDS))
        for number in range(args.sessions)
    ]
    await asyncio.sleep(STEP_SECONDS * 2)
    before, cpu = count, time.process_time()
    await asyncio.sleep(args.seconds)
    done, cpu = count - before, time.process_time() - cpu
    stopping = True
    await asyncio.gather(*tasks)
    return {"per_s": done / args.seconds, "server_us": cpu / done * 1e6}


# --- the run -----------------------------------------------------------------------------------


@contextlib.contextmanager
def process(tree: Path, arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run this file with the package of ``tree``; ended with its standard input."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    running = subprocess.Popen(
        [sys.executable, str(HERE), *arguments],
        cwd=tree,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield running
    finally:
        try:
            running.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            running.kill()
            running.communicate()


def told(running: subprocess.Popen[str]) -> dict[str, Any]:
    assert running.stdout is not None
    line = running.stdout.readline()
    if not line:
        raise RuntimeError("a process of the benchmark ended early: see what it printed")
    found: dict[str, Any] = json.loads(line)
    return found


def measure(tree: Path, sessions: int, connections: int, args: argparse.Namespace) -> Figures:
    """Run a server and a client of the package in ``tree``."""
    with process(tree, ["--role", "server", "--sessions", str(sessions)]) as server:
        listening = told(server)
        client = ["--role", "client", "--url", listening["url"], "--pid", str(listening["pid"])]
        client += ["--sessions", str(sessions), "--connections", str(connections)]
        client += ["--seconds", str(args.seconds), "--warmup", str(args.warmup)]
        with process(tree, client) as running:
            return told(running)


def measure_asyncio(sessions: int, args: argparse.Namespace) -> Figures:
    arguments = ["--role", "sleeps", "--sessions", str(sessions), "--seconds", str(args.seconds)]
    with process(HERE.parent.parent, arguments) as running:
        return told(running)


COLUMNS: Final = (
    ("success", "success %", 1, 2),
    ("connect_p50", "connect p50 ms", 1e3, 1),
    ("connect_p99", "p99", 1e3, 1),
    ("reset_p50", "reset p50 ms", 1e3, 1),
    ("reset_p99", "p99", 1e3, 1),
    ("step_p50", "step p50 s", 1, 3),
    ("step_p99", "p99", 1, 3),
    ("total_p50", "total p50 s", 1, 3),
    ("total_p99", "p99", 1, 3),
    ("per_s", "steps/s", 1, 0),
    ("concurrency", "concurrency", 1, 0),
    ("server_us", "server µs", 1, 1),
    ("client_us", "client µs", 1, 1),
    ("server_mib", "server MiB", 1, 0),
)
"""Key, heading, factor and decimals of each column."""


def cell(rounds: Sequence[Figures], key: str, factor: float, decimals: int) -> str:
    values = [figures[key] * factor for figures in rounds if key in figures]
    if not values:
        return "–"
    middle = f"{statistics.median(values):,.{decimals}f}"
    low, high = (f"{value:,.{decimals}f}" for value in (min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, action="append", help="repeatable")
    parser.add_argument("--connections", type=int, action="append", help="repeatable; 1")
    parser.add_argument("--base", help="an earlier revision, as another side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="measured, per run")
    parser.add_argument("--warmup", type=float, default=0.5)
    parser.add_argument("--json", type=Path, help="file for the figures of every run")
    parser.add_argument("--no-uvloop", action="store_true", help="asyncio's own loop in the client")
    parser.add_argument("--role", choices=["server", "client", "sleeps"], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--pid", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = args.sessions or [8192, 16384, 32768]
    if args.role == "server":
        serve(sizes[0])
        return 0
    if args.role is not None:
        args.sessions, args.connections = sizes[0], (args.connections or [1])[0]
        import uvloop

        factory = None if args.no_uvloop else uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            coroutine = drive(args) if args.role == "client" else sleep_alone(args)
            print(json.dumps(runner.run(coroutine)), flush=True)
        return 0
    return compare(sizes, args)


def compare(sizes: Sequence[int], args: argparse.Namespace) -> int:
    """Run every side with every size in turn, and print the tables."""
    from benchmarks.revisions import checked_out

    done: dict[tuple[int, str, int], list[Figures]] = {}
    with contextlib.ExitStack() as stack:
        sides = {"this": HERE.parent.parent}
        if args.base is not None:
            sides[args.base] = stack.enter_context(checked_out(args.base))
        for number in range(args.rounds):
            for size in sizes:
                for side in list(sides)[:: 1 if number % 2 else -1]:
                    for connections in args.connections or [1]:
                        figures = measure(sides[side], size, connections, args)
                        done.setdefault((size, side, connections), []).append(figures)
                if not number:
                    done[size, ASYNCIO, 0] = [measure_asyncio(size, args)]
            load = os.getloadavg()[0]
            print(f"round {number + 1} of {args.rounds}, load {load:.1f}", file=sys.stderr)
    report(done)
    if args.json is not None:
        runs = [
            {"sessions": size, "side": side, "connections": connections, "rounds": rounds}
            for (size, side, connections), rounds in done.items()
        ]
        args.json.write_text(json.dumps({"load": os.getloadavg(), "runs": runs}, indent=1))
    return 0


def report(done: dict[tuple[int, str, int], list[Figures]]) -> None:
    """Print a block for each size, side and number of connections."""
    print(f"steps of {STEP_SECONDS:g} s; median (range); CPU µs per step; load {os.getloadavg()}")
    for (size, side, connections), rounds in sorted(done.items()):
        where = f", {connections} connection(s)" if connections else ""
        print(f"\n{size:,} sessions, {side}{where}, {len(rounds)} round(s)")
        for key, heading, factor, decimals in COLUMNS:
            text = cell(rounds, key, factor, decimals)
            if text != "–":
                print(f"  {heading if heading != 'p99' else key.split('_')[0] + ' p99':<16} {text}")


if __name__ == "__main__":
    sys.exit(main())
