"""Environments that are tiny, for tests of what may be given where."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from openenv_async import EnvClient, Environment, StepResult


@dataclass
class Move:
    amount: int = 1


@dataclass
class Seen:
    total: int
    pid: int = 0


class Tiny(Environment[Move, Seen, dict[str, Any]]):
    """Ends after ``goal``; tells in which process it runs."""

    isolation = "inline"

    def __init__(self, goal: int = 2) -> None:
        self.goal = goal
        self.total = 0

    def reset(self, seed: int | None = None) -> Seen:
        self.total = 0
        return Seen(0, os.getpid())

    def step(self, action: Move) -> StepResult[Seen]:
        self.total += action.amount
        return StepResult(Seen(self.total, os.getpid()), 1.0, terminated=self.total >= self.goal)


class TinyEnv(EnvClient[Move, Seen, dict[str, Any]]):
    """Its client."""


class TinyGym(gymnasium.Env[Any, Any]):
    """A Gymnasium environment that ends after two steps."""

    observation_space = gymnasium.spaces.Box(0.0, 9.0, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length: int = 2) -> None:
        self.length = length
        self.taken = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.taken = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.taken += 1
        seen = np.full(1, self.taken, np.float32)
        return seen, 1.0, self.taken >= self.length, False, {}


def make_tiny(goal: int = 2) -> Tiny:
    return Tiny(goal)
