"""What a batch of rollouts came to, kept up as its outcomes arrive."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from openenv_async.types import Outcome, OutcomeStatus

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Reservoir", "Summary"]

_SAMPLES: Final = 16_384
PERCENTILES: Final = (50, 90, 99)


class Reservoir:
    """A bounded random sample of a stream of numbers (Vitter's algorithm R).

    Args:
        size: numbers kept at most.
    """

    __slots__ = ("_rng", "_size", "count", "samples")

    def __init__(self, size: int = _SAMPLES) -> None:
        self._size = size
        self._rng = random.Random(0).random
        self.count = 0
        self.samples: list[float] = []

    def add(self, value: float) -> None:
        """Take one number."""
        self.count += 1
        if self.count <= self._size:
            self.samples.append(value)
        else:
            place = int(self._rng() * self.count)
            if place < self._size:
                self.samples[place] = value

    def percentile(self, percent: float) -> float | None:
        """The nearest-rank percentile of the sample; ``None`` when it is empty."""
        if not self.samples:
            return None
        ordered = sorted(self.samples)
        return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


class Summary:
    """Counts, returns and latencies of many outcomes.

    Returns of failed episodes and of episodes without any reward do not enter: ``None`` is no 0.

    Attributes:
        total: episodes asked for, where known.
        episodes: outcomes so far.
        steps: steps in them.
        statuses: outcomes by status.
        errors: the first error message of each failing status.
        latencies: seconds per step call as the caller saw it.
        refused: times a session had to wait because the server was full.
        retried: times an episode was begun again, see ``collect``.
    """

    def __init__(self, total: int | None = None) -> None:
        self.total = total
        self.episodes = 0
        self.steps = 0
        self.statuses: Counter[OutcomeStatus] = Counter()
        self.errors: dict[OutcomeStatus, str] = {}
        self.latencies = Reservoir()
        self.refused = 0
        self.retried = 0
        self._begun: float | None = None
        self._ended: float | None = None
        self._returns = 0
        self._mean = 0.0
        self._squares = 0.0
        self._min = math.inf
        self._max = -math.inf

    def start(self) -> None:
        """Start the clock; done by ``collect``. Later calls change nothing."""
        if self._begun is None:
            self._begun = time.perf_counter()

    def add(self, outcome: Outcome) -> None:
        """Take one outcome."""
        self.start()
        self._ended = time.perf_counter()
        self.episodes += 1
        self.steps += outcome.steps
        self.statuses[outcome.status] += 1
        if outcome.error is not None:
            self.errors.setdefault(outcome.status, str(outcome.error))
        value = outcome.episode_return
        if value is not None:
            self._returns += 1
            delta = value - self._mean
            self._mean += delta / self._returns
            self._squares += delta * (value - self._mean)
            self._min = min(self._min, value)
            self._max = max(self._max, value)

    @property
    def duration(self) -> float:
        """Seconds from the start to the last outcome."""
        if self._begun is None or self._ended is None:
            return 0.0
        return self._ended - self._begun

    @property
    def steps_per_second(self) -> float | None:
        """Steps by wall time."""
        return self.steps / self.duration if self.duration > 0 else None

    @property
    def failures(self) -> int:
        """Outcomes that cannot be trained on."""
        return sum(count for status, count in self.statuses.items() if not status.usable)

    @property
    def returns(self) -> int:
        """Episodes that have a return."""
        return self._returns

    @property
    def return_mean(self) -> float | None:
        """Mean of the returns; ``None`` without any."""
        return self._mean if self._returns else None

    @property
    def return_std(self) -> float | None:
        """Standard deviation of the returns (of the population)."""
        return math.sqrt(self._squares / self._returns) if self._returns else None

    @property
    def return_min(self) -> float | None:
        """The least return."""
        return self._min if self._returns else None

    @property
    def return_max(self) -> float | None:
        """The greatest return."""
        return self._max if self._returns else None

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, for ``--json``."""
        return {
            "episodes": self.episodes,
            "steps": self.steps,
            "duration": self.duration,
            "steps_per_second": self.steps_per_second,
            "returns": self._returns,
            "return_mean": self.return_mean,
            "return_std": self.return_std,
            "return_min": self.return_min,
            "return_max": self.return_max,
            "outcomes": {str(status): count for status, count in sorted(self.statuses.items())},
            "errors": {str(status): text for status, text in sorted(self.errors.items())},
            "step_latency": {
                f"p{percent}": self.latencies.percentile(percent) for percent in PERCENTILES
            },
            "refused": self.refused,
            "retried": self.retried,
        }

    def table(self, title: str | None = None) -> Table:
        """A table for a terminal."""
        from rich.table import Table

        table = Table(title=title, show_header=False, title_justify="left")
        table.add_column(style="bold")
        table.add_column(justify="right")
        table.add_row("episodes", f"{self.episodes:,}")
        table.add_row("steps", f"{self.steps:,}")
        rate = self.steps_per_second
        table.add_row("steps/s", "-" if rate is None else f"{rate:,.0f}")
        table.add_row("duration", f"{self.duration:.2f} s")
        if self._returns:
            table.add_row("return", f"{self.return_mean:.3f} ± {self.return_std:.3f}")
            table.add_row("return range", f"{self._min:g} to {self._max:g}")
        else:
            table.add_row("return", "none given")
        for status, count in sorted(self.statuses.items()):
            table.add_row(str(status), f"{count:,}")
        for percent in PERCENTILES:
            latency = self.latencies.percentile(percent)
            text = "-" if latency is None else f"{latency * 1e3:.2f} ms"
            table.add_row(f"step latency p{percent}", text)
        if self.refused:
            table.add_row("waits for capacity", f"{self.refused:,}")
        if self.retried:
            table.add_row("played again", f"{self.retried:,}")
        return table
