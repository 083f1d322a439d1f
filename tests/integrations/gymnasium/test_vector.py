"""GymVectorEnv: what Gymnasium's own vectors give, over the wire."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium_env.environment import InlineGymnasiumEnvironment

from openenv_async import Environment
from openenv_async.errors import (
    EnvironmentRaised,
    EpisodeEnded,
    EpisodeNotStarted,
    InvalidAction,
    SessionBusy,
)
from openenv_async.integrations.gymnasium import GymVectorEnv
from tests.integrations.networks import Network
from tests.integrations.serving import served
from tests.rollouts.environments import Counting


@pytest.mark.parametrize("id", ["Blackjack-v1", "Pendulum-v1", "Taxi-v4"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_other_spaces_are_the_local_ones_too(id: str, mode: AutoresetMode) -> None:
    """Tuples, continuous actions and infos with numbers and arrays."""
    with served(InlineGymnasiumEnvironment, params={"id": id}) as url:
        there = GymVectorEnv(url, 2, autoreset_mode=mode)
        here: SyncVectorEnv = SyncVectorEnv([lambda: gymnasium.make(id)] * 2, autoreset_mode=mode)
        here.action_space.seed(0)
        left: Any = there.reset(seed=1)
        right: Any = here.reset(seed=1)
        for _ in range(60):
            for a, b in zip(flat(left), flat(right), strict=True):
                np.testing.assert_array_equal(a, b)
            actions = here.action_space.sample()
            left, right = there.step(actions), here.step(actions)
        there.close()
        here.close()


@pytest.mark.parametrize("sees", ["graph", "one_of", "dict"])
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_graphs_and_alternatives_are_the_local_ones(sees: str, mode: AutoresetMode) -> None:
    with served(Network, params={"sees": sees}) as url:
        there = GymVectorEnv(url, 3, autoreset_mode=mode, render_mode="rgb_array")
        here: SyncVectorEnv = SyncVectorEnv(
            [lambda: Network(sees, "rgb_array")] * 3, autoreset_mode=mode
        )
        assert there.single_observation_space == here.single_observation_space
        assert there.observation_space == here.observation_space
        assert there.action_space == here.action_space
        here.action_space.seed(0)
        left: Any = there.reset(seed=1)
        right: Any = here.reset(seed=1)
        for _ in range(20):
            for a, b in zip(flat(left), flat(right), strict=True):
                np.testing.assert_array_equal(a, b)
            actions = here.action_space.sample()
            left, right = there.step(actions), here.step(actions)
            for a, b in zip(flat(there.render()), flat(here.render()), strict=True):
                np.testing.assert_array_equal(a, b)
        there.send(actions, [2, 1, 0])
        assert len(there.recv()[1]) == 3
        there.close()
        here.close()


def flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key in sorted(value):
            yield from flat(value[key])
    elif isinstance(value, tuple) or (isinstance(value, np.ndarray) and value.dtype == object):
        yield np.asarray(type(value).__name__)
        for item in value:
            yield from flat(item)
    else:
        yield np.asarray(value)


def test_what_comes_first_is_received_first(cartpole: str) -> None:
    with_all = GymVectorEnv(cartpole, 4)
    with_all.reset(seed=0)
    wanted, *_ = with_all.step([1, 0, 1, 0])
    with_all.close()
    env = GymVectorEnv(cartpole, 4)
    env.reset(seed=0)
    env.send([1, 0, 1, 0])
    with pytest.raises(SessionBusy, match="recv"):
        env.step([0, 0, 0, 0])
    seen: dict[int, Any] = {}
    while len(seen) < 4:
        observations, rewards, _, _, infos = env.recv(1)
        assert len(observations) == len(rewards) == len(infos["env_id"]) >= 1
        seen |= dict(zip(infos["env_id"].tolist(), observations, strict=True))
    np.testing.assert_array_equal(np.stack([seen[i] for i in range(4)]), wanted)
    env.send([1, 0], [2, 0])
    *_, infos = env.recv()
    assert sorted(infos["env_id"].tolist()) == [0, 2]
    with pytest.raises(SessionBusy, match="only 0 requests"):
        env.recv(1)
    env.send([0, 0, 0, 0])
    env.reset(seed=1)  # what is under way is dropped
    env.step([0, 0, 0, 0])
    env.close()


def test_observations_are_copied_unless_told(cartpole: str) -> None:
    env, shared = GymVectorEnv(cartpole, 2), GymVectorEnv(cartpole, 2, copy=False)
    first, _ = env.reset(seed=0)
    same, _ = shared.reset(seed=0)
    before = first.copy()
    assert env.step([0, 0])[0] is not first
    assert shared.step([0, 0])[0] is same
    np.testing.assert_array_equal(first, before)
    assert not np.array_equal(same, before)
    env.close()
    shared.close()


def test_wrong_calls_are_told(cartpole: str) -> None:
    with pytest.raises(ValueError, match="one of NextStep, SameStep, Disabled, got 'same'"):
        GymVectorEnv(cartpole, 2, autoreset_mode="same")
    env = GymVectorEnv(cartpole, 2, autoreset_mode="Disabled")
    with pytest.raises(EpisodeNotStarted, match="call reset"):
        env.step([0, 0])
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"element of Discrete\(2\), got 7; no environment"):
        env.step([0, 7])
    with pytest.raises(InvalidAction, match="got rows of different shapes"):
        env.step([0, [0, 0]])
    with pytest.raises(ValueError, match="2 actions are needed"):
        env.step([0])
    with pytest.raises(ValueError, match="3 seeds for 2"):
        env.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": np.zeros(2, np.bool_)})
    with pytest.raises(EpisodeEnded):  # noqa: PT012  # some step comes after the end
        for action in itertools.repeat([0, 0], 30):
            env.step(action)
    env.close()
    with pytest.raises(ValueError, match="failures"):
        GymVectorEnv(cartpole, 2, failures="ignore")  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_an_invalid_action_steps_nothing_and_ends_no_episode(cartpole: str, mode: str) -> None:
    here, there = GymVectorEnv(cartpole, 3, autoreset_mode=mode), GymVectorEnv(cartpole, 3)
    for env in (here, there):
        env.reset(seed=0)
        env.step([1, 0, 1])
    with pytest.raises(InvalidAction) as refused:
        here.step([0, 2, 1])
    assert refused.value.__notes__ == ["in environment 1 of 3"]
    with pytest.raises(InvalidAction, match="in environment 1 of 3"):
        here.send([-1, 0], [1, 2])
    np.testing.assert_array_equal(here.step([0, 0, 1])[0], there.step([0, 0, 1])[0])
    here.close()
    there.close()


class Steered(gymnasium.Env[Any, Any]):
    """Its observations are the numbers of their steps."""

    observation_space = gymnasium.spaces.Box(0, 99, (1,), np.float64)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    steps = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.steps = 0
        return np.zeros(1), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        return np.full(1, float(self.steps)), 0.0, False, False, {}


def test_the_episode_of_an_action_that_the_server_refuses_goes_on() -> None:
    with served(Steered) as url:
        env = GymVectorEnv(url, 2)
        env.reset()
        env.step(np.zeros((2, 1)))
        with pytest.raises(InvalidAction, match="got an array of float32"):
            env.step(np.array([[0.0], [2.0]]))
        assert env.step(np.zeros((2, 1)))[0].ravel().tolist() == [3, 2]
        env.close()


def test_a_decoder_of_ones_own_sees_every_observation() -> None:
    """The first total is 0 and looks like the last byte of its payload; twice 0 is 0."""
    with served(Counting) as url:
        vector = GymVectorEnv(
            url,
            2,
            observation_space=gymnasium.spaces.Box(0, 255, (1,), np.uint8),
            decode_observation=lambda seen: np.array([2 * seen["total"]], np.uint8),
        )
        assert vector.reset()[0].tolist() == [[0], [0]]
        assert vector.step(np.array([1, 2]))[0].tolist() == [[2], [4]]
        vector.close()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.uint8])
def test_arrays_of_another_dtype_than_declared_are_converted(dtype: Any) -> None:
    """Also where their last bytes could be taken for what was declared."""

    class Declared(Environment[dict[str, int], Any, Any]):
        isolation = "inline"

        def reset(self) -> Any:
            self.total = 0
            return np.zeros(2, dtype)

        def step(self, action: dict[str, int]) -> Any:
            self.total += 1
            return np.full(2, self.total, dtype)

        @classmethod
        def schemas(cls, **params: Any) -> dict[str, Any]:
            array = {"dtype": "<f4", "shape": [2], "low": None, "high": None}
            return {
                "action": {"type": "object", "properties": {"n": {"type": "integer"}}},
                "observation": {"type": "array", "x-ndarray": array},
            }

    with served(Declared) as url:
        vector = GymVectorEnv(url, 2)
        assert vector.reset()[0].dtype == np.float32
        for total in (1, 2, 3):
            observations = vector.step(np.array([0, 0]))[0]
            assert observations.tolist() == [[total, total]] * 2
        vector.close()


def test_a_session_that_is_lost_is_raised_and_replaced() -> None:
    class Fragile(InlineGymnasiumEnvironment):
        def step(self, action: Any) -> Any:
            if self._elapsed == 2:
                raise RuntimeError("broken")
            return super().step(action)

    with served(Fragile, params={"id": "CartPole-v1"}) as url:
        env = GymVectorEnv(url, 2)
        env.reset(seed=0)
        for _ in range(2):
            env.step([0, 0])
        with pytest.raises(EnvironmentRaised, match="broken") as caught:
            env.step([0, 0])
        assert "in environment 0 of 2" in caught.value.__notes__
        env.reset(seed=0)
        env.step([0, 0])
        env.close()
