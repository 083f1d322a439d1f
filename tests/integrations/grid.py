"""A Gymnasium environment as its author wrote it: it knows nothing of any server."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

MOVES = np.array([[0, 1], [0, -1], [1, 0], [-1, 0]])


class Grid(gym.Env[dict[str, Any], np.int64]):
    """Walk to the corner of a square."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array", "ansi"], "render_fps": 10}  # noqa: RUF012  # as in the base class

    def __init__(self, render_mode: str | None = None, size: int = 4) -> None:
        self.render_mode = render_mode
        self.size = size
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
                "at": spaces.Box(0, size - 1, (2,), np.int64),
            }
        )
        self.action_space = spaces.Discrete(4, start=1)

    def _image(self) -> Any:
        image = np.zeros((36, 36, 3), np.uint8)
        x, y = self.at * (36 // self.size)
        image[x : x + 9, y : y + 9] = 255
        return image

    def _seen(self) -> dict[str, Any]:
        return {"image": self._image(), "at": self.at.copy()}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.at = self.np_random.integers(0, self.size - 1, 2)
        self.moves = 0
        return self._seen(), {"away": self.size - 1 - self.at}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.at = np.clip(self.at + MOVES[int(action) - 1], 0, self.size - 1)
        self.moves += 1
        there = bool((self.at == self.size - 1).all())
        info = {"away": self.size - 1 - self.at}
        return self._seen(), float(there), there, self.moves >= 40, info

    def render(self) -> Any:
        if self.render_mode == "ansi":
            return f"at {self.at.tolist()}"
        return self._image().repeat(2, 0).repeat(2, 1)
