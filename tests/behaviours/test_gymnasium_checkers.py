"""Gymnasium and Stable-Baselines3: their checkers pass, and the wire changes nothing."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import stable_baselines3.common.env_checker as sb3_checker
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium_env.environment import InlineGymnasiumEnvironment
from stable_baselines3.common.env_util import make_vec_env

from openenv_async.integrations.gymnasium import GymEnv, GymVectorEnv
from openenv_async.integrations.sb3 import OpenEnvVecEnv
from tests.integrations.serving import served

MODES = pytest.mark.parametrize("mode", list(AutoresetMode))


@pytest.fixture(scope="module")
def cartpole() -> Iterator[str]:
    with served(InlineGymnasiumEnvironment, params={"id": "CartPole-v1"}) as url:
        yield url


@pytest.mark.parametrize(
    "id", ["CartPole-v1", "Pendulum-v1", "Blackjack-v1", "FrozenLake-v1", "Acrobot-v1"]
)
def test_gymnasiums_checker_passes(id: str) -> None:
    with served(InlineGymnasiumEnvironment, params={"id": id}) as url, GymEnv(url) as env:
        local = gymnasium.make(id)
        assert env.action_space == local.action_space
        assert env.observation_space == local.observation_space
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about bounds of the space, as locally
            check_env(env, skip_render_check=True)
        local.close()


def test_stable_baselines_checker_passes(cartpole: str) -> None:
    with GymEnv(cartpole) as env, warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_checker.check_env(env, skip_render_check=True)


@MODES
def test_cartpole_is_the_local_one_for_a_thousand_steps(cartpole: str, mode: AutoresetMode) -> None:
    """Observations, rewards, ends and infos of five seeds, whichever the mode."""
    count, seed = 5, 0
    there = GymVectorEnv(cartpole, count, autoreset_mode=mode)
    here: SyncVectorEnv = SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1")] * count, autoreset_mode=mode
    )
    assert there.metadata["autoreset_mode"] is mode
    assert there.observation_space == here.observation_space
    assert there.action_space == here.action_space
    here.action_space.seed(seed)
    equal(there.reset(seed=seed), here.reset(seed=seed))
    for _ in range(1000):
        actions = here.action_space.sample()
        left, right = there.step(actions), here.step(actions)
        equal(left, right)
        ended = left[2] | left[3]
        if mode is AutoresetMode.DISABLED and ended.any():
            equal(
                there.reset(options={"reset_mask": ended}),
                here.reset(options={"reset_mask": ended}),
            )
    there.close()
    here.close()


def test_steps_are_those_of_its_own_vec_env(cartpole: str) -> None:
    """Shows 4: with ends of both kinds, terminal observations and seeds."""
    there = OpenEnvVecEnv.from_url(cartpole, 3)
    here = make_vec_env("CartPole-v1", 3)
    there.seed(11)
    here.seed(11)
    np.testing.assert_array_equal(there.reset(), here.reset())
    rng = np.random.default_rng(0)
    ended = truncated = 0
    balance: Any = np.zeros((3, 4))
    for t in range(1200):
        # Balances in environment 0, so that it is truncated; the others fall over.
        actions = rng.integers(0, 2, 3)
        actions[0] = int(balance[0, 2] + balance[0, 3] > 0)
        (balance, *left, infos), (o2, *right, infos2) = there.step(actions), here.step(actions)
        np.testing.assert_array_equal(balance, o2)
        for a, b in zip(left, right, strict=True):
            np.testing.assert_array_equal(a, b)
        for i in range(3):
            assert infos[i].keys() == infos2[i].keys(), t
            assert infos[i]["TimeLimit.truncated"] == infos2[i]["TimeLimit.truncated"]
            if left[1][i]:
                ended += 1
                truncated += infos[i]["TimeLimit.truncated"]
                for key in ("r", "l"):
                    assert infos[i]["episode"][key] == infos2[i]["episode"][key]
                np.testing.assert_array_equal(
                    infos[i]["terminal_observation"], infos2[i]["terminal_observation"]
                )
    assert ended > 20
    assert truncated >= 1
    there.close()
    here.close()


def equal(left: Any, right: Any) -> None:
    """Equal in type, dtype and value, all the way down."""
    assert type(left) is type(right), (left, right)
    if isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            equal(left[key], right[key])
    elif isinstance(left, tuple | list):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            equal(a, b)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        if left.dtype == object:
            for a, b in zip(left, right, strict=True):
                equal(a, b)
        else:
            np.testing.assert_array_equal(left, right)
    else:
        assert left == right
