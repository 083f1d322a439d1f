"""Folders of Harbor tasks, read and checked before anything is built of them.

A task is a folder with ``task.toml``, ``instruction.md``, ``environment/``, ``tests/test.sh`` and,
for those who try it, ``solution/solve.sh``. A folder of tasks has one folder for each.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from openenv_async.compat.harbor.config import TaskConfig, read_config, unsupported
from openenv_async.errors import InvalidTasks, TargetNotFound

__all__ = ["HarborTask", "read_folder", "read_task", "without_canary"]

_CONFIG: Final = "task.toml"
_COMPOSE: Final = ("docker-compose.yaml", "docker-compose.yml")
_CANARY: Final = re.compile(r"(<!--.*canary.*-->|#.*canary.*)", re.IGNORECASE)
_SHOWN: Final = 5
"""Tasks that a message names."""


@dataclass(frozen=True, slots=True)
class HarborTask:
    """One task.

    Attributes:
        id: the name of its folder.
        folder: the folder itself.
        config: what its ``task.toml`` says.
        instruction: what the agent is told.
        unsupported: what it asks for that cannot be had here, each with the reason.
    """

    id: str
    folder: Path
    config: TaskConfig
    instruction: str
    unsupported: tuple[str, ...]

    @property
    def environment(self) -> Path:
        """The folder that its image is built of."""
        return self.folder / "environment"

    @property
    def tests(self) -> Path:
        """The folder of the tests."""
        return self.folder / "tests"

    @property
    def solution(self) -> Path:
        """The folder of the reference solution, which may not exist."""
        return self.folder / "solution"

    def public(self) -> dict[str, Any]:
        """Return what is listed of the task."""
        about = self.config.task
        listed: dict[str, Any] = {"id": self.id, "instruction": self.instruction}
        if about is not None:
            listed |= {"name": about.name, "description": about.description}
            listed["keywords"] = list(about.keywords)
        return listed


def read_folder(folder: Path, *, skip_unsupported: bool = False) -> list[HarborTask]:
    """Return the tasks of a folder, by name; a folder that is a task has one.

    Args:
        folder: of tasks, or of one.
        skip_unsupported: leave out the tasks that cannot be played here.

    Raises:
        TargetNotFound: there are no tasks in it.
        InvalidTasks: one cannot be read, or not be played here; the message names it and the key.
    """
    if not folder.is_dir():
        raise TargetNotFound(f"there is no folder {str(folder)!r}")
    if (folder / _CONFIG).is_file():
        folders: Sequence[Path] = [folder]
    else:
        folders = sorted(each.parent for each in folder.glob(f"*/{_CONFIG}"))
    if not folders:
        raise TargetNotFound(
            f"{folder} is not a folder of Harbor tasks: neither it nor a folder in it has a"
            f" {_CONFIG}"
        )
    tasks = [read_task(each) for each in folders]
    refused = [f"{task.id}: {', '.join(task.unsupported)}" for task in tasks if task.unsupported]
    if refused and not skip_unsupported:
        more = f"; and {len(refused) - _SHOWN} more tasks" if len(refused) > _SHOWN else ""
        raise InvalidTasks(
            f"{folder} has tasks that cannot be played here: {'; '.join(refused[:_SHOWN])}{more};"
            " skip_unsupported=true leaves them out"
        )
    playable = [task for task in tasks if not task.unsupported]
    if not playable:
        raise InvalidTasks(
            f"{folder} has no task that can be played here: {'; '.join(refused[:_SHOWN])}"
        )
    return playable


def read_task(folder: Path) -> HarborTask:
    """Return the task of a folder.

    Raises:
        InvalidTasks: a part of it is missing, or cannot be read.
    """
    folder = folder.resolve()
    try:
        config = read_config(_text(folder, _CONFIG))
    except InvalidTasks as exc:
        raise InvalidTasks(f"{folder / _CONFIG}: {exc.message}") from None
    refused = [*unsupported(config), *_unsupported_files(folder)]
    if refused:  # such a task may lack what one of the others has
        return HarborTask(folder.name, folder, config, "", tuple(refused))
    if not (folder / "tests" / "test.sh").is_file():
        raise InvalidTasks(f"{folder} has no tests/test.sh: a task's tests give the reward")
    built = config.environment.docker_image is None
    if built and not (folder / "environment" / "Dockerfile").is_file():
        raise InvalidTasks(
            f"{folder} has no environment/Dockerfile, and no environment.docker_image"
        )
    instruction = without_canary(_text(folder, "instruction.md"))
    return HarborTask(folder.name, folder, config, instruction, ())


def without_canary(text: str) -> str:
    """Return an instruction without the marks of its benchmark at its beginning.

    Harbor leaves them out too: lines that are a comment with the word canary, and the empty
    lines after them.
    """
    lines = text.split("\n")
    at = 0
    while at < len(lines) and _CANARY.match(lines[at].strip()):
        at += 1
    while at < len(lines) and not lines[at].strip():
        at += 1
    return "\n".join(lines[at:])


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text("utf-8")
    except FileNotFoundError:
        raise InvalidTasks(f"{folder} has no {name}") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise InvalidTasks(f"{folder / name} cannot be read: {exc}") from exc


def _unsupported_files(folder: Path) -> list[str]:
    """Return the files that ask for what cannot be had here."""
    found = [
        f"environment/{name} (there is one container, main)"
        for name in _COMPOSE
        if (folder / "environment" / name).exists()
    ]
    if (folder / "trajectory.json").exists():
        found.append("trajectory.json (an episode begins without a history)")
    found += [
        f"{part}/.harborignore (all files of a folder are copied)"
        for part in ("tests", "solution")
        if any((folder / part).rglob(".harborignore"))
    ]
    return found
