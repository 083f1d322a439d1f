"""Final answers in what was printed."""

from __future__ import annotations

import time

import pytest
from repl_env.answers import printed_answer


@pytest.mark.parametrize(
    ("text", "answer", "variable"),
    [
        ("FINAL(42)\n", "42", ""),
        ("thinking\n  FINAL( a (b) c )  \nmore", "a (b) c", ""),
        ("FINAL_VAR(x)", "", "x"),
        ("FINAL_VAR('x')", "", "x"),
        ("FINAL(1)\nFINAL(2)", "1", ""),
        ("FINAL(a (1)\n(2) b\nc)\nrest (of it)", "a (1)\n(2) b\nc", ""),
        ("FINAL(\n  1. one (of two)\n  2. two\n)\n", "1. one (of two)\n  2. two", ""),
        ("one\r\nFINAL(a\r\nb)\r\n", "a\r\nb", ""),
        ("FINAL(a ( b)\nrest", "a ( b", ""),
        ("FINAL(:) fine)", ":) fine", ""),
        ("FINAL(never\nclosed", "", ""),
        ("FINAL(not) alone\nFINAL(alone)", "alone", ""),
        ("the text says FINAL(42) somewhere", "", ""),
        ("FINAL(42) said the text", "", ""),
        ("NOT_FINAL(42)", "", ""),
        ("", "", ""),
    ],
)
def test_printed_answers(text: str, answer: str, variable: str) -> None:
    assert printed_answer(text) == (answer, variable)


def test_a_text_full_of_beginnings_is_soon_read() -> None:
    begun = time.process_time()
    assert printed_answer("FINAL(\n" * 20_000) == ("", "")
    assert time.process_time() - begun < 5.0
