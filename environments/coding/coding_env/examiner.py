"""Assertions and pytest files as hidden tests: they run in a sandbox beside the solution's own.

The solution never shares a process or a folder with its tests; see ``sandbox.inside.examiner``.
This side passes calls from one sandbox to the other, without reading them, and holds the time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from coding_env.sandbox import Execution, Limits, Sandbox
from coding_env.sandbox.packages import is_installed
from coding_env.tasks.model import Checks, Suite
from openenv_async.errors import InvalidOption

__all__ = ["Submission", "examine"]

_MIB: Final = 1 << 20
_PYTEST: Final = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")
_TESTS_MEMORY: Final = 512 * _MIB
_GRACE: Final = 5.0
"""Seconds that tests get beyond the submission's: for starting and for their own work."""
_MOST_TESTS: Final = 10_000
_NAME: Final = 500


@dataclass(frozen=True)
class Submission:
    """A solution as it was handed in.

    Attributes:
        code: the module's text, which tests import as ``solution``.
        files: further files by path; those of the task included.
    """

    code: str
    files: Mapping[str, str]

    def modules(self) -> list[str]:
        """Names by which tests may import it."""
        names = {"solution"}
        for path in self.files:
            parts = path.removesuffix(".py").split("/")
            if path.endswith(".py") and all(part.isidentifier() for part in parts):
                parts = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
                names |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
        return sorted(names)


class _Examination:
    """One submission under its tests."""

    def __init__(self, submission: Submission, limits: Limits, packages: tuple[str, ...]) -> None:
        self.results: dict[str, str] = {}
        self.solution = Sandbox(limits, {"_callback": self._callback}, packages)
        self.deadline = self.test_deadline = 0.0
        self._submission = submission
        self._call: asyncio.Task[Execution] | None = None
        self._callbacks: asyncio.Queue[list[Any]] = asyncio.Queue()
        self._resumed: asyncio.Future[str] | None = None
        self._test_timeout = 0.0
        self._running = ""

    async def load(self, seed: int, timeout: float, test_timeout: float) -> Execution:
        """Run the solution by itself."""
        loop = asyncio.get_running_loop()
        self.deadline = loop.time() + timeout
        self._test_timeout = test_timeout
        self._seed = seed
        await self.solution.start(seed)
        return await self._loaded(timeout)

    async def _loaded(self, timeout: float) -> Execution:
        if self._submission.files:
            written = await self.solution.write(self._submission.files, timeout)
            if written.exit_code:
                return written
        return await self.solution.execute(self._submission.code, timeout)

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer the tests' process, which is trusted; the solution's reply is passed on unread."""
        loop = asyncio.get_running_loop()
        if "resume" in request:
            if self._resumed is not None and not self._resumed.done():
                self._resumed.set_result(request["resume"])
        elif self._call is not None:
            return {"lost": "it is busy: a function of the tests called it back"}
        else:
            left = min(self.deadline, self.test_deadline) - loop.time()
            if left <= 0:
                return {"late": "the time of the test is up"}
            self._call = loop.create_task(self.solution.ask_object(request, left))
        assert self._call is not None
        wanted = loop.create_task(self._callbacks.get())
        try:
            await asyncio.wait((self._call, wanted), return_when=asyncio.FIRST_COMPLETED)
            if wanted.done():
                return {"callback": wanted.result()}
        finally:
            wanted.cancel()
        call, self._call = self._call, None
        result = call.result()
        if result.restarted:
            await self._loaded(max(0.1, self.deadline - loop.time()))
        if result.error_type == "Timeout":
            return {"late": "the solution takes too long"}
        if result.exit_code or result.restarted:
            return {"lost": result.error_type}
        return {"text": result.result, "stdout": result.stdout}

    async def _callback(self, *request: Any) -> str:
        """Have the tests' process call one of its functions."""
        if self._resumed is not None or len(request) != 3 or not isinstance(request[0], int):
            raise ValueError("no function of the tests is called like that")
        self._resumed = asyncio.get_running_loop().create_future()
        try:
            self._callbacks.put_nowait(list(request))
            return await self._resumed
        finally:
            self._resumed = None

    async def begin(self, name: str) -> None:
        """A test begins."""
        self._running = name
        self.test_deadline = asyncio.get_running_loop().time() + self._test_timeout

    async def note(self, name: str, outcome: str) -> None:
        """A test was found, or has ended."""
        if len(self.results) < _MOST_TESTS:
            self.results[name[:_NAME]] = outcome

    async def aclose(self) -> None:
        """End what still runs."""
        if self._call is not None:
            self._call.cancel()
            await asyncio.wait([self._call])
        await self.solution.aclose()


async def examine(
    tests: Checks | Suite,
    submission: Submission,
    *,
    limits: Limits,
    packages: tuple[str, ...],
    seed: int,
    timeout: float,
    test_timeout: float,
) -> tuple[Execution, list[str]]:
    """Run a submission under assertions or pytest files.

    Returns:
        What came of the source itself, and a result per test: ``passed``, ``failed``,
        ``skipped``, ``Timeout``, or the class of an exception.

    Raises:
        EnvironmentDied: an interpreter was lost, through no fault of the code.
        InvalidOption: the tests want pytest, which is not installed.
    """
    job: dict[str, Any] = {"source": "", "entry_point": "", "files": [], "texts": []}
    names: list[str] = []
    if isinstance(tests, Checks):
        job |= {"source": tests.source, "entry_point": tests.entry_point}
        names = [str(number) for number in range(tests.count())]
    else:
        job["files"] = [name for name in tests.files if _is_test(name)]
        job["texts"] = [text for name, text in tests.files.items() if name.endswith(".py")]
        packages_of_tests = tuple(name for name in _PYTEST if is_installed(name))
        if "pytest" not in packages_of_tests:
            raise InvalidOption(
                "a task has pytest files: pip install 'openenv-async-coding[pytest]'"
            )
    job |= {"modules": submission.modules(), "operators": tests.operators}
    examination = _Examination(submission, limits, packages)
    box = Sandbox(
        replace(limits, memory_size=max(limits.memory_size, _TESTS_MEMORY)),
        {"_ask": examination.ask, "_begin": examination.begin, "_note": examination.note},
        packages if isinstance(tests, Checks) else (*packages, *packages_of_tests),
    )
    try:
        submitted = await examination.load(seed, timeout, test_timeout)
        if submitted.exit_code or submitted.restarted:
            return submitted, [submitted.error_type or "failed"] * len(names)
        await box.start(seed)
        if isinstance(tests, Suite):
            await box.write({**tests.files, **tests.data})
        await examination.begin("")
        await box.set({"_job": json.dumps(job)})
        ran = await box.execute(_EXAMINE, timeout + _GRACE, hidden=True)
    finally:
        try:
            await box.aclose()
        finally:
            await examination.aclose()
    rest = "Timeout" if ran.error_type == "Timeout" else "failed"
    results = examination.results
    names = names or list(results)
    return submitted, [results.get(name) or rest for name in names]


_EXAMINE: Final = """
import json, os
os.environ.update(USER="tests", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
from inside.examiner import examine
examine(_ask, _begin, _note, json.loads(_job))
"""


def _is_test(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.endswith(".py") and (name.startswith("test_") or name.endswith("_test.py"))
