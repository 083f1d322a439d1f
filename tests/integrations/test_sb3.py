"""The VecEnv: what Stable-Baselines3's own gives, over the wire; and a buffer without failures."""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium_env.environment import GymnasiumEnvironment, InlineGymnasiumEnvironment
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from openenv_async.engine import EngineOptions
from openenv_async.errors import (
    EnvironmentFailure,
    EnvironmentRaised,
    InvalidObservation,
    OperationUnsupported,
)
from openenv_async.integrations.sb3 import (
    MaskedDictReplayBuffer,
    MaskedDictRolloutBuffer,
    MaskedReplayBuffer,
    MaskedRolloutBuffer,
    MaskedVecNormalize,
    OpenEnvVecEnv,
)
from tests.integrations.serving import served
from tests.rollouts.environments import Unrewarded


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


class InProcesses(GymnasiumEnvironment):
    isolation = "process"


class Record(BaseCallback):
    """Rewards and ends of every step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[list[float], list[bool]]] = []

    def _on_step(self) -> bool:
        self.steps.append((self.locals["rewards"].tolist(), self.locals["dones"].tolist()))
        return True


def trained(env: VecEnv) -> tuple[list[Any], list[Any]]:
    """Every step of a training, and the weights that were learnt."""
    with contextlib.closing(env):
        model = PPO("MlpPolicy", env, n_steps=32, batch_size=64, n_epochs=1, seed=0, device="cpu")
        record = Record()
        model.learn(512, callback=record)
    return record.steps, [tensor.tolist() for tensor in model.policy.state_dict().values()]


@pytest.mark.parametrize("cls", [InlineGymnasiumEnvironment, GymnasiumEnvironment, InProcesses])
def test_a_training_is_the_same_as_on_local_environments(cls: Any) -> None:
    local = trained(DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * 8))
    assert sum(sum(dones) for _, dones in local[0]) > 8
    workers = 2 if cls is InProcesses else None
    options = EngineOptions(workers=workers)
    with served(cls, params={"id": "CartPole-v1"}, options=options) as url:
        assert trained(OpenEnvVecEnv(url, 8)) == local


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


# -- spaces that do not begin at 0 --------------------------------------------------------------


class Shifted(gymnasium.Env[Any, Any]):
    """Only the action that the observation names is rewarded; nothing begins at 0."""

    isolation: ClassVar[str] = "inline"

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Dict(
            {
                "wanted": gymnasium.spaces.Discrete(4, start=1),
                "pair": gymnasium.spaces.MultiDiscrete([2, 3], start=np.array([5, -1])),
            }
        )
        self.action_space = gymnasium.spaces.Discrete(4, start=1)

    def _seen(self) -> dict[str, Any]:
        self.wanted = int(self.np_random.integers(1, 5))
        return {"wanted": self.wanted, "pair": np.array([6, -1])}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = 8
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        reward = float(action == self.wanted)
        self.left -= 1
        return self._seen(), reward, False, self.left == 0, {"took": np.array([action])}


def test_spaces_appear_to_begin_at_zero() -> None:
    env = OpenEnvVecEnv(Shifted, 2)
    assert env.action_space == gymnasium.spaces.Discrete(4)
    assert env.observation_space == gymnasium.spaces.Dict(
        {
            "wanted": gymnasium.spaces.Discrete(4),
            "pair": gymnasium.spaces.MultiDiscrete([2, 3]),
        }
    )
    assert env.vector.single_action_space == gymnasium.spaces.Discrete(4, start=1)
    seen: Any = env.reset()
    for _ in range(8):
        assert env.observation_space.contains({key: part[0] for key, part in seen.items()})
        assert seen["pair"].tolist() == [[1, 0], [1, 0]]
        wanted = seen["wanted"].copy()
        seen, rewards, dones, infos = env.step(wanted)
        assert rewards.tolist() == [1.0, 1.0]
        assert [int(info["took"][0]) for info in infos] == (wanted + 1).tolist()
    assert dones.all()
    for info in infos:
        assert env.observation_space.contains(info["terminal_observation"])
    env.close()


def test_it_trains_where_actions_do_not_begin_at_zero() -> None:
    env = OpenEnvVecEnv(Shifted, 8)
    model = PPO(
        "MultiInputPolicy", env, n_steps=64, batch_size=128, n_epochs=8, seed=0, device="cpu",
        learning_rate=3e-3, gamma=0.0, gae_lambda=0.0,
    )  # fmt: skip
    model.learn(8192)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=16)
    assert isinstance(mean, float)
    assert mean > 5.0  # of 8; by chance it is 2
    env.close()


# -- rewards that are not numbers ---------------------------------------------------------------


class Failing(Shifted):
    """Fails at each step; or at some; or gives rewards that are not finite."""

    steps: ClassVar[Iterator[int]]
    reward: ClassVar[float | None] = None

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        if next(self.steps) % 5 == 0:
            if self.reward is None:
                raise RuntimeError("broken")
            reward = self.reward
        return observation, reward, terminated, truncated, info


def failing(reward: float | None = None, *, always: bool = False) -> type[Failing]:
    steps = itertools.repeat(0) if always else itertools.count(1)
    return type("Failing", (Failing,), {"steps": steps, "reward": reward})


@pytest.mark.parametrize(
    "make",
    [lambda env: VecNormalize(chain(env)), lambda env: VecNormalize(OnlyWanted(env)), VecMonitor],
)
def test_a_wrapper_that_would_count_failures_is_refused(make: Any) -> None:
    env = OpenEnvVecEnv(failing(), 2, failures="mask")
    with pytest.raises(OperationUnsupported, match=r"Vec(Normalize|Monitor) would count rewards"):
        make(env)
    env.close()
    env = OpenEnvVecEnv(failing(), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make(env)
    env.close()


def chain(env: Any) -> Any:
    return VecFrameStack(OnlyWanted(env), 2)


class OnlyWanted(VecEnvWrapper):
    """A wrapper of a user's own."""

    def __init__(self, venv: Any) -> None:
        super().__init__(venv, observation_space=gymnasium.spaces.Box(0, 4, (1,)))

    def reset(self) -> Any:
        seen: Any = self.venv.reset()
        return seen["wanted"][:, None].astype(np.float32)

    def step_wait(self) -> Any:
        result: Any = self.venv.step_wait()
        seen, *rest = result
        for info in rest[2]:
            if "terminal_observation" in info:
                last = info["terminal_observation"]["wanted"]
                info["terminal_observation"] = np.array([last], np.float32)
        return seen["wanted"][:, None].astype(np.float32), *rest


@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (lambda env: PPO("MultiInputPolicy", env, device="cpu"), "MaskedDictRolloutBuffer"),
        (lambda env: A2C("MultiInputPolicy", env, device="cpu"), "MaskedDictRolloutBuffer"),
        (lambda env: DQN("MultiInputPolicy", env, device="cpu"), "MaskedDictReplayBuffer"),
        (lambda env: DQN("MlpPolicy", OnlyWanted(env), device="cpu"), "MaskedReplayBuffer"),
        (
            lambda env: PPO(
                "MultiInputPolicy", env, rollout_buffer_class=DictRolloutBuffer, device="cpu"
            ),
            "MaskedDictRolloutBuffer",
        ),
    ],
)
def test_an_algorithm_that_would_learn_from_failures_is_refused(make: Any, remedy: str) -> None:
    env = OpenEnvVecEnv(failing(), 2, failures="mask")
    with pytest.raises(OperationUnsupported, match=f"_buffer_class=.*{remedy}"):
        make(env).learn(2)
    env.close()


@pytest.mark.parametrize("reward", [None, math.nan, math.inf, -math.inf])
def test_off_policy_learns_beside_failures(reward: float | None) -> None:
    env = OpenEnvVecEnv(failing(reward), 4, failures="mask")
    model = DQN(
        "MultiInputPolicy",
        env,
        buffer_size=500,
        learning_starts=20,
        train_freq=4,
        seed=0,
        device="cpu",
        replay_buffer_class=MaskedDictReplayBuffer,
    )
    model.learn(400)
    buffer = model.replay_buffer
    assert isinstance(buffer, MaskedDictReplayBuffer)
    assert 100 < buffer.size() < 400
    assert set(np.unique(buffer.rewards[: buffer.size()])) == {0.0, 1.0}
    for parameter in model.policy.parameters():
        assert bool(parameter.isfinite().all())
    env.close()


def test_the_replay_buffer_holds_the_steps_that_were() -> None:
    box, actions = gymnasium.spaces.Box(-9, 9, (1,), np.float32), gymnasium.spaces.Discrete(9)
    buffer = MaskedReplayBuffer(8, box, actions, device="cpu", n_envs=2)
    for t in range(3):
        seen = np.array([[t], [t + 10]], np.float32)
        rewards = np.array([t, math.nan if t == 1 else 10 + t])
        buffer.add(seen, seen + 1, np.array([t, t]), rewards, np.zeros(2), [{}, {}])
    assert buffer.rewards[: buffer.size(), 0].tolist() == [0, 10, 1, 2, 12]
    assert buffer.observations[: buffer.size(), 0, 0].tolist() == [0, 10, 1, 2, 12]
    assert buffer.next_observations[: buffer.size(), 0, 0].tolist() == [1, 11, 2, 3, 13]
    with pytest.raises(OperationUnsupported, match="optimize_memory_usage"):
        MaskedReplayBuffer(8, box, actions, optimize_memory_usage=True)


def test_nothing_to_learn_from_is_told() -> None:
    env = OpenEnvVecEnv(failing(always=True), 2, failures="mask")
    model = DQN(
        "MultiInputPolicy",
        env,
        learning_starts=4,
        device="cpu",
        replay_buffer_class=MaskedDictReplayBuffer,
    )
    with pytest.raises(EnvironmentFailure, match=r"every step so far failed.*broken"):
        model.learn(50)
    env.close()


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_a_rollout_of_nothing_but_failures_changes_nothing(
    algorithm: Any, caplog: pytest.LogCaptureFixture
) -> None:
    env = OpenEnvVecEnv(failing(always=True), 2, failures="mask")
    model = algorithm(
        "MultiInputPolicy",
        env,
        n_steps=8,
        seed=0,
        device="cpu",
        rollout_buffer_class=MaskedDictRolloutBuffer,
        **({"batch_size": 4} if algorithm is PPO else {}),
    )
    before = [parameter.detach().clone() for parameter in model.policy.parameters()]
    model.learn(32)
    for old, new in zip(before, model.policy.parameters(), strict=True):
        assert torch.allclose(old, new, atol=3e-3)  # Adam makes steps of rounding errors
    assert "every step of a rollout failed" in caplog.text
    env.close()


@pytest.mark.parametrize("reward", [math.nan, math.inf])
def test_a_reward_that_poisons_is_raised_unless_masked(reward: float) -> None:
    env = OpenEnvVecEnv(failing(reward), 2)
    env.reset()
    with pytest.raises(InvalidObservation, match=r"gave the reward (nan|inf).*failures='mask'"):  # noqa: PT012  # at some step
        for _ in range(5):
            env.step(np.zeros(2, np.int64))
    env.close()
    env = OpenEnvVecEnv(failing(reward), 2, failures="mask")
    env.reset()
    masked = 0
    for _ in range(40):
        _, rewards, dones, infos = env.step(np.zeros(2, np.int64))
        for i in range(2):
            if infos[i].get("masked"):
                masked += 1
                assert math.isnan(rewards[i])
                assert dones[i]
                assert infos[i]["TimeLimit.truncated"]
                assert "terminal_observation" in infos[i]
                assert "episode" not in infos[i]
            else:
                assert rewards[i] in (0.0, 1.0)
    assert masked >= 5
    env.close()


def test_the_normalizer_leaves_failures_out() -> None:
    env = MaskedVecNormalize(
        OnlyWanted(OpenEnvVecEnv(failing(), 2, failures="mask")), norm_obs=False, gamma=0.0
    )
    env.reset()
    given: list[float] = []
    for _ in range(40):
        _, rewards, _, infos = env.step(np.zeros(2, np.int64))
        for i in range(2):
            assert math.isnan(rewards[i]) is bool(infos[i].get("masked"))
        given += [float(r) for r in env.get_original_reward() if not math.isnan(r)]
    assert len(given) < 80
    assert env.ret_rms.mean == pytest.approx(np.mean(given), abs=1e-3)
    assert env.ret_rms.var == pytest.approx(np.var(given), abs=1e-2)
    env.close()


def test_a_step_without_a_reward_needs_a_word_for_it() -> None:
    space = gymnasium.spaces.Box(0, 99, (1,), np.int64)

    def made(**options: Any) -> OpenEnvVecEnv:
        return OpenEnvVecEnv(
            Unrewarded,
            2,
            observation_space=space,
            decode_observation=lambda seen: np.array([seen["total"]]),
            **options,
        )

    env = made()
    env.reset()
    with pytest.raises(OperationUnsupported, match=r"missing_reward=0\.0"):
        env.step(np.array([1, 1]))
    env.close()
    env = made(missing_reward=0.0)
    env.reset()
    assert env.step(np.array([1, 1]))[1].tolist() == [0.0, 0.0]
    env.close()


class Stairs(gymnasium.Env[Any, Any]):
    """Climbs; ends at a height that depends on the seed."""

    observation_space = gymnasium.spaces.Box(0, 99, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    isolation = "inline"

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at, self.top = 0, int(self.np_random.integers(2, 5))
        return np.full(2, self.at, np.float32), {"top": self.top}

    def step(self, action: Any) -> Any:
        self.at += int(action)
        cut = self.at >= self.top
        return np.full(2, self.at, np.float32), float(action), False, cut, {"at": self.at}


def stairs() -> gymnasium.vector.SyncVectorEnv:
    return gymnasium.vector.SyncVectorEnv([Stairs] * 2, autoreset_mode="SameStep")


def test_a_vector_that_is_served_is_a_vec_env() -> None:
    """The same as one session for each environment, from the same seeds."""
    with served(stairs) as vectors, served(Stairs) as url:
        there, here = OpenEnvVecEnv(vectors, 4), OpenEnvVecEnv(url, 4)
        there.seed(3)
        here.seed(3)
        np.testing.assert_array_equal(there.reset(), here.reset())
        assert there.reset_infos == here.reset_infos
        rng = np.random.default_rng(0)
        ended = 0
        for _ in range(30):
            actions = rng.integers(0, 2, 4)
            for one, other in zip(there.step(actions)[:3], here.step(actions)[:3], strict=True):
                np.testing.assert_array_equal(one, other)
            mine, theirs = there.step(actions)[3], here.step(actions)[3]
            for one, other in zip(mine, theirs, strict=True):
                assert one.keys() == other.keys()
                if "episode" in one:
                    ended += 1
                    assert one["TimeLimit.truncated"]
                    assert (one["episode"]["r"], one["at"]) == (other["episode"]["r"], other["at"])
                    np.testing.assert_array_equal(
                        one["terminal_observation"], other["terminal_observation"]
                    )
        assert ended
        with pytest.raises(OperationUnsupported, match="no states of their own"):
            there.env_method("state")
        there.close()
        here.close()


def test_a_vector_that_begins_anew_later_is_none() -> None:
    def later() -> gymnasium.vector.SyncVectorEnv:
        return gymnasium.vector.SyncVectorEnv([Stairs] * 2)

    with served(later) as url, pytest.raises(OperationUnsupported, match="by NextStep, not SameS"):
        OpenEnvVecEnv(url)
