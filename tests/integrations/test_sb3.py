"""The VecEnv: what Stable-Baselines3's own gives, over the wire; and a buffer without failures."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium_env.environment import InlineGymnasiumEnvironment
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from openenv_async.errors import EnvironmentRaised, OperationUnsupported
from openenv_async.integrations.sb3 import (
    MaskedDictRolloutBuffer,
    MaskedRolloutBuffer,
    OpenEnvVecEnv,
)
from tests.integrations.serving import served


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small networks; more threads than cores make them slower, not faster."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cartpole() -> Iterator[str]:
    with served(InlineGymnasiumEnvironment, params={"id": "CartPole-v1"}) as url:
        yield url


class Breaking(InlineGymnasiumEnvironment):
    """Breaks at every seventh step of the process, once ``ready``."""

    count = itertools.count(1)

    def step(self, action: Any) -> Any:
        if next(self.count) % 7 == 0:
            raise RuntimeError("broken")
        return super().step(action)


def test_attributes_and_methods(cartpole: str) -> None:
    env = OpenEnvVecEnv(cartpole, 2)
    env.reset()
    env.step(np.array([0, 1]))
    assert [state["elapsed_steps"] for state in env.env_method("state")] == [1, 1]
    assert env.get_attr("elapsed_steps", 1) == [1]
    assert env.env_method("get_wrapper_attr", "id", indices=[0]) == ["CartPole-v1"]
    env.set_attr("level", 3, indices=[1])
    assert env.get_attr("level", [1]) == [3]
    assert env.has_attr("render_mode")
    assert not env.has_attr("level")
    with pytest.raises(OperationUnsupported, match="only state"):
        env.env_method("render")
    assert env.get_images() == [None, None]
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor`"):
        VecMonitor(env)
    env.close()


def test_ppo_learns_from_it_and_it_is_evaluated(cartpole: str) -> None:
    env = OpenEnvVecEnv(cartpole, 8)
    model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=1, seed=0, device="cpu")
    model.learn(512)
    assert model.ep_info_buffer
    assert all(info["l"] == info["r"] for info in model.ep_info_buffer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it counts as monitored
        mean, _ = evaluate_policy(model, env, n_eval_episodes=3)
    assert isinstance(mean, float)
    env.close()


def test_a_failure_is_raised_unless_masked() -> None:
    with served(Breaking, params={"id": "CartPole-v1"}) as url:
        env = OpenEnvVecEnv(url, 2)
        env.reset()
        with pytest.raises(EnvironmentRaised, match="broken"):  # noqa: PT012  # some step breaks
            for _ in range(8):
                env.step(np.array([0, 1]))
        env.close()
        env = OpenEnvVecEnv(url, 2, failures="mask")
        env.reset()
        masked = 0
        observations: Any
        for _ in range(40):
            observations, rewards, dones, infos = env.step(np.array([0, 1]))
            for i in range(2):
                if infos[i].get("masked"):
                    masked += 1
                    assert math.isnan(rewards[i])
                    assert dones[i]
                    assert "episode" not in infos[i]
                    assert infos[i]["TimeLimit.truncated"]
                    assert isinstance(infos[i]["error"], EnvironmentRaised)
                else:
                    assert rewards[i] == 1.0
                assert env.observation_space.contains(observations[i])
        assert masked >= 5
        env.close()


@pytest.mark.parametrize("cls", [MaskedRolloutBuffer, MaskedDictRolloutBuffer])
def test_the_buffer_leaves_failures_out(cls: Any) -> None:
    """Every advantage but that of the failed step is as if the episode had been cut there."""
    box = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    space = gymnasium.spaces.Dict({"a": box}) if cls is MaskedDictRolloutBuffer else box
    values = [0.5, 0.2, 0.7, 0.1, 0.4, 0.9]

    def fill(buffer: Any, rewards: list[float], starts: list[float], values: list[float]) -> Any:
        for reward, start, value in zip(rewards, starts, values, strict=True):
            observation: Any = np.full((1, 2), value, np.float32)
            if cls is MaskedDictRolloutBuffer and isinstance(space, gymnasium.spaces.Dict):
                observation = {"a": observation}
            buffer.add(
                observation if buffer.observation_space is space else np.zeros((1, 2)),
                np.array([[1]]),
                np.array([reward]),
                np.array([start]),
                torch.tensor([value]),
                torch.tensor([0.0]),
            )
        buffer.compute_returns_and_advantage(torch.tensor([0.3]), np.array([0.0]))
        return buffer

    action = gymnasium.spaces.Discrete(2)
    buffer = fill(
        cls(6, space, action, device="cpu"),
        [1.0, 1.0, math.nan, 1.0, 1.0, 1.0],
        [1, 0, 0, 1, 0, 0],
        values,
    )
    whole = RolloutBuffer(6, box, action, device="cpu")
    cut = fill(whole, [1.0, 1.0, 0.7, 1.0, 1.0, 1.0], [1, 0, 0, 1, 0, 0], values)
    np.testing.assert_array_equal(buffer.advantages, cut.advantages)
    assert buffer.advantages[2] == 0.0
    assert np.isnan(buffer.rewards[2])
    samples = list(buffer.get(1))
    assert len(samples) == 5
    seen = sorted(float(sample.old_values[0]) for sample in samples)
    assert seen == pytest.approx(sorted(values[:2] + values[3:]))


def test_ppo_learns_beside_failures() -> None:
    with served(Breaking, params={"id": "CartPole-v1"}) as url:
        env = OpenEnvVecEnv(url, 4, failures="mask")
        model = PPO(
            "MlpPolicy",
            env,
            n_steps=32,
            batch_size=32,
            n_epochs=1,
            seed=0,
            device="cpu",
            rollout_buffer_class=MaskedRolloutBuffer,
        )
        model.learn(256)
        buffer = model.rollout_buffer
        assert isinstance(buffer, MaskedRolloutBuffer)
        assert buffer.masked.any()
        for parameter in model.policy.parameters():
            assert bool(parameter.isfinite().all())
        env.close()
