"""Statements for a certificate: of CartPole, the default."""

from __future__ import annotations

from typing import Any, Final

from gymnasium_env.models import GymnasiumAction
from openenv_async import Certification

__all__ = ["certification"]

_THRESHOLD: Final = 475.0
"""Gymnasium's own ``reward_threshold`` of CartPole-v1."""


def certification(id: str, **make_kwargs: Any) -> Certification | None:
    """Return the statements of an id; ``None`` where no policy is known that solves it."""
    if id.rpartition(":")[2] != "CartPole-v1":
        return None
    return Certification(
        oracle=_balance,
        oracle_return=_THRESHOLD,
        return_range=(0.0, 500.0),
        reward_range=(0.0, 1.0),
        nothing=GymnasiumAction(0),
        skills={"stays_left": _left, "follows_the_angle": _follow, "balances": _balance},
        probes=(),
        max_steps=500,
    )


def _left(observation: Any) -> GymnasiumAction:
    return GymnasiumAction(0)


def _follow(observation: Any) -> GymnasiumAction:
    return GymnasiumAction(int(observation["value"][2] > 0))


def _balance(observation: Any) -> GymnasiumAction:
    """Push to where the pole will fall, and back to the middle of the track."""
    place, speed, angle, turning = observation["value"]
    return GymnasiumAction(int(angle + 0.3 * turning + 0.01 * place + 0.03 * speed > 0))
