"""Environments that end, fail and hang in the ways that rollouts have to tell apart."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from openenv_async import Environment, StepResult


@dataclass
class Move:
    amount: int = 1


@dataclass
class Seen:
    total: int
    seed: int | None = None


class Counting(Environment[Move, Seen, dict[str, Any]]):
    """Ends when the total reaches ``goal``; rewards each step with its amount."""

    isolation = "inline"

    def __init__(self, goal: int = 3) -> None:
        self.goal = goal
        self.total = 0

    def reset(self, seed: int | None = None, goal: int | None = None) -> Seen:
        self.goal = goal or self.goal
        self.total = 0
        return Seen(0, seed)

    def step(self, action: Move) -> StepResult[Seen]:
        self.total += action.amount
        return StepResult(
            Seen(self.total), float(action.amount), terminated=self.total >= self.goal
        )


def one_by_one(observation: Any) -> dict[str, int]:
    """A policy that comes to every goal."""
    return {"amount": 1}


class Unrewarded(Counting):
    def step(self, action: Move) -> StepResult[Seen]:
        result = super().step(action)
        result.reward = None
        return result


class Truncating(Counting):
    def step(self, action: Move) -> StepResult[Seen]:
        result = super().step(action)
        return StepResult(result.observation, result.reward, truncated=self.total >= 2)


class RaisesInStep(Counting):
    def step(self, action: Move) -> StepResult[Seen]:
        if self.total >= 1:
            raise RuntimeError("broken")
        return super().step(action)


class RaisesInReset(Counting):
    def reset(self, seed: int | None = None, goal: int | None = None) -> Seen:
        raise RuntimeError("no episode")


class CannotStart(Counting):
    def __init__(self) -> None:
        raise RuntimeError("no licence")


class Hanging(Environment[Move, Seen, dict[str, Any]]):
    """The step of an odd seed hangs until it is cancelled."""

    cancelled: ClassVar[int] = 0
    closed: ClassVar[int] = 0
    seed: int | None = None

    async def reset(self, seed: int | None = None) -> Seen:
        self.seed = seed
        return Seen(0, seed)

    async def step(self, action: Move) -> StepResult[Seen]:
        if self.seed is not None and self.seed % 2:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                type(self).cancelled += 1
                raise
        return StepResult(Seen(action.amount), 1.0, terminated=True)

    async def close(self) -> None:
        type(self).closed += 1
