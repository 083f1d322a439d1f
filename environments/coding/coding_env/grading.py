"""Hidden tests.

The submitted source runs in a fresh interpreter, which is given the arguments of one test after
another, or the standard input of one run. The expected results stay on this side: code that reads
every file and every byte of its own memory finds the arguments, never the answers. Tests that are
code themselves run in a sandbox of their own: see ``examiner``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from coding_env.examiner import Submission, examine
from coding_env.runner import Runner
from coding_env.sandbox import Execution, Limits, Sandbox
from coding_env.tasks.model import Case, Checks, Program, Suite, Tests

__all__ = ["Graded", "Submission", "grade", "prints"]

_MARGIN: Final = 4096
"""Bytes that a program may print beyond what it is to print."""


@dataclass(frozen=True, slots=True)
class Graded:
    """The outcome of a submission.

    Attributes:
        execution: of the source itself; with the first test's kind of failure.
        results: per test: ``passed``, ``failed``, ``skipped``, or why it has no result: an
            exception's class, ``Timeout`` or another limit.
    """

    execution: Execution
    results: list[str]

    @property
    def passed(self) -> int:
        """The number of tests that passed."""
        return self.results.count("passed")


async def grade(
    runner: Runner,
    submission: Submission,
    tests: Tests,
    *,
    entry_point: str,
    limits: Limits,
    packages: tuple[str, ...],
    seed: int,
    timeout: float,
    test_timeout: float,
) -> Graded:
    """Run a submission under its tests.

    A test that takes longer than ``test_timeout``, or than what is left of ``timeout``, fails.
    One that ends the interpreter fails alone: the next ones get a new one.

    Raises:
        EnvironmentDied: the interpreter was lost, through no fault of the code.
        InvalidOption: the tests need a package that is not installed.
    """
    if isinstance(tests, Checks | Suite):
        execution, results = await examine(
            tests,
            submission,
            limits=limits,
            packages=packages,
            seed=seed,
            timeout=timeout,
            test_timeout=test_timeout,
        )
        return Graded(_told(execution, results), results)
    cases = [test for test in tests if isinstance(test, Case)]
    if cases:
        execution, results = await _call(
            runner, submission, cases, entry_point, seed, timeout, test_timeout
        )
        return Graded(_told(execution, results), results)
    programs = [test for test in tests if isinstance(test, Program)]
    return await _run(submission, programs, limits, packages, seed, timeout, test_timeout)


def _told(submitted: Execution, results: Sequence[str]) -> Execution:
    """The source's outcome with the kind of the first test that raised.

    Not with what the test printed, which names its arguments.
    """
    if submitted.exit_code or submitted.restarted:
        return submitted
    for result in results:
        if result not in ("passed", "failed", "skipped"):
            return replace(submitted, exit_code=-1 if result == "Timeout" else 1, error_type=result)
    return submitted


async def _call(
    runner: Runner,
    submission: Submission,
    cases: Sequence[Case],
    entry_point: str,
    seed: int,
    timeout: float,
    test_timeout: float,
) -> tuple[Execution, list[str]]:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout

    async def load() -> Execution:
        await runner.start(seed)
        return await _loaded(runner, submission, deadline)

    submitted = await load()
    if submitted.exit_code or submitted.restarted:
        return submitted, [submitted.error_type or "failed"] * len(cases)
    results: list[str] = []
    for case in cases:
        left = deadline - loop.time()
        if left <= 0:
            break
        ran = await runner.call(entry_point, case.args, min(test_timeout, left))
        right = not ran.exit_code and ran.result == case.expected
        results.append("passed" if right else ran.error_type or "failed")
        if ran.restarted and (await load()).exit_code:
            break
    return submitted, results + ["Timeout"] * (len(cases) - len(results))


async def _loaded(runner: Runner, submission: Submission, deadline: float) -> Execution:
    loop = asyncio.get_running_loop()
    if submission.files:
        written = await runner.write(submission.files, max(0.01, deadline - loop.time()))
        if written.exit_code:
            return written
    return await runner.execute(submission.code, max(0.01, deadline - loop.time()))


async def _run(
    submission: Submission,
    programs: Sequence[Program],
    limits: Limits,
    packages: tuple[str, ...],
    seed: int,
    timeout: float,
    test_timeout: float,
) -> Graded:
    """Run a program once per test, each time in a fresh interpreter and folder."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    longest = max((len((test.stdout or "").encode()) for test in programs), default=0)
    size = max(limits.max_output_size, longest + _MARGIN)
    executions: list[Execution] = []
    results: list[str] = []
    async with Sandbox(replace(limits, max_output_size=size), packages=packages) as box:
        for test in programs:
            left = min(test_timeout, deadline - loop.time())
            if left <= 0:
                results.append("Timeout")
                continue
            await box.start(seed)
            files = {**submission.files, **test.files}
            if files:
                await box.write(files, left)
            ran = await box.execute(submission.code, left, stdin=test.stdin)
            executions.append(ran)
            results.append(await _judged(box, ran, test))
    execution = executions[0] if executions else Execution(exit_code=-1, error_type="Timeout")
    return Graded(replace(execution, stdout="", stderr="", value=""), results)


async def _judged(box: Sandbox, ran: Execution, test: Program) -> str:
    if ran.exit_code or ran.restarted:
        return ran.error_type or "failed"
    right = test.stdout is None or prints(ran.stdout, test.stdout)
    if right and test.outputs:
        read = await box.read(sorted(test.outputs))
        found: Mapping[str, str] = read.reply.files if read.reply is not None else {}
        right = all(
            name in found and prints(found[name], wanted) for name, wanted in test.outputs.items()
        )
    return "passed" if right else "failed"


def prints(text: str, wanted: str) -> bool:
    """Return whether a text is the wanted one.

    Blanks at the ends of lines and empty lines at the end do not count; numbers with a fraction
    count to nine significant digits.
    """
    lines, wanted_lines = (
        [line.rstrip() for line in each.rstrip().splitlines()] for each in (text, wanted)
    )
    if lines == wanted_lines:
        return True
    return len(lines) == len(wanted_lines) and all(
        mine == other or _words_alike(mine.split(" "), other.split(" "))
        for mine, other in zip(lines, wanted_lines, strict=True)
    )


def _words_alike(words: list[str], wanted: list[str]) -> bool:
    return len(words) == len(wanted) and all(
        mine == other or _numbers_alike(mine, other)
        for mine, other in zip(words, wanted, strict=True)
    )


def _numbers_alike(text: str, wanted: str) -> bool:
    if "." not in wanted and "e" not in wanted.lower():
        return False
    try:
        return f"{float(text):.9g}" == f"{float(wanted):.9g}"
    except ValueError:
        return False
