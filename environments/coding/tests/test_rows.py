"""Rows of data sets as tasks: rows of our own, in the forms that public ones have."""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest
from coding_env import CodeAction, CodingEnv
from coding_env.environment import CodingEnvironment
from coding_env.tasks import load_tasks
from coding_env.tasks.model import Checks
from coding_env.tasks.rows import task_of

from openenv_async import connect, serve
from openenv_async.errors import InvalidOption

MBPP = {
    "task_id": 9001,
    "text": "Write a function that doubles a number.",
    "code": "def double(n):\n    return 2 * n",
    "test_list": ["assert double(2) == 4", "assert double([1]) == [1, 1]", "assert double(0) == 0"],
    "test_setup_code": "",
    "challenge_test_list": [],
}
MBPP_CHECKED = {
    "task_id": 9002,
    "prompt": "Write a function to find the distinct letters of a text.",
    "code": "def letters(text):\n    return list(text)",
    "test_imports": ["import math"],
    "test_list": [
        "assert set(letters('ab')) == {'a', 'b'}",
        "assert len(set(letters('aab'))) == int(math.sqrt(4))",
    ],
}
HUMANEVAL = {
    "task_id": "Own/7",
    "prompt": 'from typing import List\n\n\ndef half(x: float) -> float:\n    """Half of x."""\n',
    "entry_point": "half",
    "canonical_solution": "    return x / 2\n",
    "test": """

METADATA = {'author': 'us'}


def check(candidate):
    assert candidate(4) == 2
    assert abs(candidate(3.0) - 1.5) < 1e-6
    for i in range(3):
        assert candidate(2 * i) == i
""",
}
APPS_PROGRAM = {
    "problem_id": 12,
    "question": "Read a number n and n numbers, print their sum.",
    "solutions": json.dumps(["n = int(input())\nprint(sum(map(int, input().split())))"]),
    "input_output": json.dumps({"inputs": ["2\n1 2\n", "1\n7\n"], "outputs": ["3\n", "7"]}),
    "difficulty": "interview",
    "url": "",
    "starter_code": "",
}
APPS_FUNCTION = {
    "problem_id": 13,
    "question": "Reverse it.",
    "solutions": ["class Solution:\n    def turn(self, s):\n        return s[::-1]"],
    "input_output": {"fn_name": "turn", "inputs": [["ab"], ["c"]], "outputs": [["ba"], ["c"]]},
    "difficulty": "introductory",
    "starter_code": "class Solution:\n    def turn(self, s: str) -> str:\n",
}
FUNCTIONAL = [{"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}]
LIVE_FUNCTION = {
    "question_title": "Total",
    "question_content": "Add them all.",
    "question_id": "301",
    "starter_code": "class Solution:\n    def total(self, xs: List[int], x: int) -> int:\n",
    "difficulty": "hard",
    "public_test_cases": json.dumps(FUNCTIONAL),
    "private_test_cases": base64.b64encode(
        zlib.compress(
            pickle.dumps(json.dumps([{**FUNCTIONAL[0], "input": "[]\n1", "output": "1"}]))
        )
    ).decode(),
    "metadata": json.dumps({"func_name": "total"}),
    "solution": "class Solution:\n    def total(self, xs, x):\n        return sum(xs) + x",
}
LIVE_PROGRAM = {
    "question_title": "Echo",
    "question_content": "Print what you read.",
    "question_id": "302",
    "starter_code": "",
    "difficulty": "easy",
    "public_test_cases": json.dumps([{"input": "a b\n", "output": "a b", "testtype": "stdin"}]),
    "private_test_cases": json.dumps([{"input": "0.5", "output": "0.50", "testtype": "stdin"}]),
    "metadata": "{}",
    "solution": "import sys\nfor line in sys.stdin: print(line.rstrip())",
}
OWN_PROGRAM = {
    "name": "convert",
    "text": "Read in.csv, write its rows to out.txt and print how many there are.",
    "files": {"in.csv": "x"},
    "tests": [
        {"stdout": "2", "files": {"in.csv": "a,b\nc,d\n"}, "outputs": {"out.txt": "a b\nc d"}},
        {"stdout": "1", "files": {"in.csv": "e,f\n"}, "outputs": {"out.txt": "e f"}},
        {"files": {"in.csv": ""}, "outputs": {"out.txt": ""}},
    ],
    "solution": """
import csv
rows = [*csv.reader(open("in.csv"))]
open("out.txt", "w").write("".join(" ".join(row) + "\\n" for row in rows))
print(len(rows))
""",
}
ROWS: dict[str, tuple[dict[str, Any], int, str]] = {
    "mbpp": (MBPP, 3, "easy"),
    "mbpp, checked": (MBPP_CHECKED, 2, "easy"),
    "humaneval": (HUMANEVAL, 3, "medium"),
    "apps, a program": (APPS_PROGRAM, 2, "medium"),
    "apps, a function": (APPS_FUNCTION, 2, "easy"),
    "livecodebench, a function": (LIVE_FUNCTION, 2, "hard"),
    "livecodebench, a program": (LIVE_PROGRAM, 2, "easy"),
    "own, a program": (OWN_PROGRAM, 3, "medium"),
}


async def test_the_solution_of_each_row_passes_and_nothing_does_not() -> None:
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        for name, (row, count, difficulty) in ROWS.items():
            task = task_of(row)
            result = await env.reset(row=row)
            assert result.observation.tests_total == count, name
            state = await env.state()
            assert (state.task, state.split, state.difficulty) == (task.name, "train", difficulty)
            assert "candidate(4)" not in result.observation.prompt
            result = await env.step(CodeAction(task.solution(), submit=True))
            assert (result.reward, result.observation.results) == (1.0, ["passed"] * count), name
            await env.reset(row=row)
            result = await env.step(CodeAction("", submit=True))
            assert result.reward == 0.0, name


async def test_files_of_rows_are_served_by_their_splits(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps(MBPP) + "\n" + json.dumps(HUMANEVAL))
    (tmp_path / "test.jsonl").write_text(json.dumps(APPS_PROGRAM))
    params = {"tasks_path": str(tmp_path), "mode": "tasks"}
    async with serve(CodingEnvironment, params=params) as url, CodingEnv(url) as env:
        tasks = await env.tasks()
        assert [task.id for task in await tasks.range("test")] == ["apps-12"]
        assert [task.id for task in await tasks.range("train")] == ["mbpp-9001", "own-7"]
        await env.reset(task_id="own-7")
        solution = HUMANEVAL["prompt"] + HUMANEVAL["canonical_solution"]
        assert (await env.step(CodeAction(solution, submit=True))).reward == 1.0
    (tmp_path / "none").mkdir()
    with pytest.raises(InvalidOption, match=r"has no \.jsonl file"):
        load_tasks(tmp_path / "none")


class Opened:
    def __reduce__(self) -> Any:
        return open, ("/etc/hostname",)


def test_rows_that_are_wrong_say_what_is() -> None:
    code = base64.b64encode(zlib.compress(pickle.dumps(Opened()))).decode()
    own = {"name": "x", "text": "y"}
    for row, message in (
        ({"question": "?"}, "columns of MBPP"),
        ({**LIVE_PROGRAM, "private_test_cases": code}, "must be a text"),
        ({**own, "tests": [[[1], 2]]}, "entry_point must name"),
        ({**own, "tests": ["x = 1"]}, "no statement of its tests holds an assertion"),
        ({**own, "tests": [{"stdin": 1}]}, "Expected `str`"),
        ({**own, "tests": [{"stdin": "", "more": 1}]}, "unknown field `more`"),
        ({**own, "tests": ["assert 1"], "pytest": {"test_x.py": "1"}}, "give one of them"),
        ({**own, "pytest": {"test_x.py": "1 +"}}, "invalid syntax"),
        ({**MBPP, "test_list": []}, "IndexError"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            task_of(row)


async def test_a_row_may_name_packages_that_the_server_offers() -> None:
    row = {
        "name": "mean",
        "text": "Mean.",
        "packages": ["numpy"],
        "tests": ["assert mean([1, 2]) == 1.5", "assert list(zeros(2)) == [0, 0]"],
    }
    solution = (
        "import numpy as np\ndef mean(x): return np.mean(x)\ndef zeros(n): return np.zeros(n)"
    )
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        with pytest.raises(InvalidOption, match="numpy"):
            await env.reset(row=row)
    params = {"packages": ["numpy"], "memory_mib": 512}
    async with connect(CodingEnvironment, client=CodingEnv, params=params) as env:
        await env.reset(row=row)
        assert (await env.step(CodeAction(solution, submit=True))).reward == 1.0
        await env.reset(row={**row, "packages": []})
        seen = (await env.step(CodeAction("import numpy"))).observation
        assert seen.error_type == "ModuleNotFoundError"
        await env.reset()
        assert (await env.step(CodeAction("import numpy"))).observation.exit_code == 0


def test_assertions_are_counted_before_anything_runs() -> None:
    tests = task_of(HUMANEVAL).tests(1, None)  # type: ignore[arg-type]  # nothing is drawn
    assert isinstance(tests, Checks)
    assert tests.count() == 3
