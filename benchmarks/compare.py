"""This project beside upstream OpenEnv, on this machine, with the same load on both.

Three sides take every workload in turn, round after round, so that a slow minute of the machine
hits all of them: this project, upstream as it installs, and upstream tuned by hand (an async
environment where the workload leaves the choice, uvloop at both ends, no permessage-deflate).
Server and client are one process each, on the same two cores. A figure is the median over the
rounds. CPU time is read around the measured window only.

    python -m benchmarks.compare --rounds 3 --seconds 5
    python -m benchmarks.compare --only inline-64 --only frame-16 --json result.json

Upstream runs in a virtual environment of its own, made at the first run (about 480 MB).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Final, Literal

from rich.console import Console
from rich.table import Table

from benchmarks.installing import install, make_venv

ROOT: Final = Path(__file__).resolve().parent.parent
UPSTREAM_VERSION: Final = "0.10.0"
UPSTREAM_VENV: Final = ROOT / "benchmarks" / ".venvs" / f"openenv-{UPSTREAM_VERSION}"
START_TIMEOUT: Final = 60.0
SETTLE_SECONDS: Final = 1.0
"""Seconds between the last opened session and the reading of the server's memory."""

SideName = Literal["ours", "upstream", "tuned", "bare"]
SIDE_NAMES: Final[tuple[SideName, ...]] = ("ours", "upstream", "tuned")
Mode = Literal["throughput", "latency", "open", "idle", "ws", "rpc", "rpc-ws", "mcp"]
Figures = dict[str, float]

log = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Side:
    """One of the things compared: an interpreter, and two modules that it runs in ``root``."""

    python: str
    server: str
    client: str
    server_flags: tuple[str, ...] = ()
    client_flags: tuple[str, ...] = ()
    root: Path = ROOT


@dataclass(frozen=True, slots=True)
class Workload:
    """One row of the result.

    Attributes:
        mode: what the client does; the ways of ``dialect_client`` are its own.
        kinds: how the environment's step is written, for each side that can be compared.
        metric: which figure the row is about.
        unit: of that figure.
        floor: how many times better than upstream as it installs this project has to be, where
            that is asked.
        tuned_floor: the same against upstream tuned, where one is asked for.
        lower_is_better: whether a smaller figure is the better one.
        client: the module that loads every side alike, run by this project's interpreter; ``None``:
            each side's own client.
    """

    name: str
    title: str
    mode: Mode
    sessions: int
    kinds: dict[SideName, str]
    floor: float | None
    tuned_floor: float | None = None
    metric: str = "per_s"
    unit: str = "steps/s"
    payload_bytes: int = 0
    lower_is_better: bool = False
    client: str | None = None

    def times_better(self, ours: float, theirs: float) -> float:
        return theirs / ours if self.lower_is_better else ours / theirs


INLINE: Final[dict[SideName, str]] = {
    "ours": "inline",
    "upstream": "sync",
    "tuned": "async",
    "bare": "inline",  # ours with nothing of what survives: see benchmarks/bare.py
}
# As it installs, upstream runs sync environments; an async one is part of the tuning.
ASYNC: Final[dict[SideName, str]] = {"ours": "async", "upstream": "sync", "tuned": "async"}
THREAD: Final[dict[SideName, str]] = {
    "ours": "thread",
    "upstream": "sync",
    "tuned": "sync",
    "bare": "thread",
}
TOOLS: Final[dict[SideName, str]] = {"ours": "tools", "upstream": "tools", "tuned": "tools"}
CHEAP: Final = "benchmarks.dialect_client"

WORKLOADS: Final = (
    Workload("inline-64", "short sync steps, 64 sessions", "throughput", 64, INLINE, 20, 6),
    Workload("inline-1024", "short sync steps, 1,024 sessions", "throughput", 1024, INLINE, 40, 13),
    Workload("async-64", "async environment, 64 sessions", "throughput", 64, ASYNC, 10),
    Workload("thread-64", "sync steps on threads, 64 sessions", "throughput", 64, THREAD, 10),
    Workload(
        "latency",
        "one session alone, p50",
        "latency",
        1,
        INLINE,
        floor=2.5,
        metric="p50_us",
        unit="µs",
        lower_is_better=True,
    ),
    Workload(
        "frame-16",
        "84×84×4 uint8 frame, 16 sessions",
        "throughput",
        16,
        INLINE,
        floor=50,
        payload_bytes=84 * 84 * 4,
    ),
    Workload("open", "opening sessions", "open", 1024, INLINE, 50, unit="sessions/s"),
    Workload(
        "memory",
        "server memory per idle session",
        "idle",
        1000,
        INLINE,
        floor=20,
        metric="kib_per_session",
        unit="KiB",
        lower_is_better=True,
    ),
    Workload("dialect-64", "upstream's dialect, 64 sockets", "ws", 64, INLINE, 5, client=CHEAP),
    Workload("dialect-rpc-64", "its JSON-RPC over HTTP", "rpc", 64, TOOLS, 5, client=CHEAP),
    Workload("dialect-rpc-ws-64", "and over sockets", "rpc-ws", 64, TOOLS, 5, client=CHEAP),
    # Upstream's server does not speak it.
    Workload("mcp-64", "MCP 2025-11-25", "mcp", 64, {"ours": "tools"}, None, client=CHEAP),
)


@dataclass(slots=True)
class Run:
    """The figures of one side with one workload in one round."""

    workload: str
    side: SideName
    round: int
    figures: Figures


@dataclass(slots=True)
class Options:
    """The options of the command line."""

    rounds: int
    seconds: float
    warmup: float
    pin: bool
    workloads: Sequence[Workload]
    sides: dict[SideName, Side]
    cores: list[int] = field(default_factory=list)


# --- processes ---------------------------------------------------------------------------------


def ensure_upstream_python(python: str | None) -> str:
    """Return the interpreter that has upstream installed, installing it first if need be."""
    if python is not None:
        return python
    found = UPSTREAM_VENV / "bin" / "python"
    stamp = UPSTREAM_VENV / ".installed"
    UPSTREAM_VENV.parent.mkdir(exist_ok=True)
    with (UPSTREAM_VENV.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may come at once
        if not stamp.exists():
            where = UPSTREAM_VENV.relative_to(ROOT)
            log.print(f"installing openenv {UPSTREAM_VERSION} into {where}")
            make_venv(str(UPSTREAM_VENV))
            install(str(found), [f"openenv=={UPSTREAM_VERSION}", "uvloop"])
            stamp.touch()
    return str(found)


def read_json_line(process: subprocess.Popen[str], timeout: float) -> dict[str, object]:
    """Return the first line that ``process`` prints, which is all it prints until told more."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], timeout)
    line = process.stdout.readline() if ready else ""
    if not line:
        reason = "ended" if ready else f"said nothing for {timeout:g} s"
        raise RuntimeError(f"{subprocess.list2cmdline(map(str, process.args))}: {reason}")  # type: ignore[arg-type]  # always a list here
    result = json.loads(line)
    assert isinstance(result, dict)
    return result


@contextlib.contextmanager
def spawn(
    command: Sequence[str], core: int | None, root: Path = ROOT
) -> Iterator[subprocess.Popen[str]]:
    """Run a command of ours; it is ended, and its standard error shown if anything failed."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command,
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
            yield process
        except Exception:
            _show_tail(errors)
            raise
        finally:
            process.terminate()
            try:
                process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _show_tail(errors: IO[str]) -> None:
    errors.seek(0)
    log.print("".join(errors.readlines()[-30:]), markup=False, highlight=False)


def client_command(
    side: Side, workload: Workload, options: Options, url: str, pid: int
) -> list[str]:
    if workload.client is None:
        command = [side.python, "-m", side.client, workload.mode, url, *side.client_flags]
    else:
        command = [sys.executable, "-m", workload.client, workload.mode, url]
    command += ["--sessions", str(workload.sessions), "--server-pid", str(pid)]
    command += ["--seconds", str(options.seconds), "--warmup", str(options.warmup)]
    return [*command, "--payload-bytes", str(workload.payload_bytes)]


def run_client(
    command: Sequence[str], core: int | None, timeout: float, root: Path = ROOT
) -> Figures:
    with spawn(command, core, root) as process:
        output, _ = process.communicate(timeout=timeout)
        if process.returncode:
            raise RuntimeError(f"{subprocess.list2cmdline(command)}: exit {process.returncode}")
        return {key: float(value) for key, value in json.loads(output).items()}


def rss_kib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return float(line.split()[1])


def held_memory(
    command: list[str], core: int | None, pid: int, root: Path = ROOT
) -> tuple[float, float]:
    """Return the server's memory after a few sessions came and went, and with all of them open."""
    few = list(command)
    few[few.index("--sessions") + 1] = "16"
    readings = []
    for held in (False, True):
        with spawn(command if held else few, core, root) as process:
            read_json_line(process, START_TIMEOUT)
            if held:
                time.sleep(SETTLE_SECONDS)
                readings.append(rss_kib(pid))
            process.communicate(timeout=START_TIMEOUT)  # closes its standard input
        if not held:
            time.sleep(SETTLE_SECONDS)
            readings.append(rss_kib(pid))
    return readings[0], readings[1]


def measure(side_name: SideName, workload: Workload, options: Options) -> Figures:
    """Run one side with one workload, its server and its client fresh."""
    side = options.sides[side_name]
    server_core, client_core = options.cores if options.pin else (None, None)
    command = [side.python, "-m", side.server, *side.server_flags]
    command += ["--kind", workload.kinds[side_name], "--payload-bytes", str(workload.payload_bytes)]
    command += ["--max-sessions", str(workload.sessions * 2 + 64)]
    with spawn(command, server_core, side.root) as server:
        listening = read_json_line(server, START_TIMEOUT)
        url, pid = str(listening["url"]), int(str(listening["pid"]))
        command = client_command(side, workload, options, url, pid)
        if workload.mode == "idle":
            before, after = held_memory(command, client_core, pid, side.root)
            return {"kib_per_session": (after - before) / workload.sessions, "rss_kib": before}
        timeout = 10 * (options.seconds + options.warmup) + 60
        return run_client(command, client_core, timeout, side.root)


# --- results -----------------------------------------------------------------------------------


def median(runs: Sequence[Run], workload: Workload, side: SideName, metric: str) -> float | None:
    values = series(runs, workload, side, metric)
    return statistics.median(values) if values else None


def series(runs: Sequence[Run], workload: Workload, side: SideName, metric: str) -> list[float]:
    return [
        run.figures[metric]
        for run in runs
        if run.workload == workload.name and run.side == side and metric in run.figures
    ]


def amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.3g}"


def cell(runs: Sequence[Run], workload: Workload, side: SideName, metric: str) -> str:
    """Median, and half the range in percent where there was more than one round."""
    values = series(runs, workload, side, metric)
    if not values:
        return "–"
    middle = statistics.median(values)
    if len(values) == 1 or not middle:
        return amount(middle)
    return f"{amount(middle)} ±{(max(values) - min(values)) / 2 / middle:.0%}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a workload: how many times better, and whether that meets the target."""

    ratio: float | None
    tuned_ratio: float | None
    met: bool | None


def judge(runs: Sequence[Run], workload: Workload) -> Verdict:
    ours = median(runs, workload, "ours", workload.metric)
    theirs = median(runs, workload, "upstream", workload.metric)
    tuned = median(runs, workload, "tuned", workload.metric)
    ratio = workload.times_better(ours, theirs) if ours and theirs else None
    tuned_ratio = workload.times_better(ours, tuned) if ours and tuned else None
    if ratio is None or (workload.tuned_floor is not None and tuned_ratio is None):
        return Verdict(ratio, tuned_ratio, None)
    if workload.floor is None:
        return Verdict(ratio, tuned_ratio, None)
    met = ratio >= workload.floor
    if workload.tuned_floor is not None and tuned_ratio is not None:
        met = met and tuned_ratio >= workload.tuned_floor
    return Verdict(ratio, tuned_ratio, met)


def times(ratio: float | None, tuned_ratio: float | None) -> str:
    first = "–" if ratio is None else f"{ratio:.3g}×"
    return first if tuned_ratio is None else f"{first} ({tuned_ratio:.3g}×)"


def result_tables(runs: Sequence[Run], workloads: Sequence[Workload]) -> list[Table]:
    main_table = Table(title="Times better than upstream as it installs (than upstream tuned)")
    for heading in ("workload", "unit", "ours", "upstream", "tuned", "better", "asked", ""):
        right = heading in {"ours", "upstream", "tuned", "better", "asked"}
        main_table.add_column(heading, justify="right" if right else "left")
    cpu_table = Table(title="CPU µs per step or opening, server + client")
    cpu_table.add_column("workload")
    for heading in SIDE_NAMES:
        cpu_table.add_column(heading, justify="right")

    marks = {True: "[green]met[/]", False: "[red]missed[/]", None: ""}
    for workload in workloads:
        verdict = judge(runs, workload)
        main_table.add_row(
            workload.name,
            workload.unit,
            *(cell(runs, workload, side, workload.metric) for side in SIDE_NAMES),
            times(verdict.ratio, verdict.tuned_ratio),
            times(workload.floor, workload.tuned_floor),
            marks[verdict.met],
        )
        if workload.mode != "idle":
            cpu_table.add_row(
                workload.name,
                *(
                    f"{cell(runs, workload, side, 'server_cpu_us')}"
                    f" + {cell(runs, workload, side, 'client_cpu_us')}"
                    for side in SIDE_NAMES
                ),
            )
    return [main_table, cpu_table]


def machine() -> dict[str, object]:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in cpuinfo if "model name" in line), "")
    packages = ("openenv-async", "uvicorn", "websockets", "msgspec", "uvloop", "httptools")
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {**versions, "openenv": UPSTREAM_VERSION},
    }


def as_json(runs: Sequence[Run], options: Options) -> dict[str, object]:
    return {
        "machine": machine(),
        "rounds": options.rounds,
        "seconds": options.seconds,
        "pinned": options.pin,
        "workloads": [
            {
                "name": workload.name,
                "title": workload.title,
                "metric": workload.metric,
                "unit": workload.unit,
                "median": {
                    side: median(runs, workload, side, workload.metric) for side in SIDE_NAMES
                },
                **asdict(judge(runs, workload)),
                "floor": workload.floor,
                "tuned_floor": workload.tuned_floor,
            }
            for workload in options.workloads
        ],
        "runs": [asdict(run) for run in runs],
    }


# --- command -----------------------------------------------------------------------------------


def parse_arguments() -> tuple[argparse.Namespace, Options]:
    names = [workload.name for workload in WORKLOADS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured, per run")
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--only", action="append", choices=names, help="may be repeated")
    parser.add_argument("--side", action="append", choices=SIDE_NAMES, help="may be repeated")
    parser.add_argument("--pin", action="store_true", help="a core for each of the two processes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument("--check", action="store_true", help="fail if a floor is missed")
    parser.add_argument(
        "--upstream-python", metavar="PATH", help=f"one that has openenv {UPSTREAM_VERSION}"
    )
    args = parser.parse_args()
    wanted: list[SideName] = args.side or list(SIDE_NAMES)
    ours = ("benchmarks.ours_server", "benchmarks.ours_client")
    sides = {"ours": Side(sys.executable, *ours, client_flags=("--uvloop",))}
    if set(wanted) - {"ours"}:
        python = ensure_upstream_python(args.upstream_python)
        server, client = "benchmarks.upstream_server", "benchmarks.upstream_client"
        sides["upstream"] = Side(python, server, client)
        tuned_flags = ("--tuned", "--payload", "base64")
        sides["tuned"] = Side(python, server, client, tuned_flags, ("--uvloop",))
    options = Options(
        rounds=args.rounds,
        seconds=args.seconds,
        warmup=args.warmup,
        pin=args.pin,
        workloads=[w for w in WORKLOADS if args.only is None or w.name in args.only],
        sides={name: sides[name] for name in SIDE_NAMES if name in wanted},
        cores=sorted(os.sched_getaffinity(0))[:2],
    )
    if options.pin and len(options.cores) < 2:
        parser.error("--pin needs two cores")
    return args, options


def main() -> int:
    args, options = parse_arguments()
    os.sched_setaffinity(0, options.cores)  # inherited: both ends share the same two cores
    runs: list[Run] = []
    for round_number in range(1, options.rounds + 1):
        for workload in options.workloads:
            for side in options.sides:
                if side not in workload.kinds:
                    continue
                figures = measure(side, workload, options)
                runs.append(Run(workload.name, side, round_number, figures))
                value = amount(figures[workload.metric])
                log.print(
                    f"{round_number}/{options.rounds} {workload.name} {side}: "
                    f"{value} {workload.unit}",
                    highlight=False,
                )
    console = Console()
    if not console.is_terminal:
        console.width = 110
    for table in result_tables(runs, options.workloads):
        console.print(table)
    if args.json is not None:
        args.json.write_text(json.dumps(as_json(runs, options), indent=2) + "\n")
    missed = [w.name for w in options.workloads if judge(runs, w).met is False]
    return 1 if args.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
