"""The faults of a run: drawn one after the other, counted by name."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from openenv_async.benchmarking.chaos.cuts import ConnectionCuts
from openenv_async.benchmarking.chaos.proxy import ChaosProxy

__all__ = ["inject_faults"]

_KILL_INTERVAL: Final = 5.0


async def inject_faults(
    proxy: ChaosProxy | ConnectionCuts, pid: int | None, faults: Counter[str]
) -> None:
    """Inject one fault after the other, until it is cancelled.

    Args:
        proxy: between the clients and the server, or what cuts connections at the clients.
        pid: of the server, where it may be stopped and its workers killed.
        faults: counted here, by name.
    """
    draw = random.Random(proxy.random.random())
    kill_at = time.monotonic() + _KILL_INTERVAL
    try:
        while True:
            await asyncio.sleep(draw.uniform(0.1, 0.6))
            if pid is not None and time.monotonic() > kill_at:
                kill_at = time.monotonic() + _KILL_INTERVAL
                faults["worker kills"] += _kill_worker(pid, draw)
            elif isinstance(proxy, ConnectionCuts):
                if pid is None or draw.random() < 0.6:
                    faults["disconnects"] += proxy.cut()
                else:
                    await _stop_for_a_moment(pid, draw, faults)
            else:
                await _disturb(proxy, pid, draw, faults)
    finally:
        if not isinstance(proxy, ConnectionCuts):
            proxy.delay, proxy.cut_rate = (0.0, 0.0), 0.0


async def _disturb(
    proxy: ChaosProxy, pid: int | None, draw: random.Random, faults: Counter[str]
) -> None:
    """Inject one fault."""
    match draw.randrange(6 if pid is not None else 5):
        case 0:
            faults["disconnects"] += proxy.cut()
        case 1:
            with proxy.outage():
                faults["outages"] += 1
                await asyncio.sleep(draw.uniform(0.1, 1.0))
        case 2:
            with proxy.pause():
                faults["pauses"] += 1
                await asyncio.sleep(draw.uniform(0.05, 0.5))
        case 3:
            faults["delays"] += 1
            proxy.delay = (0.0, 0.02)
            await asyncio.sleep(draw.uniform(0.1, 0.5))
            proxy.delay = (0.0, 0.0)
        case 4:
            faults["cuts between messages"] += 1
            proxy.cut_rate = 0.01
            await asyncio.sleep(draw.uniform(0.1, 0.5))
            proxy.cut_rate = 0.0
        case _:
            assert pid is not None
            await _stop_for_a_moment(pid, draw, faults)


async def _stop_for_a_moment(pid: int, draw: random.Random, faults: Counter[str]) -> None:
    faults["server stops"] += 1
    with _stopped(pid):
        await asyncio.sleep(draw.uniform(0.05, 0.3))


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def _kill_worker(pid: int, draw: random.Random) -> int:
    """Kill one child process of the server; return the number of those killed (Linux)."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if not children:
            return 0
        os.kill(int(draw.choice(children)), signal.SIGKILL)
    except OSError:
        return 0
    return 1
