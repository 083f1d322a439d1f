"""The policies that the certificate of catch is made with."""

from __future__ import annotations

from openspiel_env.environment import OpenSpielEnvironment
from openspiel_env.policies import CERTIFICATION


def test_more_skill_is_paid_more() -> None:
    env = OpenSpielEnvironment(game_name="catch")
    means = []
    for policy in CERTIFICATION.skills.values():
        total = 0.0
        for seed in range(40):
            result = env.reset(seed=seed)
            while not result.done:
                result = env.step(policy(result.observation))
                total += result.reward or 0.0
        means.append(total / 40)
    still, late, caught = means
    assert still + 0.1 < late < caught - 0.1
    assert caught == 1.0


def test_what_is_stated_is_stated_of_catch_alone() -> None:
    assert OpenSpielEnvironment.certification_for() is CERTIFICATION
    assert OpenSpielEnvironment.certification_for(game_name="chess") is None
