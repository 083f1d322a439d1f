"""Tasks of rows: of this package's own form, and of those that public data sets have.

The form of a row is known by its columns:

- ``tests`` or ``pytest``: this package's own; the README has its columns.
- ``test_list``: MBPP. Assertions of literals become calls, which a constant answer is counted
  against; others are run as assertions.
- ``prompt``, ``entry_point`` and ``test``: HumanEval.
- ``input_output`` and ``question``: APPS.
- ``question_content`` and ``private_test_cases``: LiveCodeBench.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import pickle
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

import msgspec

from coding_env.sandbox.inside.canonical import canonical
from coding_env.tasks.model import (
    Case,
    Checks,
    Difficulty,
    Program,
    Split,
    Suite,
    Task,
    Tests,
    WrittenTask,
)

__all__ = ["task_of"]

_MAX_SIZE: Final = 256 << 20
"""Bytes of tests that were compressed."""
_SUBMIT: Final = (
    "Submit the complete source. Hidden tests {how}; the reward is the share that passes."
)
_CALLED: Final = _SUBMIT.format(how="call it")
_RUN: Final = _SUBMIT.format(
    how="run it, each with its own standard input, and read what it prints"
)
_IMPORTED: Final = _SUBMIT.format(how="import it as the module `solution`")
_DIFFICULTIES: Final[dict[str, Difficulty]] = {
    "easy": "easy",
    "introductory": "easy",
    "medium": "medium",
    "interview": "medium",
    "hard": "hard",
    "competition": "hard",
}


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    """A row of this package's own form."""

    name: str
    text: str
    tests: list[Any] = []
    pytest: dict[str, str] = {}
    entry_point: str = ""
    examples: list[Any] = []
    split: Split = "train"
    difficulty: Difficulty = "medium"
    signature: str = ""
    files: dict[str, str] = {}
    packages: list[str] | None = None
    solution: str = ""
    operators: bool = False


class _Run(msgspec.Struct, forbid_unknown_fields=True):
    """A test that runs a program."""

    stdin: str = ""
    stdout: str | None = None
    files: dict[str, str] = {}
    outputs: dict[str, str] = {}


def task_of(row: Mapping[str, Any], split: Split = "train") -> Task:
    """The task of a row; ``split`` is that of a form which has none.

    Raises:
        ValueError, TypeError: the row is of no form that is known, or not as its form has it.
    """
    given: dict[str, Any] = dict(row)
    for columns, form in _FORMS:
        if all(name in given for name in columns):
            try:
                return form(given, split)
            except (KeyError, SyntaxError, IndexError, AttributeError) as exc:
                raise ValueError(f"{type(exc).__name__}: {exc}") from exc
    raise ValueError(
        f"it has the columns {', '.join(sorted(map(str, given)))}: a row needs name, text and tests"
        " (or pytest), or the columns of MBPP, HumanEval, APPS or LiveCodeBench"
    )


# -- this package's own ---------------------------------------------------------------------


def _own(given: dict[str, Any], split: Split) -> Task:
    row = msgspec.convert({"split": split, **given}, _Row)
    tests: Tests
    if row.pytest:
        if row.tests:
            raise ValueError("it has tests and pytest: give one of them")
        for name, text in row.pytest.items():
            ast.parse(text, name)
        tests, how = Suite(row.pytest, row.files, row.operators), _IMPORTED
    elif row.tests and all(isinstance(each, str) for each in row.tests):
        tests, how = Checks("\n".join(row.tests), operators=row.operators), _CALLED
        if not tests.count():
            raise ValueError("no statement of its tests holds an assertion")
    elif row.tests and all(isinstance(each, dict) and "args" not in each for each in row.tests):
        runs = msgspec.convert(row.tests, list[_Run])
        tests = [Program(run.stdin, run.stdout, run.files, run.outputs) for run in runs]
        how = _RUN
    else:
        if not row.entry_point:
            raise ValueError("its tests are calls: entry_point must name the function")
        pairs = [_pair(each) for each in row.tests]
        tests, how = [Case(args, canonical(result)) for args, result in pairs], _CALLED
    shown = ""
    if row.entry_point:
        signature = row.signature or f"{row.entry_point}(…):"
        lines = "\n".join(
            f">>> {row.entry_point}({', '.join(map(repr, args))})\n{result!r}"
            for args, result in map(_pair, row.examples)
        )
        shown = f"Write a Python function.\n\ndef {signature}\n\n{row.text}\n\n{lines}".rstrip()
    return WrittenTask(
        row.name,
        row.split,
        row.difficulty,
        f"{shown or row.text}\n\n{how}",
        tests,
        row.entry_point,
        row.solution,
        row.files,
        None if row.packages is None else tuple(row.packages),
    )


def _pair(given: Any) -> tuple[list[Any], Any]:
    """Arguments and result: a pair of JSON, or Python literals as texts.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(given, dict) and set(given) == {"args", "result"}:
        values = []
        for text in (f"[{given['args']}\n]", str(given["result"])):
            try:
                values.append(ast.literal_eval(text.strip()))
            except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as exc:
                raise ValueError(f"{text!r} is not made of Python literals") from exc
        return values[0], values[1]
    if isinstance(given, list) and len(given) == 2 and isinstance(given[0], list):
        return given[0], given[1]
    raise ValueError(f"{given!r:.80} is not a pair of arguments and result")


# -- MBPP and HumanEval ---------------------------------------------------------------------


def _mbpp(row: dict[str, Any], split: Split) -> Task:
    assertions = [*row["test_list"]]
    setup = row.get("test_setup_code") or "\n".join(row.get("test_imports") or [])
    calls = [_call(text) for text in (*assertions, *(row.get("challenge_test_list") or []))]
    entry_points = {call[0] for call in calls if call is not None}
    hidden: Tests
    entry_point = ""
    if len(entry_points) == 1 and None not in calls and not setup:
        [entry_point] = entry_points
        hidden = [Case(call[1], canonical(call[2])) for call in calls if call is not None]
    else:
        more = row.get("challenge_test_list") or []
        hidden = Checks("\n".join([setup, *assertions, *more]))
    shown = f"Your code should pass a test such as this one:\n\n{assertions[0]}"
    return WrittenTask(
        f"mbpp-{row['task_id']}",
        split,
        "easy",
        f"{row.get('text') or row['prompt']}\n\n{shown}\n\n{_CALLED}",
        hidden,
        entry_point,
        row.get("code", ""),
    )


def _call(assertion: str) -> tuple[str, list[Any], Any] | None:
    """The parts of ``assert name(literals) == literal``; ``None`` if it is not one."""
    match ast.parse(assertion.strip()).body:
        case [
            ast.Assert(
                test=ast.Compare(
                    left=ast.Call(func=ast.Name(id=name), args=args, keywords=[]),
                    ops=[ast.Eq()],
                    comparators=[result],
                )
            )
        ]:
            try:
                return name, [ast.literal_eval(each) for each in args], ast.literal_eval(result)
            except ValueError:
                return None
    return None


def _humaneval(row: dict[str, Any], split: Split) -> Task:
    name = str(row.get("task_id", row["entry_point"])).replace("/", "-").lower()
    solution = row.get("canonical_solution", "")
    return WrittenTask(
        name,
        split,
        "medium",
        f"Complete this Python function.\n\n{row['prompt'].strip()}\n\n{_CALLED}",
        Checks(row["test"], row["entry_point"]),
        row["entry_point"],
        f"{row['prompt']}{solution}" if solution else "",
    )


# -- APPS and LiveCodeBench -----------------------------------------------------------------


def _apps(row: dict[str, Any], split: Split) -> Task:
    tests = _parsed(row["input_output"]) or {}
    solutions = _parsed(row.get("solutions") or "[]")
    function = tests.get("fn_name", "")
    pairs = list(zip(tests["inputs"], tests["outputs"], strict=True))
    hidden: Tests
    if function:
        entry_point = _entry_point(function, f"{row.get('starter_code', '')}{solutions[:1]}")
        hidden = [Case(args, canonical(_result(result))) for args, result in pairs]
    else:
        entry_point = ""
        hidden = [Program(_lines(given), _lines(wanted)) for given, wanted in pairs]
    return WrittenTask(
        f"apps-{row.get('problem_id', row.get('id'))}",
        split,
        _DIFFICULTIES.get(row.get("difficulty", ""), "medium"),
        _text(row["question"], row.get("starter_code", ""), bool(function)),
        hidden,
        entry_point,
        solutions[0] if solutions else "",
    )


def _live(row: dict[str, Any], split: Split) -> Task:
    tests = [*_parsed(row.get("public_test_cases") or "[]"), *_inflated(row["private_test_cases"])]
    starter = row.get("starter_code", "")
    hidden: Tests
    entry_point = ""
    if all(test["testtype"] == "functional" for test in tests):
        metadata = _parsed(row.get("metadata") or "{}")
        entry_point = _entry_point(metadata["func_name"], starter)
        hidden = [
            Case(
                [json.loads(line) for line in test["input"].splitlines() if line.strip()],
                canonical(json.loads(test["output"])),
            )
            for test in tests
        ]
    else:
        hidden = [Program(test["input"], test["output"]) for test in tests]
    return WrittenTask(
        f"live-{row['question_id']}",
        split,
        _DIFFICULTIES.get(row.get("difficulty", ""), "medium"),
        _text(row["question_content"], starter, bool(entry_point)),
        hidden,
        entry_point,
        row.get("solution", ""),
    )


def _text(question: str, starter: str, function: bool) -> str:
    started = f"\n\nBegin with this:\n\n{starter.strip()}" if starter.strip() else ""
    return f"{question.strip()}{started}\n\n{_CALLED if function else _RUN}"


def _entry_point(function: str, starter: str) -> str:
    return f"Solution.{function}" if "class Solution" in starter else function


def _result(wanted: Any) -> Any:
    """APPS has the result of a function as the one item of a list."""
    return wanted[0] if isinstance(wanted, list) and len(wanted) == 1 else wanted


def _lines(text: Any) -> str:
    return text if isinstance(text, str) else "\n".join(map(str, text))


def _parsed(text: Any) -> Any:
    return json.loads(text) if isinstance(text, str) else text


def _inflated(text: Any) -> Sequence[Mapping[str, Any]]:
    """Hidden tests, which are JSON, or JSON in a pickled text, compressed, as base64."""
    if not isinstance(text, str):
        return list(text)
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    inflater = zlib.decompressobj()
    data = inflater.decompress(base64.b64decode(text), _MAX_SIZE)
    if inflater.unconsumed_tail:
        raise ValueError(f"its private tests have more than {_MAX_SIZE} bytes")
    return list(json.loads(_Text(io.BytesIO(data)).load()))


class _Text(pickle.Unpickler):
    """An unpickler of texts, which refuses whatever names code."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise ValueError(f"its private tests name {module}.{name}: they must be a text")


_FORMS: Final[tuple[tuple[tuple[str, ...], Callable[[dict[str, Any], Split], Task]], ...]] = (
    (("test_list", "task_id"), _mbpp),
    (("prompt", "entry_point", "test"), _humaneval),
    (("question", "input_output"), _apps),
    (("question_content", "private_test_cases"), _live),
    (("name", "text", "tests"), _own),
    (("name", "text", "pytest"), _own),
)
