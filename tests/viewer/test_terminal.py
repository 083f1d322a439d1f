"""Tables of a terminal."""

from __future__ import annotations

import io
import math
from pathlib import Path

from rich.console import Console

from openenv_async.viewer import open_source
from openenv_async.viewer.terminal import curve, episode_table, summary_table
from tests.viewer.samples import write_sample


def printed(table: object) -> str:
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text()


def test_a_curve_has_a_bar_for_each_mean() -> None:
    assert curve([]) == ""
    assert curve([math.nan]) == ""
    assert curve([2.0, 2.0]) == "▁▁"
    assert curve([0.0, 0.5, math.nan, 1.0]) == "▁▅█"
    assert len(curve([float(number) for number in range(1000)])) == 40


def test_two_sources_stand_side_by_side(tmp_path: Path) -> None:
    sources = [open_source(write_sample(tmp_path / f"{name}.jsonl", 40)) for name in ("a", "b")]
    for source in sources:
        source.refresh()
    text = printed(summary_table(sources))
    assert [line.count("40") for line in text.splitlines() if "episodes" in line] == [2]
    assert "a.jsonl" in text
    assert "b.jsonl" in text
    text = printed(episode_table(sources, [(0, 3), (1, 5)]))
    assert "mend-the-build/0" in text
    assert "catch/0" in text
