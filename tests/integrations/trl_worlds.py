"""Environments for the TRL tests; worker processes import them by name."""

from __future__ import annotations

import asyncio
import os
from typing import Any, ClassVar

from openenv_async import Environment, GenericEnvClient, StepResult
from openenv_async.environment import Isolation
from openenv_async.errors import ConnectionLost

Dict = dict[str, Any]


class Talk(Environment[Dict, Dict, Dict]):
    """Two messages are an episode; each earns its length. ``fault`` breaks the second step."""

    isolation: ClassVar[Isolation | None] = "inline"

    async def reset(self, seed: int = 0, fault: str = "", turns: int = 2) -> Dict:
        if fault == "reset raises":
            raise RuntimeError("no episode today")
        self.seed, self.fault, self.turns, self.count = seed, fault, turns, 0
        return {"text": f"seed {seed}:"}

    async def step(self, action: Dict) -> StepResult[Any]:
        self.count += 1
        done = self.count == self.turns
        if self.count == 2:
            match self.fault:
                case "raises":
                    raise RuntimeError("broken")
                case "hangs":
                    await asyncio.Event().wait()
                case "bad observation":
                    return StepResult(object())
                case "unrewarded":
                    return StepResult({"text": "ok"}, None, terminated=done)
                case "truncates":
                    return StepResult({"text": "ok"}, 1.0, truncated=True)
        reward = None if self.fault == "unrewarded" else float(len(action["text"]))
        return StepResult({"text": f"<{action['text']}>"}, reward, terminated=done)


class Dying(Talk):
    """Its process ends in the second step, if it is to."""

    isolation: ClassVar[Isolation | None] = "process"

    async def step(self, action: Dict) -> StepResult[Any]:
        if self.fault == "dies" and self.count == 1:
            os._exit(3)
        return await super().step(action)


class CutClient(GenericEnvClient):
    """Loses its connection in the second step of an episode that says so."""

    async def reset(self, **options: Any) -> StepResult[Any]:
        self._cut_after = 1 if options.get("fault") == "cut" else 1 << 30
        return await super().reset(**options)

    async def step(self, action: Any, *, timeout: float | None = None) -> StepResult[Any]:
        if self._cut_after == 0:
            raise ConnectionLost("the network is gone")
        self._cut_after -= 1
        return await super().step(action, timeout=timeout)


def say(text: str) -> Any:
    """Say something.

    Args:
        text: What to say.
    """
    return {"text": text}
