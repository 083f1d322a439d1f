"""The worth of a final answer: how it is compared with what is expected.

Rules:

- ``exact``: the same text, but for the form of letters (NFC) and blanks at either end.
- ``tolerant``: the same number, or else the same text but for case, the form of letters (NFKC),
  blanks, marks around it (quotes, ``**``) and full stops at its end.
- ``fuzzy``: where a number is expected, as ``tolerant``. Else 1 if ``tolerant`` says so, else the
  F1 of the words: an answer that has every word in it is paid little.
- A function of the server's own: ``function(answer, expected)`` gives 0 to 1; it may be async.
- Of several expected answers the best counts. An answer far longer than any of them is wrong
  without being looked at, since reading it would cost the server time.
- Numbers: a sign, commas between thousands, a fraction and an exponent; ``1,234.50`` is
  ``1.2345e3``. Whole ones are compared exactly, those with a fraction to nine significant digits.
  ``007`` is a text, more likely a name; so is ``12 %``.
"""

from __future__ import annotations

import inspect
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Any, Final, Literal, get_args

from openenv_async.errors import InvalidOption, TargetNotFound
from openenv_async.targets.discovery import import_object

__all__ = ["Expected", "Mode", "Scoring", "load_scoring", "similarity"]

Mode = Literal["exact", "tolerant", "fuzzy"]
Answer = str | int | float
Expected = Answer | list[Answer]
"""The right answer, or several that are right."""
Scoring = Mode | str | Callable[[str, str], Any]
"""One of the modes, ``module:name`` of a function, or a function."""

_LONGEST: Final = 1 << 16
"""Characters of an answer that is looked at, unless a longer one is expected."""
_NUMBER: Final = re.compile(
    r"[+-]?(?:(?:0|[1-9]\d{0,2}(?:,\d{3}){1,13}|[1-9]\d{0,40})(?:\.\d{1,40})?|\.\d{1,40})"
    r"(?:e[+-]?\d{1,3})?",
    re.ASCII,
)
_MARKS: Final = ("**", "__", '"', "'", "`", "“", "”", "‘", "’", "*", "_", "$")
_PAIRS: Final = {"“": "”", "‘": "’"}


def _plain(text: str) -> str:
    """A text without what does not matter to ``tolerant``."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = " ".join(unicodedata.normalize("NFKC", text).replace("\u2212", "-").split())
    while True:
        shorter = text.rstrip(".").rstrip()
        for mark in _MARKS:
            end = _PAIRS.get(mark, mark)
            if len(shorter) > 2 * len(mark) and shorter.startswith(mark) and shorter.endswith(end):
                shorter = shorter[len(mark) : -len(end)].strip()
                break
        if shorter == text:
            return text
        text = shorter


def _number(plain: str) -> Decimal | None:
    return Decimal(plain.replace(",", "")) if _NUMBER.fullmatch(plain) else None


def _same_number(said: Decimal, wanted: Decimal) -> bool:
    if said == wanted:
        return True
    if _is_whole(said) and _is_whole(wanted):
        return False
    return abs(said - wanted) <= Decimal("1e-9") * max(abs(said), abs(wanted))


def _is_whole(number: Decimal) -> bool:
    return number == number.to_integral_value()


def similarity(answer: str, expected: str, mode: Mode = "tolerant") -> float:
    """Return how right an answer is: 0 or 1, and between them with ``fuzzy``."""
    if len(answer) > max(_LONGEST, 2 * len(expected)):
        return 0.0
    if mode == "exact":
        said, wanted = (unicodedata.normalize("NFC", text).strip() for text in (answer, expected))
        return float(said == wanted)
    said, wanted = _plain(answer), _plain(expected)
    if said == wanted:
        return 1.0
    number, right = _number(said), _number(wanted)
    if right is not None:
        return float(number is not None and _same_number(number, right))
    return _f1(said, wanted) if mode == "fuzzy" else 0.0


def _f1(said: str, wanted: str) -> float:
    """The harmonic mean of precision and recall of words, each as often as it occurs."""
    one, other = (Counter(re.findall(r"\w+", text)) for text in (said, wanted))
    shared = (one & other).total()
    return 2.0 * shared / (one.total() + other.total()) if shared else 0.0


def load_scoring(given: Scoring) -> Mode | Callable[[str, str], Any]:
    """Return a mode, or the function that is named.

    Raises:
        InvalidOption: it is neither.
    """
    if callable(given):
        return given
    if given in get_args(Mode):
        return given  # type: ignore[return-value]  # one of them
    choices = f"{', '.join(get_args(Mode))} or module:function"
    if ":" not in str(given):
        raise InvalidOption(f"scoring is {given!r}: choose one of {choices}")
    try:
        found = import_object(str(given))
    except TargetNotFound as exc:
        raise InvalidOption(
            f"scoring is {given!r}: {exc.message}; choose one of {choices}"
        ) from exc
    if not callable(found):
        raise InvalidOption(f"scoring is {given!r}, which is a {type(found).__name__}")
    return found  # type: ignore[no-any-return]  # a function of the server's own


async def score(
    answer: str, expected: Expected, scoring: Mode | Callable[[str, str], Any]
) -> float:
    """Return the worth of an answer, from 0 to 1; the best of several that are expected.

    Raises:
        ValueError: a function of the server's own gave no number from 0 to 1.
    """
    best = 0.0
    for each in _texts(expected):
        if callable(scoring):
            found = await _called(scoring, answer, each)
        else:
            found = similarity(answer, each, scoring)
        best = max(best, found)
    return best


def _texts(expected: Expected) -> Sequence[str]:
    return [str(each) for each in (expected if isinstance(expected, list) else [expected])]


async def _called(function: Callable[[str, str], Any], answer: str, expected: str) -> float:
    found: Any = function(answer, expected)
    if inspect.isawaitable(found):
        found = await _awaited(found)
    try:
        value = float(found)
    except (TypeError, ValueError):
        value = math.nan
    if not 0.0 <= value <= 1.0:
        name = getattr(function, "__qualname__", repr(function))
        raise ValueError(
            f"the scoring {name} gave {found!r:.80} for an answer: return a number from 0 to 1"
        )
    return value


async def _awaited(found: Awaitable[Any]) -> Any:
    return await found
