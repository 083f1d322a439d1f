"""Hidden tests.

The submitted source runs in a fresh interpreter, which is given the arguments of one test after
another and answers with the result's text. The expected results stay on this side: code that reads
every file and every byte of its own memory finds the arguments, never the answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from coding_env.runner import Runner
from coding_env.sandbox import Execution
from coding_env.tasks import Case

__all__ = ["grade"]


async def grade(
    runner: Runner,
    code: str,
    entry_point: str,
    cases: Sequence[Case],
    *,
    seed: int,
    timeout: float,
    test_timeout: float,
) -> tuple[Execution, int]:
    """Run a submission and count the tests that it passes.

    A test that takes longer than ``test_timeout``, or than what is left of ``timeout``, fails.
    One that ends the interpreter fails alone: the next ones get a new one.

    Returns:
        What came of the source itself, and the number of tests passed.

    Raises:
        EnvironmentDied: the interpreter was lost, through no fault of the code.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout

    async def load() -> Execution:
        await runner.start(seed)
        return await runner.execute(code, max(0.01, deadline - loop.time()))

    submitted = await load()
    if submitted.exit_code or submitted.restarted:
        return submitted, 0
    passed, failure = 0, None
    for case in cases:
        left = deadline - loop.time()
        if left <= 0:
            failure = failure or Execution(exit_code=-1, error_type="Timeout")
            break
        result = await runner.call(entry_point, case.args, min(test_timeout, left))
        if not result.exit_code and result.result == case.expected:
            passed += 1
        elif result.error_type:
            failure = failure or result
        if result.restarted and (await load()).exit_code:
            break
    if failure is None:
        return submitted, passed
    # Of the first test that raised: its kind, but not what it printed, which names arguments.
    return replace(submitted, exit_code=failure.exit_code, error_type=failure.error_type), passed
