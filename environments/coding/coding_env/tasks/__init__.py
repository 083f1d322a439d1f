"""Tasks with hidden tests: the bundled ones, and those of a file."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from coding_env.tasks import easy, hard, medium
from coding_env.tasks.model import Case, Difficulty, Split, Task
from openenv_async.errors import InvalidOption

__all__ = ["BUNDLED", "Case", "Difficulty", "Split", "Task", "choose", "load_tasks"]

BUNDLED: tuple[Task, ...] = (*easy.TASKS, *medium.TASKS, *hard.TASKS)


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    """A line of a task file; ``tests`` and ``examples`` are pairs of arguments and result."""

    name: str
    entry_point: str
    text: str
    tests: list[tuple[list[Any], Any]]
    examples: list[tuple[list[Any], Any]] = []
    split: Split = "train"
    difficulty: Difficulty = "medium"
    signature: str = ""


def load_tasks(path: str | Path) -> tuple[Task, ...]:
    """Tasks of a file with one JSON object per line.

    Raises:
        InvalidOption: it cannot be read, or a line is no task.
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
        except msgspec.DecodeError as exc:
            raise InvalidOption(f"tasks_path: {path}, line {number} is no task: {exc}") from exc
        if task.name in tasks:
            raise InvalidOption(f"tasks_path: {path}, line {number} repeats {task.name!r}")
        tasks[task.name] = task
    return tuple(tasks.values())


def _task_of(row: _Row) -> Task:
    known = {_key(args): result for args, result in (*row.examples, *row.tests)}
    return Task(
        row.name,
        row.split,
        row.difficulty,
        row.entry_point,
        row.signature or f"{row.entry_point}(…):",
        row.text,
        lambda *args: known[_key(list(args))],
        [args for args, _ in row.examples],
        [args for args, _ in row.tests],
    )


def _key(args: list[Any]) -> bytes:
    return msgspec.json.encode(args)


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
