"""Scorers: how good a message, or a conversation so far, is, 0 to 1; put together from small ones.

A scorer is a rubric of ``openenv_async.rubrics``, whose functions take of these facts what they
name; they may be async:

- ``text``: of the agent's message; ``calls``: how many tools it has called in the episode so far.
- ``messages``: the conversation, as dicts, with that message at its end.
- ``turn``: which message of the agent it is, from 1; ``last``: no other may follow.
- ``ask``: asks the environment's judge: ``await ask(messages)`` returns a ``Reply``.

As data, for task files and reset options, each is a dict with one key: its name (``scorer_from``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from chat_env.judge import Judge
from openenv_async.errors import InvalidOption
from openenv_async.rubrics import Rubric, gated, part, weighted

__all__ = [
    "Called",
    "Choice",
    "ExactMatch",
    "Format",
    "Items",
    "Length",
    "Number",
    "Regex",
    "needs_judge",
    "score_text",
    "scorer_from",
]

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


_NUMBER: Final = re.compile(
    r"(?<![\w.,/])[-+]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w|[.,/]\d)"
)


class Number:
    """1 if the last number of the message is the one, else 0.

    ``1,200``, ``$1200`` and ``1200.0`` are one number.

    Args:
        value: the number, or a text of it.
        tolerance: by which it may differ.
    """

    def __init__(self, value: float | str, *, tolerance: float = 0.0) -> None:
        try:
            self._value = Decimal(str(value).replace(",", "").replace("$", "").strip())
            self._tolerance = Decimal(str(tolerance))
        except InvalidOperation:
            raise ValueError(f"{value!r} is not a number") from None
        if not self._value.is_finite() or not self._tolerance >= 0:
            raise ValueError("number needs a finite value and a tolerance of 0 or more")

    def __call__(self, text: str) -> float:
        found = _NUMBER.findall(text)
        if not found:
            return 0.0
        said = Decimal(re.sub("[,$]", "", found[-1]))
        return float(abs(said - self._value) <= self._tolerance)


class Choice:
    """1 if the message names the right one of lettered options, and no other, else 0.

    It names one by its letter (``B``, ``(b)``, ``B. …``, ``The answer is B``) or by its text alone.

    Args:
        answer: the letter, or the position from 0.
        options: the options' texts, lettered from A.
    """

    def __init__(self, answer: str | int, *, options: Sequence[str]) -> None:
        if isinstance(options, str) or not 2 <= len(options) <= 26:
            raise ValueError("choice needs 2 to 26 options")
        self._letters = [chr(65 + number) for number in range(len(options))]
        at = answer if isinstance(answer, int) else self._letters.index(answer.strip().upper())
        if isinstance(at, bool) or not 0 <= at < len(options):
            raise ValueError(f"there is no option {answer!r}")
        self._right = self._letters[at]
        self._texts = {
            _plain(text): letter for text, letter in zip(options, self._letters, strict=True)
        }
        self._named = re.compile(rf"(?<![\w'])\(?([{''.join(self._letters)}])\b(?!')")

    def __call__(self, text: str) -> float:
        return float(self._chosen(text.strip(" \t\r\n\"'`*")) == self._right)

    def _chosen(self, text: str) -> str | None:
        if (letter := self._texts.get(_plain(text))) is not None:
            return letter
        if found := re.fullmatch(r"[(\[]?([A-Za-z])[)\].:]*(?:\s.*)?", text, re.DOTALL):
            letter, rest = found[1].upper(), text[found.end(1) :].strip(" ).]:\n")
            alone = not rest or self._texts.get(_plain(rest)) == letter
            if alone and letter in self._letters:
                return letter
        named = set(self._named.findall(text))
        if len(named) == 1 and re.search(r"(?i)\b(answer|option|choice)\b", text):
            (letter,) = named
            return str(letter)
        return None


class Called:
    """1 if the agent has called the tool in the conversation, else 0.

    Args:
        name: of the tool.
        arguments: that the call must have, others not counted.
    """

    def __init__(self, name: Any, *, arguments: Mapping[str, Any] | None = None) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError("called needs the name of a tool")
        self._name = name
        self._arguments = dict(arguments or {})

    def __call__(self, messages: Sequence[Mapping[str, Any]]) -> float:
        calls = (call for each in messages for call in each.get("tool_calls") or ())
        return float(any(self._fits(call) for call in calls))

    def _fits(self, call: Mapping[str, Any]) -> bool:
        given = call["arguments"]
        return call["name"] == self._name and all(
            name in given and given[name] == value for name, value in self._arguments.items()
        )


# -- made of others ----------------------------------------------------------------------------


def _over_all(inner: Rubric, combine: Callable[[Iterable[float]], float], name: str) -> Rubric:
    """Return the score of all of the agent's messages, put together."""

    def each(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
        said = [
            m for m in facts["messages"] if m["role"] == "assistant" and not m.get("tool_calls")
        ]
        return [{**facts, "text": message["content"]} for message in said]

    if inner.is_async:

        async def scored(**facts: Any) -> float:
            return combine([(await inner.score_async(**one)).value for one in each(facts)] or [0.0])

        return part(scored, name=name)
    return part(
        lambda **facts: combine([inner.score(**one).value for one in each(facts)] or [0.0]),
        name=name,
    )


def scorer_from(spec: Any, *, trusted: bool = True) -> Rubric:
    """Return the scorer that plain data describes.

    ``{"exact": "12"}``, ``{"exact": ["a", "b"], "strict": true}``, ``{"regex": "^x"}``,
    ``{"number": 12, "tolerance": 0.5}``, ``{"choice": "B", "options": ["a", "b"]}``,
    ``{"format": "json", "keys": ["name"]}``, ``{"format": "json", "value": [1, 2]}``,
    ``{"items": ["red", "blue"], "count": 2}``, ``{"length": {"max_words": 3}}``,
    ``{"sum": [[0.7, {...}], [0.3, {...}]]}``, ``{"gate": [{...}, {...}], "threshold": 1.0}``; of
    whole conversations ``{"called": "price", "arguments": {...}}``, ``{"every": {...}}`` (the worst
    of the agent's messages), ``{"some": {...}}`` (the best) and ``{"judge": "Is it polite?"}``.

    Args:
        spec: the description; or a rubric, or a function of the facts that it names.
        trusted: whether regular expressions are taken: a bad one can run for ever.

    Raises:
        InvalidOption: it describes none; the message says why.
    """
    try:
        return _made(spec, trusted, 0, "score")
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise InvalidOption(f"{spec!r:.300} is not a valid scorer: {exc}", option="scorer") from exc


def needs_judge(spec: Any) -> bool:
    """Return whether a scorer that is written as data asks a judge."""
    match spec:
        case {"judge": _}:
            return True
        case {"sum": parts}:
            return any(needs_judge(each) for _, each in parts)
        case {"gate": scorers}:
            return any(map(needs_judge, scorers))
        case {"every": inner} | {"some": inner}:
            return needs_judge(inner)
        case _:
            return False


def score_text(scorer: Rubric, text: str) -> float:
    """Return the score of a message as if it were the first of a conversation.

    Raises:
        TypeError: the scorer is async.
    """
    said = {"role": "assistant", "content": text}
    return scorer.score(text=text, messages=[said], calls=0, turn=1, last=True).value


def _made(spec: Any, trusted: bool, depth: int, name: str) -> Rubric:
    if isinstance(spec, Rubric):
        return spec
    if callable(spec):
        return part(spec, name=name)
    if depth > _DEEP:
        raise ValueError("it is nested too deep")
    options = dict(spec)
    kinds = [key for key in options if key in _KINDS]
    if len(kinds) != 1:
        raise ValueError(f"it needs one of {', '.join(_KINDS)}")
    kind = kinds[0]
    value = options.pop(kind)
    if kind == "regex" and not trusted:
        raise ValueError("regular expressions of clients are off: set CHAT_TRUST_CLIENTS=1")
    if depth:
        name = f"{name}_{kind}" if name else kind
    match kind:
        case "sum":
            return _sum(value, trusted, depth, name, **options)
        case "gate":
            return _gate(value, trusted, depth, name, **options)
        case "every" | "some":
            if options:
                raise ValueError(f"{kind} has no {sorted(options)[0]!r}")
            inner = _made(value, trusted, depth + 1, "")
            return _over_all(inner, min if kind == "every" else max, name)
        case "length":
            return part(Length(**value, **options), name=name)
        case _:
            return part(_SIMPLE[kind](value, **options), name=name)


def _sum(parts: Any, trusted: bool, depth: int, name: str) -> Rubric:
    """Return the mean of scores by weight."""
    weights = [float(weight) for weight, _ in parts]
    if not weights or min(weights) <= 0:
        raise ValueError("a sum needs parts with positive weights")
    made = [_made(each, trusted, depth + 1, str(at)) for at, (_, each) in enumerate(parts, 1)]
    total = sum(weights)
    return weighted(
        [(weight / total, each) for weight, each in zip(weights, made, strict=True)], name=name
    )


def _gate(scorers: Any, trusted: bool, depth: int, name: str, *, threshold: float = 1.0) -> Rubric:
    """Return the score of the last one where all before it reach ``threshold``, else 0."""
    if len(scorers) < 2:
        raise ValueError("a gate needs a condition and what it guards")
    *gates, made = (_made(each, trusted, depth + 1, str(at)) for at, each in enumerate(scorers, 1))
    for at, gate in reversed([*enumerate(gates, 1)]):
        label = name if at == 1 else f"from_{at}"
        made = gated(gate, made, threshold=float(threshold), name=label)
    return made


_DEEP: Final = 8
_SIMPLE: Final[Mapping[str, Callable[..., Callable[..., Any]]]] = {
    "exact": ExactMatch,
    "regex": Regex,
    "number": Number,
    "choice": Choice,
    "format": Format,
    "items": Items,
    "called": Called,
    "judge": Judge,
}
_KINDS: Final = (*_SIMPLE, "length", "sum", "gate", "every", "some")
