"""The registry of checks: named async functions, each with what it promises and its remedy."""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from openenv_async.errors import InvalidOption
from openenv_async.renamed import renamed_attributes

__all__ = [
    "Check",
    "CheckFailed",
    "Kind",
    "Result",
    "Skipped",
    "Status",
    "check",
    "chosen",
    "of_kind",
    "require",
]

Kind = Literal["conformance", "folder", "behaviour", "certificate"]
"""The subject of a check: a server over one transport, an environment's folder, its behaviour when
it is served, or its fitness to be trained on."""
Status = Literal["passed", "failed", "skipped"]
CallT = TypeVar("CallT", bound=Callable[[Any], Awaitable[None]])


class CheckFailed(AssertionError):
    """Raised by a check when a promise is not kept; the message says what was found."""


class Skipped(Exception):
    """Raised by a check that cannot be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check.

    Attributes:
        name: of the check.
        subject: what it was made on: the name of a transport, ``folder`` or ``server``.
        status: ``passed``, ``failed`` or ``skipped``.
        reason: what was found, or why it was skipped.
        remedy: what to look at when it failed.
    """

    name: str
    subject: str
    status: Status
    reason: str = ""
    remedy: str = ""

    @property
    def door(self) -> str:
        """The old name of ``subject``."""
        warnings.warn("Result.door is now Result.subject", DeprecationWarning, stacklevel=2)
        return self.subject


@dataclass(frozen=True, slots=True)
class Check:
    """One promise.

    Attributes:
        name: of the function.
        promise: its docstring.
        call: the function; raises ``CheckFailed`` or ``Skipped``.
        kind: what it looks at.
        remedy: what to do when it fails.
        needs: features of the transport, for conformance.
        own: whether it needs a server of the conformance environment.
    """

    name: str
    promise: str
    call: Callable[[Any], Awaitable[None]]
    kind: Kind
    remedy: str
    needs: frozenset[str] = frozenset()
    own: bool = False

    @property
    def subject(self) -> str:
        """The old name of ``kind``."""
        warnings.warn("Check.subject is now Check.kind", DeprecationWarning, stacklevel=2)
        return self.kind


_REGISTERED: Final[list[Check]] = []


def check(kind: Kind, *needs: str, own: bool = False, remedy: str) -> Callable[[CallT], CallT]:
    """Register a function as a check.

    Args:
        kind: what it looks at; the function is called with the subject of that kind.
        *needs: features of the transport without which it is skipped.
        own: whether it needs a server of the conformance environment.
        remedy: what to do when it fails.
    """

    def register(call: CallT) -> CallT:
        name: str = getattr(call, "__name__", "")
        promise = " ".join((call.__doc__ or "").split())
        _REGISTERED.append(Check(name, promise, call, kind, remedy, frozenset(needs), own))
        return call

    return register


def of_kind(*kinds: Kind) -> dict[str, Check]:
    """Return the checks of some kinds by name, in the order in which they were registered."""
    return {each.name: each for each in _REGISTERED if each.kind in kinds}


def chosen(checks: Mapping[str, Check], names: Any) -> list[Check]:
    """Return the checks of these names, all of them where ``names`` is ``None``.

    Args:
        checks: to choose from.
        names: names of checks, or one name.

    Raises:
        InvalidOption: there is no check of such a name.
    """
    if names is None:
        return list(checks.values())
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in checks:
            raise InvalidOption(f"there is no check {name!r}; there are {', '.join(checks)}")
    return [checks[name] for name in wanted]


def require(truth: Any, found: str) -> None:
    """Raise ``CheckFailed`` with what was found unless ``truth``."""
    if not truth:
        raise CheckFailed(found)


__getattr__ = renamed_attributes(
    __name__,
    {
        "CHECKS": "openenv_async.checks.conformance.suite.CHECKS",
        "Subject": "openenv_async.checks.conformance.subject.Subject",
    },
)
