"""What a check is: a named async function over a ``Subject``; it raises what is not as promised."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Literal

from openenv_async.checks.transports import Door
from openenv_async.errors import InvalidAction, OpenEnvError
from openenv_async.schemas.sample import sample

__all__ = [
    "CHECKS",
    "Check",
    "CheckFailed",
    "Result",
    "Skipped",
    "Subject",
    "check",
    "require",
]


class CheckFailed(AssertionError):
    """What was promised is not so; the message says what was found."""


class Skipped(Exception):
    """The check cannot be made here; the message says why."""


@dataclass(frozen=True, slots=True)
class Result:
    """Of one check over one door.

    Attributes:
        name, door: which.
        status: ``passed``, ``failed`` or ``skipped``.
        reason: what was found, or why it was skipped.
        remedy: what to look at when it failed.
    """

    name: str
    door: str
    status: Literal["passed", "failed", "skipped"]
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One behaviour.

    Attributes:
        name: of the function.
        promise: its docstring.
        call: the function.
        own: it needs a server of the conformance environment.
        needs: features of the door.
        remedy: what to look at when it fails.
    """

    name: str
    promise: str
    call: Callable[[Subject], Awaitable[None]]
    own: bool
    needs: frozenset[str]
    remedy: str


_TRIES: Final = 20
"""Actions drawn before an environment is taken for one that refuses them all."""
CHECKS: Final[dict[str, Check]] = {}


def check(
    *needs: str, own: bool = True, remedy: str
) -> Callable[[Callable[[Subject], Awaitable[None]]], Callable[[Subject], Awaitable[None]]]:
    """Register a function as a check."""

    def register(
        call: Callable[[Subject], Awaitable[None]],
    ) -> Callable[[Subject], Awaitable[None]]:
        name: str = getattr(call, "__name__", "")
        promise = " ".join((call.__doc__ or "").split())
        CHECKS[name] = Check(name, promise, call, own, frozenset(needs), remedy)
        return call

    return register


def require(truth: Any, found: str) -> None:
    """Raise ``CheckFailed`` with what was found unless ``truth``."""
    if not truth:
        raise CheckFailed(found)


class Subject:
    """The subject of a check: a door, and how to act on what is behind it.

    Args:
        door: the way in.
        own: whether the conformance environment is behind it.
        schema: JSON Schemas of action, observation, state and reset.
        actions: plain actions to play with; drawn from the schema when ``None``.
        seed: of the actions drawn.
        varying: names of fields that may differ between equal episodes.
    """

    def __init__(
        self,
        door: Door,
        own: bool,
        schema: dict[str, Any] | None,
        actions: list[Any] | None,
        seed: int,
        varying: Collection[str] = (),
    ) -> None:
        self.door = door
        self.varying = varying
        self.own = own
        self.schema = schema or {}
        self._actions = actions
        self._random = random.Random(seed)

    def reseed(self, seed: int) -> None:
        """Draw the same actions again."""
        self._random = random.Random(seed)

    def action(self) -> Any:
        """An action that fits the environment."""
        if self.own:
            return {"command": "echo", "text": f"{self._random.random():.6f}"}
        if self._actions:
            return self._random.choice(self._actions)
        if "action" not in self.schema:
            raise Skipped("the server gives no action schema (GET /schema), and no actions were")
        drawn = sample(self.schema["action"], self._random)
        if "exact" in self.door.features:
            return drawn
        return _plain(drawn)

    async def step(self, env: Any) -> Any:
        """The result of an action that the environment takes; those it refuses are left out.

        Raises:
            Skipped: it refuses whatever is drawn.
        """
        refused = ""
        for _ in range(_TRIES):
            try:
                return await env.step(self.action())
            except Exception as exc:  # a foreign door's own, and judged here
                if self.own or not self.door.matches(exc, InvalidAction):
                    raise
                refused = str(exc)
        raise Skipped(f"every action drawn was refused: give actions that fit ({refused:.200})")

    async def expect(self, cls: type[OpenEnvError], call: Awaitable[Any]) -> Any:
        """Await a call that must fail with ``cls``; gives the error."""
        try:
            result = await call
        except (CheckFailed, Skipped, asyncio.CancelledError):
            raise
        except Exception as exc:  # judged below; a foreign one is a finding
            require(
                self.door.matches(exc, cls),
                f"expected {cls.__name__} ({cls.code}), got {type(exc).__name__}: {exc}",
            )
            return exc
        raise CheckFailed(f"expected {cls.__name__} ({cls.code}), got {result!r:.200}")


def _plain(value: Any) -> Any:
    """Arrays as lists, for doors that carry plain JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
