"""The bundled tasks and those of a file."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from coding_env.environment import CodingEnvironment
from coding_env.sandbox.inside.canonical import canonical
from coding_env.tasks import BUNDLED, choose, load_tasks
from coding_env.tasks.generated import GENERATED
from coding_env.tasks.model import Case, FunctionTask, Task
from hypothesis import given, settings
from hypothesis import strategies as st

from openenv_async import connect
from openenv_async.errors import InvalidOption


def test_there_are_enough_of_each_kind() -> None:
    assert len(BUNDLED) >= 218
    assert len({task.name for task in BUNDLED}) == len(BUNDLED)
    for split in ("train", "test"):
        for difficulty in ("easy", "medium", "hard"):
            assert [t for t in BUNDLED if (t.split, t.difficulty) == (split, difficulty)]


ONE_OF_EACH = [
    task
    for task in BUNDLED
    if isinstance(task, FunctionTask) and (task not in GENERATED or task.name.endswith("-1"))
]


def cases_of(task: Task, count: int, seed: int) -> list[Case]:
    tests = task.tests(count, random.Random(seed))
    assert isinstance(tests, list)
    return tests


@pytest.mark.parametrize("task", ONE_OF_EACH, ids=lambda task: task.name)
def test_hidden_tests_follow_the_seed_and_cannot_be_guessed_by_a_constant(
    task: FunctionTask,
) -> None:
    cases = cases_of(task, 12, 3)
    assert cases == cases_of(task, 12, 3)
    assert cases != cases_of(task, 12, 4)
    assert len(cases) == 12
    assert task.entry_point in task.prompt()
    many = [case.expected for case in cases_of(task, 100, 1)]
    assert max(many.count(text) for text in set(many)) <= 75
    shown = {json.dumps(list(args)) for args in task.examples}
    assert not shown & {json.dumps(case.args) for case in cases[:3]}


def test_arguments_are_not_changed_by_the_reference() -> None:
    for task in BUNDLED:
        assert isinstance(task, FunctionTask)
        for case in cases_of(task, 12, 0):
            before = json.dumps(case.args)
            task.solve(*case.args)
            assert json.dumps(case.args) == before, task.name


def test_choosing() -> None:
    rng = random.Random(0)
    assert choose(BUNDLED, rng, name="roman", split="test", difficulty=None).name == "roman"
    hard = choose(BUNDLED, rng, name=None, split="test", difficulty="hard")
    assert (hard.split, hard.difficulty) == ("test", "hard")
    with pytest.raises(InvalidOption, match="choose one of automaton-1"):
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
    assert [case.expected for case in cases_of(task, 12, 0)] == ["0", "10"]
    for text, message in (("{}", "line 1 is not a task"), (f"{json.dumps(row)}\n" * 2, "repeats")):
        path.write_text(text)
        with pytest.raises(InvalidOption, match=message):
            load_tasks(path)
    with pytest.raises(InvalidOption, match="cannot be read"):
        load_tasks(tmp_path / "none")


class Point(NamedTuple):
    x: int
    y: int


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ((1, 2), [1, 2], False),
        ((1, 2), (1, 2), True),
        ((1,), (1, 2), False),
        (Point(1, 2), (1, 2), True),
        (2.0, 2, True),
        (2.5, 2, False),
        (10**20, 1e20, True),
        (12345678901, 12345678901.0, True),
        (12345678901, 12345678902.0, False),
        (-0.0, 0, True),
        (1e400, float("inf"), True),
        (float("inf"), -float("inf"), False),
        (float("nan"), float("nan"), True),
        (0.1 * 3, 0.3, True),
        (0.3, 0.30001, False),
        (sum([0.1] * 10), 1, True),
        (1 + 0j, 1, True),
        (1 + 2j, 1, False),
        (1 + 2j, 1.0 + 2j, True),
        (Fraction(1, 2), 0.5, True),
        (Decimal("2.0"), 2, True),
        ({1: "a", 2: "b"}, {2: "b", 1: "a"}, True),
        ({1: "a"}, {1.0: "a"}, True),
        ({1: "a"}, {"1": "a"}, False),
        ({(1, 2): 3}, {(1, 2): 3}, True),
        ({1, 2}, {1: 1, 2: 2}, False),
        (set(), {}, False),
        ({1, 2}, frozenset([2, 1]), True),
        ({1: 2}.keys(), {1}, True),
        (np.bool_(True), True, True),
        ([np.int64(2), np.float64(2.5)], [2, 2.5], True),
        (Counter("aab"), {"a": 2, "b": 1}, True),
        (defaultdict(int, a=1), {"a": 1}, True),
        (b"a", b"a", True),
        (b"a", "a", False),
        (bytearray(b"a"), b"a", True),
        ([2.0, {"x": {1, 2}}], [2, {"x": {2, 1}}], True),
        (None, False, False),
        ({2, 1}, {1, 2}, True),
        ({"b": 1, "a": 2}, {"a": 2, "b": 1}, True),
        (0.1 + 0.2, 0.3, True),
        (1, 1.0, True),
        (1, True, True),
        ("1", 1, False),
        ([1], {1}, False),
        ([["a"]], ["a"], False),
        (list(range(2000)), list(range(2000)), True),
        (list(range(2000)), [*range(1999), 0], False),
    ],
)
def test_values_as_text(left: object, right: object, same: bool) -> None:
    assert (canonical(left) == canonical(right)) is same


NUMBERS = st.booleans() | st.integers(-5, 5) | st.sampled_from([0.0, 1.0, 2.5, -3.0, 1e16])
KEYS = NUMBERS | st.text("ab", max_size=2) | st.none() | st.tuples(NUMBERS, NUMBERS)
VALUES = st.recursive(
    KEYS | st.sets(NUMBERS, max_size=3) | st.frozensets(KEYS, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=6,
)


@given(left=VALUES, right=VALUES)
@settings(max_examples=500)
def test_texts_are_equal_where_python_says_so_of_the_values(left: Any, right: Any) -> None:
    assert (canonical(left) == canonical(right)) is (left == right)


@given(value=VALUES)
def test_equal_values_that_are_written_otherwise_have_one_text(value: Any) -> None:
    other = otherwise(value)
    assert other == value
    assert canonical(other) == canonical(value)


def otherwise(value: Any) -> Any:
    """An equal value of other types, and dicts and sets in another order."""
    match value:
        case bool():
            return float(value)
        case int() | float():
            return complex(value)
        case list():
            return [otherwise(each) for each in value]
        case tuple():
            return tuple(otherwise(each) for each in value)
        case set() | frozenset():
            return {otherwise(each) for each in reversed(list(value))}
        case dict():
            return {otherwise(k): otherwise(v) for k, v in reversed(value.items())}
    return value


def test_no_equality_of_a_result_is_asked() -> None:
    class Everything(list[int]):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None

    assert Everything([1]) == [2]
    assert canonical(Everything([1])) == canonical([1]) != canonical([2])


def test_a_file_of_tasks_with_python_literals(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    row = {
        "name": "count",
        "entry_point": "count",
        "text": "Count.",
        "examples": [{"args": "(1, 1, 2)", "result": "{1: 2, 2: 1}"}],
        "tests": [
            {"args": "{3}, 'x'", "result": "({3}, 2.0)"},
            [[[1]], 1],
            {"args": "", "result": "None"},
        ],
    }
    path.write_text(json.dumps(row))
    [task] = load_tasks(path)
    assert ">>> count((1, 1, 2))\n{1: 2, 2: 1}" in task.prompt()
    cases = cases_of(task, 12, 0)
    assert [case.args for case in cases] == [[{3}, "x"], [[1]], []]
    assert [case.expected for case in cases] == [canonical(each) for each in (({3}, 2), 1, None)]
    for bad in ("f(1)", "1 +", "[[" * 200, "__import__('os')"):
        for test in ({"args": bad, "result": "1"}, {"args": "1", "result": bad}):
            path.write_text(json.dumps({**row, "tests": [test]}))
            with pytest.raises(InvalidOption, match=r"line 1 is not a task: .*Python literals"):
                load_tasks(path)


def test_what_is_no_plain_value_has_no_text() -> None:
    deep: list[object] = []
    for _ in range(100):
        deep = [deep]
    for value, error in ((object(), TypeError), (deep, ValueError), ([print], TypeError)):
        with pytest.raises(error):
            canonical(value)


async def test_its_tasks_are_listed_and_named_without_their_hidden_tests() -> None:
    async with connect(CodingEnvironment) as env:
        tasks = await env.tasks()
        assert await tasks.splits() == ["train", "test"]
        for split in ("train", "test"):
            listed = await tasks.range(split)
            assert {task.id for task in listed} == {t.name for t in BUNDLED if t.split == split}
            assert {*listed[0].data} == {"task", "prompt"}
            await env.reset(task_id=listed[-1].id)
            assert (await env.state()).task == listed[-1].id
