"""Masks and mistakes in the VecEnv, as Stable-Baselines3 and sb3-contrib's MaskablePPO see them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from openenv_async.errors import InvalidAction, OperationUnsupported
from openenv_async.integrations.gymnasium import GymEnv
from openenv_async.integrations.sb3 import OpenEnvVecEnv
from openenv_async.integrations.sb3_contrib import MaskedMaskableRolloutBuffer
from openenv_async.types import Mistake
from tests.legal_games import Bits, Corridor, FinedCorridor, Pairs, SilentCorridor

STAY, RIGHT = 1, 2
"""Actions as the VecEnv counts them, from 0."""
SMALL: dict[str, Any] = {"n_steps": 32, "batch_size": 32, "n_epochs": 2, "device": "cpu"}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small networks; more threads than cores make them slower, not faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def acts(*actions: int) -> Any:
    return np.array(actions)


# -- masks ----------------------------------------------------------------------------------


def test_masks_are_found_as_sb3_contrib_asks_for_them() -> None:
    env: Any = OpenEnvVecEnv(Corridor, 3)
    try:
        assert is_masking_supported(env)
        env.reset()
        masks = get_action_masks(env)
        assert masks.shape == (3, 3)
        assert masks.tolist() == [[0, 0, 1]] * 3
        env.step(acts(RIGHT, RIGHT, RIGHT))
        assert get_action_masks(env).tolist() == [[1, 0, 1]] * 3
        assert [m.tolist() for m in env.env_method("action_masks", indices=[2])] == [[1, 0, 1]]
        assert [ask().tolist() for ask in env.get_attr("action_masks", [0])] == [[1, 0, 1]]
        assert is_masking_supported(VecNormalize(env, norm_obs=False))
    finally:
        env.close()


def test_environments_that_tell_nothing_have_none() -> None:
    env: Any = OpenEnvVecEnv(SilentCorridor, 2)
    try:
        assert not is_masking_supported(env)
        with pytest.raises(ValueError, match="does not support action masking"):
            MaskablePPO("MlpPolicy", env, **SMALL).learn(8)
        with pytest.raises(OperationUnsupported, match=r"only state\(\) and action_masks\(\) can"):
            env.env_method("render")
    finally:
        env.close()


def test_an_info_is_looked_at_where_no_schema_tells() -> None:
    """Gymnasium's environments have masks in their infos, which nothing announces."""
    env: Any = OpenEnvVecEnv("Taxi-v4", 2)
    try:
        assert is_masking_supported(env)
        env.seed(5)
        observations = env.reset().tolist()
        env.seed(5)
        assert env.reset().tolist() == observations  # to look has not changed what is played
        assert get_action_masks(env).shape == (2, 6)
    finally:
        env.close()


@pytest.mark.parametrize(("game", "width"), [(Pairs, 5), (Bits, 4)])
def test_rows_of_numbers_are_learnt_with_masks(game: Any, width: int) -> None:
    """The environments assert that what they are sent is legal."""
    env: Any = OpenEnvVecEnv(game, 2)
    try:
        model = MaskablePPO("MlpPolicy", env, seed=0, **SMALL).learn(64)
        assert get_action_masks(env).shape == (2, width)
        mean, _ = evaluate_policy(model, env, n_eval_episodes=4)
        assert mean == 3.0
    finally:
        env.close()


def test_one_environment_works_as_a_gymnasium_environment_does() -> None:
    env = DummyVecEnv([lambda: GymEnv(Pairs)])
    try:
        assert is_masking_supported(env)
        MaskablePPO("MlpPolicy", env, seed=0, **SMALL).learn(64)
        assert get_action_masks(env).shape == (1, 5)
    finally:
        env.close()


def test_masks_belong_to_the_observation_after_the_reset() -> None:
    env: Any = OpenEnvVecEnv(Corridor, 2, params={"length": 2})
    try:
        env.reset()
        env.step(acts(RIGHT, RIGHT))
        observations, _, dones, infos = env.step(acts(RIGHT, 0))
        assert dones.tolist() == [True, False]
        assert observations.tolist() == [0, 0]
        assert get_action_masks(env).tolist() == [[0, 0, 1], [0, 0, 1]]
        assert "action_mask" not in infos[0]
        assert env.reset_infos[0]["action_mask"].tolist() == [0, 0, 1]
        assert infos[1]["action_mask"].tolist() == [0, 0, 1]
    finally:
        env.close()


class Failing(Corridor):
    """Fails in every eleventh step of the process."""

    count = itertools.count(1)

    def step(self, action: Any) -> Any:
        if next(self.count) % 11 == 0:
            raise RuntimeError("broken")
        return super().step(action)


def test_failures_are_left_out_and_masks_kept() -> None:
    env: Any = OpenEnvVecEnv(Failing, 4, failures="mask")
    seen: list[Any] = []

    def look(local: dict[str, Any], _: Any) -> bool:
        seen.extend(info["masked"] for info in local["infos"] if "masked" in info)
        return True

    try:
        with pytest.raises(OperationUnsupported, match="class=MaskedMaskableRolloutBuffer of"):
            MaskablePPO("MlpPolicy", env, **SMALL)
        buffer = MaskedMaskableRolloutBuffer
        model = MaskablePPO("MlpPolicy", env, rollout_buffer_class=buffer, seed=0, **SMALL)
        model.learn(512, callback=look)
        assert len(seen) > 20
        assert env.mistakes == 0
        kept = list(model.rollout_buffer.get(32))
        steps = sum(len(batch.actions) for batch in kept)
        assert 0 < steps < 128  # of four rows of 32
        for batch in kept:
            assert bool(torch.isfinite(batch.advantages).all())
            taken = batch.action_masks.gather(1, batch.actions.long())
            assert bool((taken == 1).all())
        assert all(bool(torch.isfinite(each).all()) for each in model.policy.parameters())
    finally:
        env.close()


# -- mistakes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("game", "options", "reward"),
    [
        (FinedCorridor, {}, -2.0),
        (Corridor, {}, 0.0),
        (Corridor, {"missing_reward": -0.5}, -0.5),
        (SilentCorridor, {"on_mistake": "end"}, 0.0),
    ],
)
def test_a_refused_action_ends_its_episode_and_no_other(
    game: Any, options: dict[str, Any], reward: float
) -> None:
    env: Any = OpenEnvVecEnv(game, 3, **options)
    try:
        env.reset()
        env.step(acts(RIGHT, RIGHT, RIGHT))
        observations, rewards, dones, infos = env.step(acts(RIGHT, STAY, RIGHT))
        assert observations.tolist() == [2, 0, 2]
        assert rewards.tolist() == [0.0, reward, 0.0]
        assert dones.tolist() == [False, True, False]
        assert infos[1]["TimeLimit.truncated"] is True
        assert infos[1]["terminal_observation"] == 1
        assert infos[1]["episode"]["r"] == reward
        assert infos[1]["episode"]["l"] == 2
        assert infos[1]["episode"]["mistakes"] == 1
        mistake = infos[1]["mistake"]
        assert isinstance(mistake, Mistake)
        assert mistake.kind == "refused_action"
        assert "0 leads nowhere from 1" in mistake.message
        assert mistake.reward == (-2.0 if game is FinedCorridor else None)
        assert env.mistakes == 1
        if game is not SilentCorridor:
            assert get_action_masks(env).tolist() == [[1, 0, 1], [0, 0, 1], [1, 0, 1]]
        for _ in range(2):  # each goes on where it is
            observations, rewards, dones, infos = env.step(acts(RIGHT, RIGHT, RIGHT))
        assert observations.tolist() == [0, 2, 0]
        assert rewards.tolist() == [1.0, 0.0, 1.0]
        assert "mistakes" not in infos[0]["episode"]
        for _ in range(2):
            _, _, dones, infos = env.step(acts(RIGHT, RIGHT, RIGHT))
        assert dones[1]
        assert "mistakes" not in infos[1]["episode"]  # those of the one before are its own
    finally:
        env.close()


def test_a_penalty_lets_the_episode_go_on_until_there_are_too_many() -> None:
    env: Any = OpenEnvVecEnv(FinedCorridor, 2, on_mistake="penalty", max_mistakes=3)
    try:
        env.reset()
        env.step(acts(RIGHT, RIGHT))
        for _ in range(2):
            observations, rewards, dones, infos = env.step(acts(STAY, RIGHT))
            assert observations[0] == 1
            assert rewards[0] == -2.0
            assert not dones[0]
            assert infos[0]["mistake"].message
            assert infos[0]["action_mask"].tolist() == [1, 0, 1]
            assert get_action_masks(env)[0].tolist() == [1, 0, 1]
        env.step(acts(RIGHT, RIGHT))  # one that is taken: the count in a row begins again
        for number in range(3):
            observations, rewards, dones, infos = env.step(acts(STAY, RIGHT))
            assert dones[0] == (number == 2)
        assert infos[0]["TimeLimit.truncated"] is True
        assert infos[0]["terminal_observation"] == 2
        assert infos[0]["episode"]["r"] == -10.0
        assert infos[0]["episode"]["mistakes"] == 5
        assert env.mistakes == 5
        assert observations[0] == 0
    finally:
        env.close()


@pytest.mark.parametrize(
    ("game", "options"), [(SilentCorridor, {}), (FinedCorridor, {"on_mistake": "raise"})]
)
def test_it_is_raised_where_nothing_says_what_it_means(game: Any, options: Any) -> None:
    env: Any = OpenEnvVecEnv(game, 2, **options)
    try:
        env.reset()
        with pytest.raises(InvalidAction, match="leads nowhere") as caught:
            env.step(acts(RIGHT, STAY))
        assert "in environment 1 of 2" in caught.value.__notes__
        assert env.mistakes == 0
    finally:
        env.close()


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="on_mistake must be one of end, penalty, raise"):
        OpenEnvVecEnv(Corridor, 1, on_mistake="tell")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match="max_mistakes"):
        OpenEnvVecEnv(Corridor, 1, max_mistakes=0)


@pytest.mark.parametrize("on_mistake", [None, "penalty"])
def test_an_algorithm_without_masks_comes_to_its_end(on_mistake: Any) -> None:
    env: Any = OpenEnvVecEnv(FinedCorridor, 4, on_mistake=on_mistake)
    told: list[int] = []

    def count(local: dict[str, Any], _: Any) -> bool:
        told.append(sum("mistake" in info for info in local["infos"]))
        return True

    try:
        model = PPO("MlpPolicy", env, seed=0, **SMALL)
        model.learn(512, callback=count)
        assert model.num_timesteps >= 512
        assert env.mistakes == sum(told) > 20
    finally:
        env.close()


def test_an_algorithm_with_masks_makes_none() -> None:
    env: Any = OpenEnvVecEnv(FinedCorridor, 4)
    try:
        model = MaskablePPO("MlpPolicy", env, seed=0, **SMALL).learn(512)
        assert env.mistakes == 0
        mean, _ = evaluate_policy(model, env, n_eval_episodes=4)
        assert mean == 1.0
    finally:
        env.close()
