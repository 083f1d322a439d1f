"""Tasks with hidden tests: the bundled ones, and those of files and rows."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from coding_env.tasks import easy, hard, medium
from coding_env.tasks.generated import GENERATED
from coding_env.tasks.model import Difficulty, Split, Task
from coding_env.tasks.rows import task_of
from openenv_async.errors import InvalidOption

__all__ = ["BUNDLED", "choose", "load_tasks", "read_row"]

BUNDLED: tuple[Task, ...] = (*easy.TASKS, *medium.TASKS, *hard.TASKS, *GENERATED)


def load_tasks(path: str | Path) -> tuple[Task, ...]:
    """Tasks of a file with one JSON object per line, or of a folder of such files.

    A row's split is its column ``split``; else the name of its file, if that is one (as in
    ``test.jsonl``), else ``train``. See ``rows`` for the forms of rows.

    Raises:
        InvalidOption: it cannot be read, or a line is not a task.
    """
    place = Path(path)
    files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
    if not files:
        raise InvalidOption(f"tasks_path: the folder {path} has no .jsonl file")
    tasks: dict[str, Task] = {}
    for file in files:
        split: Split = "test" if file.stem == "test" else "train"
        try:
            lines = file.read_bytes().splitlines()
        except OSError as exc:
            raise InvalidOption(f"tasks_path: {file} cannot be read: {exc.strerror}") from exc
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"tasks_path: {file}, line {number}"
            try:
                task = task_of(_object(line), split)
            except (TypeError, ValueError, RecursionError) as exc:
                raise InvalidOption(f"{where} is not a task: {exc}") from exc
            if task.name in tasks:
                raise InvalidOption(f"{where} repeats {task.name!r}")
            tasks[task.name] = task
    return tuple(tasks.values())


def _object(line: bytes) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError(f"it is a {type(row).__name__}, not an object")
    return row


def read_row(row: Mapping[str, Any], packages: Sequence[str]) -> Task:
    """The task of a row that a client gave.

    Args:
        row: in any of the forms of ``rows``.
        packages: those that it may name.

    Raises:
        InvalidOption: it is not a task, or names another package.
    """
    try:
        task = task_of(row)
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidOption(f"row is not a task: {exc}", option="row") from exc
    if more := sorted({*(task.packages or ())} - {*packages}):
        raise InvalidOption(
            f"row names the package {more[0]!r}, which this server does not offer: start it with"
            f" --param packages={more[0]}",
            option="row",
        )
    return task


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
        names = sorted(task.name for task in tasks)
        known = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if names[20:] else "")
        raise InvalidOption(f"there is no task {name!r}: choose one of {known}")
    for given, values in ((split, get_args(Split)), (difficulty, get_args(Difficulty))):
        if given is not None and given not in values:
            raise InvalidOption(f"{given!r} is not one of {', '.join(values)}")
    fitting = [
        task
        for task in tasks
        if split in (None, task.split) and difficulty in (None, task.difficulty)
    ]
    if not fitting:
        raise InvalidOption(f"no task has split {split!r} and difficulty {difficulty!r}")
    return rng.choice(fitting)
