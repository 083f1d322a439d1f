"""Scores of answers, against a reference that was written another way."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final

import pytest
from repl_env.environment import REPLEnvironment
from repl_env.scoring import Mode, load_scoring, score, similarity
from repl_env.tasks import TASKS, draw

from openenv_async.errors import InvalidOption


def test_tolerant() -> None:
    for said, wanted in (
        (" 42\n", "42"),
        ("e\u0301", "é"),
        ("42.0", "42"),
        ("+4.2e1", "42"),
        ("-0.5", "-.5"),
        ("\u22125", "-5"),
        ("1,234,567.0", "1234567"),
        ("1,234", "1.234e3"),
        ("0.1234567891", "0.12345678912"),
        ("42.", "42"),
        ("**Corvo**.", "corvo"),
        ("\u201cNew  York\u201d", "new york"),
        ("\uff14\uff12", "42"),
        ("STRASSE", "straße"),
    ):
        assert similarity(said, wanted) == 1.0, (said, wanted)
        assert similarity(wanted, said) == 1.0, (said, wanted)
    for said, wanted in (
        ("42.5", "42"),
        ("-42", "42"),
        ("007", "7"),
        ("1,23", "123"),
        ("1,2345", "12345"),
        ("12 %", "12"),
        ("0.123", "0.1234"),
        ("10000000000000001", "10000000000000000"),
        ("Corvo, Bergen", "Corvo"),
        ("not Corvo", "Corvo"),
        ("1e999", "2"),
        ("", "42"),
        ("41 42 43", "42"),
        ("42" + " " * 70_000, "42"),
    ):
        assert similarity(said, wanted) == 0.0, (said, wanted)


def test_exact_and_fuzzy() -> None:
    assert similarity(" Corvo ", "Corvo", "exact") == 1.0
    assert similarity("corvo", "Corvo", "exact") == similarity("2.0", "2", "exact") == 0.0
    assert similarity("the quick brown fox", "Quick fox", "fuzzy") == pytest.approx(2 / 3)
    assert similarity("fox fox fox", "fox", "fuzzy") == pytest.approx(0.5)
    assert similarity("Fox.", "fox", "fuzzy") == 1.0
    assert similarity("41", "42", "fuzzy") == similarity("it is 42", "42", "fuzzy") == 0.0
    assert similarity("wolf", "fox", "fuzzy") == similarity("", "fox", "fuzzy") == 0.0
    everything = " ".join(draw(0, "busiest", "train").context.split())
    assert similarity(everything, "quick fox of Oban", "fuzzy") < 0.01


async def test_several_answers_and_functions() -> None:
    assert await score("2", ["one", 2.0], "tolerant") == 1.0
    assert await score("one two", ["three", "one"], "fuzzy") == pytest.approx(2 / 3)
    assert await score("anything", [], "tolerant") == 0.0

    async def half(answer: str, expected: str) -> float:
        return 0.5 if answer in expected else 0.0

    assert await score("a", "abc", half) == 0.5
    assert await score("a", "abc", lambda answer, expected: answer < expected) == 1.0
    for wrong in (2.0, -0.1, float("nan"), None, "high"):

        def function(answer: str, expected: str, given: Any = wrong) -> Any:
            return given

        with pytest.raises(ValueError, match=r"function gave .* return a number from 0 to 1"):
            await score("a", "b", function)
    assert load_scoring("difflib:get_close_matches") is not None
    for given, why in (("best", "choose one of exact"), ("json:nothing", "nothing"), (3, "3")):
        with pytest.raises(InvalidOption, match=why):
            load_scoring(given)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(InvalidOption, match="scoring is 'best'"):
        REPLEnvironment(scoring="best")


# -- an independent reference -------------------------------------------------------------


def reference(answer: str, expected: str) -> float:
    """Character by character, with fractions: no regular expression, no Decimal."""
    said, wanted = bare(answer), bare(expected)
    if said == wanted:
        return 1.0
    one, other = value(said), value(wanted)
    if one is None or other is None:
        return 0.0
    if one.denominator == other.denominator == 1:
        return float(one == other)
    return float(abs(one - other) * 10**9 <= max(abs(one), abs(other)))


def bare(text: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text, before = " ".join(text.replace("\u2212", "-").split()), ""
    while text != before:
        before = text
        while text.endswith((".", " ")):
            text = text[:-1]
        for left, right in ("**", "__", '""', "''", "``", "“”", "‘’", "$$"):
            if len(text) > 2 and text[0] == left and text[-1] == right:
                text = text[1:-1].strip()
                break
    return text


def value(text: str) -> Fraction | None:
    mantissa, _, exponent = text.partition("e")
    if "e" in text and not exponent[exponent[:1] in ("+", "-") :].isdigit():
        return None
    sign = -1 if mantissa.startswith("-") else 1
    whole, dot, part = mantissa[mantissa[:1] in ("+", "-") :].partition(".")
    groups = whole.split(",")
    if len(groups) > 1 and (not 1 <= len(groups[0]) <= 3 or {*map(len, groups[1:])} != {3}):
        return None
    digits = "".join(groups)
    if not (digits + part).isdigit() or (dot and not part) or not (digits or part):
        return None
    if len(digits) > 1 and digits[0] == "0":
        return None
    power = Fraction(10) ** (int(exponent) if exponent else 0)
    return sign * Fraction(int(digits + part or "0"), 10 ** len(part)) * power


Change = Callable[[random.Random, str], str]
SAME: Final[list[Change]] = [
    lambda rng, text: text,
    lambda rng, text: f" {text}\n",
    lambda rng, text: text.upper(),
    lambda rng, text: text.swapcase(),
    lambda rng, text: f"{text}.",
    lambda rng, text: f'"{text}"',
    lambda rng, text: f"**{text}**",
    lambda rng, text: f"`{text}`.",
    lambda rng, text: unicodedata.normalize("NFD", text),
    lambda rng, text: f"{int(text):,}" if text.isdigit() else text.title(),
    lambda rng, text: f"{text}.{'0' * rng.randint(1, 5)}" if text.isdigit() else text,
    lambda rng, text: f"+{text}" if text.isdigit() else text,
    lambda rng, text: f"{int(text):.12e}" if text.isdigit() else f"\t{text}",
]
"""Changes that leave an answer right."""
OTHER: Final[list[Change]] = [
    lambda rng, text: str(int(text) + rng.choice([-1, 1, 10])) if text.isdigit() else text[:-1],
    lambda rng, text: f"-{text}",
    lambda rng, text: f"0{text}",
    lambda rng, text: f"{text} {text}",
    lambda rng, text: f"{text}, or something else",
    lambda rng, text: f"the answer is {text}",
    lambda rng, text: f"{text}.5" if text.isdigit() else f"{text}s",
    lambda rng, text: f"{text}e1",
    lambda rng, text: f"{text} %",
    lambda rng, text: f"{text[0]},{text[1:]}0000",
    lambda rng, text: f"[{text}]",
    lambda rng, text: "",
]
"""Changes that make it wrong."""


def test_a_thousand_pairs_are_judged_as_a_reference_judges_them() -> None:
    rng = random.Random(0)
    answers = [draw(seed, kind, None, 4_000).expected_answer for seed in range(5) for kind in TASKS]
    right = 0
    for number in range(1_000):
        expected = rng.choice(answers)
        is_right = number % 2 == 0
        change = rng.choice(SAME if is_right else OTHER)
        answer = change(rng, expected)
        found = similarity(answer, expected)
        assert found == reference(answer, expected) == float(is_right), (answer, expected)
        right += is_right
    assert right == 500


def test_texts_at_random_are_judged_as_a_reference_judges_them() -> None:
    rng = random.Random(1)
    equal = 0
    for _ in range(20_000):
        answer, expected = (
            "".join(rng.choice('01.,-+e \u2212"*A') for _ in range(rng.randint(0, 5)))
            for _ in range(2)
        )
        found = similarity(answer, expected)
        assert found == reference(answer, expected), (answer, expected)
        equal += bool(found)
    assert equal > 200


@pytest.mark.parametrize("mode", ["exact", "tolerant", "fuzzy"])
def test_fuzzy_is_never_less_than_tolerant_nor_that_than_exact(mode: Mode) -> None:
    rng = random.Random(2)
    for _ in range(2_000):
        one, other = (" ".join(rng.choices(["a", "B", "1", "1.0"], k=2)) for _ in range(2))
        found = similarity(one, other, mode)
        assert similarity(one, other, "exact") <= found <= similarity(one, other, "fuzzy")
        assert 0.0 <= found <= 1.0
