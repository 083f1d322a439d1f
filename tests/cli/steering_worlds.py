"""An environment that says all it can to steer a terminal, wherever it can say something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from openenv_async import Environment, StepResult
from openenv_async.errors import InvalidAction

EVIL: Final = "\x1b]0;owned\x07\x9b31m[red]\u202e\r\x08\u2028end"

Dict = dict[str, Any]


@dataclass
class Act:
    """An action."""

    by: int = 1


class Steering(Environment[Act, Dict, Dict]):
    isolation = "inline"
    __doc__ = f"Steers {EVIL}"

    def reset(self, seed: int = 0) -> Dict:
        self.seed = seed
        print("printed", EVIL)
        return {EVIL: EVIL, "text": EVIL}

    def step(self, action: Act) -> StepResult[Dict]:
        if action.by == 13:
            raise InvalidAction(f"refused {EVIL}")
        if self.seed % 2:
            raise RuntimeError(f"raised {EVIL}\nsecond line")
        return StepResult({EVIL: EVIL}, 1.0, terminated=True, info={"said": EVIL})

    def state(self) -> Dict:
        return {"state": EVIL}


class Changing(Steering):
    """Observes something else in each process, so that a replay differs."""

    def reset(self, seed: int = 0) -> Dict:
        raise RuntimeError(f"only now {EVIL}")


class Unusable(Steering):
    """Fails in each episode."""

    def step(self, action: Act) -> StepResult[Dict]:
        raise RuntimeError(f"always {EVIL}")


class Unbuildable(Steering):
    """Cannot be built."""

    def __init__(self) -> None:
        raise RuntimeError(f"not built {EVIL}")


def policy(observation: Any) -> Any:
    raise ValueError(f"the policy says {EVIL}")
