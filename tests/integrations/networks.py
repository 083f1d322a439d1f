"""An environment whose elements are graphs and alternatives: what no array of rows can hold."""

from __future__ import annotations

from typing import Any, Final

import gymnasium
import numpy as np
from gymnasium import spaces

__all__ = ["Network"]


def _graph() -> spaces.Space[Any]:
    return spaces.Graph(spaces.Box(-1, 1, (3,), np.float32), spaces.Discrete(4))


def _one_of() -> spaces.Space[Any]:
    return spaces.OneOf(
        (spaces.Discrete(3), spaces.Box(-1, 1, (2,), np.float32), spaces.MultiBinary(2))
    )


def _both() -> spaces.Space[Any]:
    return spaces.Dict({"graph": _graph(), "one_of": _one_of()})


_SPACES: Final = {
    "graph": (_graph, _one_of),
    "one_of": (_one_of, _graph),
    "dict": (_both, _both),
}


class Network(gymnasium.Env[Any, Any]):
    """Three or so steps with random elements, which tells what it was given.

    Args:
        sees: ``graph``: observations are graphs and actions alternatives; ``one_of``: the other
            way round; ``dict``: both in a dict.
        render_mode: ``rgb_array`` or ``ansi``.
    """

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 5}  # noqa: RUF012  # as theirs

    def __init__(self, sees: str = "graph", render_mode: str | None = None) -> None:
        self.observation_space, self.action_space = (make() for make in _SPACES[sees])
        self.render_mode = render_mode
        self.taken = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.taken = 0
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.taken += 1
        told = type(action).__name__
        return self._seen(), float(self.taken), self.np_random.random() < 0.3, False, {"told": told}

    def render(self) -> Any:
        if self.render_mode == "ansi":
            return f"step {self.taken}"
        return np.full((4, 6, 3), self.taken, np.uint8)

    def _seen(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(1 << 30)))
        return self.observation_space.sample()
