"""Scorers and tasks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from chat_env.scorers import ExactMatch, Function, Gate, Length, Regex, WeightedSum, scorer_from
from chat_env.tasks import Task, builtin_tasks, load_tasks, task_from

from openenv_async.errors import InvalidOption

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
]


@pytest.mark.parametrize(("spec", "text", "score"), EXAMPLES)
def test_scores(spec: Any, text: str, score: float) -> None:
    assert scorer_from(spec)(text) == pytest.approx(score)


def test_they_compose_in_python_too() -> None:
    scorer = Gate([Length(max_words=3), WeightedSum([(1, Regex("x")), (3, Function(len))])])
    assert scorer("x") == 1.0  # a function's value is kept within 0 and 1
    assert scorer("y") == 0.75
    assert scorer("") == 0.0
    assert scorer_from(lambda text: text == "x")("x") == 1.0
    assert ExactMatch("x")("X") == 1.0


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
    ],
)
def test_what_is_no_scorer(spec: Any) -> None:
    with pytest.raises(InvalidOption, match="not a valid scorer"):
        scorer_from(spec)


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
    assert scorer_from(evil)("aaa") == 1.0


def test_the_bundled_tasks_are_split_and_can_be_solved() -> None:
    tasks = builtin_tasks()
    assert len({task.id for task in tasks}) == len(tasks)
    for kind in ("sum", "choice", "format", "repeat", "guess"):
        splits = [task.split for task in tasks if task.kind == kind]
        assert splits.count("test") >= 2, kind
        assert splits.count("train") >= 3 * splits.count("test"), kind
    known = {
        "sum-2-2": "4",
        "choice-honey": "Honey.",
        "repeat-velvet": "velvet",
        "guess-7": "7",
        "format-2": '{"name": "Ada", "age": 36}',
        "format-3": "Rain falls in drops.",
        "format-8": "Good bye",
    }
    by_id = {task.id: task for task in tasks}
    for id, answer in known.items():
        assert by_id[id].scorer(answer) == 1.0, id
        assert by_id[id].scorer("Certainly! Let me think about that for you now.") < 1.0, id


def test_tasks_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    rows = [
        {"prompt": "Say hi.", "scorer": {"regex": "^hi"}, "id": "hi", "replies": ["No.", "Hm."]},
        {"prompt": "Say ho.", "scorer": {"exact": "ho"}, "split": "test", "max_turns": 2},
    ]
    file.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    first, second = load_tasks(str(file))
    assert (first.id, first.split, first.scorer("hi there")) == ("hi", "train", 1.0)
    assert first.partner is not None
    assert [first.partner("x", turn) for turn in (1, 2, 3)] == ["No.", "Hm.", "Hm."]
    assert (second.split, second.max_turns) == ("test", 2)
    file.write_text('{"prompt": "x"}\n')
    with pytest.raises(InvalidOption, match=r"line 1 of .*not a valid scorer"):
        load_tasks(str(file))
    file.write_text("")
    with pytest.raises(InvalidOption, match="no task"):
        load_tasks(str(file))
    with pytest.raises(InvalidOption, match="cannot read"):
        load_tasks(str(tmp_path / "gone.jsonl"))


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": ""},
        {"prompt": 3},
        {"split": "dev"},
        {"max_turns": 0},
        {"system": 1},
        {"replies": []},
        {"color": "red"},
    ],
)
def test_what_is_no_task(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        task_from({"prompt": "x", "scorer": {"exact": "a"}, **change})


# A full answer to every bundled task; also what somebody tries who answers all alike.
def answer(task: Task) -> str:
    if task.kind == "sum":
        return str(sum(map(int, re.findall(r"\d+", task.id))))
    if task.kind == "format":
        return FORMATS[int(task.id.partition("-")[2])]
    return task.id.partition("-")[2]


FORMATS = (
    *("kiwi, mango, plum", "cats, dogs, cows, pigs", '{"name": "Ada", "age": 36}'),
    *("Rain falls in drops.", '{"country": "Peru", "city": "Lima"}', "HELLO THERE!", "mars", "8"),
    *("Good bye", "red, blue", "leeks, peas, and kale", "[1, 2, 3]", "WINTER", "C-A-T"),
    *("tin, iron, lead", "2024-03-05", "Yes, yes, yes", "How old are you?", '{"ready": true}'),
    "0.5",
)
SETS = [
    (kind, split)
    for kind in ("sum", "choice", "format", "repeat", "guess", None)
    for split in ("train", "test", None)
]


def bundled(kind: str | None, split: str | None) -> list[Task]:
    return [t for t in builtin_tasks() if kind in (None, t.kind) and split in (None, t.split)]


def test_every_bundled_task_has_an_answer() -> None:
    for task in builtin_tasks():
        assert task.scorer(answer(task)) == 1.0, (task, answer(task))


@pytest.mark.parametrize(("kind", "split"), SETS)
def test_a_constant_answer_scores_at_chance(kind: str | None, split: str | None) -> None:
    """Whatever is said to every task of a set: right answers, rows of them, forms, nonsense."""
    tasks = bundled(kind, split)
    answers = sorted({answer(task) for task in builtin_tasks()})
    every_number = " ".join(map(str, range(31)))
    constants = [
        *answers,
        *(f"The answer is {each}." for each in answers),
        *(f"{each}\n{every_number}" for each in answers),
        *("", " ", "11", "nonsense", "NONSENSE", "Nonsense.", "a, b, c", "x, y", "{}", "[]", "0"),
        *('{"name": "", "age": 0}', '{"city": "", "country": ""}', "true", "null", "?", "-11"),
        *(every_number, ", ".join(answers), " ".join(answers), "\n".join(answers)),
        *(", ".join(each) for each in zip(answers, answers[1:], answers[2:], strict=False)),
    ]
    chance = 1 / len({answer(task) for task in tasks})
    for constant in constants:
        mean = fmean(task.scorer(constant) for task in tasks)
        assert mean <= chance + 0.03, (constant, mean)  # some answers fit 2 to 4 of 108 tasks


@pytest.mark.parametrize("kind", ["sum", "choice", "format", "repeat", "guess"])
def test_no_form_earns_anything_without_the_content(kind: str) -> None:
    right = {answer(task) for task in builtin_tasks()}
    for text in ("no", "No.", "NO", "3.5", "99", "no, yes", "Not at all.", '{"a": 1}', "No way"):
        assert text not in right
        assert not [task.id for task in bundled(kind, None) if task.scorer(text)], text


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("5", 1.0),
        (" 5 ", 1.0),
        ("It is 5", 0.5),
        ("2 + 3 = 5.", 0.5),
        ("5, I think", 0.5),
        ("5 or 6", 0.0),
        ("-5", 0.0),
        ("5.5", 0.0),
        ("15", 0.0),
        ("55", 0.0),
        ("five", 0.0),
        ("1 2 3 4 5 6 7 8", 0.0),
    ],
)
def test_what_a_sum_earns(text: str, score: float) -> None:
    task = next(task for task in builtin_tasks() if task.id == "sum-2-3")
    assert task.scorer(text) == score
