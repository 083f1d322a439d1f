"""Tasks with hidden tests: the bundled ones, and those of a file."""

from __future__ import annotations

import ast
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from coding_env.sandbox.inside.canonical import canonical
from coding_env.tasks import easy, hard, medium
from coding_env.tasks.model import Case, Difficulty, Split, Task
from openenv_async.errors import InvalidOption

__all__ = ["BUNDLED", "Case", "Difficulty", "Split", "Task", "choose", "load_tasks"]

BUNDLED: tuple[Task, ...] = (*easy.TASKS, *medium.TASKS, *hard.TASKS)


class _Literals(msgspec.Struct, forbid_unknown_fields=True):
    """A test as Python writes it: ``{"args": "[1, 2], 'x'", "result": "{1: 'a'}"}``."""

    args: str
    result: str

    def pair(self) -> tuple[list[Any], Any]:
        """Its values.

        Raises:
            ValueError: a text is not one of literals.
        """
        values = []
        for text in (f"[{self.args}\n]", self.result):
            try:
                values.append(ast.literal_eval(text.strip()))
            except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as exc:
                raise ValueError(f"{text!r} is not made of Python literals") from exc
        return values[0], values[1]


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    """A line of a task file; ``tests`` and ``examples`` are pairs of arguments and result."""

    name: str
    entry_point: str
    text: str
    tests: list[tuple[list[Any], Any] | _Literals]
    examples: list[tuple[list[Any], Any] | _Literals] = []
    split: Split = "train"
    difficulty: Difficulty = "medium"
    signature: str = ""


def load_tasks(path: str | Path) -> tuple[Task, ...]:
    """Tasks of a file with one JSON object per line.

    Raises:
        InvalidOption: it cannot be read, or a line is not a task.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as exc:
        raise InvalidOption(f"tasks_path: {path} cannot be read: {exc.strerror}") from exc
    decoder = msgspec.json.Decoder(_Row)
    tasks: dict[str, Task] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            task = _task_of(decoder.decode(line))
        except (msgspec.DecodeError, TypeError, ValueError) as exc:
            raise InvalidOption(f"tasks_path: {path}, line {number} is not a task: {exc}") from exc
        if task.name in tasks:
            raise InvalidOption(f"tasks_path: {path}, line {number} repeats {task.name!r}")
        tasks[task.name] = task
    return tuple(tasks.values())


def _task_of(row: _Row) -> Task:
    examples, tests = (
        [each.pair() if isinstance(each, _Literals) else each for each in given]
        for given in (row.examples, row.tests)
    )
    known = {repr(args): result for args, result in (*examples, *tests)}
    for result in known.values():
        canonical(result)  # refused now, not when it is drawn
    return Task(
        row.name,
        row.split,
        row.difficulty,
        row.entry_point,
        row.signature or f"{row.entry_point}(…):",
        row.text,
        lambda *args: known[repr(list(args))],
        [args for args, _ in examples],
        [args for args, _ in tests],
    )


def choose(
    tasks: Sequence[Task],
    rng: random.Random,
    *,
    name: str | None,
    split: Split | None,
    difficulty: Difficulty | None,
) -> Task:
    """The task of that name, or one drawn from those that fit.

    Raises:
        InvalidOption: there is none.
    """
    if name is not None:
        for task in tasks:
            if task.name == name:
                return task
        known = ", ".join(sorted(task.name for task in tasks))
        raise InvalidOption(f"there is no task {name!r}: choose one of {known}")
    fitting = [
        task
        for task in tasks
        if split in (None, task.split) and difficulty in (None, task.difficulty)
    ]
    if not fitting:
        raise InvalidOption(f"no task has split {split!r} and difficulty {difficulty!r}")
    return rng.choice(fitting)
