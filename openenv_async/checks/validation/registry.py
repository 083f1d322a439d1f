"""What a check is: a named async function over a ``Candidate``, which raises what it finds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from openenv_async.checks.validation.candidate import Candidate

__all__ = ["CHECKS", "Call", "Check", "check"]

Subject = Literal["folder", "behaviour"]
Call = Callable[[Candidate], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Check:
    """One promise.

    Attributes:
        name: of the function.
        promise: its docstring.
        call: the function; raises ``CheckFailed`` or ``Skipped``.
        subject: what it looks at: the environment's folder, or its behaviour when served.
        remedy: what to do when it fails.
    """

    name: str
    promise: str
    call: Call
    subject: Subject
    remedy: str


CHECKS: Final[dict[str, Check]] = {}


def check(subject: Subject, *, remedy: str) -> Callable[[Call], Call]:
    """Register a function as a check."""

    def register(call: Call) -> Call:
        name: str = getattr(call, "__name__", "")
        promise = " ".join((call.__doc__ or "").split())
        CHECKS[name] = Check(name, promise, call, subject, remedy)
        return call

    return register
