"""Statements of an environment for its certificate."""

from __future__ import annotations

import math
from typing import Any

import pytest

from openenv_async.certification import UNSTATED, Certification
from openenv_async.environment import Environment
from openenv_async.errors import InvalidModel
from openenv_async.hosts.preset import preset

Dict = dict[str, Any]


class Plain(Environment[Dict, Dict, Dict]):
    def __init__(self, size: int = 1) -> None:
        self.size = size

    def reset(self) -> Dict:
        return {}

    def step(self, action: Dict) -> Dict:
        return action


def test_nothing_is_stated_by_default() -> None:
    stated = Certification()
    for name in ("oracle", "rewards", "oracle_needs", "probes", "secrets"):
        assert getattr(stated, name) is None
    assert stated.nothing is UNSTATED
    assert Plain.certification_for() is None


def test_an_environment_states_it_as_an_attribute_or_by_its_arguments() -> None:
    class Stated(Plain):
        certification = Certification(return_range=(0, 1))

    class Computed(Plain):
        @classmethod
        def certification_for(cls, size: int = 1, **params: Any) -> Certification:
            return Certification(return_range=(0, size))

    assert Stated.certification_for(size=3) is Stated.certification
    assert Computed.certification_for(size=3) == Certification(return_range=(0, 3))
    fixed: Any = preset(Computed, size=5)
    assert fixed.certification_for() == Certification(return_range=(0, 5))


def test_a_method_of_that_name_is_the_authors_own() -> None:
    class Own(Plain):
        def certification(self) -> str:  # type: ignore[override] # an author may
            return "mine"

    assert Own.certification_for() is None


@pytest.mark.parametrize(
    ("stated", "needs"),
    [
        (Certification(return_range=(0, 1)), 0.98),
        (Certification(return_range=(-1, 1)), 0.96),
        (Certification(return_range=(0, 500), oracle_return=475), 475),
        (Certification(oracle_return=-0.06), -0.06),
    ],
)
def test_the_return_that_an_oracle_needs(stated: Certification, needs: float) -> None:
    assert stated.oracle_needs == pytest.approx(needs)


def test_the_range_of_rewards_is_that_of_returns_unless_it_is_stated() -> None:
    assert Certification(return_range=(0, 9)).rewards == (0, 9)
    assert Certification(return_range=(0, 9), reward_range=(0, 1)).rewards == (0, 1)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"return_range": (1, 0)}, "return_range must be two finite numbers"),
        ({"return_range": (0, math.inf)}, "return_range must be two finite numbers"),
        ({"reward_range": 3}, "reward_range must be two finite numbers"),
        ({"oracle": "me:oracle"}, "oracle must be a callable, got 'me:oracle'"),
        ({"cheats": [print]}, "cheats is a dict by name"),
        ({"skills": {"weak": 3}}, "the policy 'weak' must be a callable, got 3"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
    ],
)
def test_statements_that_make_no_sense_are_refused(wrong: Dict, told: str) -> None:
    with pytest.raises(InvalidModel, match="Certification: ") as caught:
        Certification(**wrong)
    assert told in caught.value.message
