"""The cost of a run on both sides: CPU time and memory."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from openenv_async.client.server_info import get_json
from openenv_async.errors import OpenEnvError

__all__ = ["ServerMeter", "Usage", "own_rss"]

_CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU time and memory that one side used while the clock ran.

    Attributes:
        cpu_us_per_step: microseconds of CPU, all its processes together; ``None`` if unknown.
        cpu_share: of one core; ``None`` if unknown.
        rss_bytes: memory at the end; ``None`` if unknown.
        measured_by: the source of the figures.
        runs_on: its event loop and the libraries that parse HTTP and WebSocket, with versions;
            empty if unknown.
    """

    cpu_us_per_step: float | None
    cpu_share: float | None
    rss_bytes: int | None
    measured_by: str
    runs_on: Sequence[str] = ()


class ServerMeter:
    """CPU seconds and memory of the server: from /proc where it is ours, else as it says."""

    def __init__(self, url: str, token: str | None, pid: int | None) -> None:
        self._url = url
        self._token = token
        self._pid = pid if pid is not None and Path(f"/proc/{pid}/stat").exists() else None
        self.measured_by = "nobody: it has no GET /stats"
        self.runs_on: list[str] = []
        if self._pid is not None:
            self.measured_by = "this process from /proc, its child processes included"

    async def read(self) -> tuple[float, int] | None:
        """CPU seconds so far and bytes resident; ``None`` when unknown."""
        if self._pid is not None and self.runs_on:
            return _of_processes(self._pid)
        try:
            stats = await get_json(self._url, "/stats", token=self._token)
        except OpenEnvError:
            stats = None
        if isinstance(stats, dict) and isinstance(stats.get("runs_on"), list):
            self.runs_on = [str(each) for each in stats["runs_on"]]
        if self._pid is not None:
            return _of_processes(self._pid)
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
            return Usage(None, None, None, self.measured_by, self.runs_on)
        cpu = after[0] - before[0]
        rss = after[1] or None
        return Usage(cpu * 1e6 / steps, cpu / elapsed, rss, self.measured_by, self.runs_on)


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


def own_rss() -> int:
    """Bytes resident of this process; the peak where /proc is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()
