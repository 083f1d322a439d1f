"""Episodes as tables of a terminal: the numbers of each source, and a list of episodes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from openenv_async.viewer.sources import EpisodeSource

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["curve", "episode_table", "summary_table"]

_BARS: Final = "▁▂▃▄▅▆▇█"
_POINTS: Final = 40
_ENDED: Final = ("completed", "truncated")
_TIMINGS: Final = ("queue", "environment", "codec", "model")


def summary_table(sources: Sequence[EpisodeSource]) -> Table:
    """Return a table with a column of numbers for each source."""
    from rich.table import Table

    table = Table(title_justify="left")
    table.add_column("", style="bold")
    for source in sources:
        table.add_column(source.name, justify="right")
    for name, number in _NUMBERS:
        cells = [number(source) for source in sources]
        if any(cell is not None for cell in cells):
            table.add_row(name, *("–" if cell is None else cell for cell in cells))
    statuses = [_counts(source, "status") for source in sources]
    for status in dict.fromkeys(
        status for counts in statuses for status, _ in counts.most_common()
    ):
        table.add_row(f"  {status}", *(f"{counts[status]:,}" for counts in statuses))
    return table


def episode_table(sources: Sequence[EpisodeSource], rows: Iterable[tuple[int, int]]) -> Table:
    """Return a table with a row for each episode.

    Args:
        sources: of the episodes.
        rows: the number of a source and of a row in its index.
    """
    from rich.table import Table

    table = Table(title_justify="left")
    several = len(sources) > 1
    if several:
        table.add_column("run")
    for name in ("episode", "task", "outcome", "return", "length", "mistakes", "duration", "error"):
        is_text = name in ("task", "outcome", "error")
        table.add_column(name, justify="left" if is_text else "right", no_wrap=name == "outcome")
    for number, row in rows:
        facts = sources[number].columns.row(row)
        member = "" if facts["member"] is None else f"/{facts['member']}"
        cells = [
            str(facts["index"]),
            "" if facts["task"] is None else f"{facts['task']}{member}",
            facts["status"] or "",
            _real(facts["return"]),
            _count(facts["steps"]),
            str(facts["mistakes"] or ""),
            "" if facts["duration"] is None else f"{facts['duration']:.2f} s",
            facts["error_code"] or "",
        ]
        table.add_row(*([sources[number].name] if several else []), *cells)
    return table


def curve(values: Sequence[float]) -> str:
    """Return the means of consecutive values as bars of a line of text; empty without any."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    count = min(_POINTS, len(known))
    means = []
    for point in range(count):
        part = known[point * len(known) // count : (point + 1) * len(known) // count]
        means.append(sum(part) / len(part))
    low, high = min(means), max(means)
    most = len(_BARS) - 1
    return "".join(
        _BARS[round(most * (mean - low) / (high - low)) if high > low else 0] for mean in means
    )


def _counts(source: EpisodeSource, name: str) -> Counter[str]:
    texts = source.columns.tables[name]
    codes = Counter(source.columns.column(name))
    return Counter({text: codes[code] for code, text in enumerate(texts) if codes[code]})


def _known(source: EpisodeSource, name: str) -> list[float]:
    whole = name in ("steps", "mistakes", "calls", "tokens")
    return [
        value
        for value in source.columns.column(name)
        if (value >= 0 if whole else math.isfinite(value))
    ]


def _mean(name: str, form: str) -> Callable[[EpisodeSource], str | None]:
    def number(source: EpisodeSource) -> str | None:
        known = _known(source, name)
        return form.format(sum(known) / len(known)) if known else None

    return number


def _total(name: str) -> Callable[[EpisodeSource], str | None]:
    def number(source: EpisodeSource) -> str | None:
        total = sum(_known(source, name))
        return f"{total:,}" if total else None

    return number


def _episodes(source: EpisodeSource) -> str:
    wanted = source.facts().get("wanted")
    return f"{len(source.columns):,}" + ("" if wanted is None else f" of {wanted:,}")


def _failed(source: EpisodeSource) -> str | None:
    statuses = _counts(source, "status")
    if not statuses:
        return None
    failed = statuses.total() - sum(statuses[status] for status in _ENDED)
    return f"{100 * failed / statuses.total():.1f} %"


def _times(source: EpisodeSource) -> str | None:
    seconds = {name: sum(_known(source, name)) for name in _TIMINGS}
    whole = sum(seconds.values())
    if not whole:
        return None
    return ", ".join(f"{name} {100 * part / whole:.0f} %" for name, part in seconds.items() if part)


_NUMBERS: Final[tuple[tuple[str, Callable[[EpisodeSource], str | None]], ...]] = (
    ("episodes", _episodes),
    ("mean return", _mean("return", "{:.4g}")),
    ("returns", lambda source: curve(source.columns.column("return")) or None),
    ("mean length", _mean("steps", "{:.4g}")),
    ("mean duration", _mean("duration", "{:.3g} s")),
    ("mistakes an episode", _mean("mistakes", "{:.3g}")),
    ("failed", _failed),
    ("calls of models", _total("calls")),
    ("sampled tokens", _total("tokens")),
    ("time", _times),
)


def _real(value: Any) -> str:
    return "" if value is None else f"{value:g}"


def _count(value: Any) -> str:
    return "" if value is None else f"{value:,}"
