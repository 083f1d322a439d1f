"""The end of an episode: finding the final answer, and its worth."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from typing import Final

__all__ = ["PRELUDE", "is_right", "printed_answer"]

PRELUDE: Final = '''
def FINAL(value):
    """End the episode with this answer."""
    _final_answer(str(value))
    return f"FINAL({value})"

def FINAL_VAR(name):
    """End the episode with the value of the variable of this name."""
    return FINAL(globals()[name] if isinstance(name, str) else name)

rlm_query, rlm_query_batched = llm_query, llm_query_batched
'''
"""Run in every new interpreter; ``_final_answer`` is answered by the server."""

_NUMBER: Final = re.compile(
    r"[+-]?(?:(?:0|[1-9]\d{0,40})(?:\.\d{1,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,3})?", re.ASCII
)
_PRINTED: Final = re.compile(r"^[ \t]*FINAL(_VAR)?\((.*)\)[ \t]*$", re.MULTILINE)


def printed_answer(stdout: str) -> tuple[str, str]:
    """The answer in the first line that is nothing but ``FINAL(…)`` or ``FINAL_VAR(…)``.

    Such text within a line does not count: the context may hold it.

    Returns:
        The answer and the name of a variable; one of them is empty, or both.
    """
    found = _PRINTED.search(stdout)
    if found is None:
        return "", ""
    text = found[2].strip()
    return ("", text.strip("'\"")) if found[1] else (text, "")


def is_right(answer: str, expected: str) -> bool:
    """Exact match, but for the form of letters (NFC), blanks at either end and that of numbers.

    ``2.0`` is right where ``2`` is expected: code that works a number out prints either.
    """
    said, wanted = (unicodedata.normalize("NFC", text).strip() for text in (answer, expected))
    if said == wanted:
        return True
    numbers = _NUMBER.fullmatch(said) and _NUMBER.fullmatch(wanted)
    return numbers is not None and Decimal(said) == Decimal(wanted)
