"""The bundled tasks and those of a file."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from coding_env.sandbox.inside.canonical import canonical
from coding_env.tasks import BUNDLED, choose, load_tasks

from openenv_async.errors import InvalidOption


def test_there_are_enough_of_each_kind() -> None:
    assert len(BUNDLED) >= 12
    assert len({task.name for task in BUNDLED}) == len(BUNDLED)
    for split in ("train", "test"):
        for difficulty in ("easy", "medium", "hard"):
            assert [t for t in BUNDLED if (t.split, t.difficulty) == (split, difficulty)]


@pytest.mark.parametrize("task", BUNDLED, ids=lambda task: task.name)
def test_hidden_tests_follow_the_seed_and_cannot_be_guessed_by_a_constant(task: object) -> None:
    from coding_env.tasks import Task

    assert isinstance(task, Task)
    cases = task.cases(12, random.Random(3))
    assert cases == task.cases(12, random.Random(3))
    assert cases != task.cases(12, random.Random(4))
    assert len(cases) == 12
    assert task.entry_point in task.prompt()
    many = [case.expected for case in task.cases(100, random.Random(1))]
    assert max(many.count(text) for text in set(many)) <= 75
    shown = {json.dumps(list(args)) for args in task.examples}
    assert not shown & {json.dumps(case.args) for case in cases[:3]}


def test_arguments_are_not_changed_by_the_reference() -> None:
    for task in BUNDLED:
        for case in task.cases(12, random.Random(0)):
            before = json.dumps(case.args)
            task.solve(*case.args)
            assert json.dumps(case.args) == before, task.name


def test_choosing() -> None:
    rng = random.Random(0)
    assert choose(BUNDLED, rng, name="roman", split="test", difficulty=None).name == "roman"
    hard = choose(BUNDLED, rng, name=None, split="test", difficulty="hard")
    assert (hard.split, hard.difficulty) == ("test", "hard")
    with pytest.raises(InvalidOption, match="choose one of balanced"):
        choose(BUNDLED, rng, name="nothing", split=None, difficulty=None)
    with pytest.raises(InvalidOption, match="no task has split"):
        choose(BUNDLED[:1], rng, name=None, split="test", difficulty=None)


def test_a_file_of_tasks(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    row = {
        "name": "twice",
        "entry_point": "twice",
        "text": "Double it.",
        "examples": [[[2], 4]],
        "tests": [[[0], 0], [[5], 10]],
    }
    path.write_text(json.dumps(row) + "\n\n")
    [task] = load_tasks(path)
    assert ">>> twice(2)\n4" in task.prompt()
    assert [case.expected for case in task.cases(12, random.Random(0))] == ["0", "10"]
    for text, message in (("{}", "line 1 is no task"), (f"{json.dumps(row)}\n" * 2, "repeats")):
        path.write_text(text)
        with pytest.raises(InvalidOption, match=message):
            load_tasks(path)
    with pytest.raises(InvalidOption, match="cannot be read"):
        load_tasks(tmp_path / "none")


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ((1, 2), [1, 2], True),
        ({2, 1}, {1, 2}, True),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}, True),
        (0.1 + 0.2, 0.3, True),
        (1, 1.0, False),
        (1, True, False),
        ("1", 1, False),
        ([1], {1}, False),
        ([["a"]], ["a"], False),
        (list(range(2000)), list(range(2000)), True),
        (list(range(2000)), [*range(1999), 0], False),
    ],
)
def test_values_as_text(left: object, right: object, same: bool) -> None:
    assert (canonical(left) == canonical(right)) is same


def test_what_is_no_plain_value_has_no_text() -> None:
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    for value, error in ((object(), TypeError), (deep, ValueError), ([print], TypeError)):
        with pytest.raises(error):
            canonical(value)
