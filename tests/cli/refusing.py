"""Environments that take fewer actions than their schema says."""

from __future__ import annotations

from typing import Any

from openenv_async import Environment, StepResult
from openenv_async.errors import InvalidAction

Dict = dict[str, Any]


class Refusing(Environment[bool, Dict, Dict]):
    """An environment that takes one of two actions."""

    isolation = "inline"

    def reset(self, seed: int = 0) -> Dict:
        return {}

    def step(self, action: bool) -> StepResult[Dict]:
        if action:
            raise InvalidAction("this move is not allowed here: choose another")
        return StepResult({}, 1.0, terminated=True)


class RefusingAll(Refusing):
    """An environment that takes no action."""

    def step(self, action: bool) -> StepResult[Dict]:
        raise InvalidAction("no move is allowed here")
