"""Actions, observations and state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

__all__ = ["AtariAction", "AtariObservation", "AtariState"]


@dataclass(slots=True)
class AtariAction:
    """One press of the joystick, held for ``frameskip`` frames.

    Attributes:
        action_id: a place in the action set, 0 to ``len(legal_actions) - 1``; what each means
            is in ``AtariState.action_meanings``.
    """

    action_id: Annotated[int, Meta(ge=0, le=17)]


@dataclass(slots=True)
class AtariObservation:
    """The screen after a step.

    Attributes:
        screen: uint8, 0 to 255, by ``obs_type``:

            - ``rgb``: [height, width, 3]
            - ``grayscale``: [height, width]
            - ``ram``: [128]
            - ``resized``: [84, 84] grayscale

            Height and width are the game's: 210 × 160, for 13 games up to 250 × 160. With
            ``frame_stack=n`` an axis of length n stands in front, the newest frame last.
        legal_actions: the ``action_id`` values that may be given; the same in every step.
        lives: those left, 0 in games without lives.
        episode_frame_number: emulated frames since the game began, no-op starts included.
        frame_number: upstream's name for frames since the console was switched on, which every
            new game does here: the same number.
    """

    screen: NDArray[np.uint8]
    legal_actions: list[int]
    lives: int
    episode_frame_number: int
    frame_number: int

    @property
    def screen_shape(self) -> list[int]:
        """Shape of ``screen``, under upstream's name."""
        return list(self.screen.shape)


@dataclass(slots=True)
class AtariState:
    """The game and its settings; the names are those of the ``reset`` options.

    Attributes:
        action_meanings: of every ``action_id``, such as ``UPFIRE``.
        available_modes, available_difficulties: what this game has.
        score: sum of the game's own rewards since it began, unclipped.
    """

    game_name: str
    obs_type: str
    full_action_space: bool
    mode: int
    difficulty: int
    repeat_action_probability: float
    frameskip: int
    max_pool: bool
    frame_stack: int
    noop_max: int
    terminal_on_life_loss: bool
    restart_on_life_loss: bool
    fire_reset: bool
    clip_reward: bool
    max_num_frames_per_episode: int
    action_meanings: list[str]
    available_modes: list[int]
    available_difficulties: list[int]
    score: float
