"""A taskset of tasks that cannot be played step by step, each for a reason of its own."""

# The package is not installed where this is type-checked, so its base classes are Any there.
# mypy: disable-error-code="misc"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import verifiers.v1 as vf

__all__ = ["Again", "Odd"]


class OddTask(vf.Task[vf.TaskData]):
    pass


class Odd(vf.Taskset[OddTask, vf.TasksetConfig]):
    def load(self) -> Iterator[Any]:
        yield OddTask(vf.TaskData(), self.config.task)  # nobody asks
        yield OddTask(vf.TaskData(prompt="Go.", image="a:b"), self.config.task)
        yield OddTask(vf.TaskData(prompt="Go.", name="twice"), self.config.task)


class Again(vf.Env[vf.SingleAgentEnvConfig]):
    """The agent plays the last task twice."""

    async def run(self, task: Any, agents: Any) -> None:
        await agents.agent.run(task)
        if task.data.name == "twice":
            await agents.agent.run(task)
