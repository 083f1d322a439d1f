"""The tests that the page on reliability names exist, and every fault names one."""

from __future__ import annotations

import re

from tests.docs.pages import DOCS

_PAGE = DOCS / "reliability.md"
_CELL = re.compile(r"\[[\w.]+\]\((\.\./[\w/.]+\.py)\)((?:,? ?`test_\w+`)*)")


def test_every_fault_names_its_test() -> None:
    faults = _PAGE.read_text().partition("\n## Faults that")[2].partition("\n### Nets")[0]
    rows = [line for line in faults.splitlines() if line.startswith("| ") and "](" in line]
    rows_without = [
        line
        for line in faults.splitlines()
        if line.startswith("| ") and "](" not in line and not line.startswith("| what holds |")
    ]
    assert len(rows) >= 66
    assert rows_without == []


def test_every_test_that_is_named_exists() -> None:
    named = [
        (path, name)
        for path, names in _CELL.findall(_PAGE.read_text())
        for name in re.findall(r"`(test_\w+)`", names) or [""]
    ]
    assert len(named) > 100
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (DOCS / path).is_file() or (name and f"def {name}(" not in (DOCS / path).read_text())
    ]
    assert missing == []
