"""Environments of ``vector.py`` that are served inline."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openenv_async import Environment, StepResult

SEEN: Final = np.zeros(4, np.float32)


class Nothing(Environment[int, NDArray[np.float32], dict[str, Any]]):
    """An environment that does nothing, with the spaces of CartPole."""

    isolation = "inline"

    def reset(self) -> NDArray[np.float32]:
        return SEEN

    def step(self, action: int) -> StepResult[NDArray[np.float32]]:
        return StepResult(SEEN, 1.0)

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        """The schemas of its spaces."""
        array = {"dtype": "<f4", "shape": [4], "low": None, "high": None}
        return {
            "action": {"type": "integer", "minimum": 0, "maximum": 1},
            "observation": {"type": "array", "x-ndarray": array},
        }
