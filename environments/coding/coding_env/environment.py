"""The environment: a sandbox per session, and a task per episode if there is to be one."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, get_args

from coding_env.grading import Graded, Submission, grade
from coding_env.models import CodeAction, CodeObservation, CodingState
from coding_env.runner import Runner, make_runner
from coding_env.sandbox import Execution, Limits, Sandbox
from coding_env.sandbox.shell import not_confined
from coding_env.tasks import BUNDLED, choose, load_tasks, read_row
from coding_env.tasks.model import (
    Checks,
    Difficulty,
    Split,
    Suite,
    Task,
    Tests,
    constant_share,
)
from openenv_async import Certification, Environment, StepResult, TaskTable
from openenv_async.errors import EpisodeNotStarted, InvalidAction, InvalidOption

__all__ = ["CodingEnvironment", "Credit", "Mode"]

Mode = Literal["free", "tasks"]
Credit = Literal["corrected", "fraction", "all"]
_MIB = 1 << 20
_MAX_FILES: Final = 100
_MAX_FILES_SIZE: Final = 4 * _MIB
_MAX_COMMAND_SIZE: Final = 64 * 1024
"""Bytes of a shell command, as UTF-8: less than the kernel takes."""


class CodingEnvironment(Environment[CodeAction, CodeObservation, CodingState]):
    """Python for agents to run, each session in a sandbox of its own.

    In free mode there is no reward and no end. With tasks the reward of a submission follows from
    the hidden tests that it passes; ``step_cost`` and ``error_cost`` are taken off.

    Args:
        mode: ``free`` or ``tasks``; default ``CODING_MODE``, else free.
        split: ``train`` or ``test``; ``None`` draws from both.
        difficulty: ``easy``, ``medium`` or ``hard``; ``None`` draws from all.
        max_steps: truncate after so many steps; default 20 with tasks, none in free mode.
        credit: ``corrected``: the fraction of hidden tests passed, above what the best constant
            answer passes, from 0 to 1. ``fraction``: just that. ``all``: 1 for all of them, else 0.
        tests: hidden tests per task that draws them.
        test_timeout: seconds that each may take.
        step_cost, error_cost: of every step, and of one whose exit code is not 0, with tasks.
        tasks_path: a file of tasks in place of the bundled ones, or a folder of such files;
            default ``CODING_TASKS``.
        interpreter: ``cpython`` in the sandbox, or ``monty``, which is faster and knows a part
            of Python only; default ``CODING_INTERPRETER``, else cpython.
        packages: names of installed packages that code may import, with what they need; default
            ``CODING_PACKAGES``, separated by commas. A task may name others.
        memory_mib, cpu_timeout, max_output_size, threads: see ``sandbox.Limits``.
        shell: take shell commands, in the environment's container alone; default
            ``CODING_SHELL`` (1), else no.

    Raises:
        InvalidOption: an argument is wrong, or ``shell`` was asked for outside a container.
    """

    name = "coding"
    isolation = "inline"  # it waits for the sandbox's processes, on the loop
    session_options = frozenset(
        {"mode", "split", "difficulty", "max_steps", "credit", "step_cost", "error_cost"}
    )

    def __init__(
        self,
        mode: Mode | None = None,
        split: Split | None = "train",
        difficulty: Difficulty | None = None,
        max_steps: int | None = None,
        credit: Credit = "corrected",
        tests: int = 12,
        test_timeout: float = 5.0,
        step_cost: float = 0.0,
        error_cost: float = 0.0,
        tasks_path: str | None = None,
        interpreter: str | None = None,
        packages: Sequence[str] | None = None,
        memory_mib: int = 256,
        cpu_timeout: float = 30.0,
        max_output_size: int = 64 * 1024,
        threads: bool = False,
        shell: bool | None = None,
    ) -> None:
        path = tasks_path or os.environ.get("CODING_TASKS")
        self._tasks = load_tasks(path) if path else BUNDLED
        self._mode = _mode(mode or os.environ.get("CODING_MODE", "free"))
        self._split, self._difficulty = split, difficulty
        self._max_steps, self._tests, self._test_timeout = max_steps, tests, test_timeout
        self._step_cost, self._error_cost = step_cost, error_cost
        if credit not in get_args(Credit):
            raise InvalidOption(
                f"credit is {credit!r}: choose one of {', '.join(get_args(Credit))}"
            )
        self._credit = credit
        self._interpreter = interpreter or os.environ.get("CODING_INTERPRETER", "cpython")
        self._limits = Limits(
            memory_size=memory_mib * _MIB,
            cpu_timeout=cpu_timeout,
            max_output_size=max_output_size,
            threads=threads,
        )
        if packages is None:
            packages = os.environ.get("CODING_PACKAGES", "").replace(",", " ").split()
        self._packages = self._offered = tuple(packages)
        self._takes_commands = os.environ.get("CODING_SHELL") == "1" if shell is None else shell
        if self._takes_commands:
            if self._interpreter != "cpython":
                raise InvalidOption("shell=true needs interpreter='cpython'", option="shell")
            if why := not_confined():
                raise InvalidOption(f"shell=true is refused: {why}", option="shell")
        self._runner: Runner = make_runner(self._interpreter, self._limits, self._packages)
        self._seed = 0
        self._steps = 0
        self._last_exit_code: int | None = None
        self._task: Task | None = None
        self._hidden: Tests = ()
        self._limit: int | None = None

    @classmethod
    def tasks_for(cls, **params: Any) -> TaskTable:
        """The tasks that a reset may name, without their hidden tests."""

        def rows(split: str) -> list[dict[str, Any]]:
            path = params.get("tasks_path") or os.environ.get("CODING_TASKS")
            return [
                {"id": task.name, "task": task.name, "prompt": task.prompt()}
                for task in (load_tasks(path) if path else BUNDLED)
                if task.split == split
            ]

        return TaskTable({split: functools.partial(rows, split) for split in ("train", "test")})

    @classmethod
    def certification_for(cls, **params: Any) -> Certification | None:
        """The statements that ``openenv-async certify`` tests: of the bundled tasks only."""
        if params.get("tasks_path") or os.environ.get("CODING_TASKS"):
            return None
        from coding_env.policies import CERTIFICATION

        return CERTIFICATION

    async def reset(
        self,
        *,
        seed: int | None = None,
        mode: Mode | None = None,
        task: str | None = None,
        row: dict[str, Any] | None = None,
        split: Split | None = None,
        difficulty: Difficulty | None = None,
    ) -> CodeObservation:
        """Begin with a fresh interpreter, in a folder with the files of the task.

        Args:
            seed: of the task, its hidden tests and the module ``random``.
            mode, split, difficulty: in place of the constructor's.
            task: this task, whatever the mode.
            row: a task of the client's own, hidden tests included, as a line of a file has it.
        """
        self._seed = random.SystemRandom().getrandbits(31) if seed is None else seed
        self._steps, self._last_exit_code = 0, None
        self._task, self._hidden = None, ()
        rng = random.Random(f"coding/{self._seed}")
        if row is not None:
            self._task = read_row(row, self._offered)
        elif task is not None or _mode(mode or self._mode) == "tasks":
            self._task = choose(
                self._tasks,
                rng,
                name=task,
                split=split or self._split,
                difficulty=difficulty or self._difficulty,
            )
        self._limit = self._max_steps
        if self._limit is None and self._task is not None:
            self._limit = 20
        await self._begin(self._task.packages if self._task is not None else None)
        if self._task is None:
            return CodeObservation()
        self._hidden = self._task.tests(self._tests, rng)
        if self._task.files:
            await self._runner.write(self._task.files)
        return CodeObservation(prompt=self._task.prompt(), tests_total=_count(self._hidden))

    async def _begin(self, packages: Sequence[str] | None) -> None:
        """Start an interpreter that has these packages, or else those of the environment."""
        wanted = self._offered if packages is None else tuple(packages)
        if wanted != self._packages:
            runner = make_runner(self._interpreter, self._limits, wanted)
            await self._runner.aclose()
            self._runner, self._packages = runner, wanted
        await self._runner.start(self._seed)

    async def step(self, action: CodeAction) -> StepResult[CodeObservation]:
        """Run code or a shell command, or hand code in.

        Raises:
            InvalidAction: a path leads out of the folder, files are too many or too large, or a
                command is not taken here.
            EpisodeNotStarted: the last step was cancelled, and its interpreter killed.
            EnvironmentDied: the interpreter was lost, through no fault of the code.
        """
        if not self._runner.usable:
            raise EpisodeNotStarted("the interpreter is gone with the step before: call reset()")
        _check_files(action.files, action.read)
        if action.shell is not None:
            self._check_command(action)
        task = self._task
        graded: Graded | None = None
        read: Mapping[str, str] = {}
        if action.submit and task is not None:
            graded = await self._graded(task, action)
            execution = graded.execution
        else:
            execution, read = await self._run(action)
        self._steps += 1
        self._last_exit_code = execution.exit_code
        truncated = graded is None and self._limit is not None and self._steps >= self._limit
        return StepResult(
            self._observed(execution, graded, graded is not None or truncated, read),
            reward=self._reward(execution, graded),
            terminated=graded is not None,
            truncated=truncated,
        )

    async def _run(self, action: CodeAction) -> tuple[Execution, Mapping[str, str]]:
        if action.files:
            written = await self._runner.write(action.files, action.timeout)
            if written.exit_code:
                return written, {}
        if action.shell is not None:
            assert isinstance(self._runner, Sandbox)  # the constructor has seen to it
            execution = await self._runner.command(action.shell, action.timeout, stdin=action.stdin)
        else:
            execution = await self._runner.execute(action.code, action.timeout, stdin=action.stdin)
        if not action.read:
            return execution, {}
        found = await self._runner.read(action.read)
        stderr = execution.stderr + found.stderr
        return replace(execution, stderr=stderr), found.reply.files if found.reply else {}

    def _check_command(self, action: CodeAction) -> None:
        command = action.shell or ""
        if not self._takes_commands:
            raise InvalidAction(
                "this server takes no shell commands: run its image with --env=CODING_SHELL=1"
            )
        if action.submit or action.code:
            raise InvalidAction("an action has code or a shell command, and submits code alone")
        size = len(command.encode("utf-8", "surrogatepass"))
        if not command.strip() or size > _MAX_COMMAND_SIZE:
            raise InvalidAction(
                f"a shell command has 1 to {_MAX_COMMAND_SIZE} bytes, this one has {size}"
            )
        if "\0" in command or any("\ud800" <= letter <= "\udfff" for letter in command):
            raise InvalidAction("a shell command is text without NUL and without surrogates")

    async def _graded(self, task: Task, action: CodeAction) -> Graded:
        code = action.code or action.files.get("solution.py", "")
        return await grade(
            self._runner,
            Submission(code, {**task.files, **action.files}),
            self._hidden,
            entry_point=task.entry_point,
            limits=self._limits,
            packages=self._packages,
            seed=self._seed,
            timeout=action.timeout,
            test_timeout=self._test_timeout,
        )

    def _observed(
        self, execution: Execution, graded: Graded | None, done: bool, read: Mapping[str, str]
    ) -> CodeObservation:
        total = _count(self._hidden) if self._task is not None else None
        return CodeObservation(
            stdout=execution.stdout,
            stderr=execution.stderr,
            exit_code=execution.exit_code,
            done=done,
            error_type=execution.error_type,
            restarted=execution.restarted,
            tests_passed=graded.passed if graded is not None else None,
            tests_total=len(graded.results) if graded is not None else total,
            value=execution.value,
            files=dict(read),
            results=graded.results if graded is not None else [],
        )

    def _reward(self, execution: Execution, graded: Graded | None) -> float | None:
        if self._task is None:
            return None
        scored = self._scored(graded) if graded is not None else 0.0
        return scored - self._step_cost - (self._error_cost if execution.exit_code else 0.0)

    def _scored(self, graded: Graded) -> float:
        share = graded.passed / len(graded.results) if graded.results else 0.0
        if self._credit == "all":
            return float(share == 1.0)
        given = constant_share(self._hidden) if self._credit == "corrected" else 0.0
        if given == 1.0:  # every answer is the same: nothing tells a constant from a solution
            return float(share == 1.0)
        return max(0.0, share - given) / (1.0 - given)

    async def state(self) -> CodingState:
        """Return the position of the episode; never the hidden tests."""
        task = self._task
        return CodingState(
            last_exit_code=self._last_exit_code,
            steps=self._steps,
            max_steps=self._limit,
            mode="free" if task is None else "tasks",
            task=task.name if task else "",
            split=task.split if task else "",
            difficulty=task.difficulty if task else "",
            seed=self._seed,
        )

    async def close(self) -> None:
        """End the interpreter and remove its folder."""
        await self._runner.aclose()


def _count(tests: Tests) -> int | None:
    if isinstance(tests, Suite):
        return None
    return tests.count() if isinstance(tests, Checks) else len(tests)


def _check_files(files: Mapping[str, str], read: Sequence[str]) -> None:
    """Return unless an action's files are not to be had.

    Raises:
        InvalidAction: a path leads out of the folder, or they are too many or too large.
    """
    for path in (*files, *read):
        parts = path.split("/")
        if not path or "\0" in path or path.startswith("/") or {"", ".", ".."} & {*parts}:
            raise InvalidAction(f"the path {path!r:.80} is not relative, such as 'data/in.txt'")
    if len(files) > _MAX_FILES or len(read) > _MAX_FILES:
        raise InvalidAction(f"an action has more than {_MAX_FILES} files: send them in several")
    if sum(map(len, files.values())) > _MAX_FILES_SIZE:
        raise InvalidAction(f"the files of an action are longer than {_MAX_FILES_SIZE} characters")


def _mode(value: Any) -> Mode:
    if value not in ("free", "tasks"):
        raise InvalidOption(f"mode is {value!r}: choose free or tasks")
    return "free" if value == "free" else "tasks"
