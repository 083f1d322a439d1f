"""A policy that trades better than a random one.

``openenv-async rollout finrl --policy finrl_env.policies:buy_and_hold``
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from finrl_env.indicators import INDICATORS
from finrl_env.models import FinRLAction

__all__ = ["buy_and_hold"]

_ROWS: Final = 2 + len(INDICATORS)
_PART: Final = 0.2


def buy_and_hold(observation: Any) -> FinRLAction:
    """Buy a fifth of ``hmax`` (20) of every stock a day while there is cash, and never sell."""
    state = observation["state"] if isinstance(observation, dict) else observation.state
    values = np.asarray(state, np.float64)
    prices = values[1:].reshape(_ROWS, -1)[0]
    wanted = _PART if values[0] > 20 * prices.sum() else 0.0
    return FinRLAction([wanted] * len(prices))
