"""The load that both sides are put under, and what is read off while it runs.

Only the standard library is imported, because this module runs in two virtual environments: this
project's and upstream's. Both clients hand their sessions to the same loops, so that a difference
between two results is a difference between the libraries.

Modes:
    throughput: N sessions, each a closed loop of ``await step()``, for S seconds after a warm-up.
    latency: the same with one session.
    open: sessions are opened (upstream: connected), C at a time, in batches of N until S seconds
        of opening have been timed. The first reset, which shows that each works, and closing are
        not timed; a few sessions step in between.
    idle: N sessions are opened and held until standard input closes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = [
    "MESSAGE",
    "OpenSession",
    "Session",
    "Usage",
    "announce",
    "client_parser",
    "process_cpu_seconds",
    "raise_file_limit",
    "report",
    "run",
    "run_and_print",
    "server_parser",
]

MESSAGE: Final = "hello from the benchmark"
"""The message of every action, which every observation must repeat."""

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Session:
    """One open session, as bound callables, so that the loop adds no frame of its own per step.

    Attributes:
        reset: starts an episode.
        step: takes one step with an action made beforehand.
        check: raises if what ``step`` returned is not the typed observation it should be.
        close: ends the session.
    """

    reset: Callable[[], Awaitable[object]]
    step: Callable[[], Awaitable[object]]
    check: Callable[[Any], None]
    close: Callable[[], Awaitable[object]]


OpenSession = Callable[[], Awaitable[Session]]
"""A function that connects a new session; its first reset is the driver's."""


def raise_file_limit() -> None:
    """Allow as many open files as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def server_parser(description: str | None, kinds: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--kind", choices=kinds, default=kinds[0], help="how step is written")
    parser.add_argument("--payload-bytes", type=int, default=0, help="uint8 frame per observation")
    parser.add_argument("--payload", choices=["ints", "base64"], default="ints")
    parser.add_argument("--max-sessions", type=int, default=4096)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--bare", action="store_true", help="without deadlines, lease and resume")
    return parser


MODES: Final = ("throughput", "latency", "open", "idle")


def client_parser(description: str | None, modes: Sequence[str] = MODES) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("mode", choices=modes)
    parser.add_argument("url")
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--warmup", type=float, default=1.0)
    parser.add_argument("--concurrency", type=int, default=64, help="openings at once")
    parser.add_argument("--payload-bytes", type=int, default=0)
    parser.add_argument("--payload", choices=["ints", "base64"], default="ints")
    parser.add_argument("--server-pid", type=int, help="whose CPU time to read")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--bare", action="store_true", help="without deadlines")
    return parser


def announce(url: str) -> None:
    """Tell the parent process that this server listens."""
    print(json.dumps({"url": url, "pid": os.getpid()}), flush=True)


def process_cpu_seconds(pid: int) -> float:
    """User and system time of a process and of the children it has waited for (10 ms ticks)."""
    stat = Path(f"/proc/{pid}/stat").read_text()
    fields = stat[stat.rindex(")") + 2 :].split()
    return sum(int(field) for field in fields[11:15]) / _TICKS_PER_SECOND


@dataclass(slots=True)
class Usage:
    """A point in time, with what both processes have used up to it."""

    at: float
    client_cpu: float
    server_cpu: float

    @classmethod
    def now(cls, server_pid: int | None) -> Usage:
        server_cpu = process_cpu_seconds(server_pid) if server_pid else 0.0
        return cls(time.perf_counter(), time.process_time(), server_cpu)


def report(begin: Usage, end: Usage, count: int, with_server: bool) -> dict[str, float]:
    """Return what was done between two points in time, and what each cost."""
    elapsed = end.at - begin.at
    result = {
        "seconds": elapsed,
        "count": count,
        "per_s": count / elapsed,
        "client_cpu_us": (end.client_cpu - begin.client_cpu) / count * 1e6,
    }
    if with_server:
        result["server_cpu_us"] = (end.server_cpu - begin.server_cpu) / count * 1e6
    return result


async def _open_all(
    open_session: OpenSession, count: int, concurrency: int, *, reset: bool = True
) -> list[Session]:
    """Open (and reset) ``count`` sessions, at most ``concurrency`` at a time."""
    sessions: list[Session] = []
    remaining = count

    async def opener() -> None:
        # A slot is taken before the first await, so that no more than `count` are opened.
        nonlocal remaining
        while remaining:
            remaining -= 1
            session = await open_session()
            if reset:
                await session.reset()
            sessions.append(session)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, count)):
            group.create_task(opener())
    return sessions


async def _close_all(sessions: Sequence[Session]) -> None:
    await asyncio.gather(*(session.close() for session in sessions))


async def _closed_loop(sessions: Sequence[Session], args: argparse.Namespace) -> dict[str, float]:
    latencies = array("d")
    stopping = False

    async def drive(session: Session) -> None:
        step, clock, record = session.step, time.perf_counter, latencies.append
        session.check(await step())
        begin = clock()
        while not stopping:
            await step()
            end = clock()
            record(end - begin)
            begin = end
        session.check(await step())

    async with asyncio.TaskGroup() as group:
        for session in sessions:
            group.create_task(drive(session))
        await asyncio.sleep(args.warmup)
        begin = Usage.now(args.server_pid)
        del latencies[:]
        await asyncio.sleep(args.seconds)
        end = Usage.now(args.server_pid)
        measured = sorted(latencies)
        stopping = True

    return {
        **report(begin, end, len(measured), args.server_pid is not None),
        "p50_us": measured[len(measured) // 2] * 1e6,
        "p99_us": measured[len(measured) * 99 // 100] * 1e6,
    }


async def _step_for(sessions: Sequence[Session], seconds: float) -> None:
    """Let every session step, one step after another, for so long."""
    until = time.perf_counter() + seconds

    async def drive(session: Session) -> None:
        while time.perf_counter() < until:
            await session.step()

    await asyncio.gather(*(drive(session) for session in sessions))


async def _timed_opening(open_session: OpenSession, args: argparse.Namespace) -> dict[str, float]:
    # Some sessions stay and step between the batches: both ends are awake, as in a run that opens
    # more, and what closing leaves behind belongs to no batch.
    kept = await _open_all(open_session, args.concurrency, args.concurrency)
    await _step_for(kept, 0.3)
    total = Usage(0.0, 0.0, 0.0)
    opened = 0
    while total.at < args.seconds:
        begin = Usage.now(args.server_pid)
        sessions = await _open_all(open_session, args.sessions, args.concurrency, reset=False)
        end = Usage.now(args.server_pid)
        total.at += end.at - begin.at
        total.client_cpu += end.client_cpu - begin.client_cpu
        total.server_cpu += end.server_cpu - begin.server_cpu
        opened += len(sessions)
        for start in range(0, len(sessions), args.concurrency):  # each of them works
            part = sessions[start : start + args.concurrency]
            await asyncio.gather(*(session.reset() for session in part))
        await _close_all(sessions)
        await _step_for(kept, 0.3)
    await _close_all(kept)
    return report(Usage(0.0, 0.0, 0.0), total, opened, args.server_pid is not None)


async def _hold(open_session: OpenSession, args: argparse.Namespace) -> dict[str, float]:
    sessions = await _open_all(open_session, args.sessions, args.concurrency)
    print(json.dumps({"opened": len(sessions)}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await _close_all(sessions)
    return {"count": len(sessions)}


async def _measure(open_session: OpenSession, args: argparse.Namespace) -> dict[str, float]:
    match args.mode:
        case "open":
            return await _timed_opening(open_session, args)
        case "idle":
            return await _hold(open_session, args)
        case _:
            count = 1 if args.mode == "latency" else args.sessions
            sessions = await _open_all(open_session, count, args.concurrency)
            result = await _closed_loop(sessions, args)
            await _close_all(sessions)
            return result


def run(open_session: OpenSession, args: argparse.Namespace) -> None:
    """Run the mode that ``args`` (of `client_parser`) names and print its figures as JSON."""
    run_and_print(_measure(open_session, args), uvloop=args.uvloop)


def run_and_print(measuring: Coroutine[Any, Any, dict[str, float]], *, uvloop: bool) -> None:
    """Run a measurement on a loop of its own, and print its figures as JSON."""
    raise_file_limit()
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if uvloop:
        from uvloop import new_event_loop

        loop_factory = new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        result = runner.run(measuring)
    print(json.dumps(result), flush=True)
