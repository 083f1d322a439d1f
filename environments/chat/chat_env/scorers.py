"""Scorers: how good a message is, 0 to 1, put together from small ones.

A scorer is a callable of a message's text. As data, for task files and reset options, each is a
dict with one key: its name (``scorer_from``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from openenv_async.errors import InvalidOption

__all__ = [
    "ExactMatch",
    "Format",
    "Function",
    "Gate",
    "Items",
    "Length",
    "Regex",
    "Scorer",
    "WeightedSum",
    "scorer_from",
]

Scorer = Callable[[str], float]

_ANY: Final = object()
_EDGES: Final = " \t\r\n\"'`*.!"


def _plain(text: str) -> str:
    """Lower case, one space between words, no quotes or full stop at the edges."""
    return " ".join(text.split()).strip(_EDGES).casefold()


class ExactMatch:
    """1 if the message is one of the answers, else 0.

    Args:
        answers: any of them counts.
        strict: compare as they are; otherwise case, spaces, and quotes, full stop or exclamation
            mark at the edges do not matter.
    """

    def __init__(self, answers: str | Sequence[str], *, strict: bool = False) -> None:
        self._form: Callable[[str], str] = (lambda text: text) if strict else _plain
        given = [answers] if isinstance(answers, str) else answers
        self._answers = frozenset(map(self._form, given))
        if not self._answers:
            raise ValueError("exact needs an answer")

    def __call__(self, text: str) -> float:
        return float(self._form(text) in self._answers)


class Regex:
    """1 if the pattern is found in the message (or is all of it), else 0."""

    def __init__(self, pattern: str, *, full: bool = False) -> None:
        try:
            compiled = re.compile(pattern)
        except re.error as exc:
            raise ValueError(f"{pattern!r} is not a valid regular expression: {exc}") from None
        self._find = compiled.fullmatch if full else compiled.search

    def __call__(self, text: str) -> float:
        return float(self._find(text.strip()) is not None)


_FORMATS: Final[dict[str, Callable[[str], bool]]] = {
    "number": lambda text: re.fullmatch(r"[+-]?\d+(\.\d+)?", text) is not None,
    "word": lambda text: re.fullmatch(r"[^\W\d_]+", text) is not None,
    "lower": str.islower,
    "upper": str.isupper,
    "line": lambda text: bool(text) and "\n" not in text,
    "sentence": lambda text: re.fullmatch(r"[A-Z][^.!?\n]*[.!?]", text) is not None,
    "list": lambda text: re.fullmatch(r"[^,\n]+(, [^,\n]+)+", text) is not None,
}


class Format:
    """1 if the message has the form, else 0.

    Args:
        kind: number, word, lower, upper, line, sentence, list (``a, b, c``) or json.
        keys: of the JSON object, exactly; only with ``json``.
        value: the JSON value, exactly; only with ``json``.
    """

    def __init__(self, kind: str, *, keys: Sequence[str] | None = None, value: Any = _ANY) -> None:
        if kind != "json" and kind not in _FORMATS:
            raise ValueError(f"there is no format {kind!r}; known: json, {', '.join(_FORMATS)}")
        if (keys is not None or value is not _ANY) and kind != "json":
            raise ValueError("keys and value belong to the format json")
        self._kind = kind
        self._keys = None if keys is None else set(keys)
        self._value = value if value is _ANY else _typed(value)

    def __call__(self, text: str) -> float:
        text = text.strip()
        if self._kind != "json":
            return float(_FORMATS[self._kind](text))
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return 0.0
        fits = self._keys is None or (isinstance(value, dict) and set(value) == self._keys)
        return float(fits and self._value in (_ANY, _typed(value)))


def _typed(value: Any) -> str:
    """A JSON value as text that tells ``true`` from 1, whatever the order of keys."""
    return json.dumps(value, sort_keys=True)


class Items:
    """1 if the message is a list (``a, b, c``) of different words, all of them known, else 0.

    The last one may have an ``and`` before it.

    Args:
        words: those that may stand in it; case does not matter.
        count: how many it has, exactly.
    """

    def __init__(self, words: Sequence[str], *, count: int) -> None:
        self._words = frozenset(map(_plain, words))
        self._count = count
        if isinstance(words, str) or len(self._words) < count or count < 2:
            raise ValueError("items need words and a count of 2 or more that they suffice for")

    def __call__(self, text: str) -> float:
        found = [_plain(part) for part in text.strip().strip(_EDGES).split(",")]
        found[-1] = found[-1].removeprefix("and ")
        distinct = len(set(found)) == len(found) == self._count
        return float(distinct and self._words.issuperset(found))


class Length:
    """1 within the bounds; outside it falls with the distance, to 0 at twice or none of them.

    Args:
        min_words, max_words, min_chars, max_chars: any of them.
    """

    def __init__(
        self,
        *,
        min_words: int | None = None,
        max_words: int | None = None,
        min_chars: int | None = None,
        max_chars: int | None = None,
    ) -> None:
        self._words = (min_words, max_words)
        self._chars = (min_chars, max_chars)
        given = [each for each in (*self._words, *self._chars) if each is not None]
        if not given or min(given) < 0:
            raise ValueError("length needs at least one bound of 0 or more")

    def __call__(self, text: str) -> float:
        text = text.strip()
        return min(_within(len(text.split()), *self._words), _within(len(text), *self._chars))


def _within(size: int, low: int | None, high: int | None) -> float:
    if low is not None and size < low:
        return size / low
    if high is not None and size > high:
        return max(0.0, 1.0 - (size - high) / max(high, 1))
    return 1.0


class Function:
    """A callable of the text, its value kept within 0 and 1."""

    def __init__(self, function: Callable[[str], float | bool]) -> None:
        self._function = function

    def __call__(self, text: str) -> float:
        return min(1.0, max(0.0, float(self._function(text))))


class WeightedSum:
    """The mean of scores by weight.

    Args:
        parts: (weight, scorer) pairs; weights are positive and need not add up to 1.
    """

    def __init__(self, parts: Sequence[tuple[float, Scorer]]) -> None:
        self._parts = list(parts)
        if not self._parts or min(weight for weight, _ in self._parts) <= 0:
            raise ValueError("a sum needs parts with positive weights")
        self._total = sum(weight for weight, _ in self._parts)

    def __call__(self, text: str) -> float:
        return sum(weight * scorer(text) for weight, scorer in self._parts) / self._total


class Gate:
    """The score of the last scorer if all before it give at least ``threshold``, else 0."""

    def __init__(self, scorers: Sequence[Scorer], *, threshold: float = 1.0) -> None:
        if len(scorers) < 2:
            raise ValueError("a gate needs a condition and what it guards")
        *self._conditions, self._guarded = scorers
        self._threshold = threshold

    def __call__(self, text: str) -> float:
        if any(condition(text) < self._threshold for condition in self._conditions):
            return 0.0
        return self._guarded(text)


def scorer_from(spec: Any, *, trusted: bool = True) -> Scorer:
    """The scorer that plain data describes.

    ``{"exact": "12"}``, ``{"exact": ["a", "b"], "strict": true}``, ``{"regex": "^x"}``,
    ``{"format": "json", "keys": ["name"]}``, ``{"format": "json", "value": [1, 2]}``,
    ``{"items": ["red", "blue"], "count": 2}``, ``{"length": {"max_words": 3}}``,
    ``{"sum": [[0.7, {...}], [0.3, {...}]]}``, ``{"gate": [{...}, {...}], "threshold": 1.0}``.

    Args:
        spec: the description.
        trusted: whether regular expressions are taken: a bad one can run for ever.

    Raises:
        InvalidOption: it describes none; the message says why.
    """
    try:
        return _made(spec, trusted, 0)
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise InvalidOption(f"{spec!r} is not a valid scorer: {exc}", option="scorer") from exc


def _made(spec: Any, trusted: bool, depth: int) -> Scorer:
    if callable(spec):
        return Function(spec)
    if depth > 8:
        raise ValueError("it is nested too deep")
    options = dict(spec)
    kinds = [key for key in options if key in _KINDS]
    if len(kinds) != 1:
        raise ValueError(f"it needs one of {', '.join(_KINDS)}")
    kind = kinds[0]
    value = options.pop(kind)
    if kind == "regex" and not trusted:
        raise ValueError("regular expressions of clients are off: set CHAT_TRUST_CLIENTS=1")
    match kind:
        case "sum":
            parts = [(float(w), _made(each, trusted, depth + 1)) for w, each in value]
            return WeightedSum(parts, **options)
        case "gate":
            return Gate([_made(each, trusted, depth + 1) for each in value], **options)
        case "length":
            return Length(**value, **options)
        case _:
            return _SIMPLE[kind](value, **options)


_SIMPLE: Final[Mapping[str, Callable[..., Scorer]]] = {
    "exact": ExactMatch,
    "regex": Regex,
    "format": Format,
    "items": Items,
}
_KINDS: Final = (*_SIMPLE, "length", "sum", "gate")
