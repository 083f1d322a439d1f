"""Looking out for a peer's next message for a moment, before the thread sleeps until it comes.

Two peers that take turns on one machine each sleep while the other one works. To wake a core takes
20 to 50 µs there, as long as a vector of 64 small environments steps.

Rules:

- A wait begins with looking out only if the wait before was short: a peer that takes its time is
  looked out for once, and slept for from then on.
- A thread that looks out offers the core to whatever else would run, at each look.
- With less than two cores nobody looks out: the peer could not work meanwhile.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["MOMENT", "Alertness", "available_cores", "granted_cores"]

MOMENT: Final = 0.0005
"""Seconds for which a thread looks out; a wait that takes as long is not short."""
_CGROUP: Final = Path("/sys/fs/cgroup")


class Alertness:
    """The decision of a thread that waits: whether it looks out first, and for how long.

    Call ``begin`` when a wait begins, ``goes_on`` before each look if it said yes, and ``end`` when
    the wait is over, slept or not.

    Args:
        cores: that this process may use; ``None`` to look.
        clock: in seconds.

    Attributes:
        begun: when the wait began that goes on; ``None`` if none does.
    """

    __slots__ = ("_can", "_clock", "_waited", "begun")

    def __init__(
        self, cores: float | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._can = (available_cores() if cores is None else cores) >= 2
        self._clock = clock
        self._waited = 0.0
        self.begun: float | None = None

    def begin(self) -> bool:
        """A wait begins; return whether to look out."""
        self.begun = self._clock()
        return self._can and self._waited < MOMENT

    def goes_on(self) -> bool:
        """Offer the core to others; return whether to look once more."""
        if sys.platform == "linux":
            os.sched_yield()
        return self.begun is not None and self._clock() - self.begun < MOMENT

    def end(self) -> None:
        """The wait is over; nothing happens if there was none."""
        if self.begun is not None:
            self._waited = self._clock() - self.begun
            self.begun = None


@functools.cache
def available_cores() -> float:
    """Return how many cores this process may use: by affinity, and by the quota of its group."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return min(len(os.sched_getaffinity(0)), granted_cores(_CGROUP))


def granted_cores(group: Path) -> float:
    """Return the cores that a control group grants, infinite where it has no limit.

    Source: the kernel's ``cgroup-v2.rst`` (``cpu.max``) and ``sched-bwc.rst`` (version 1).
    """
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            granted, period, *_ = " ".join((group / name).read_text() for name in names).split()
            return int(granted) / int(period) if int(granted) > 0 else float("inf")
        except (OSError, ValueError):  # another version, or ``max``
            continue
    return float("inf")
