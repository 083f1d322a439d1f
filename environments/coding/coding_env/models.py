"""Actions, observations and state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

__all__ = ["CodeAction", "CodeObservation", "CodingState", "Timeout"]

Timeout = Annotated[float, msgspec.Meta(gt=0.0, le=300.0)]


@dataclass
class CodeAction:
    """Python code to run.

    Attributes:
        code: a module's text. Variables, functions and files stay for the next step.
        timeout: seconds that it may take, more than 0 and at most 300; of a submission, its
            hidden tests included.
        submit: hand ``code`` in as the task's solution. It must be complete: it runs in a fresh
            interpreter. Ends the episode. Without a task it changes nothing.
    """

    code: str
    timeout: Timeout = 30.0
    submit: bool = False


@dataclass
class CodeObservation:
    """The outcome of running the code.

    Attributes:
        stdout, stderr: what was written; what is too long is cut, and a last line says so.
        exit_code: 0: it went well. 1: it raised. N: it called ``sys.exit(N)``. -1: it ran out
            of time. Another negative number: a signal ended the interpreter.
        done: the episode is over.
        error_type: the exception's class, or the limit that was met: ``Timeout``,
            ``CPULimitExceeded``, ``OutputLimitExceeded``, ``DiskLimitExceeded``,
            ``InterpreterExited``, ``InterpreterCrashed``, ``ProtocolBreach``. Empty if none.
        restarted: the interpreter was replaced: variables and files are gone.
        prompt: the task, after a reset; empty in free mode and in steps.
        tests_passed: hidden tests passed, after a submission.
        tests_total: hidden tests in all, with a task.
    """

    stdout: str = ""
    stderr: str = ""
    exit_code: int = 0
    done: bool = False
    error_type: str = ""
    restarted: bool = False
    prompt: str = ""
    tests_passed: int | None = None
    tests_total: int | None = None


@dataclass
class CodingState:
    """The position of the episode.

    Attributes:
        last_exit_code: of the last step; ``None`` before the first.
        steps: steps since the reset.
        max_steps: after how many the episode is truncated; ``None``: never.
        mode: ``free`` or ``tasks``.
        task, split, difficulty: of the task; empty in free mode.
        seed: of the episode, drawn if none was given.
    """

    last_exit_code: int | None
    steps: int
    max_steps: int | None
    mode: str
    task: str
    split: str
    difficulty: str
    seed: int
