"""The tests that the page on reliability names exist, and its list of faults has no gap."""

from __future__ import annotations

import re

from tests.docs.pages import DOCS

_PAGE = DOCS / "reliability.md"
_CELL = re.compile(r"\[[\w.]+\]\((\.\./[\w/.]+\.py)\)((?:,? ?`test_\w+`)*)")


def test_every_fault_has_a_row() -> None:
    ids = re.findall(r"^\| (F\d\d) \|", _PAGE.read_text(), re.MULTILINE)
    assert ids == sorted({f"F{number:02}" for number in range(1, 67)})


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
