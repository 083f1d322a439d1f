"""Actions, observations and state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, TypeAlias

import msgspec

__all__ = ["CodeAction", "CodeObservation", "CodingState", "Files", "Timeout"]

Timeout = Annotated[float, msgspec.Meta(gt=0.0, le=300.0)]
Files: TypeAlias = Annotated[
    dict[str, str], msgspec.Meta(extra_json_schema={"x-sample": {"const": {}}})
]
"""Text by relative path; ``data:;base64,…`` stands for bytes that are not UTF-8."""
Command: TypeAlias = Annotated[
    str | None, msgspec.Meta(extra_json_schema={"x-sample": {"const": None}})
]
Paths: TypeAlias = Annotated[list[str], msgspec.Meta(extra_json_schema={"x-sample": {"const": []}})]


@dataclass
class CodeAction:
    """Python code to run, or a command of the shell.

    Attributes:
        code: a module's text. Variables, functions and files stay for the next step. It may
            ``await`` at its top level.
        timeout: seconds that it may take, more than 0 and at most 300; of a submission, its
            hidden tests included.
        submit: hand ``code`` in as the task's solution. It must be complete: it runs in a fresh
            interpreter. Ends the episode. Without a task it changes nothing.
        stdin: the code's standard input; without it there is none.
        files: files to write first, by path relative to the code's folder. Of a submission, its
            further modules; without ``code``, ``solution.py`` is the module.
        read: paths of files to bring back afterwards, half a mebibyte in all.
        shell: a command for ``sh -c`` in the code's folder, in place of ``code``; refused unless
            the environment runs in its container, with ``shell=true``.
    """

    code: str = ""
    timeout: Timeout = 30.0
    submit: bool = False
    stdin: str | None = None
    files: Files = field(default_factory=dict)
    read: Paths = field(default_factory=list)
    shell: Command = None


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
            ``InterpreterExited``, ``InterpreterCrashed``, ``ProtocolBreach``, of a command
            ``ProcessLimitExceeded``. Empty if none.
        restarted: the interpreter was replaced: variables and files are gone.
        prompt: the task, after a reset; empty in free mode and in steps.
        tests_passed: hidden tests passed, after a submission.
        tests_total: hidden tests in all, with a task; of pytest files after a submission only.
        value: the ``repr`` of the last expression, if the code ends in one that is not None.
        files: what ``read`` asked for, as far as it is there.
        results: of each hidden test, after a submission: ``passed``, ``failed``, ``skipped``, or
            why it has no result, such as ``Timeout`` or ``ValueError``.
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
    value: str = ""
    files: dict[str, str] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)


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
