"""Outcomes to put into run folders, and folders cut at any byte."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from openenv_async import EpisodeInfo, Outcome, OutcomeStatus
from openenv_async.rollouts import Trajectory, Transition
from openenv_async.rollouts.run_folder import RunFolder
from openenv_async.rollouts.run_journal import EpisodeKey
from openenv_async.types import Task

__all__ = ["key_of", "outcome", "recorded", "write"]


def key_of(index: int, size: int = 2) -> EpisodeKey:
    return EpisodeKey(f"task-{index // size}", index % size)


def outcome(index: int, **changes: Any) -> Outcome:
    """One with a record of one step."""
    values: dict[str, Any] = {
        "status": OutcomeStatus.COMPLETED,
        "episode": EpisodeInfo(f"episode-{index}", index),
        "episode_return": index / 2,
        "steps": 1,
        "duration": 0.25,
        "task": Task(f"task-{index // 2}", {"question": f"what is {index // 2}?"}, {"answer": 42}),
        "group": index // 2,
        "member": index % 2,
        **changes,
    }
    made = Outcome(index, **values)
    trajectory = Trajectory(index)
    trajectory.begin(made.episode)
    trajectory.transitions = [Transition(0, "seen", {"act": index}, made.episode_return, True)]
    trajectory.finish(made)
    made.trajectory = trajectory
    return made


def write(folder: RunFolder, made: Outcome, key: EpisodeKey | None = None) -> None:
    """Have an outcome written, and wait until it is."""
    key = key or key_of(made.index)
    made.attempts = folder.begin(key)
    assert made.trajectory is not None
    made.trajectory.finish(made)
    written = threading.Event()
    errors: list[BaseException] = []

    def done(error: BaseException | None) -> None:
        if error is not None:
            errors.append(error)
        written.set()

    folder.submit(key, made, done)
    assert written.wait(10)
    if errors:
        raise errors[0]


def recorded(path: Path, count: int) -> Path:
    """A folder with that many outcomes in two segments, and a lost attempt."""
    with RunFolder.create(path) as folder:
        folder.bind(wanted=count + 2, tasks={"file": "tasks.jsonl"}, policy={"name": "p"})
        for index in range(count // 2):
            write(folder, outcome(index))
        write(folder, outcome(count, status=OutcomeStatus.INFRA_ERROR, episode_return=None))
    with RunFolder.open(path) as folder:
        for index in range(count // 2, count):
            write(folder, outcome(index))
    return path
