"""A taskset in the form of ``verifiers`` 0.4 whose environment answers each turn, with a tool."""

# The package is not installed where this is type-checked, so its base classes are Any there.
# mypy: disable-error-code="misc, untyped-decorator"

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import verifiers.v1 as vf

__all__ = ["Game", "Numbers"]


class NumberData(vf.TaskData):
    number: int


class Number(vf.Task[NumberData]):
    @vf.stop
    async def left(self, trace: vf.Trace) -> bool:
        return "leave" in trace.last_reply

    @vf.reward
    async def polite(self, trace: Any) -> float:
        return 0.25 * ("please" in trace.last_reply)


class Hints(vf.Toolset[vf.SharedToolsetConfig]):
    @vf.tool
    def parity(self, number: int) -> str:
        """Say whether a number is odd or even."""
        return "odd" if number % 2 else "even"


class NumbersConfig(vf.TasksetConfig):
    count: int = 8


class Numbers(vf.Taskset[Number, NumbersConfig]):
    """Numbers to find."""

    def load(self) -> Iterator[Any]:
        for index in range(self.config.count):
            data = NumberData(name=f"number {index}", prompt="Find it.", number=index * 5 % 16)
            yield Number(data, self.config.task)

    @classmethod
    def toolsets(cls, config: Any) -> list[Any]:
        return [Hints(vf.SharedToolsetConfig())]


class GameConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig()


class Game(vf.Env[GameConfig]):
    """The number is found by guesses, which are told to be too high or too low."""

    async def run(self, task: Any, agents: Any) -> None:
        found = False
        async with agents.player.interaction(task) as talk:
            segment = await talk.turn()
            for _ in range(5):
                if segment.terminated:
                    break
                digits = "".join(c for c in segment.last_reply if c.isdigit()) or "0"
                off = int(digits) - task.data.number
                if off == 0:
                    found = True
                    break
                segment = await talk.turn("too high" if off > 0 else "too low")
        talk.trace.record_reward("found", float(found))


class TwoConfig(vf.EnvConfig):
    asker: vf.AgentConfig = vf.AgentConfig()
    answerer: vf.AgentConfig = vf.AgentConfig()


class Two(vf.Env[TwoConfig]):
    async def run(self, task: Any, agents: Any) -> None:
        raise AssertionError


if __name__ == "__main__":
    Hints.run()
