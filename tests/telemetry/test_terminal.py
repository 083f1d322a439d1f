"""Text of others for a terminal."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.telemetry.terminal import plain_text, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("grün, 世界, 👩\u200d🚀", "grün, 世界, 👩\u200d🚀"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("a\rb\x08c\x00", r"a\rb\x08c\x00"),
        ("abc\u202edcb\u2066", r"abc\u202edcb\u2066"),
        ("pass\u200bword\ufeff", r"pass\u200bword\ufeff"),
        ("\udc80\U000e0041", r"\udc80\U000e0041"),
        ("two\nlines\tof\u2028it", r"two\nlines\tof\u2028it"),
        (ValueError("\x1bc"), r"\x1bc"),
    ],
)
def test_what_would_steer_the_terminal_is_shown(text: object, shown: str) -> None:
    assert printable(text) == shown
    assert plain_text(text).plain == shown


def test_lines_are_left_where_they_are_meant() -> None:
    text = "one\r\ntwo\n\tthree\x0bfour\rfive"
    assert printable(text, lines=True) == "one\ntwo\n\tthree\\x0bfour\\rfive"
    assert plain_text("a\nb", "red", lines=True).plain == "a\nb"


@given(st.text(st.characters(), max_size=30))
def test_no_control_character_is_left(text: str) -> None:
    kinds = {unicodedata.category(character) for character in printable(text)}
    assert not kinds & {"Cc", "Cs", "Zl", "Zp"}
    lines = printable(text, lines=True).replace("\n", "").replace("\t", "")
    assert not {unicodedata.category(character) for character in lines} & {"Cc", "Cs", "Zl", "Zp"}


def test_markup_is_text() -> None:
    assert plain_text("[red]x[/red] :smile:").plain == "[red]x[/red] :smile:"
