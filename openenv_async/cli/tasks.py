"""The options that say over which tasks episodes are played: ``--tasks`` and those beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from openenv_async.rollouts import TaskSet
    from openenv_async.types import Task

__all__ = ["read_recorded_tasks", "read_tasks", "replayed_task_options", "task_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_USUAL: Final = 100
"""Episodes that are played without tasks."""
_TASKS: Final = click.option(
    "--tasks",
    metavar="FILE|SPLIT",
    help="A task for each episode: .jsonl or .parquet, or a split of the environment's own.",
)
_COLUMN: Final = click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="COLUMN[=OPTION]",
    help="A column that becomes an option of reset.  [default: all but the id]",
)
_PRIVATE: Final = click.option(
    "--private",
    multiple=True,
    metavar="COLUMN",
    help="A column that goes to reset and into no record.",
)
_OPTIONS: Final = (
    _TASKS,
    click.option(
        "--group-size",
        type=click.IntRange(1),
        help="Episodes of each task, with one seed.  [default: 1]",
    ),
    _COLUMN,
    _PRIVATE,
    click.option(
        "--shuffle", type=click.IntRange(0, 2**63 - 1), help="Seed of the order of the tasks."
    ),
    click.option("--epochs", type=click.IntRange(1), help="Passes over the tasks.  [default: 1]"),
)
_AGAIN: Final = (
    click.option(
        "--tasks",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="The tasks that were played: the private columns are in no record.",
    ),
    _COLUMN,
    _PRIVATE,
)
_OF_TASKS: Final = ("columns", "private", "shuffle", "epochs")


def task_options(command: Command) -> Command:
    """Add ``--tasks`` and the options beside it; ``read_tasks`` takes them."""
    return functools.reduce(lambda made, option: option(made), reversed(_OPTIONS), command)


def replayed_task_options(command: Command) -> Command:
    """Add the options that name the tasks of a record; ``read_recorded_tasks`` takes them."""
    return functools.reduce(lambda made, option: option(made), reversed(_AGAIN), command)


def read_tasks(options: dict[str, Any]) -> None:
    """Make of the options of a command the arguments of ``collect``: episodes, tasks, group_size.

    Raises:
        click.BadParameter: they do not fit together, or there is no such file.
    """
    given = options.pop("tasks")
    chosen = _chosen(options)
    size, episodes = options["group_size"], options["episodes"]
    if given is None:
        _refuse_without_tasks(chosen)
        options["episodes"] = episodes or _USUAL
    if size is not None and options["episodes"] is not None and options["episodes"] % size:
        raise click.BadParameter(
            f"{options['episodes']} episodes do not make groups of {size}", param_hint="--episodes"
        )
    if given is None:
        return
    options["tasks"] = _task_set(given, chosen)


def read_recorded_tasks(options: dict[str, Any]) -> dict[str, Task]:
    """Make of the options of a command the tasks by id; there are none without ``--tasks``.

    Raises:
        click.BadParameter: they do not fit together, or a row cannot be read.
    """
    given, chosen = options.pop("tasks"), _chosen(options)
    if given is None:
        _refuse_without_tasks(chosen)
        return {}
    from openenv_async.errors import InvalidTasks

    source = _task_set(given, chosen)
    found: dict[str, Task] = {}
    try:
        source.load()
        while (draw := source.draw()) is not None:
            found[draw.task.id] = draw.task
    except InvalidTasks as exc:
        raise click.BadParameter(exc.message, param_hint="--tasks") from exc
    return found


def _chosen(options: dict[str, Any]) -> dict[str, Any]:
    """Take out of the options those that only tasks have, as far as they are given."""
    chosen = {name: options.pop(name) for name in _OF_TASKS if name in options}
    return {name: value for name, value in chosen.items() if value not in (None, ())}


def _refuse_without_tasks(chosen: Mapping[str, Any]) -> None:
    for name in chosen:
        hint = "column" if name == "columns" else name
        raise click.BadParameter("only tasks have it: give --tasks", param_hint=f"--{hint}")


def _task_set(given: str, chosen: dict[str, Any]) -> TaskSet:
    from openenv_async.errors import InvalidTasks
    from openenv_async.rollouts import TaskSet

    if "columns" in chosen:
        pairs = (text.partition("=") for text in chosen["columns"])
        chosen["columns"] = {column: option or column for column, _, option in pairs}
    try:
        return TaskSet(_path_or_split(given), **chosen)
    except (InvalidTasks, ValueError, TypeError) as exc:
        raise click.BadParameter(str(exc), param_hint="--tasks") from exc


def _path_or_split(text: str) -> str | Path:
    return Path(text).expanduser() if text.startswith("~") else text
