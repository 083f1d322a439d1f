"""Search for the number of sessions that a machine stands: doubled until a bound breaks.

Rules:

- A level of load breaks when its p99 is above the bound, when more steps fail than allowed, when
  sessions cannot be opened, or when the server takes more memory than allowed.
- A level that breaks is measured once more: one hiccup of a machine decides nothing.
- Between the last level that held and the first that broke the knee is looked for by bisection, to
  an eighth of the number of sessions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from openenv_async.benchmarking.load import Load
from openenv_async.benchmarking.run import Report, bench
from openenv_async.benchmarking.traces import RecordedEpisode
from openenv_async.errors import OpenEnvError, ServerError

__all__ = ["Bounds", "Level", "SweepReport", "climb", "sweep"]

_SESSIONS_PER_CONNECTION: Final = 256
_FREE_SHARE: Final = 0.8
"""Share of the memory that is free at the start which a server may take, by default."""
_USUAL_P99: Final = 0.1
_BUSY: Final = 0.85
"""Share of a core, or of all, from which on it counts as used up."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds that a level of load must keep.

    Attributes:
        max_sessions: the greatest level.
        max_p99: seconds; ``None``: 0.1, or three times the p99 of one session if that is more.
        max_failures: share of the steps that may fail.
        max_memory: bytes of the server; ``None``: four fifths of what is free at the start.
    """

    max_sessions: int = 4096
    max_p99: float | None = None
    max_failures: float = 0.01
    max_memory: int | None = None

    def __post_init__(self) -> None:
        if self.max_sessions < 1:
            raise ValueError(f"max_sessions must be at least 1, got {self.max_sessions}")
        if self.max_p99 is not None and not self.max_p99 > 0:
            raise ValueError(f"max_p99 must be a positive number of seconds, got {self.max_p99}")
        if not 0 <= self.max_failures < 1:
            raise ValueError(f"max_failures must be from 0 to below 1, got {self.max_failures}")
        if self.max_memory is not None and self.max_memory < 1:
            raise ValueError(f"max_memory must be at least 1 byte, got {self.max_memory}")


@dataclass(frozen=True, slots=True)
class Level:
    """The result at one number of sessions.

    Attributes:
        sessions: at once; no figure but this and ``broke`` where they could not be opened.
        p50_ms, p99_ms: of a step.
        failures: steps and resets that raised, by error code.
        server_cores, client_cores: CPU that each side used, 1.0 is one core; ``None`` if unknown.
        machine_cpu: share of all cores of this machine that was used; ``None`` if unknown.
        memory_bytes: resident memory of the server, its child processes included.
        broke: the bound that it broke, in words; ``None`` where it held.
        kind: of that bound: ``p99``, ``failures``, ``opening`` or ``memory``.
    """

    sessions: int
    steps_per_second: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    success_rate: float = 0.0
    failures: dict[str, int] = dataclasses.field(default_factory=dict)
    server_cores: float | None = None
    client_cores: float | None = None
    machine_cpu: float | None = None
    memory_bytes: int | None = None
    broke: str | None = None
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class SweepReport:
    """The result of a sweep.

    Attributes:
        sessions: the most that held.
        saturated_at: the fewest sessions that gave nine tenths of the most steps a second: with
            more, each only waits longer.
        max_p99_ms: the bound that was kept.
        levels: all that were measured, by sessions.
        memory_per_session: bytes that one more session took, from one level to the next; ``None``
            if unknown.
        limited_by: what gave out first.
        sentence: all of it for people.
        method: how it was measured.
    """

    target: str
    sessions: int
    saturated_at: int
    max_p99_ms: float
    levels: list[Level]
    memory_per_session: float | None
    limited_by: str
    sentence: str
    method: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


async def climb(measure: Callable[[int], Awaitable[Level]], most: int) -> list[Level]:
    """Find the knee: double the sessions until a level breaks, then bisect.

    Args:
        measure: gives the level of a number of sessions.
        most: the greatest number.

    Returns:
        All levels, by sessions; of one that was measured twice the better.
    """
    levels: dict[int, Level] = {}

    async def holds(sessions: int) -> bool:
        level = await measure(sessions)
        if level.broke is not None:
            again = await measure(sessions)
            level = level if again.broke is not None else again
        levels[sessions] = level
        return level.broke is None

    good, sessions = 0, 1
    while await holds(sessions):
        good = sessions
        if sessions == most:
            break
        sessions = min(2 * sessions, most)
    bad = sessions if good != sessions else sessions + 1
    while bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if await holds(middle) else (good, middle)
    return [levels[key] for key in sorted(levels)]


async def sweep(
    url: str,
    load: Load,
    bounds: Bounds | None = None,
    *,
    target: str | None = None,
    trace: Sequence[RecordedEpisode] | None = None,
    token: str | None = None,
    pid: int | None = None,
    on_level: Callable[[Level], None] | None = None,
    on_progress: Callable[[str, float, int], None] | None = None,
) -> SweepReport:
    """Find out how many sessions the server at ``url`` stands.

    Args:
        url: of the server; it must take as many sessions as the bounds have.
        load: seconds, warm-up and seed of each level; its sessions and connections are not used.
        bounds: which a level must keep.
        target: what it serves, for the report.
        trace: recorded episodes that the sessions play, with their policy's times; by default
            sessions take actions of the server's action schema one right after the other.
        token: access token.
        pid: of the server when it runs on this machine.
        on_level: called with each level that was measured.
        on_progress: as for ``bench``, for each level.

    Raises:
        ServerError: not even one session holds.
    """
    bounds = bounds or Bounds()
    memory = bounds.max_memory
    if memory is None and (free := _free_memory()) is not None and pid is not None:
        memory = int(_FREE_SHARE * free)
    limit = bounds.max_p99

    async def measure(sessions: int) -> Level:
        nonlocal limit
        connections = -(-sessions // _SESSIONS_PER_CONNECTION)
        shaped = dataclasses.replace(load, sessions=sessions, connections=connections)
        before = _machine_times()
        try:
            report = await bench(
                url, shaped, trace=trace, token=token, pid=pid, on_progress=on_progress
            )
        except OpenEnvError as exc:
            level = Level(sessions, broke=f"{exc.code}: {exc.message}", kind="opening")
        else:
            if limit is None:
                limit = max(_USUAL_P99, 3 * report.latency_ms["p99"] / 1e3)
            level = _level(report, _share_used(before, _machine_times()))
            level = _judged(level, bounds, limit, memory)
        if on_level is not None:
            on_level(level)
        return level

    levels = await climb(measure, bounds.max_sessions)
    held = [level for level in levels if level.broke is None]
    if not held:
        raise ServerError(
            f"{target or url} does not stand one session: {levels[0].broke}; a looser bound is"
            " --max-p99, --max-failures or --max-memory"
        )
    assert limit is not None
    return _report(target or url, url, load, levels, limit, trace is not None, pid is not None)


def _level(report: Report, machine: float | None) -> Level:
    latency = report.latency_ms
    return Level(
        report.sessions,
        report.steps_per_second,
        latency["p50"],
        latency["p99"],
        report.success_rate,
        report.failures,
        report.server.cpu_share,
        report.client.cpu_share,
        machine,
        report.server.rss_bytes,
    )


def _judged(level: Level, bounds: Bounds, max_p99: float, max_memory: int | None) -> Level:
    """Return the level with the first bound that it broke."""
    assert level.p99_ms is not None
    if 1 - level.success_rate > bounds.max_failures:
        codes = ", ".join(sorted(level.failures))
        broke, kind = f"{1 - level.success_rate:.1%} of the steps failed ({codes})", "failures"
    elif max_memory is not None and (level.memory_bytes or 0) > max_memory:
        taken, allowed = (level.memory_bytes or 0) / 2**20, max_memory / 2**20
        broke, kind = f"{taken:,.0f} MiB of memory, more than {allowed:,.0f}", "memory"
    elif level.p99_ms > max_p99 * 1e3:
        broke, kind = f"p99 {level.p99_ms:.1f} ms", "p99"
    else:
        return level
    return dataclasses.replace(level, broke=broke, kind=kind)


def _report(
    target: str,
    url: str,
    load: Load,
    levels: list[Level],
    max_p99: float,
    recorded: bool,
    is_ours: bool,
) -> SweepReport:
    sessions = max(level.sessions for level in levels if level.broke is None)
    broken = next((level for level in levels if level.broke and level.sessions > sessions), None)
    limited_by = _limit(broken, sessions)
    memory = _memory_per_session(levels)
    each = "" if memory is None else f"; memory {_size(memory)} each"
    who = "this machine" if is_ours else f"the server at {url}"
    what = f" of {target}" if target != url else ""
    number = f"{sessions:,} session{'' if sessions == 1 else 's'}"
    more = "" if broken is not None else " at least"
    sentence = (
        f"{who} stands{more} {number}{what} at p99 < {max_p99 * 1e3:,.0f} ms{each};"
        f" the limit is {limited_by}"
    )
    actions = "recorded actions and think times" if recorded else "random actions, no think time"
    method = (
        f"closed loop with {actions}, {load.warmup:g} s of warm-up and {load.seconds:g} s measured"
        " a level; sessions doubled until a level broke twice, then bisected to an eighth; the load"
        f" generator ran on this machine{' too' if is_ours else ''}, in one process"
    )
    fastest = max(level.steps_per_second for level in levels)
    saturated = next(level for level in levels if level.steps_per_second >= 0.9 * fastest)
    sentence += f"; {saturated.sessions:,} give {saturated.steps_per_second:,.0f} steps/s already"
    return SweepReport(
        target,
        sessions,
        saturated.sessions,
        max_p99 * 1e3,
        levels,
        memory,
        limited_by,
        sentence,
        method,
    )


def _limit(broken: Level | None, sessions: int) -> str:
    """Return what gave out first."""
    if broken is None:
        return f"the {sessions:,} sessions that were asked for: nothing broke"
    if broken.kind == "memory":
        return "memory"
    if broken.kind != "p99":
        return f"errors ({broken.broke})"
    if (broken.machine_cpu or 0.0) >= _BUSY:
        return "CPU: every core of this machine is in use"
    server, client = broken.server_cores or 0.0, broken.client_cores or 0.0
    if max(server, client) < _BUSY:
        return "waiting inside the environment, not CPU"
    if client > server:
        return "CPU of the load generator, which is one process: the server may stand more"
    return "CPU of the server: one core is not enough (serve --workers N)"


def _memory_per_session(levels: Sequence[Level]) -> float | None:
    """Return the slope of memory over sessions of the levels that held.

    The levels of the bisection were measured after a larger one, whose memory the server keeps.
    """
    known = [
        (level.sessions, level.memory_bytes)
        for level in levels
        if level.broke is None and level.memory_bytes and not level.sessions & (level.sessions - 1)
    ]
    if len(known) < 2:
        return None
    (few, less), (many, more) = known[0], known[-1]
    return max(0.0, (more - less) / (many - few))


def _size(count: float) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 1024:,.0f} KiB"


def _free_memory() -> int | None:
    """Bytes that programs may still take, by /proc; ``None`` where that is missing."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    text = known.get("MemAvailable", "").removesuffix("kB").strip()
    return int(text) * 1024 if text.isdigit() else None


def _machine_times() -> tuple[int, int] | None:
    """Ticks that all cores were busy, and all ticks; ``None`` where /proc is missing."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    ticks = [int(field) for field in fields]
    idle = sum(ticks[3:5])
    return sum(ticks) - idle, sum(ticks)


def _share_used(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float | None:
    if before is None or after is None or after[1] <= before[1]:
        return None
    return (after[0] - before[0]) / (after[1] - before[1])
