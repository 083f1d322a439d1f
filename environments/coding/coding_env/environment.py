"""The environment: a sandbox per session, and a task per episode if there is to be one."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Sequence
from typing import Any, Literal

from coding_env.grading import grade
from coding_env.models import CodeAction, CodeObservation, CodingState
from coding_env.runner import make_runner
from coding_env.sandbox import Execution, Limits
from coding_env.tasks import BUNDLED, Case, Difficulty, Split, Task, choose, load_tasks
from openenv_async import Environment, StepResult, TaskTable
from openenv_async.errors import EpisodeNotStarted, InvalidOption

__all__ = ["CodingEnvironment", "Mode"]

Mode = Literal["free", "tasks"]
_MIB = 1 << 20


class CodingEnvironment(Environment[CodeAction, CodeObservation, CodingState]):
    """Python for agents to run, each session in a sandbox of its own.

    In free mode there is no reward and no end. With tasks the reward of a submission is the
    fraction of hidden tests that it passes; ``step_cost`` and ``error_cost`` are taken off.

    Args:
        mode: ``free`` or ``tasks``; default ``CODING_MODE``, else free.
        split: ``train`` or ``test``; ``None`` draws from both.
        difficulty: ``easy``, ``medium`` or ``hard``; ``None`` draws from all.
        max_steps: truncate after so many steps; default 20 with tasks, none in free mode.
        tests: hidden tests per task.
        test_timeout: seconds that each may take.
        step_cost, error_cost: of every step, and of one whose exit code is not 0, with tasks.
        tasks_path: a file of tasks in place of the bundled ones; default ``CODING_TASKS``.
        interpreter: ``cpython`` in the sandbox, or ``monty``, which is faster and knows a part
            of Python only; default ``CODING_INTERPRETER``, else cpython.
        packages: names of installed packages that code may import, with what they need; default
            ``CODING_PACKAGES``, separated by commas.
        memory_mib, cpu_timeout, max_output_size, threads: see ``sandbox.Limits``.

    Raises:
        InvalidOption: an argument is wrong.
    """

    name = "coding"
    isolation = "inline"  # it waits for the sandbox's processes, on the loop
    session_options = frozenset(
        {"mode", "split", "difficulty", "max_steps", "step_cost", "error_cost"}
    )

    def __init__(
        self,
        mode: Mode | None = None,
        split: Split | None = "train",
        difficulty: Difficulty | None = None,
        max_steps: int | None = None,
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
    ) -> None:
        path = tasks_path or os.environ.get("CODING_TASKS")
        self._tasks = load_tasks(path) if path else BUNDLED
        self._mode = _mode(mode or os.environ.get("CODING_MODE", "free"))
        self._split, self._difficulty = split, difficulty
        self._max_steps, self._tests, self._test_timeout = max_steps, tests, test_timeout
        self._step_cost, self._error_cost = step_cost, error_cost
        self._runner = make_runner(
            interpreter or os.environ.get("CODING_INTERPRETER", "cpython"),
            Limits(
                memory_size=memory_mib * _MIB,
                cpu_timeout=cpu_timeout,
                max_output_size=max_output_size,
                threads=threads,
            ),
            tuple(os.environ.get("CODING_PACKAGES", "").replace(",", " ").split())
            if packages is None
            else tuple(packages),
        )
        self._seed = 0
        self._steps = 0
        self._last_exit_code: int | None = None
        self._task: Task | None = None
        self._cases: list[Case] = []
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

    async def reset(
        self,
        *,
        seed: int | None = None,
        mode: Mode | None = None,
        task: str | None = None,
        split: Split | None = None,
        difficulty: Difficulty | None = None,
    ) -> CodeObservation:
        """Begin with a fresh interpreter and an empty folder.

        Args:
            seed: of the task, its hidden tests and the module ``random``.
            mode, split, difficulty: in place of the constructor's.
            task: this task, whatever the mode.
        """
        self._seed = random.SystemRandom().getrandbits(31) if seed is None else seed
        self._steps, self._last_exit_code = 0, None
        self._task, self._cases = None, []
        if task is not None or _mode(mode or self._mode) == "tasks":
            rng = random.Random(f"coding/{self._seed}")
            self._task = choose(
                self._tasks,
                rng,
                name=task,
                split=split or self._split,
                difficulty=difficulty or self._difficulty,
            )
            self._cases = self._task.cases(self._tests, rng)
        self._limit = self._max_steps
        if self._limit is None and self._task is not None:
            self._limit = 20
        await self._runner.start(self._seed)
        if self._task is None:
            return CodeObservation()
        return CodeObservation(prompt=self._task.prompt(), tests_total=len(self._cases))

    async def step(self, action: CodeAction) -> StepResult[CodeObservation]:
        """Run code, or hand it in.

        Raises:
            EpisodeNotStarted: the last step was cancelled, and its interpreter killed.
            EnvironmentDied: the interpreter was lost, through no fault of the code.
        """
        if not self._runner.usable:
            raise EpisodeNotStarted("the interpreter is gone with the step before: call reset()")
        submitted = action.submit and self._task is not None
        passed: int | None = None
        if submitted:
            assert self._task is not None
            execution, passed = await grade(
                self._runner,
                action.code,
                self._task.entry_point,
                self._cases,
                seed=self._seed,
                timeout=action.timeout,
                test_timeout=self._test_timeout,
            )
        else:
            execution = await self._runner.execute(action.code, action.timeout)
        self._steps += 1
        self._last_exit_code = execution.exit_code
        truncated = not submitted and self._limit is not None and self._steps >= self._limit
        return StepResult(
            self._observed(execution, passed, submitted or truncated),
            reward=self._reward(execution, passed),
            terminated=submitted,
            truncated=truncated,
        )

    def _observed(self, execution: Execution, passed: int | None, done: bool) -> CodeObservation:
        return CodeObservation(
            stdout=execution.stdout,
            stderr=execution.stderr,
            exit_code=execution.exit_code,
            done=done,
            error_type=execution.error_type,
            restarted=execution.restarted,
            tests_passed=passed,
            tests_total=len(self._cases) if self._task is not None else None,
        )

    def _reward(self, execution: Execution, passed: int | None) -> float | None:
        if self._task is None:
            return None
        scored = passed / len(self._cases) if passed is not None and self._cases else 0.0
        return scored - self._step_cost - (self._error_cost if execution.exit_code else 0.0)

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


def _mode(value: Any) -> Mode:
    if value not in ("free", "tasks"):
        raise InvalidOption(f"mode is {value!r}: choose free or tasks")
    return "free" if value == "free" else "tasks"
