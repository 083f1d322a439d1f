"""The bundled tasks: each can be solved, and nothing that is said to all of them pays."""

from __future__ import annotations

import re
from collections import Counter
from statistics import fmean

import pytest
from chat_env.bundled import KINDS, OPTIONS, builtin_tasks
from chat_env.scorers import score_text
from chat_env.tasks import Task

SETS = [*((kind, None) for kind in KINDS), (None, "test")]


def bundled(kind: str | None, split: str | None) -> list[Task]:
    return [t for t in builtin_tasks() if kind in (None, t.kind) and split in (None, t.split)]


def answer(task: Task) -> str:
    assert task.answer is not None
    return task.answer


def test_every_task_has_an_answer_and_a_name_of_its_own() -> None:
    tasks = builtin_tasks()
    assert len({task.id for task in tasks}) == len(tasks) == 371
    for task in tasks:
        assert score_text(task.scorer, answer(task)) == 1.0, (task, answer(task))
        if task.kind != "format":
            assert answer(task) not in re.split("[-]", task.id)[2:], task.id


@pytest.mark.parametrize("kind", KINDS)
def test_both_splits_have_all_kinds(kind: str) -> None:
    train, test = bundled(kind, "train"), bundled(kind, "test")
    assert len(test) >= 4
    assert len(train) >= 3 * len(test)
    if kind != "guess":  # whose prompts are one
        assert not {t.id for t in train} & {t.id for t in test}


@pytest.mark.parametrize(("kind", "split"), SETS)
def test_a_constant_answer_scores_at_chance(kind: str | None, split: str | None) -> None:
    """Whatever is said to every task of a set: right answers, rows of them, forms, nonsense."""
    tasks = bundled(kind, split)
    answers = sorted({answer(task) for task in tasks})[:40]
    numbers = " ".join(map(str, range(31)))
    constants = [
        *answers,
        *(f"The answer is {each}." for each in answers[:20]),
        *(f"{each}\n{numbers}" for each in answers[:20]),
        *("", " ", "11", "nonsense", "NONSENSE", "Nonsense.", "a, b, c", "x, y", "{}", "[]", "0"),
        *('{"name": "", "age": 0}', '{"city": "", "country": ""}', "true", "null", "?", "-11"),
        *(numbers, ", ".join(answers), " ".join(answers), "\n".join(answers)),
        *(", ".join(each) for each in zip(answers, answers[1:], answers[2:], strict=False)),
    ]
    usual = Counter(answer(task) for task in tasks).most_common(1)[0][1]
    chance = max(usual, 1) / len(tasks)
    assert chance <= 0.25
    for constant in constants:
        mean = fmean(score_text(task.scorer, constant) for task in tasks)
        assert mean <= chance + 0.05, (constant, mean)


@pytest.mark.parametrize("kind", ["choice", "repeat"])
def test_no_place_among_the_options_is_favoured(kind: str) -> None:
    for split in ("train", "test"):
        places: Counter[int] = Counter()
        tasks = bundled(kind, split)
        for task in tasks:
            options = re.search(r": ([\w, ]+)[?.]", str(task.prompt))
            assert options is not None
            places[options[1].split(", ").index(answer(task))] += 1
        assert max(places.values()) / len(tasks) <= 1 / OPTIONS + 0.05, (split, places)


@pytest.mark.parametrize("kind", KINDS)
def test_no_form_earns_anything_without_the_content(kind: str) -> None:
    right = {answer(task) for task in builtin_tasks()}
    for text in ("no", "No.", "NO", "3.5", "999", "no, yes", "Not at all.", '{"a": 1}', "No way"):
        assert text not in right
        assert not [t.id for t in bundled(kind, None) if score_text(t.scorer, text)], text


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
    assert score_text(task.scorer, text) == score
