"""Atari through the wire: this project, upstream's frames as JSON, and what ALE itself can do.

    python -m benchmarks.atari --upstream-python PATH

``PATH`` is an interpreter that has the packages ``openenv`` (0.10.0) and ``ale-py``; without it
upstream's side is left out. All sides play Pong: RGB frames of 210 × 160 × 3 bytes, frameskip 4,
16 sessions. Sides take turns, round after round; a figure is the median over the rounds.

``engine`` is the limit: the same emulation and the reading of the screen in as many processes as
there are cores, with no runtime at all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
TIMEOUT: Final = 120.0
COLUMNS: Final = (
    ("cpu_us", "µs CPU a step"),
    ("server_cpu_us", "µs server CPU a step (its own process)"),
    ("client_cpu_us", "µs client CPU a step"),
    ("p50_us", "µs p50"),
    ("server_rss_mib", "MiB server"),
)


def engine(seconds: float) -> tuple[float, float]:
    """Steps per second of one core, and CPU µs a step: four frames and the screen."""
    from ale_py import ALEInterface, LoggerMode, roms

    ALEInterface.setLoggerMode(LoggerMode.Error)
    ale = ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    rom = roms.get_rom_path("pong")
    assert rom is not None
    ale.loadROM(rom)
    action = ale.getMinimalActionSet()[3]
    steps, begin, cpu = 0, time.perf_counter(), time.process_time()
    while (elapsed := time.perf_counter() - begin) < seconds:
        for _ in range(4):
            ale.act(action)
        ale.getScreenRGB()
        steps += 1
        if ale.game_over():
            ale.reset_game()
    return steps / elapsed, (time.process_time() - cpu) / steps * 1e6


def engine_on_all_cores(seconds: float) -> dict[str, float]:
    cores = os.cpu_count() or 1
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        measured = list(pool.map(engine, [seconds] * cores))
    return {
        "per_s": sum(rate for rate, _ in measured),
        "cpu_us": statistics.mean(cpu for _, cpu in measured),
    }


@contextmanager
def _server(command: list[str], **variables: str) -> Iterator[dict[str, Any]]:
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.stdin.close()  # which ends ours
        if "--until-stdin-closes" not in command:
            process.terminate()
        try:
            process.wait(TIMEOUT)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def _client(command: list[str], about: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    done = subprocess.run(
        [
            *command,
            *("throughput", about["url"], "--sessions", str(args.sessions)),
            *("--seconds", str(args.seconds), "--server-pid", str(about["pid"])),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT + args.seconds,
        check=True,
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    figures["server_rss_mib"] = _family_rss(about["pid"]) / 2**20
    return figures


def _family_rss(pid: int) -> int:
    """Bytes resident of a process and its descendants."""
    total = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return total + sum(_family_rss(int(child)) for child in children)


def ours(args: argparse.Namespace, isolation: str, *flags: str) -> dict[str, Any]:
    serve = [sys.executable, "-m", "openenv_async.cli", "serve", "atari", "--port", "0", "--json"]
    command = [*serve, "--until-stdin-closes", *flags]
    with _server(command, ATARI_ISOLATION=isolation) as about:
        command = [sys.executable, "-m", "benchmarks.atari_ours", "--uvloop"]
        return _client(command, about, args)


def upstream(args: argparse.Namespace) -> dict[str, Any]:
    python = args.upstream_python
    with _server([python, "-m", "benchmarks.atari_upstream_server"]) as about:
        return _client([python, "-m", "benchmarks.atari_upstream_client"], about, args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--upstream-python", help="interpreter with openenv and ale-py")
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    sides: dict[str, Any] = {
        "engine, all cores": lambda: engine_on_all_cores(args.seconds),
        "ours, inline": lambda: ours(args, "inline"),
        "ours, thread": lambda: ours(args, "thread"),
        "ours, process": lambda: ours(args, "process"),
        "ours, --workers 2": lambda: ours(args, "inline", "--workers", "2"),
    }
    if args.upstream_python:
        sides["upstream"] = lambda: upstream(args)
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, measure in sides.items():
            rounds[name].append(measure())
            print(name, json.dumps(rounds[name][-1]), file=sys.stderr, flush=True)
    for name, runs in rounds.items():
        rates = sorted(run["per_s"] for run in runs)
        middle = statistics.median(rates)
        line = f"{name:20} {middle:8,.0f} steps/s  ({rates[0]:,.0f} to {rates[-1]:,.0f})"
        for key, unit in COLUMNS:
            if key in runs[0]:
                line += f"  {statistics.median(run[key] for run in runs):,.0f} {unit}"
        print(line)


if __name__ == "__main__":
    main()
