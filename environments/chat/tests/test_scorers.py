"""Scorers."""

from __future__ import annotations

from typing import Any

import pytest
from chat_env.scorers import ExactMatch, needs_judge, score_text, scorer_from

from openenv_async.errors import InvalidOption
from openenv_async.rubrics import part, weighted

EXAMPLES: list[tuple[Any, str, float]] = [
    ({"exact": "Blue whale"}, ' "blue  WHALE." ', 1.0),
    ({"exact": "Blue whale"}, "the blue whale", 0.0),
    ({"exact": ["a", "b"], "strict": True}, "b", 1.0),
    ({"exact": ["a", "b"], "strict": True}, "B", 0.0),
    ({"regex": r"\b12\b"}, "it is 12, I think", 1.0),
    ({"regex": r"12", "full": True}, "it is 12", 0.0),
    ({"format": "number"}, " -3.5\n", 1.0),
    ({"format": "number"}, "3 apples", 0.0),
    ({"format": "word"}, "été", 1.0),
    ({"format": "word"}, "two words", 0.0),
    ({"format": "lower"}, "quiet", 1.0),
    ({"format": "upper"}, "LOUD", 1.0),
    ({"format": "upper"}, "Loud", 0.0),
    ({"format": "line"}, "a\nb", 0.0),
    ({"format": "sentence"}, "It rains.", 1.0),
    ({"format": "sentence"}, "It rains. It pours.", 0.0),
    ({"format": "list"}, "a, b, c", 1.0),
    ({"format": "list"}, "a", 0.0),
    ({"format": "json"}, "[1]", 1.0),
    ({"format": "json", "keys": ["a"]}, '{"a": 1}', 1.0),
    ({"format": "json", "keys": ["a"]}, '{"a": 1, "b": 2}', 0.0),
    ({"format": "json"}, "[" * 100_000, 0.0),
    ({"format": "json", "value": {"a": 1, "b": [True]}}, '{"b": [true], "a": 1}', 1.0),
    ({"format": "json", "value": {"a": 1}}, '{"a": true}', 0.0),
    ({"format": "json", "value": None}, "null", 1.0),
    ({"items": ["red", "blue", "green"], "count": 2}, "Blue, red.", 1.0),
    ({"items": ["red", "blue", "green"], "count": 2}, "blue, and red", 1.0),
    ({"items": ["red", "blue", "green"], "count": 2}, "blue, blue", 0.0),
    ({"items": ["red", "blue", "green"], "count": 2}, "blue, red, green", 0.0),
    ({"items": ["red", "blue", "green"], "count": 2}, "blue, black", 0.0),
    ({"length": {"max_words": 4}}, "one two three", 1.0),
    ({"length": {"max_words": 4}}, "one two three four five six", 0.5),
    ({"length": {"max_words": 2}}, "one two three four five six", 0.0),
    ({"length": {"min_chars": 4}}, "ab", 0.5),
    ({"length": {"min_words": 1, "max_chars": 10}}, "", 0.0),
    ({"sum": [[3, {"exact": "a"}], [1, {"format": "lower"}]]}, "b", 0.25),
    ({"gate": [{"format": "lower"}, {"exact": "a"}]}, "A", 0.0),
    ({"gate": [{"format": "lower"}, {"exact": "a"}]}, "a", 1.0),
    ({"gate": [{"length": {"max_words": 2}}, {"regex": "x"}], "threshold": 0.5}, "x y z", 1.0),
    ({"number": "1,200"}, "It is $1200.00.", 1.0),
    ({"number": 1200}, "1,200", 1.0),
    ({"number": 12}, "12 of 13", 0.0),
    ({"number": 2}, "1/2", 0.0),
    ({"number": 5}, "x5", 0.0),
    ({"number": -5}, "so -5", 1.0),
    ({"number": 5}, "so -5", 0.0),
    ({"number": 3.14, "tolerance": 0.01}, "3.1416", 1.0),
    ({"number": 1}, "none", 0.0),
    ({"choice": "B", "options": ["red", "blue", "a fish"]}, "b", 1.0),
    ({"choice": 1, "options": ["red", "blue", "a fish"]}, "(B) blue", 1.0),
    ({"choice": "B", "options": ["red", "blue", "a fish"]}, "Blue.", 1.0),
    ({"choice": "B", "options": ["red", "blue", "a fish"]}, "The answer is B.", 1.0),
    ({"choice": "B", "options": ["red", "blue", "a fish"]}, "A or B", 0.0),
    ({"choice": "B", "options": ["red", "blue", "a fish"]}, "The answer is A or B", 0.0),
    ({"choice": "C", "options": ["red", "blue", "a fish"]}, "A fish", 1.0),
    ({"choice": "A", "options": ["red", "blue", "a fish"]}, "A fish", 0.0),
    ({"choice": "B", "options": ["red", "blue", "a fish"]}, "B red", 0.0),
    ({"choice": "B", "options": ["red", "blue", "a fish"]}, '"B"', 1.0),
    ({"choice": "B", "options": ["red", "blue", "a fish"]}, "**B. blue**", 1.0),
    ({"choice": "B", "options": ["red", "blue", "a fish"]}, "ABC", 0.0),
]


@pytest.mark.parametrize(("spec", "text", "score"), EXAMPLES)
def test_scores(spec: Any, text: str, score: float) -> None:
    assert score_text(scorer_from(spec), text) == pytest.approx(score)


def test_functions_and_rubrics_are_scorers() -> None:
    def brief(text: str, turn: int) -> bool:
        return len(text) < 3 and turn == 1

    assert score_text(scorer_from(brief), "x") == 1.0
    both = weighted([(0.5, ExactMatch("x")), (0.5, part(lambda calls: calls == 0, name="calls"))])
    assert score_text(scorer_from(both), "X") == 1.0
    assert scorer_from(both) is both
    assert score_text(scorer_from(lambda text: text == "x"), "x") == 1.0
    with pytest.raises(TypeError, match="takes 't', and was given text"):
        score_text(scorer_from(lambda t: t), "x")


def test_the_parts_of_a_scorer_are_named() -> None:
    spec = {"sum": [[3, {"exact": "a"}], [1, {"gate": [{"format": "lower"}, {"regex": "b"}]}]]}
    scored = scorer_from(spec).score(text="b", messages=[], calls=0, turn=1, last=True)
    assert scored.parts == {
        "reward": 0.25,
        "1_exact": 0.0,
        "2_gate": 1.0,
        "2_gate.1_format": 1.0,
        "2_gate.2_regex": 1.0,
    }


def said(*texts: str, call: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"role": "user", "content": "?"}]
    if call is not None:
        rows.append({"role": "assistant", "content": "", "tool_calls": [call]})
    return [*rows, *({"role": "assistant", "content": text} for text in texts)]


@pytest.mark.parametrize(
    ("spec", "messages", "score"),
    [
        ({"every": {"length": {"max_words": 2}}}, said("a b", "a"), 1.0),
        ({"every": {"length": {"max_words": 2}}}, said("a b c", "a"), 0.5),
        ({"some": {"exact": "a"}}, said("a", "b"), 1.0),
        ({"some": {"exact": "a"}}, said("c", "b"), 0.0),
        ({"every": {"exact": "a"}}, said(call={"name": "f", "arguments": {}}), 0.0),
        ({"called": "f"}, said("x", call={"name": "f", "arguments": {}}), 1.0),
        ({"called": "g"}, said("x", call={"name": "f", "arguments": {}}), 0.0),
        (
            {"called": "f", "arguments": {"n": 1}},
            said(call={"name": "f", "arguments": {"n": 1}}),
            1,
        ),
        (
            {"called": "f", "arguments": {"n": 1}},
            said(call={"name": "f", "arguments": {"n": 2}}),
            0,
        ),
        ({"gate": [{"every": {"format": "lower"}}, {"exact": "b"}]}, said("a", "b"), 1.0),
        ({"gate": [{"every": {"format": "lower"}}, {"exact": "b"}]}, said("A", "b"), 0.0),
    ],
)
def test_scores_of_whole_conversations(
    spec: Any, messages: list[dict[str, Any]], score: float
) -> None:
    facts = {"text": messages[-1]["content"], "messages": messages, "calls": 0}
    assert scorer_from(spec).score(**facts, turn=2, last=True).value == score


@pytest.mark.parametrize(
    "spec",
    [
        None,
        {},
        "exact",
        {"exact": "a", "regex": "a"},
        {"exact": []},
        {"regex": "("},
        {"format": "poem"},
        {"format": "number", "keys": ["a"]},
        {"format": "number", "value": 1},
        {"items": ["a", "b"]},
        {"items": "ab", "count": 2},
        {"items": ["a"], "count": 2},
        {"length": {}},
        {"length": {"max_words": -1}},
        {"length": {"max_sentences": 1}},
        {"sum": []},
        {"sum": [[0, {"exact": "a"}]]},
        {"gate": [{"exact": "a"}]},
        {"exact": "a", "color": 1},
        {"number": "x"},
        {"number": "nan"},
        {"number": 1, "tolerance": -1},
        {"choice": "E", "options": ["a", "b"]},
        {"choice": 2, "options": ["a", "b"]},
        {"choice": "A", "options": ["a"]},
        {"called": ""},
        {"every": {"exact": "a"}, "color": 1},
        {"some": {}},
        {"judge": " "},
        {"judge": "Polite?", "scale": 0},
    ],
)
def test_what_is_no_scorer(spec: Any) -> None:
    with pytest.raises(InvalidOption, match="not a valid scorer"):
        scorer_from(spec)


@pytest.mark.parametrize(
    ("spec", "needs"),
    [
        ({"judge": "Polite?"}, True),
        ({"sum": [[1, {"exact": "a"}], [1, {"gate": [{"exact": "a"}, {"judge": "?"}]}]]}, True),
        ({"every": {"judge": "?"}}, True),
        ({"format": "json", "value": {"judge": "Ada"}}, False),
        ({"exact": ["judge"]}, False),
    ],
)
def test_who_needs_a_judge(spec: Any, needs: bool) -> None:
    assert needs_judge(spec) is needs


def test_nesting_has_an_end() -> None:
    spec: Any = {"exact": "a"}
    for _ in range(30):
        spec = {"sum": [[1, spec]]}
    with pytest.raises(InvalidOption, match="too deep"):
        scorer_from(spec)


def test_clients_may_not_send_patterns() -> None:
    evil = {"sum": [[1, {"regex": r"(a+)+$"}]]}
    with pytest.raises(InvalidOption, match="CHAT_TRUST_CLIENTS"):
        scorer_from(evil, trusted=False)
    assert score_text(scorer_from(evil), "aaa") == 1.0
