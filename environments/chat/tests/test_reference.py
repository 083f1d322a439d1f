"""Scorers, against references that were written apart from them.

Numbers are compared with math-verify 0.9.0 (``parse`` with ``ExprExtractionConfig``, ``verify``),
whose verdicts on the same pairs are recorded below; the rest with a reference in this file, which
uses none of the package's code.
"""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from chat_env.scorers import score_text, scorer_from

PAIRS = 200


# -- numbers -----------------------------------------------------------------------------------


def number_pair(rng: random.Random) -> tuple[str, str]:
    """A value, and a message that says it or another."""
    value = rng.choice(
        [
            str(rng.randint(0, 20)),
            str(-rng.randint(1, 999)),
            str(rng.randint(1000, 9_999_999)),
            f"{rng.uniform(0, 100):.{rng.randint(1, 3)}f}",
        ]
    )
    said = value
    if rng.random() < 0.5:
        said = rng.choice(
            [
                value + str(rng.randint(1, 9)),
                value.lstrip("-") if value.startswith("-") else f"-{value}",
                str(rng.randint(0, 20)),
                value.replace("1", "7", 1),
            ]
        )
    whole = said.lstrip("-")
    if rng.random() < 0.4 and "." not in whole and whole.isdigit():
        said = said[: len(said) - len(whole)] + f"{int(whole):,}"
    if rng.random() < 0.2 and "." not in said:
        said += rng.choice([".0", ".00"])
    if rng.random() < 0.2 and not said.startswith("-"):
        said = f"${said}"
    before = rng.choice(["", "It is ", "The answer is ", f"Of {rng.randint(2, 9)} the answer is "])
    return value, before + said + rng.choice(["", ".", " apples", "!"])


MATH_VERIFY = (
    "01010010101011111111011011101001000010001101001111001101000010101101010010011110"
    "01000110101111101101010101110110000101100000001001000010111111110101010111110101"
    "1001011011001111100011010100011111110011"
)
"""1 where math-verify takes the message's number for the value, else 0, pair by pair."""


def test_numbers_are_those_of_math_verify() -> None:
    assert len(MATH_VERIFY) == PAIRS
    differ = []
    for number, verdict in enumerate(MATH_VERIFY):
        value, text = number_pair(random.Random(f"number/{number}"))
        if score_text(scorer_from({"number": value}), text) != float(verdict):
            differ.append((number, value, text))
    assert differ == []
    assert PAIRS / 4 < MATH_VERIFY.count("1") < 3 * PAIRS / 4


# -- the rest ----------------------------------------------------------------------------------

WORDS = ("red", "blue", "Green", "pale grey", "x-ray", "né", "7", "no")
EDGES = "\"'`*.! \n\t"


def folded(text: str) -> str:
    """Words joined by one space, without what may stand at the edges."""
    out: list[str] = []
    for letter in text:
        if letter.isspace():
            if out and out[-1] != " ":
                out.append(" ")
        else:
            out.extend(letter.casefold())
    while out and out[0] in EDGES:
        del out[0]
    while out and out[-1] in EDGES:
        del out[-1]
    return "".join(out)


def equal(one: Any, other: Any) -> bool:
    """Equality of JSON values; a bool is no number, 1 is not 1.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def reference(spec: dict[str, Any], text: str) -> Fraction:
    """The score of a message, by the README's table."""
    match spec:
        case {"exact": answers, "strict": True}:
            return Fraction(any(text == answer for answer in answers))
        case {"exact": answers}:
            return Fraction(any(folded(text) == folded(answer) for answer in answers))
        case {"format": "json", "value": value}:
            try:
                return Fraction(equal(msgspec.json.decode(text.strip().encode()), value))
            except msgspec.DecodeError:
                return Fraction(0)
        case {"format": "number"}:
            body = text.strip()
            body = body[1:] if body[:1] in ("+", "-") else body
            whole, dot, part = body.partition(".")
            return Fraction(whole.isdigit() and (part.isdigit() if dot else True))
        case {"items": words, "count": count}:
            found = [folded(each) for each in text.strip().strip(EDGES).split(",")]
            if found[-1].startswith("and "):
                found[-1] = found[-1][4:]
            known = {folded(word) for word in words}
            fits = len(found) == count and len(set(found)) == count
            return Fraction(fits and set(found) <= known)
        case {"length": {"max_words": most}}:
            words = 0
            for before, letter in zip(" " + text, text, strict=False):
                words += before.isspace() and not letter.isspace()
            return max(Fraction(0), 1 - Fraction(max(0, words - most), max(most, 1)))
        case {"sum": parts}:
            total = sum(Fraction(weight) for weight, _ in parts)
            return (
                sum((Fraction(w) * reference(each, text) for w, each in parts), Fraction()) / total
            )
        case {"gate": [condition, scorer]}:
            return reference(scorer, text) if reference(condition, text) >= 1 else Fraction(0)
        case {"choice": right, "options": options}:
            return Fraction(chosen(text, options) == right)
    raise AssertionError(spec)


def chosen(text: str, options: list[str]) -> str | None:
    """The letter of the one option that a message of the generator names."""
    for at, option in enumerate(options):
        letter = "ABCD"[at]
        plain = folded(text)
        forms = {letter, f"({letter})", f"{letter}. {option}", f"the answer is {letter}", option}
        if plain in {folded(form) for form in forms}:
            return letter
    return None


def other_pair(rng: random.Random, deep: bool = False) -> tuple[dict[str, Any], str]:
    """A scorer, and a message that fits it, or nearly."""
    words = rng.sample(WORDS, 4)
    kind = rng.choice(["exact", "strict", "json", "number", "items", "length", "choice"])
    if not deep:
        kind = rng.choice([kind, "sum", "gate"])
    spec: dict[str, Any]
    match kind:
        case "exact" | "strict":
            spec = {"exact": words[:2]} | ({"strict": True} if kind == "strict" else {})
            text = rng.choice(words[:3])
        case "json":
            value = rng.choice([{"a": 1, "b": [True, None]}, [1, 2.5], "x", 1, False, {"a": {}}])
            spec = {"format": "json", "value": value}
            text = msgspec.json.encode(value).decode()
            text = rng.choice([text, text.replace("1", "true"), text.replace(",", ", ") + " ", "{"])
        case "number":
            spec = {"format": "number"}
            text = rng.choice(["3", "-3.5", "+7", "3.", ".5", "3 4", "1e3", "--3", "12"])
        case "items":
            spec = {"items": words, "count": 3}
            said = [rng.choice([*words, words[0], "teal"]) for _ in range(rng.choice([2, 3, 3, 4]))]
            text = ", ".join(said[:-1]) + rng.choice([", ", ", and "]) + said[-1]
        case "length":
            spec = {"length": {"max_words": rng.randint(1, 4)}}
            text = rng.choice([" ", "  ", "\n"]).join(rng.choices(words, k=rng.randint(0, 7)))
        case "choice":
            spec = {"choice": rng.choice("ABCD"), "options": words}
            at = rng.randrange(4)
            letter, option = "ABCD"[at], words[at]
            text = rng.choice(
                [
                    *(letter, letter.lower(), f"({letter})", f"{letter}. {option}", option),
                    *(f"The answer is {letter}.", f"{letter} or A", f"{letter}. {words[at - 1]}"),
                    *("ABCD", "none of them", f"{option}, {words[at - 1]}"),
                ]
            )
        case _:
            (one, text), (two, _) = other_pair(rng, True), other_pair(rng, True)
            if kind == "sum":
                return {"sum": [[rng.randint(1, 5), one], [rng.randint(1, 5), two]]}, text
            return {"gate": rng.choice([[one, two], [{"length": {"max_words": 3}}, one]])}, text
    dressed = [text, text, text.upper(), f" {text}\n", f'"{text}"', f"{text}.", f"{text} then"]
    return spec, rng.choice(dressed)


@pytest.mark.parametrize("block", range(5))
def test_the_rest_agrees_with_a_reference(block: int) -> None:
    differ, scores = [], set()
    for number in range(block * PAIRS, (block + 1) * PAIRS):
        spec, text = other_pair(random.Random(f"other/{number}"))
        wanted = reference(spec, text)
        scores.add(wanted)
        if abs(score_text(scorer_from(spec), text) - wanted) > 1e-9:
            differ.append((spec, text, float(wanted)))
    assert differ == []
    assert len(scores) > 4
