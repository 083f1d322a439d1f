"""A player's view of a state: as numbers and in words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyspiel
from numpy.typing import NDArray
from pyspiel import State

__all__ = ["View"]


Tensor = Callable[[State, int], list[float]]


class View:
    """The view of states of one game.

    Args:
        game: the game.
        text: show words also where there is a tensor.

    Attributes:
        shape: of the tensor; [0] where the game has none.
    """

    def __init__(self, game: pyspiel.Game, text: bool) -> None:
        kind = game.get_type()
        self.shape, self._tensor = _tensor_of(game)
        if kind.provides_information_state_string:
            self._words = State.information_state_string
        elif kind.provides_observation_string:
            self._words = State.observation_string
        else:
            self._words = lambda state, player: str(state)
        self._with_text = text or self._tensor is None
        self._actions = game.num_distinct_actions()

    def tensor(self, state: State, player: int) -> NDArray[np.float32]:
        """float32 [size]."""
        if self._tensor is None:
            return np.empty(0, np.float32)
        return np.array(self._tensor(state, player), np.float32)

    def text(self, state: State, player: int) -> str:
        """The state in words, empty unless asked for."""
        return str(self._words(state, player)) if self._with_text else ""

    def mask(self, legal: list[int]) -> NDArray[np.uint8]:
        """uint8 [number of actions]."""
        mask = np.zeros(self._actions, np.uint8)
        mask[legal] = 1
        return mask


def _tensor_of(game: pyspiel.Game) -> tuple[list[int], Tensor | None]:
    """The shape of a game's tensor and what gives it; [0] and ``None`` where it has none."""
    kind = game.get_type()
    if kind.provides_information_state_tensor:
        return list(game.information_state_tensor_shape()), State.information_state_tensor
    if kind.provides_observation_tensor:
        return list(game.observation_tensor_shape()), State.observation_tensor
    return [0], None
