"""Many durations in little memory."""

from __future__ import annotations

from array import array
from typing import Final

__all__ = ["Latencies"]

_FINE: Final = 100_000
"""Microseconds up to which latencies are counted to the microsecond."""


class Latencies:
    """Counts of durations: to the microsecond up to 0.1 s, as they are beyond."""

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
