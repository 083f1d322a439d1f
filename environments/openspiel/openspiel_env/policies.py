"""Policies that play better than random ones.

``openenv-async rollout openspiel --policy openspiel_env.policies:catch`` plays the default game;
``…:tic_tac_toe`` that with ``--param game_name=tic_tac_toe``.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from openenv_async import Certification
from openspiel_env.models import OpenSpielAction

__all__ = ["CERTIFICATION", "catch", "late_catch", "still", "tic_tac_toe"]

_ROWS, _COLUMNS = 10, 5
_LINES: Final = (
    *((i, i + 1, i + 2) for i in (0, 3, 6)),
    *((i, i + 3, i + 6) for i in (0, 1, 2)),
    (0, 4, 8),
    (2, 4, 6),
)
_BEST_CELLS: Final = (4, 0, 2, 6, 8, 1, 3, 5, 7)


def catch(observation: Any) -> OpenSpielAction:
    """Catch, 10 × 5: moves the paddle below the ball."""
    grid = np.asarray(_field(observation, "info_state")).reshape(_ROWS, _COLUMNS)
    paddle = int(grid[-1].argmax())
    falling = np.flatnonzero(grid[:-1].any(axis=0))
    ball = int(falling[0]) if falling.size else paddle
    return OpenSpielAction(1 + (ball > paddle) - (ball < paddle))


def still(observation: Any) -> OpenSpielAction:
    """Catch: never moves."""
    return OpenSpielAction(1)


def late_catch(observation: Any) -> OpenSpielAction:
    """Catch: moves below the ball once it is in the lower half, which is late for some."""
    grid = np.asarray(_field(observation, "info_state")).reshape(_ROWS, _COLUMNS)
    row = int(grid[:-1].any(axis=1).argmax())
    return still(observation) if row < _ROWS - 2 else catch(observation)


def tic_tac_toe(observation: Any) -> OpenSpielAction:
    """Tic-tac-toe as either player: wins, else prevents a loss, else takes the best free cell."""
    empty, noughts, crosses = np.asarray(_field(observation, "info_state")).reshape(3, 9) > 0
    own, other = (
        (crosses, noughts) if _field(observation, "current_player_id") == 0 else (noughts, crosses)
    )
    for side in (own, other):
        for line in _LINES:
            free = [cell for cell in line if empty[cell]]
            if len(free) == 1 and sum(side[cell] for cell in line) == 2:
                return OpenSpielAction(free[0])
    return OpenSpielAction(next(cell for cell in _BEST_CELLS if empty[cell]))


def _field(observation: Any, name: str) -> Any:
    """A field of an observation that is typed or, from an untyped client, a dict."""
    return observation[name] if isinstance(observation, dict) else getattr(observation, name)


CERTIFICATION: Final = Certification(
    oracle=catch,
    return_range=(-1.0, 1.0),
    skills={"still": still, "late_catch": late_catch, "catch": catch},
    probes=(),
    params={"game_name": "catch", "game_params": {}, "text": False},
)
"""The statements about the game that is served by default."""
