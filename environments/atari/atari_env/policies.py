"""Policies that play better than random ones.

``openenv-async rollout atari --policy atari_env.policies:follow_the_ball`` plays Pong as it comes
by default: ``rgb`` screens, the minimal action set.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from atari_env.models import AtariAction

__all__ = ["follow_the_ball"]

_FIELD: Final = slice(34, 194)
"""Rows between the walls."""
_BALL: Final = 236
_PADDLE_COLUMN: Final = 141
_PADDLE_RED: Final = 92
_NEAR: Final = 6
_STAY, _UP, _DOWN = AtariAction(0), AtariAction(2), AtariAction(3)


class _Player:
    """One game: where ball and paddle were is needed to see where they go."""

    def __init__(self) -> None:
        self._ball: tuple[float, float] | None = None
        self._paddle: float | None = None

    def __call__(self, observation: object) -> AtariAction:
        screen = _screen(observation)[_FIELD, :, 0]
        paddle = _middle(screen[:, _PADDLE_COLUMN] == _PADDLE_RED)
        lit = screen[:, :_PADDLE_COLUMN] == _BALL
        before, self._ball = self._ball, None
        last, self._paddle = self._paddle, paddle
        if paddle is None or not lit.any():
            return _STAY
        y, x = (float(np.mean(axis)) for axis in np.nonzero(lit))
        self._ball = (y, x)
        target = y
        if before is not None and x > before[1]:  # it comes: aim at where it will arrive
            target = _bounced(y + (y - before[0]) / (x - before[1]) * (_PADDLE_COLUMN - x))
        elif before is not None:
            target = (y + 80) / 2  # it goes: wait near the middle
        if last is not None:
            paddle += (paddle - last) / 2  # it does not stop at once
        if abs(target - paddle) < _NEAR:
            return _STAY
        return _UP if target < paddle else _DOWN


class _FollowTheBall:
    """Pong: keeps the paddle where the ball will arrive."""

    def for_episode(self, index: int) -> _Player:
        """The policy of one episode."""
        return _Player()

    def __call__(self, observation: object) -> AtariAction:
        """An action for one picture alone, without knowing where the ball goes."""
        return _Player()(observation)


follow_the_ball: Final = _FollowTheBall()


def _screen(observation: object) -> NDArray[np.uint8]:
    """The screen of an observation that is typed or, from an untyped client, a dict."""
    screen = observation["screen"] if isinstance(observation, dict) else observation.screen  # type: ignore[attr-defined]  # an AtariObservation
    return np.asarray(screen, np.uint8)


def _middle(marked: NDArray[np.bool_]) -> float | None:
    rows = np.flatnonzero(marked)
    return float(rows.mean()) if rows.size else None


def _bounced(y: float) -> float:
    """Return where a straight line to row ``y`` ends between two walls that throw it back."""
    height = _FIELD.stop - _FIELD.start
    y %= 2 * height
    return min(y, 2 * height - y)
