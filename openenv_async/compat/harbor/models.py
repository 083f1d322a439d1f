"""Actions, observations and state of an episode on a Harbor task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

__all__ = ["HarborAction", "HarborObservation", "HarborState", "Timeout"]

Timeout = Annotated[float, msgspec.Meta(gt=0.0)]


@dataclass
class HarborAction:
    """A shell command to run in the task's container, or the end of the work.

    Attributes:
        command: for bash. Files, and what it leaves in the background, stay for the next step, and
            the folder that it ends in; variables do not.
        timeout: seconds that it may take; by default, and at most, those of the environment.
        submit: hand the work in, after the command if there is one: the task's tests run, and
            the episode ends with their reward.
    """

    command: str = ""
    timeout: Timeout | None = None
    submit: bool = False


@dataclass
class HarborObservation:
    """The task, and the outcome of the last command.

    Attributes:
        instruction: the task, after a reset; empty in steps.
        output: what the command wrote, errors among it; the middle of what is too long is cut.
        exit_code: of the command; none where it ran out of time or was killed.
        folder: that the next command begins in.
        timed_out: the command was killed for its time.
    """

    instruction: str = ""
    output: str = ""
    exit_code: int | None = None
    folder: str = "/"
    timed_out: bool = False


@dataclass
class HarborState:
    """The position of the episode.

    Attributes:
        task: its id; empty before the first reset.
        steps: steps since the reset.
        max_steps: after how many the tests run; none: no such limit.
        ended: whether the tests ran.
    """

    task: str
    steps: int
    max_steps: int | None
    ended: bool
