"""The end of an episode: finding the final answer in what was printed."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["printed_answer"]

_BEGIN: Final = re.compile(r"^[ \t]*FINAL(_VAR)?\(", re.MULTILINE)
_MOST: Final = 100
"""Beginnings that are looked at: a text may have one in every line."""
_MOST_LINES: Final = 2_000
"""Lines of an answer."""


def printed_answer(text: str) -> tuple[str, str]:
    """The first ``FINAL(…)`` or ``FINAL_VAR(…)`` that has its lines to itself.

    It begins a line and ends one: at the first parenthesis with which all are closed, which may be
    lines below; or, where they do not pair off, with the one that ends the line it began.
    Within a line it does not count: the context may hold such text.

    Returns:
        The answer and the name of a variable; one of them is empty, or both.
    """
    for found, _ in zip(_BEGIN.finditer(text), range(_MOST), strict=False):
        end = _closed(text, found.end())
        if end is None:
            continue
        inside = text[found.end() : end].strip()
        return ("", inside.strip("'\"")) if found[1] else (inside, "")
    return "", ""


def _closed(text: str, start: int) -> int | None:
    """The place of the parenthesis that closes the one before ``start``, and ends its line."""
    depth, begin = 1, start
    first: int | None = None
    for _ in range(_MOST_LINES):
        end = text.find("\n", begin)
        line = text[begin : end if end >= 0 else len(text)].rstrip()
        depth += line.count("(") - line.count(")")
        place = begin + len(line) - 1 if line.endswith(")") else None
        if begin == start:
            first = place
        if depth <= 0:
            return place
        if end < 0:
            return first
        begin = end + 1
    return first
