"""The subject of a conformance check: a transport, and how to act on what is behind it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Collection
from typing import Any, Final

from openenv_async.checks.registry import CheckFailed, Skipped, require
from openenv_async.checks.transports import Transport
from openenv_async.errors import InvalidAction, OpenEnvError
from openenv_async.renamed import renamed_arguments
from openenv_async.schemas.sample import sample

__all__ = ["Subject"]

_TRIES: Final = 20
"""Actions drawn before an environment is taken for one that refuses them all."""


class Subject:
    """The subject of a check: a transport, and how to act on what is behind it.

    Args:
        transport: how to reach the server.
        own: whether the conformance environment is behind it.
        schema: JSON Schemas of action, observation, state and reset.
        actions: plain actions to play with; drawn from the schema when ``None``.
        seed: of the actions drawn.
        varying: names of fields that may differ between equal episodes.
    """

    @renamed_arguments(door="transport")
    def __init__(
        self,
        transport: Transport,
        own: bool,
        schema: dict[str, Any] | None,
        actions: list[Any] | None,
        seed: int,
        varying: Collection[str] = (),
    ) -> None:
        self.transport = transport
        self.varying = varying
        self.own = own
        self.schema = schema or {}
        self._actions = actions
        self._random = random.Random(seed)

    def reseed(self, seed: int) -> None:
        """Draw the same actions again."""
        self._random = random.Random(seed)

    def action(self) -> Any:
        """Return an action that fits the environment."""
        if self.own:
            return {"command": "echo", "text": f"{self._random.random():.6f}"}
        if self._actions:
            return self._random.choice(self._actions)
        if "action" not in self.schema:
            raise Skipped("the server gives no action schema (GET /schema), and no actions were")
        return self.transport.sendable(sample(self.schema["action"], self._random))

    async def step(self, env: Any) -> Any:
        """Return the result of an action that the environment takes; others are left out.

        Raises:
            Skipped: it refuses whatever is drawn.
        """
        refused = ""
        for _ in range(_TRIES):
            try:
                return await env.step(self.action())
            except Exception as exc:  # a foreign transport's own, and judged here
                if self.own or not self.transport.matches(exc, InvalidAction):
                    raise
                refused = str(exc)
        raise Skipped(f"every action drawn was refused: give actions that fit ({refused:.200})")

    async def expect(self, cls: type[OpenEnvError], call: Awaitable[Any]) -> Any:
        """Await a call that must fail with ``cls``, and return the error."""
        try:
            result = await call
        except (CheckFailed, Skipped, asyncio.CancelledError):
            raise
        except Exception as exc:  # judged below; a foreign one is a finding
            require(
                self.transport.matches(exc, cls),
                f"expected {cls.__name__} ({cls.code}), got {type(exc).__name__}: {exc}",
            )
            return exc
        raise CheckFailed(f"expected {cls.__name__} ({cls.code}), got {result!r:.200}")
