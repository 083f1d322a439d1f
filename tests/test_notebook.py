"""Pieces of HTML for notebooks: escaped, cut, and readable as they are."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from openenv_async.notebook import brief, facts, grid, progress


class Raises:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("short", "short"),
        ("x" * 1_000_000, "x" * 199 + "…"),
        ({"a": 1}, "{'a': 1}"),
        (np.zeros((210, 160, 3), np.uint8), "uint8 [210, 160, 3]"),
        (np.float32(0.5), repr(np.float32(0.5))),
        (Raises(), "<Raises, whose repr raises RuntimeError>"),
        (None, "None"),
    ],
)
def test_a_value_in_brief(value: object, shown: str) -> None:
    assert brief(value) == shown


def test_nothing_of_a_value_is_markup() -> None:
    marker = "<b>marker</b>&"
    for text in (
        facts(marker, [(marker, marker)]),
        grid(marker, [marker], [[marker]]),
        progress(marker, 1, 2, marker),
    ):
        assert "<b>" not in text
        assert "&lt;b&gt;marker&lt;/b&gt;&amp;" in text


def test_a_bar_with_and_without_a_total() -> None:
    assert 'value="3" max="4"' in progress("run", 3, 4, "")
    assert "3 of 4 episodes" in progress("run", 3, 4, "")
    assert "<progress></progress> 3 episodes, 1/s" in progress("run", 3, None, "1/s")
    assert 'value="0" max="1"' in progress("run", 0, 0, "")


def tags_of(text: str) -> list[str]:
    """The tags that are open at the end, none of which should be left."""
    still_open: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            still_open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert still_open.pop() == tag

    Reader().feed(text)
    return still_open


def test_what_is_opened_is_closed() -> None:
    assert tags_of(facts("t", [("a", 1), ("b", None)])) == []
    assert tags_of(grid("t", ["a"], [[1], [None]])) == []
    assert "b</th>" not in facts("t", [("a", 1), ("b", None)])
