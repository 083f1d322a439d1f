"""The options that say over which tasks episodes are played: ``--tasks`` and those beside it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

__all__ = ["read_tasks", "task_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

_USUAL: Final = 100
"""Episodes that are played without tasks."""
_OPTIONS: Final = (
    click.option(
        "--tasks",
        metavar="FILE|SPLIT",
        help="A task for each episode: .jsonl or .parquet, or a split of the environment's own.",
    ),
    click.option(
        "--group-size",
        type=click.IntRange(1),
        help="Episodes of each task, with one seed.  [default: 1]",
    ),
    click.option(
        "--column",
        "columns",
        multiple=True,
        metavar="COLUMN[=OPTION]",
        help="A column that becomes an option of reset.  [default: all but the id]",
    ),
    click.option(
        "--private",
        multiple=True,
        metavar="COLUMN",
        help="A column that goes to reset and into no record.",
    ),
    click.option(
        "--shuffle", type=click.IntRange(0, 2**63 - 1), help="Seed of the order of the tasks."
    ),
    click.option("--epochs", type=click.IntRange(1), help="Passes over the tasks.  [default: 1]"),
)
_OF_TASKS: Final = ("columns", "private", "shuffle", "epochs")


def task_options(command: Command) -> Command:
    """Add ``--tasks`` and the options beside it; ``read_tasks`` takes them."""
    return functools.reduce(lambda made, option: option(made), reversed(_OPTIONS), command)


def read_tasks(options: dict[str, Any]) -> None:
    """Make of the options of a command the arguments of ``collect``: episodes, tasks, group_size.

    Raises:
        click.BadParameter: they do not fit together, or there is no such file.
    """
    given = options.pop("tasks")
    chosen = {name: options.pop(name) for name in _OF_TASKS}
    chosen = {name: value for name, value in chosen.items() if value not in (None, ())}
    size, episodes = options["group_size"], options["episodes"]
    if given is None:
        if chosen:
            name = (
                next(iter(chosen)).removesuffix("s") if "columns" in chosen else next(iter(chosen))
            )
            raise click.BadParameter("only tasks have it: give --tasks", param_hint=f"--{name}")
        options["episodes"] = episodes or _USUAL
    if size is not None and options["episodes"] is not None and options["episodes"] % size:
        raise click.BadParameter(
            f"{options['episodes']} episodes do not make groups of {size}", param_hint="--episodes"
        )
    if given is None:
        return
    from openenv_async.errors import InvalidTasks
    from openenv_async.rollouts import TaskSet

    if "columns" in chosen:
        pairs = (text.partition("=") for text in chosen["columns"])
        chosen["columns"] = {column: option or column for column, _, option in pairs}
    try:
        options["tasks"] = TaskSet(_path_or_split(given), **chosen)
    except (InvalidTasks, ValueError, TypeError) as exc:
        raise click.BadParameter(str(exc), param_hint="--tasks") from exc


def _path_or_split(text: str) -> str | Path:
    return Path(text).expanduser() if text.startswith("~") else text
