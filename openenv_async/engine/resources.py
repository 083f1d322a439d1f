"""File descriptors and memory that the system has left, asked before more is taken.

Rules:

- A part of the server that is about to take some asks first. It is refused with ``ResourceLimit``
  while enough is left for the sessions that are there: to answer, to log, to close.
- The system is asked five times a second at most; in between, what was granted is subtracted.
- Nothing is refused on a system that does not say.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Final

from openenv_async.errors import ResourceLimit

__all__ = [
    "RESERVE",
    "Resources",
    "available_memory",
    "free_descriptors",
    "oom_kills",
    "raise_descriptors",
]

RESERVE: Final = 32
"""File descriptors that are kept back."""
_FRESH: Final = 0.2
_SELF_FDS: Final = "/proc/self/fd"
_CGROUP: Final = Path("/sys/fs/cgroup")
_MEMINFO: Final = Path("/proc/meminfo")
_OWN_CGROUP: Final = Path("/proc/self/cgroup")
_VMSTAT: Final = Path("/proc/vmstat")


def descriptor_limit() -> float:
    """Return the number of descriptors that this process may hold."""
    try:
        import resource
    except ImportError:  # Windows
        return inf
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return inf if soft == resource.RLIM_INFINITY else soft


def raise_descriptors() -> int | None:
    """Raise the soft limit of file descriptors to the hard one; the limit that holds now."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # macOS refuses more than it has
            return soft
    return hard


def free_descriptors() -> float:
    """Return how many more descriptors this process may hold; ``inf`` when unknown."""
    limit = descriptor_limit()
    if limit == inf:
        return inf
    try:
        # Their number since Linux 6.2, 0 before.
        used = os.stat(_SELF_FDS).st_size or len(os.listdir(_SELF_FDS))
    except OSError:
        try:
            used = len(os.listdir("/dev/fd"))
        except OSError:
            return inf
    return limit - used


def available_memory(root: Path = _CGROUP, meminfo: Path = _MEMINFO) -> float:
    """Bytes that may still be used, by the machine and by this process's cgroup."""
    left = inf
    try:
        for line in meminfo.read_bytes().splitlines():
            if line.startswith(b"MemAvailable:"):
                left = int(line.split()[1]) * 1024
                break
    except (OSError, ValueError, IndexError):
        pass
    for limit, used, reclaimable in (
        (root / "memory.max", root / "memory.current", b"inactive_file"),
        (
            root / "memory/memory.limit_in_bytes",
            root / "memory/memory.usage_in_bytes",
            b"total_inactive_file",
        ),
    ):
        try:
            most = int(limit.read_bytes())  # "max" has no value
            taken = int(used.read_bytes())
            for line in (used.parent / "memory.stat").read_bytes().splitlines():
                if line.startswith(reclaimable + b" "):
                    taken -= int(line.split()[1])
        except (OSError, ValueError, IndexError):
            continue
        left = min(left, most - taken)
    return left


def oom_kills(root: Path = _CGROUP, own: Path = _OWN_CGROUP, vmstat: Path = _VMSTAT) -> int | None:
    """Return how often the system killed for lack of memory, in this process's cgroup or at all.

    ``None`` where it does not say. Compare two readings: a process that another one killed with
    SIGKILL in between was killed for its memory if the number grew.
    """
    try:
        names = dict(line.split(":", 2)[1:] for line in own.read_text().splitlines())
    except (OSError, ValueError):
        names = {}
    second, first = names.get("", "/").lstrip("/"), names.get("memory", "/").lstrip("/")
    for path in (
        root / second / "memory.events",
        root / "memory.events",
        root / "memory" / first / "memory.oom_control",
        root / "memory" / "memory.oom_control",
        vmstat,
    ):
        try:
            for line in path.read_bytes().splitlines():
                if line.startswith(b"oom_kill "):
                    return int(line.split()[1])
        except (OSError, ValueError):
            continue
    return None


class Resources:
    """The resources that are left for one server.

    Args:
        min_free_memory: bytes below which nothing new is opened; 0 never refuses.
        descriptors, memory: how to ask the system.
        clock: seconds.
    """

    def __init__(
        self,
        min_free_memory: int = 0,
        *,
        descriptors: Callable[[], float] = free_descriptors,
        memory: Callable[[], float] = available_memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._floor = min_free_memory
        self._ask_descriptors = descriptors
        self._ask_memory = memory
        self._clock = clock
        self._descriptors = inf
        self._memory = inf
        self._descriptors_at = -inf
        self._memory_at = -inf
        self.refused = 0
        self.refused_at = -inf

    def take_descriptors(self, count: int, what: str) -> None:
        """Ask for ``count`` file descriptors.

        Raises:
            ResourceLimit: too few are left for ``what``.
        """
        now = self._clock()
        if now - self._descriptors_at >= _FRESH:
            self._descriptors = self._ask_descriptors()
            self._descriptors_at = now
        if self._descriptors - count < RESERVE:
            limit = descriptor_limit()
            self._refuse(now)
            raise ResourceLimit(
                f"too few file descriptors are left for {what}: raise the limit of {limit:g}"
                " (ulimit -n, RLIMIT_NOFILE), or use fewer connections or processes",
                limit="RLIMIT_NOFILE",
                value=None if limit == inf else int(limit),
                free=max(0, int(self._descriptors)),
                retry_after=1.0,
            )
        self._descriptors -= count

    def check_memory(self) -> None:
        """Ask whether one more session may be opened.

        Raises:
            ResourceLimit: memory is short.
        """
        if not self._floor:
            return
        now = self._clock()
        if now - self._memory_at >= _FRESH:
            self._memory = self._ask_memory()
            self._memory_at = now
        if self._memory < self._floor:
            self._refuse(now)
            raise ResourceLimit(
                f"{max(0.0, self._memory) / 2**20:.0f} MiB of memory are left and"
                f" {self._floor / 2**20:.0f} MiB are kept back: use less, or lower"
                " --min-free-memory (min_free_memory)",
                limit="memory",
                value=self._floor,
                free=max(0, int(self._memory)),
                setting="min_free_memory",
                retry_after=1.0,
            )

    def _refuse(self, now: float) -> None:
        self.refused += 1
        self.refused_at = now

    @property
    def short(self) -> bool:
        """True while something was refused in the last ten seconds."""
        return self._clock() - self.refused_at < 10.0
