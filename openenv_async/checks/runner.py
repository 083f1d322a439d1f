"""The runner of checks: calls them one after the other, and makes a result of what they raise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from openenv_async.checks.registry import Check, CheckFailed, Result, Skipped
from openenv_async.errors import ConnectFailed, OpenEnvError

__all__ = ["OnResult", "Runner"]

OnResult = Callable[[Result], None]


class Runner:
    """Run checks and keep their results.

    Args:
        patience: seconds that one check may take.
        on_result: called with each result as it comes.

    Attributes:
        results: of the checks so far.
    """

    def __init__(self, patience: float, on_result: OnResult | None = None) -> None:
        self.results: list[Result] = []
        self._patience = patience
        self._on_result = on_result

    async def run(self, check: Check, subject: Any, name: str) -> Result:
        """Call a check and add its result; whatever goes wrong is the result.

        Args:
            check: the check.
            subject: what it is called with.
            name: of the subject, for the result.
        """
        failure: BaseException | None = None
        try:
            async with asyncio.timeout(self._patience):
                await check.call(subject)
        except ExceptionGroup as exc:
            failure = exc.exceptions[0]
        except Exception as exc:  # the subject may cause anything; it is the finding
            failure = exc
        if failure is None:
            return self.add(Result(check.name, name, "passed"))
        reason = " ".join(self._reason(failure).split())
        if isinstance(failure, Skipped):
            return self.add(Result(check.name, name, "skipped", reason))
        remedy = self._remedy_of_an_earlier_one(failure) or check.remedy
        return self.add(Result(check.name, name, "failed", reason, remedy))

    def skip(self, checks: Iterable[Check], name: str, reason: str) -> None:
        """Add a result for each of some checks that cannot be made."""
        for check in checks:
            self.add(Result(check.name, name, "skipped", reason))

    def add(self, result: Result) -> Result:
        """Add a result and return it."""
        self.results.append(result)
        if self._on_result is not None:
            self._on_result(result)
        return result

    def _reason(self, failure: BaseException) -> str:
        match failure:
            case Skipped() | CheckFailed():
                return str(failure)
            case TimeoutError():
                return str(failure) or f"it took more than {self._patience:g} s"
            case ConnectFailed():
                return f"the server is gone: {failure.message}"
            case OpenEnvError():
                return f"{type(failure).__name__}: {failure.message}"
            case _:
                return f"{type(failure).__name__}: {failure}"

    def _remedy_of_an_earlier_one(self, failure: BaseException) -> str | None:
        """Return the remedy of a check whose call failed as one of an earlier check did.

        Such a check says nothing of its own promise, so its own remedy would mislead.
        """
        cause = failure.__cause__ if isinstance(failure, CheckFailed) else None
        if not isinstance(cause, OpenEnvError):
            return None
        text = " ".join(cause.message.split())
        for result in self.results:
            if result.status == "failed" and text in result.reason:
                return f"mend what {result.name} found: the same call failed here"
        return None
