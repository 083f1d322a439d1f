"""Actions, observations and state. The value's own form is the space's; see ``spaces``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["GymnasiumAction", "GymnasiumObservation", "GymnasiumState"]


@dataclass
class GymnasiumAction:
    """An element of the action space.

    Attributes:
        value: such as ``1`` (Discrete) or a ``float32`` array of the space's shape (Box).
    """

    value: Any


@dataclass
class GymnasiumObservation:
    """An element of the observation space.

    Attributes:
        value: arrays as arrays of the space's dtype and shape, tuples as lists.
    """

    value: Any


@dataclass
class GymnasiumState:
    """Progress of an episode.

    Attributes:
        id: the registered id.
        elapsed_steps: steps since the reset.
        max_episode_steps: Gymnasium's time limit, if it has one.
        frame: what ``render()`` gives where the session has a ``render_mode``; else ``None``.
    """

    id: str
    elapsed_steps: int
    max_episode_steps: int | None
    frame: Any = None
