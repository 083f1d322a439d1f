"""Statements for a certificate: of the first points of Pong, the default."""

from __future__ import annotations

from typing import Any, Final

from atari_env.models import AtariAction
from atari_env.policies import follow_the_ball
from openenv_async import Certification

__all__ = ["certification"]

_STEPS: Final = 300
_RANGE: Final = (-10.0, 10.0)
_NEEDED: Final = 1.0


def certification(game_name: str | None = None, **settings: Any) -> Certification | None:
    """Return the statements of a game; ``None`` where no policy is known that plays it."""
    if game_name not in (None, "pong") or settings.get("obs_type") not in (None, "rgb"):
        return None
    return Certification(
        oracle=follow_the_ball,
        oracle_return=_NEEDED,
        return_range=_RANGE,
        reward_range=(-1.0, 1.0),
        nothing=AtariAction(0),
        skills={"stays": lambda observation: AtariAction(0), "follows_the_ball": follow_the_ball},
        probes=(),
        max_steps=_STEPS,
    )
