"""The last minutes of a server, one sample a second, for those who look at it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from openenv_async.engine import Engine
from openenv_async.engine.statistics import PHASES, Histogram

__all__ = ["History", "percentile"]

_SAMPLES: Final = 300
_QUANTILES: Final = {"p50": 0.5, "p99": 0.99}


class _Sample(NamedTuple):
    at: float
    steps: int
    errors: int
    sessions: int
    waiting: int
    lag: float
    counts: tuple[tuple[int, ...], ...]


class History:
    """The last five minutes of an engine.

    Args:
        engine: that is sampled.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._samples: deque[_Sample] = deque(maxlen=_SAMPLES + 1)

    def add(self, lag: float) -> None:
        """Take a sample; once a second, whatever the load: about 10 µs.

        Args:
            lag: seconds that the event loop was late.
        """
        engine = self._engine
        waiting, phases = engine.waiting, engine.timer.histograms
        self._samples.append(
            _Sample(
                at=time.time(),
                steps=engine.stats.steps,
                errors=sum(engine.stats.errors.values()),
                sessions=len(engine.sessions) - waiting,
                waiting=waiting,
                lag=lag,
                counts=tuple(tuple(phases[phase].counts) for phase in PHASES),
            )
        )

    def told(self) -> dict[str, Any]:
        """Return the samples as lists of equal length, oldest first.

        ``at`` is in seconds since the epoch; ``steps`` and ``errors`` are per second, ``p50`` and
        ``p99`` seconds by phase of a step, ``None`` where none was timed.
        """
        pairs = list(pairwise(self._samples))
        spans = [max(after.at - before.at, 1e-3) for before, after in pairs]
        told: dict[str, Any] = {
            name: [getattr(after, name) for _, after in pairs]
            for name in ("at", "sessions", "waiting", "lag")
        }
        for name in ("steps", "errors"):
            told[name] = [
                round(max(getattr(after, name) - getattr(before, name), 0) / span, 3)
                for (before, after), span in zip(pairs, spans, strict=True)
            ]
        for name, quantile in _QUANTILES.items():
            told[name] = {
                phase: [percentile(counts, quantile) for counts in _between(pairs, place)]
                for place, phase in enumerate(PHASES)
            }
        return told


def _between(pairs: Sequence[tuple[_Sample, _Sample]], place: int) -> Iterator[list[int]]:
    """Yield the counts that each second added to the histogram of a phase."""
    for before, after in pairs:
        each = zip(before.counts[place], after.counts[place], strict=True)
        yield [new - old for old, new in each]


def percentile(counts: Sequence[int], quantile: float) -> float | None:
    """Return a quantile of durations that were counted by size, in seconds.

    Within a bucket they are taken as evenly spread; beyond the last bound as being at it.
    """
    total = sum(counts)
    if not total:
        return None
    rank, below = quantile * total, 0
    bounds = (0.0, *Histogram.bounds)
    for at, count in enumerate(counts):
        if count and below + count >= rank:
            low = bounds[at]
            high = bounds[min(at + 1, len(bounds) - 1)]
            return low + (high - low) * (rank - below) / count
        below += count
    return bounds[-1]
