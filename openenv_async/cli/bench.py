"""``openenv-async bench``: load on a server, what it cost, and how much of it there may be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from openenv_async.cli.options import (
    SECONDS,
    examples,
    param_option,
    token_option,
)
from openenv_async.cli.output import console, echo
from openenv_async.cli.targets import resolved, target_argument
from openenv_async.telemetry.terminal import printable
from openenv_async.types import MAX_SECONDS

if TYPE_CHECKING:
    from rich.text import Text

    from openenv_async.benchmarking import (
        Bounds,
        Level,
        Load,
        RecordedEpisode,
        Report,
        SweepReport,
    )
    from openenv_async.benchmarking.chaos import ChaosReport
    from openenv_async.targets.resolve import ResolvedTarget
    from openenv_async.targets.served import Server

__all__ = ["bench"]

_KINDS: Final = {
    "inline": "BenchEnvironment",
    "thread": "BenchThreadEnvironment",
    "async": "BenchAsyncEnvironment",
}


@click.command(
    epilog=examples(
        "bench",
        "bench --sessions 1024 --connections 4 --seconds 10",
        "bench --obs-bytes 28224 --param isolation=thread",
        "bench gymnasium --param id=CartPole-v1 --json",
        "bench http://127.0.0.1:8000",
        "bench echo --sweep --max-p99 20",
        "bench my_env --sweep --trace runs.jsonl",
        "bench echo --chaos --sessions 1000 --seconds 60",
        "bench --chaos --vector 64 --sessions 256",
        "bench --chaos --over unix --obs-bytes 28224 --vector 16",
    )
)
@target_argument(required=False)
@click.option(
    "--sessions",
    type=click.IntRange(1),
    help="Sessions at once.  [default: 64; with --sweep up to 4096]",
)
@click.option(
    "--connections",
    show_default="1; one for each vector",
    type=click.IntRange(1),
    help="Connections that they share.",
)
@click.option(
    "--seconds", type=SECONDS, help="Measured.  [default: 5; with --sweep 2 for each level]"
)
@click.option(
    "--warmup",
    type=SECONDS,
    help="Seconds before that, dropped.  [default: 1; with --sweep 0.5]",
)
@click.option(
    "--obs-bytes",
    type=click.IntRange(0),
    help="Size of the array in each observation of the built-in environment.",
)
@click.option("--seed", default=0, show_default=True, type=int, help="Of the actions.")
@click.option(
    "--local/--no-local",
    default=True,
    show_default=True,
    help="Use the Unix socket of a server on this machine; faults are those of TCP alone.",
)
@token_option
@param_option
@click.option(
    "--chaos",
    is_flag=True,
    help="Cut, pause and delay connections and kill workers meanwhile, then audit every step.",
)
@click.option(
    "--vector",
    type=click.IntRange(1),
    help="With --chaos: sessions that are stepped together, in column frames.",
)
@click.option(
    "--over",
    type=click.Choice(["tcp", "unix"]),
    default="tcp",
    show_default=True,
    help="With --chaos: the connections that are broken; over unix, large payloads are in shared"
    " memory.",
)
@click.option(
    "--trace",
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE|FOLDER",
    help="Recorded episodes whose actions and think times are the load.",
)
@click.option(
    "--think",
    type=click.FloatRange(0.0, max=MAX_SECONDS),
    help="With --trace: factor of the recorded think times; 0: none.  [default: 1]",
)
@click.option(
    "--sweep",
    is_flag=True,
    help="Find how many sessions TARGET stands: double them until a bound breaks, then bisect.",
)
@click.option(
    "--max-p99",
    type=click.FloatRange(0.0, min_open=True, max=MAX_SECONDS),
    metavar="MS",
    help="With --sweep: milliseconds that 99 of 100 steps keep.  [default: 100, or three times"
    " the p99 of one session]",
)
@click.option(
    "--max-failures",
    type=click.FloatRange(0.0, 1.0, max_open=True),
    metavar="SHARE",
    help="With --sweep: share of the steps that may fail.  [default: 0.01]",
)
@click.option(
    "--max-memory",
    type=click.IntRange(1),
    metavar="MIB",
    help="With --sweep: memory that the server may take.  [default: 80 % of what is free]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def bench(
    target: str | list[str] | None,
    sessions: int | None,
    connections: int | None,
    seconds: float | None,
    warmup: float | None,
    obs_bytes: int | None,
    seed: int,
    local: bool,
    token: str | None,
    params: dict[str, Any],
    chaos: bool,
    vector: int | None,
    over: Literal["tcp", "unix"],
    trace: Path | None,
    think: float | None,
    sweep: bool,
    max_p99: float | None,
    max_failures: float | None,
    max_memory: int | None,
    as_json: bool,
) -> None:
    """Measure TARGET in a closed loop.

    TARGET is the URL of a server (of several the first is measured), or anything else that can be
    served: then a server is started for it. Without TARGET it is a built-in environment that costs
    next to nothing; `--param isolation=inline|thread|async` says where its steps run.

    With --sweep it says how many sessions this machine stands for TARGET, and what the limit is.
    """
    from openenv_async.benchmarking import Bounds, Load
    from openenv_async.cli.playing import run

    seconds = (2.0 if sweep else 5.0) if seconds is None else seconds
    warmup = (0.5 if sweep else 1.0) if warmup is None else warmup
    if not seconds:
        raise click.BadParameter("must be more than 0", param_hint="--seconds")
    if sweep and (chaos or connections is not None):
        other = "--chaos" if chaos else "--connections"
        raise click.BadParameter(f"takes no {other}", param_hint="--sweep")
    if chaos and trace is not None:
        raise click.BadParameter("is not for --chaos", param_hint="--trace")
    if think is not None and trace is None:
        raise click.BadParameter("is for --trace", param_hint="--think")
    for name, given in (
        ("--max-p99", max_p99),
        ("--max-failures", max_failures),
        ("--max-memory", max_memory),
    ):
        if given is not None and not sweep:
            raise click.BadParameter("is for --sweep", param_hint=name)
    recorded = None if trace is None else _read_trace(trace, 1.0 if think is None else think)
    bounds = Bounds(
        sessions or 4096,
        None if max_p99 is None else max_p99 / 1e3,
        0.01 if max_failures is None else max_failures,
        None if max_memory is None else max_memory * 2**20,
    )
    sessions = sessions or 64
    if target is not None and obs_bytes is not None:
        raise click.BadParameter("is for the built-in environment", param_hint="--obs-bytes")
    if vector is not None and not chaos:
        raise click.BadParameter("is for --chaos", param_hint="--vector")
    if over != "tcp" and not chaos:
        raise click.BadParameter("is for --chaos", param_hint="--over")
    if connections is None:
        connections = 1 if vector is None else -(-sessions // vector)
    load = Load(sessions, connections, seconds, warmup, seed, local)
    if target is None:
        kind = params.pop("isolation", "inline")
        if kind not in _KINDS:
            raise click.BadParameter(
                f"isolation is one of {', '.join(_KINDS)}, not {kind!r}", param_hint="--param"
            )
        params["obs_bytes"] = obs_bytes or 0
        target = f"openenv_async.testing:{_KINDS[kind]}"
    found = resolved(target, params, token, "bench")
    if chaos:
        report = run(_torment(found, load, vector, over, as_json))
        echo(json.dumps(report.as_dict(), indent=2)) if as_json else _print_chaos(report)
        if not report.audit.passed:
            raise SystemExit(1)
        return
    if sweep:
        swept = run(_sweep(found, load, bounds, recorded, as_json))
        echo(json.dumps(swept.as_dict(), indent=2)) if as_json else _print_sweep(swept)
        return
    measured = run(_measure(found, load, recorded, as_json))
    if as_json:
        echo(json.dumps(measured.as_dict(), indent=2))
    else:
        _print(measured)


def _read_trace(path: Path, think: float) -> list[RecordedEpisode]:
    from openenv_async.benchmarking import read_trace
    from openenv_async.cli.recorded import recorded_episodes

    try:
        return read_trace(recorded_episodes(path), think=think)
    except ValueError as exc:
        raise click.BadParameter(f"{path}: {exc}", param_hint="--trace") from None


async def _sweep(
    target: ResolvedTarget,
    load: Load,
    bounds: Bounds,
    trace: list[RecordedEpisode] | None,
    quiet: bool,
) -> SweepReport:
    from openenv_async.benchmarking import sweep
    from openenv_async.checks.servers import servers

    with _Bar(quiet) as bar:
        async with servers(target, max_sessions=bounds.max_sessions) as found:
            server = found[0]
            return await sweep(
                server.url,
                load,
                bounds,
                target=_name(target, server),
                trace=trace,
                token=server.token,
                pid=server.pid,
                on_level=bar.level,
                on_progress=bar,
            )


async def _measure(
    target: ResolvedTarget, load: Load, trace: list[RecordedEpisode] | None, quiet: bool
) -> Report:
    from openenv_async.benchmarking import bench as measure
    from openenv_async.checks.servers import servers

    with _Bar(quiet) as bar:
        async with servers(target, max_sessions=max(1024, load.sessions)) as found:
            server = found[0]
            return await measure(
                server.url,
                load,
                target=_name(target, server),
                trace=trace,
                token=server.token,
                pid=server.pid,
                on_progress=bar,
            )


async def _torment(
    target: ResolvedTarget,
    load: Load,
    vector: int | None,
    over: Literal["tcp", "unix"],
    quiet: bool,
) -> ChaosReport:
    from openenv_async.benchmarking.chaos import run_chaos
    from openenv_async.checks.servers import servers

    room = max(1024, 2 * load.sessions)
    with _Bar(quiet) as bar:
        async with servers(target, max_sessions=room, arguments=("--workers", "2")) as found:
            server = found[0]
            return await run_chaos(
                server.url,
                load,
                target=_name(target, server),
                token=server.token,
                pid=server.pid,
                vector=vector,
                over=over,
                on_progress=bar,
            )


def _name(target: ResolvedTarget, server: Server) -> str:
    return server.url if target.kind in ("url", "urls") else str(target.given)


class _Bar:
    """A bar of the phases on standard error, when that is a terminal."""

    def __init__(self, quiet: bool) -> None:
        import sys

        from rich.progress import BarColumn, Progress, TaskID, TextColumn

        self._bar = Progress(
            TextColumn("{task.description:<8}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[steps]}", markup=False),
            console=console(stderr=True),
            transient=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def __call__(self, phase: str, share: float, steps: int) -> None:
        task = self._tasks.get(phase)
        if task is None:
            task = self._tasks[phase] = self._bar.add_task(phase, total=1.0, steps="")
        self._bar.update(task, completed=share, steps=f"{steps:,} steps" if steps else "")

    def level(self, level: Level) -> None:
        """Print a level of a sweep above the bar."""
        if not self._bar.disable:
            told = "held" if level.broke is None else printable(level.broke)
            self._bar.console.print(f"{level.sessions:,} sessions: {told}", style="dim")


def _print_chaos(report: ChaosReport) -> None:
    from rich.table import Table
    from rich.text import Text

    audit, latency = report.audit, report.latency_ms
    table = Table(show_header=False, title=report.target, title_justify="left", box=None)
    vectors = "" if report.vector is None else f" in vectors of {report.vector:,}"
    table.add_row(
        "sessions",
        f"{report.sessions:,}{vectors} over {report.connections} connection(s) by"
        f" {report.transport}",
    )
    table.add_row("faults", ", ".join(f"{n} {name}" for name, n in sorted(report.faults.items())))
    table.add_row("steps/s", f"{report.steps_per_second:,.0f}")
    table.add_row("latency", ", ".join(f"{name} {latency[name]:.1f} ms" for name in latency))
    table.add_row("resumed", f"{audit.resumed:,} times a session went on after its connection died")
    lost = ", ".join(f"{count:,} {code}" for code, count in audit.typed_lost.items()) or "none"
    table.add_row("sessions lost, typed", f"{lost} ({audit.unaudited:,} steps not audited)")
    untyped = ", ".join(f"{count} {code}" for code, count in audit.untyped.items()) or "none"
    table.add_row("other errors", untyped)
    table.add_row(
        "audit", f"{audit.episodes:,} episodes, {audit.seen:,} steps seen, {audit.executed:,} run"
    )
    style = "green" if audit.passed else "red"
    verdict = f"{audit.lost} lost, {audit.repeated} repeated, {audit.mismatched} mismatched"
    table.add_row("", Text(verdict, style=f"bold {style}"))
    table.add_row("", f"{audit.checked_by_name:,} replies named their request")
    console().print(table)


_BAR_WIDTH: Final = 12


def _print_sweep(report: SweepReport) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=report.target, title_justify="left", box=None)
    for heading in ("sessions", "steps/s", "p50 ms", "p99 ms", "server", "client", "MiB"):
        table.add_column(heading, justify="right")
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    fastest = max(level.steps_per_second for level in report.levels)
    for level in report.levels:
        table.add_row(*_level_row(level, fastest, level.sessions == report.sessions))
    shown_on = console()
    shown_on.print(table)
    shown_on.print(Text(printable(report.sentence), style="bold"))
    shown_on.print(f"server, client: cores in use. {report.method}", style="dim")


def _level_row(level: Level, fastest: float, is_knee: bool) -> list[str | Text]:
    from rich.text import Text

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    share = level.steps_per_second / fastest if fastest else 0.0
    style = "green" if level.broke is None else "red"
    bar = Text("█" * round(_BAR_WIDTH * share), style=style)
    told = Text("← stands" if is_knee else printable(level.broke or ""), style=style)
    memory = None if level.memory_bytes is None else level.memory_bytes / 2**20
    return [
        f"{level.sessions:,}",
        f"{level.steps_per_second:,.0f}",
        number(level.p50_ms, ",.1f"),
        number(level.p99_ms, ",.1f"),
        number(level.server_cores, ".2f"),
        number(level.client_cores, ".2f"),
        number(memory, ",.0f"),
        bar,
        told,
    ]


def _print(report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, title=report.target, title_justify="left", box=None)
    way = "" if report.transport is None else f" by {report.transport}"
    table.add_row("sessions", f"{report.sessions:,} over {report.connections} connection(s){way}")
    table.add_row("steps/s", Text(f"{report.steps_per_second:,.0f}", style="bold"))
    latency = report.latency_ms
    table.add_row("latency", ", ".join(f"{name} {latency[name]:.2f} ms" for name in latency))
    failures = ", ".join(f"{code}: {count}" for code, count in report.failures.items())
    success = Text(f"{report.success_rate:.2%}")
    if failures:
        success.append(f" ({printable(failures)})", style="red")
    table.add_row("success", success)
    table.add_row("opening", f"{report.sessions / max(report.open_seconds, 1e-9):,.0f} sessions/s")
    for name, usage in (("server", report.server), ("client", report.client)):
        cpu = "CPU unknown"
        if usage.cpu_us_per_step is not None and usage.cpu_share is not None:
            cpu = f"{usage.cpu_us_per_step:.2f} µs CPU per step ({usage.cpu_share:.0%} of a core)"
        memory = "" if usage.rss_bytes is None else f", {usage.rss_bytes / 2**20:,.0f} MiB"
        table.add_row(name, cpu + memory)
        if usage.runs_on:
            table.add_row("", Text(f"on {', '.join(map(printable, usage.runs_on))}", style="dim"))
    shown_on = console()
    shown_on.print(table)
    shown_on.print(report.method, style="dim")
