"""Load on a running server, and what it cost on both sides.

The loop is closed: each session takes its next step when the last one was answered, so the
offered load follows what the server can do, and the latencies are those at that load. Actions
are drawn before the clock starts. CPU per step is the figure that survives a noisy machine.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import random
import resource
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from openenv_async.addresses import is_here
from openenv_async.client.env import EnvClient
from openenv_async.errors import OpenEnvError, ServerError
from openenv_async.schema_sampling import sample
from openenv_async.types import Timeouts

__all__ = ["Latencies", "Load", "Report", "Usage", "bench"]

_ACTIONS: Final = 256
_FINE: Final = 100_000
"""Microseconds up to which latencies are counted to the microsecond."""
_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the server.

    Attributes:
        sessions: at once.
        connections: that they share.
        seconds: measured.
        warmup: seconds before that, dropped.
        seed: of the actions.
    """

    sessions: int = 64
    connections: int = 1
    seconds: float = 5.0
    warmup: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("sessions", "connections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.seconds > 0 or not self.warmup >= 0:
            raise ValueError("seconds must be positive, and warmup not negative")


@dataclass(frozen=True, slots=True)
class Usage:
    """What one side used while the clock ran.

    Attributes:
        cpu_us_per_step: microseconds of CPU, all its processes together; ``None`` if unknown.
        cpu_share: of one core; ``None`` if unknown.
        rss_bytes: memory at the end; ``None`` if unknown.
        measured_by: who looked.
    """

    cpu_us_per_step: float | None
    cpu_share: float | None
    rss_bytes: int | None
    measured_by: str


@dataclass(frozen=True, slots=True)
class Report:
    """The result of one run.

    Attributes:
        steps: answered while the clock ran, failures not counted.
        failures: steps and resets that raised, by error code.
        success_rate: steps among steps and failures.
        latency_ms: p50, p90, p99 and max of a step, from the call to its result.
        open_seconds: to open all sessions at once.
        method: how it was measured, for people.
    """

    target: str
    sessions: int
    connections: int
    seconds: float
    warmup: float
    steps: int
    episodes: int
    failures: dict[str, int]
    success_rate: float
    steps_per_second: float
    latency_ms: dict[str, float]
    open_seconds: float
    client: Usage
    server: Usage
    method: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return dataclasses.asdict(self)


class Latencies:
    """Counts durations: to the microsecond up to 0.1 s, as they are beyond."""

    def __init__(self) -> None:
        self._fine = array("q", bytes(8 * _FINE))
        self._coarse = array("d")
        self.count = 0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.count += 1
        self.longest = max(self.longest, seconds)
        micros = int(seconds * 1e6)
        if micros < _FINE:
            self._fine[micros] += 1
        else:
            self._coarse.append(seconds)

    def quantile(self, share: float) -> float:
        """Seconds that ``share`` of the durations do not exceed; 0 when there are none."""
        if not self.count:
            return 0.0
        rank = max(1, -int(-share * self.count // 1))
        seen = 0
        for micros, number in enumerate(self._fine):
            seen += number
            if seen >= rank:
                return (micros + 0.5) / 1e6
        return sorted(self._coarse)[min(rank - seen, len(self._coarse)) - 1]


class _Client(EnvClient[Any, Any, Any]):
    """A client of one of several shared connections."""

    lane = 0

    def _key(self) -> Hashable:
        return (super()._key(), "bench", self.lane)


class _Run:
    """What the sessions of one run share."""

    def __init__(self, actions: list[Any]) -> None:
        self.actions = actions
        self.stopped = asyncio.Event()
        self.measuring = False
        self.latencies = Latencies()
        self.episodes = 0
        self.failures: Counter[str] = Counter()

    async def play(self, client: _Client, offset: int) -> None:
        clock, actions, latencies = time.perf_counter, self.actions, self.latencies
        turn, stopped = offset, self.stopped.is_set
        while not stopped():
            try:
                result = await client.reset()
                if self.measuring:
                    self.episodes += 1
                while not (result.done or stopped()):
                    action = actions[turn % _ACTIONS]
                    turn += 1
                    began = clock()
                    result = await client.step(action)
                    if self.measuring:
                        latencies.add(clock() - began)
            except OpenEnvError as exc:
                if self.measuring:
                    self.failures[exc.code] += 1
                await asyncio.sleep(0.01)  # a server that refuses must not be hammered


async def bench(
    url: str,
    load: Load,
    *,
    target: str | None = None,
    action: Callable[[random.Random], Any] | None = None,
    token: str | None = None,
    pid: int | None = None,
    timeouts: Timeouts | None = None,
    on_progress: Callable[[str, float, int], None] | None = None,
) -> Report:
    """Put ``load`` on the server at ``url``.

    Args:
        url: of the server.
        load: how much, for how long.
        target: what it serves, for the report.
        action: draws one action; by default from the server's action schema.
        token: access token.
        pid: of the server when it runs on this machine; then its children are counted too.
        timeouts: deadlines of the calls.
        on_progress: called ten times a second with the phase (``open``, ``warm-up``,
            ``measure``), the share of it that is over, and the steps measured so far.

    Raises:
        OpenEnvError: the sessions cannot be opened.
        ServerError: not one step was answered.
    """
    rng = random.Random(load.seed)
    if action is None:
        schema = await _get_json(url, "/schema", token)
        if not isinstance(schema, dict) or "action" not in schema:
            raise ServerError(f"{url} gives no action schema (GET /schema)")
        drawn = [sample(schema["action"], rng) for _ in range(_ACTIONS)]
    else:
        drawn = [action(rng) for _ in range(_ACTIONS)]
    run = _Run(drawn)
    clients = []
    for number in range(load.sessions):
        client = _Client(url, token=token, timeouts=timeouts)
        client.lane = number % load.connections
        clients.append(client)
    say = on_progress or (lambda phase, share, steps: None)
    say("open", 0.0, 0)
    began = time.perf_counter()
    players: list[asyncio.Task[None]] = []
    try:
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.open())
        opened = time.perf_counter() - began
        players = [
            asyncio.create_task(run.play(client, number * 17))
            for number, client in enumerate(clients)
        ]
        await _watch(players, load.warmup, lambda share: say("warm-up", share, 0))
        server = _ServerMeter(url, token, pid)
        before = await server.read()
        cpu, start = time.process_time(), time.perf_counter()
        run.measuring = True
        await _watch(
            players, load.seconds, lambda share: say("measure", share, run.latencies.count)
        )
        run.measuring = False
        elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
        after = await server.read()
    except BaseExceptionGroup as exc:
        raise _first(exc) from None
    finally:
        run.stopped.set()
        await asyncio.gather(*(client.close() for client in clients), return_exceptions=True)
        for player in players:
            player.cancel()
        if players:
            await asyncio.wait(players)
    steps = run.latencies.count
    failed = sum(run.failures.values())
    if not steps:
        codes = ", ".join(sorted(run.failures)) or "none came in time"
        raise ServerError(f"not one step of {target or url} was answered: {codes}")
    return Report(
        target=target or url,
        sessions=load.sessions,
        connections=load.connections,
        seconds=round(elapsed, 3),
        warmup=load.warmup,
        steps=steps,
        episodes=run.episodes,
        failures=dict(run.failures),
        success_rate=steps / (steps + failed),
        steps_per_second=steps / elapsed,
        latency_ms={
            "p50": run.latencies.quantile(0.5) * 1e3,
            "p90": run.latencies.quantile(0.9) * 1e3,
            "p99": run.latencies.quantile(0.99) * 1e3,
            "max": run.latencies.longest * 1e3,
        },
        open_seconds=opened,
        client=Usage(cpu * 1e6 / steps, cpu / elapsed, _own_rss(), "this process"),
        server=server.usage(before, after, steps, elapsed),
        method=(
            f"closed loop: each of {load.sessions} sessions takes its next step when the last"
            f" one was answered, over {load.connections} connection(s); {load.warmup:g} s of"
            f" warm-up dropped, {elapsed:.1f} s measured; latency by the client, from the call"
            " to its result, its own event loop included; client CPU and memory by this"
            f" process, the server's by {server.measured_by}"
        ),
    )


async def _watch(
    players: list[asyncio.Task[None]], seconds: float, say: Callable[[float], None]
) -> None:
    """Let time pass; a player that ends has met a bug, which is raised."""
    start = time.perf_counter()
    while (left := seconds - (time.perf_counter() - start)) > 0:
        say(1 - left / seconds)
        done, _ = await asyncio.wait(
            players, timeout=min(left, 0.1), return_when=asyncio.FIRST_COMPLETED
        )
        for player in done:
            player.result()
    if seconds:
        say(1.0)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


# -- what the server used -----------------------------------------------------------------


class _ServerMeter:
    """CPU seconds and memory of the server: from /proc where it is ours, else as it says."""

    def __init__(self, url: str, token: str | None, pid: int | None) -> None:
        self._url = url
        self._token = token
        self._pid = pid if pid is not None and Path(f"/proc/{pid}/stat").exists() else None
        self.measured_by = "nobody: it has no GET /stats"
        if self._pid is not None:
            self.measured_by = "this process from /proc, its child processes included"

    async def read(self) -> tuple[float, int] | None:
        """CPU seconds so far and bytes resident; ``None`` when unknown."""
        if self._pid is not None:
            return _of_processes(self._pid)
        try:
            stats = await _get_json(self._url, "/stats", self._token)
        except OpenEnvError:
            return None
        if not isinstance(stats, dict) or "cpu_seconds" not in stats:
            return None
        self.measured_by = "itself (GET /stats), its own process only"
        return float(stats["cpu_seconds"]), int(stats.get("rss_bytes") or 0)

    def usage(
        self,
        before: tuple[float, int] | None,
        after: tuple[float, int] | None,
        steps: int,
        elapsed: float,
    ) -> Usage:
        """The difference of two readings."""
        if before is None or after is None:
            return Usage(None, None, None, self.measured_by)
        cpu = after[0] - before[0]
        return Usage(cpu * 1e6 / steps, cpu / elapsed, after[1] or None, self.measured_by)


def _of_processes(pid: int) -> tuple[float, int]:
    """CPU seconds and resident bytes of a process and its descendants (Linux)."""
    facts: dict[int, tuple[int, float, int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        seconds = (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS
        facts[int(path.parent.name)] = (int(fields[1]), seconds, int(fields[21]))
    family = {pid}
    while True:
        children = {each for each, (parent, *_) in facts.items() if parent in family} - family
        if not children:
            break
        family |= children
    known = [facts[each] for each in family if each in facts]
    pages = sum(rss for *_, rss in known)
    return sum(seconds for _, seconds, _ in known), pages * resource.getpagesize()


def _own_rss() -> int:
    """Bytes resident of this process; the peak where /proc is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()


async def _get_json(url: str, path: str, token: str | None) -> Any:
    import aiohttp

    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    address = url.rstrip("/") + path
    try:
        async with (
            aiohttp.ClientSession(headers=headers, trust_env=not is_here(url)) as http,
            http.get(address, timeout=aiohttp.ClientTimeout(total=10)) as response,
        ):
            if response.status != 200:
                raise ServerError(f"{address} answered HTTP {response.status}")
            return await response.json(content_type=None)
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        raise ServerError(f"{address} does not answer: {exc}") from exc
