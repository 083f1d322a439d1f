"""Environments that fail when an action says so. Light to import: workers do."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any, ClassVar

from openenv_async import Environment, StepResult
from openenv_async.environment import Isolation

Dict = dict[str, Any]


class Faulty(Environment[Dict, Dict, Dict]):
    """Rewards each of its steps with 1 and ends after three, unless an action says otherwise."""

    async def reset(self, fault: str = "") -> Dict:
        if fault:
            await self.fail(fault)
        self.steps = 0
        return {"steps": 0}

    async def step(self, action: Dict) -> StepResult[Dict]:
        if action["do"]:
            await self.fail(action["do"])
        self.steps += 1
        observation = {"steps": object() if action["do"] == "nonsense" else self.steps}
        return StepResult(observation, 1.0, terminated=self.steps == 3)

    async def fail(self, fault: str) -> None:
        match fault:
            case "raise":
                raise RuntimeError("broken")
            case "hang":
                await asyncio.get_running_loop().create_future()


class FaultyProcess(Environment[Dict, Dict, Dict]):
    """The same, in a process that can die."""

    isolation: ClassVar[Isolation | None] = "process"

    def reset(self) -> Dict:
        self.steps = 0
        return {"steps": 0}

    def step(self, action: Dict) -> StepResult[Dict]:
        if action["do"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1
        return StepResult({"steps": self.steps}, 1.0, terminated=self.steps == 3)
