"""Statements for a certificate: the oracle knows tomorrow's prices.

The ranges are those of the bundled prices, a quarter of a year, and enough shares a day to use the
whole of the money: who knows tomorrow earns some 300,000 on a million, who holds some 20,000.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from finrl_env.environment import FinRLEnvironment
from finrl_env.models import FinRLAction
from finrl_env.policies import buy_and_hold
from openenv_async import Certification

__all__ = ["certification"]

_PARAMS: Final = {"episode_days": 60, "hmax": 1000}
_RANGE: Final = (-40.0, 80.0)
"""The returns of an episode of so many days; 1 is 10,000 of the initial million."""
_NEEDED: Final = 20.0


def certification(**params: Any) -> Certification:
    """Return the statements."""
    return Certification(
        oracle=_Foresight(params),
        oracle_return=_NEEDED,
        return_range=_RANGE,
        nothing=FinRLAction([0.0] * 20),
        constants=[FinRLAction([1.0] * 20), FinRLAction([-1.0] * 20)],
        skills={"sells": _sell, "buys_and_holds": buy_and_hold, "knows": _Foresight(params)},
        probes=(),
        params=_PARAMS,
    )


def _sell(observation: Any) -> FinRLAction:
    return FinRLAction([-1.0] * 20)


class _Foresight:
    """A policy that plays a copy of the episode, and looks at its next day."""

    def __init__(self, params: dict[str, Any]) -> None:
        self._params = params

    def for_episode(self, index: int) -> Callable[[Any, Any], FinRLAction]:
        copy = FinRLEnvironment(**{**_PARAMS, **self._params})

        def policy(observation: Any, turn: Any) -> FinRLAction:
            if turn.t == 0:
                copy.reset(seed=turn.episode.seed)
            today, tomorrow = copy.next_prices()
            change = tomorrow / today - 1.0
            wanted = np.where(change > 0.002, 1.0, np.where(change < 0.0, -1.0, 0.0))
            action = FinRLAction([float(each) for each in wanted])
            copy.step(action)
            return action

        return policy

    def __call__(self, observation: Any, turn: Any) -> FinRLAction:
        return self.for_episode(turn.index)(observation, turn)
