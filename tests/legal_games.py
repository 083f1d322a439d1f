"""Environments of which not every action is legal at every moment, for tests of masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from openenv_async import Environment, StepResult
from openenv_async.errors import InvalidAction


@dataclass
class Move:
    """An action: a side from -1 to 1."""

    side: int
    note: str = ""


@dataclass
class Place:
    """An observation."""

    place: int


class Corridor(Environment[Move, Place, dict[str, int]]):
    """Cells 0 to ``length``, where it ends; to the left of 0 and staying are refused.

    ``wrong`` is what ``legal_actions`` says at the second cell instead.
    """

    isolation: ClassVar[Any] = "inline"
    invalid_action_reward: ClassVar[float | None] = None
    as_mask: ClassVar[bool] = False
    wrong: ClassVar[Any] = None

    def __init__(self, length: int = 4) -> None:
        self.length = length

    def reset(self) -> Place:
        self.place = 0
        return Place(0)

    def legal_actions(self) -> Any:
        if self.place == 1 and self.wrong is not None:
            return self.wrong
        sides = self._sides()
        if self.as_mask:
            return np.array([side in sides for side in (-1, 0, 1)])
        return [Move(side) for side in sides]

    def _sides(self) -> list[int]:
        return [1] if self.place == 0 else [-1, 1]

    def step(self, action: Move) -> StepResult[Place]:
        if action.side not in self._sides():
            raise InvalidAction(f"{action.side} leads nowhere from {self.place}")
        self.place += action.side
        over = self.place == self.length
        return StepResult(Place(self.place), float(over), over)

    def state(self) -> dict[str, int]:
        return {"place": self.place}

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        place = {"type": "integer", "minimum": 0, "maximum": 9}
        side = {"type": "integer", "minimum": -1, "maximum": 1}
        return {
            "action": {"type": "object", "properties": {"side": side}, "required": ["side"]},
            "observation": {"type": "object", "properties": {"place": place}},
        }


class MaskedCorridor(Corridor):
    """The same, with a mask."""

    as_mask = True


class FinedCorridor(Corridor):
    """The same, with a penalty for what is refused."""

    invalid_action_reward = -2.0


class SilentCorridor(Corridor):
    """The same, and it tells nothing."""

    legal_actions = None  # type: ignore[assignment]  # it has none


class Pairs(gym.Env[Any, Any]):
    """A ``MultiDiscrete`` from Gymnasium's side, whose info has a mask a component."""

    observation_space: spaces.Space[Any] = spaces.Box(0, 1, (1,), np.float32)
    action_space: spaces.Space[Any] = spaces.MultiDiscrete([2, 3])

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.taken = 0
        return np.zeros(1, np.float32), self._info()

    def _info(self) -> dict[str, Any]:
        first = np.array([self.taken % 2, 1 - self.taken % 2], np.int8)
        return {"action_mask": (first, np.array([1, 0, 1], np.int8))}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action[0] == 1 - self.taken % 2
        assert action[1] != 1
        self.taken += 1
        return np.zeros(1, np.float32), 1.0, self.taken == 3, False, self._info()


class Bits(Pairs):
    """A ``MultiBinary`` with the method that MaskablePPO asks for."""

    action_space = spaces.MultiBinary(2)

    def _info(self) -> dict[str, Any]:
        return {}

    def action_masks(self) -> list[bool]:
        return [True, True, False, True]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action[1] == 1
        self.taken += 1
        return np.zeros(1, np.float32), 1.0, self.taken == 3, False, {}


class Seen(Pairs):
    """A mask among its observations, as PettingZoo's environments have it."""

    action_space = spaces.Discrete(3)
    observation_space = spaces.Dict(
        {"observation": spaces.Box(0, 9, (1,), np.float32), "action_mask": spaces.MultiBinary(3)}
    )

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.taken = 0
        return self._seen(), {}

    def _seen(self) -> dict[str, Any]:
        mask = np.ones(3, np.int8)
        mask[self.taken % 3] = 0
        return {"observation": np.full(1, self.taken, np.float32), "action_mask": mask}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert action != self.taken % 3
        self.taken += 1
        return self._seen(), 1.0, self.taken == 4, False, {}
