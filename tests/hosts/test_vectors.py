"""Gymnasium's vectors as environments: their results, their make-up, and what cannot be served."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

from openenv_async import connect
from openenv_async.errors import (
    EnvironmentRaised,
    InvalidAction,
    InvalidModel,
    InvalidObservation,
    InvalidOption,
)
from openenv_async.hosts.vectors import make_vector
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.discovery import find_target

# EnvPool's bounds are float64, and its spaces float32.
pytestmark = pytest.mark.filterwarnings("ignore:.*precision lowered by casting")


class Corridor(gymnasium.Env[Any, Any]):
    """A walk of a few steps, with an info of each kind."""

    observation_space = gymnasium.spaces.Dict(
        {
            "at": gymnasium.spaces.Discrete(9),
            "near": gymnasium.spaces.Box(-1, 1, (2,), np.float32),
        }
    )
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, length: int = 3) -> None:
        self.length = length
        self.at = 0

    def _seen(self) -> Any:
        return {"at": self.at, "near": np.full(2, self.at / 9, np.float32)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = int(self.np_random.integers(self.length))
        return self._seen(), {"drawn": self.at}

    def step(self, action: Any) -> Any:
        self.at += int(action)
        return self._seen(), float(action), self.at >= self.length, False, {"name": f"at {self.at}"}


def corridors(mode: AutoresetMode, count: int = 3) -> SyncVectorEnv:
    return SyncVectorEnv([Corridor] * count, autoreset_mode=mode)


def same(one: Any, other: Any) -> None:
    """Compare what Gymnasium gives with what came, arrays of objects as lists."""
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, np.ndarray) and one.dtype == object:
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert (mine is None) is (theirs is None)
            if mine is not None:
                same(mine, theirs)
    else:
        np.testing.assert_array_equal(one, other)


async def play(
    source: Any, local: VectorEnv[Any, Any, Any], steps: int, params: Any = None
) -> None:
    """Play on a vector here and as a session, from one seed, and compare everything."""
    rng = np.random.default_rng(0)
    async with connect(source, params=params) as env:
        mine, infos = local.reset(seed=5)
        theirs = await env.reset(seed=5)
        same(mine, theirs.observation.observations)
        same(infos, theirs.info)
        ended = np.zeros(local.num_envs, bool)
        for _ in range(steps):
            if local.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
                mine, infos = local.reset(options={"reset_mask": ended})
                theirs = await env.reset(keep_rng=True, options={"reset_mask": ended})
                same(mine, theirs.observation.observations)
                same(infos, theirs.info)
            space: Any = local.single_action_space
            actions = rng.integers(0, space.n, local.num_envs)
            mine, rewards, terminated, truncated, infos = local.step(actions)
            theirs = await env.step(actions)
            rows = theirs.observation
            same(mine, rows.observations)
            assert rows.rewards.dtype == np.float64
            same(rewards, rows.rewards)
            same(terminated, rows.terminated)
            same(truncated, rows.truncated)
            same(infos, theirs.info)
            assert (theirs.reward, theirs.done) == (None, False)
            ended = terminated | truncated
        assert (await env.state()).num_envs == local.num_envs
    local.close()


async def test_a_vector_class_is_an_environment() -> None:
    await play(CartPoleVectorEnv, CartPoleVectorEnv(5), 120, {"num_envs": 5})


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.value)
async def test_a_vector_of_environments_in_each_mode(mode: AutoresetMode) -> None:
    await play(corridors(mode), corridors(mode), 60)


async def test_what_make_vec_makes() -> None:
    for vectorization in ("sync", "vector_entry_point"):
        source = functools.partial(
            gymnasium.make_vec, "CartPole-v1", vectorization_mode=vectorization
        )
        local = gymnasium.make_vec("CartPole-v1", 3, vectorization)
        await play(source, local, 60, {"num_envs": 3})


async def test_atari_s_own_vector() -> None:
    ale_py = pytest.importorskip("ale_py")
    from ale_py.vector_env import AtariVectorEnv

    assert ale_py is not None
    for mode in ("NextStep", "SameStep"):
        params: Any = {"game": "pong", "num_envs": 2, "noop_max": 5, "autoreset_mode": mode}
        await play(AtariVectorEnv, AtariVectorEnv(**params), 25, params)


async def test_envpool_is_seeded_when_it_is_built() -> None:
    envpool = pytest.importorskip("envpool")
    source = functools.partial(envpool.make_gymnasium, "CartPole-v1")

    class Seeded:
        """EnvPool's vector as ``play`` asks for it."""

        num_envs = 4
        metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  # as Gymnasium's
        single_action_space = gymnasium.spaces.Discrete(2)

        def reset(self, seed: int) -> Any:
            self.env = envpool.make_gymnasium("CartPole-v1", num_envs=4, seed=seed)
            self.step, self.close = self.env.step, self.env.close
            return self.env.reset()

    await play(source, Seeded(), 120, {"num_envs": 4})  # type: ignore[arg-type]  # of its shape
    spec = EnvironmentSpec(functools.partial(make_vector, "envpool:CartPole-v1"))
    assert (spec.name, spec.contract.isolation) == ("envpool:CartPole-v1", "inline")


def test_envpool_is_known_before_anybody_imported_it() -> None:
    pytest.importorskip("envpool")
    code = (
        "from openenv_async.targets.discovery import find_target\n"
        "params = {'id': 'envpool:CartPole-v1'}\n"
        "print(find_target('gymnasium', params).vectorized(2).contract.isolation)"
    )
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert made.stdout.split() == ["inline"], made.stderr


async def test_envpool_gives_the_first_rows_that_are_ready() -> None:
    envpool = pytest.importorskip("envpool")
    source = functools.partial(envpool.make_gymnasium, "CartPole-v1")
    async with connect(source, params={"num_envs": 6, "batch_size": 2}) as env:
        result = await env.reset(seed=1)
        shown = set()
        for _ in range(40):
            ids = result.observation.env_id
            assert ids.shape == (2,)
            shown |= set(ids.tolist())
            result = await env.step(np.array([0, 1]))
        assert shown == set(range(6))
        with pytest.raises(InvalidOption, match="cannot reset some of them"):
            await env.reset(options={"reset_mask": np.array([True] + [False] * 5)})


async def test_envpool_resets_some_rows() -> None:
    envpool = pytest.importorskip("envpool")
    source = functools.partial(envpool.make_gymnasium, "CartPole-v1")
    async with connect(source, params={"num_envs": 4}) as env:
        await env.reset(seed=1)
        mask = np.array([True, False, False, True])
        result = await env.reset(keep_rng=True, options={"reset_mask": mask})
        np.testing.assert_array_equal(result.observation.env_id, [0, 3])
        assert result.observation.observations.shape == (2, 4)


def test_the_schema_tells_what_a_vector_is() -> None:
    spec = EnvironmentSpec(CartPoleVectorEnv, params={"num_envs": 7})
    spec.check()
    told = spec.schema["vector"]
    assert (told["num_envs"], told["autoreset_mode"], told["batch_size"]) == (7, "next_step", 7)
    assert told["action"]["maximum"] == 1
    assert told["observation"]["x-ndarray"]["shape"] == [4]
    assert spec.schema["action"]["x-ndarray"]["shape"] == [7]
    assert spec.contract.isolation == "inline"
    assert EnvironmentSpec(functools.partial(corridors, AutoresetMode.DISABLED)).vector is not None
    assert EnvironmentSpec("CartPole-v1").vector is None


def test_one_environment_is_served_as_a_vector() -> None:
    for target, params in (("CartPole-v1", {}), ("gymnasium", {"id": "CartPole-v1"})):
        spec = find_target(target, params).vectorized(6)
        assert spec.vector is not None
        assert (spec.name, spec.vector.num_envs) == ("CartPole-v1", 6)
    spec = EnvironmentSpec(Corridor, params={"length": 5})
    vectors = spec.vectorized(2, {"autoreset_mode": "same_step"})
    assert vectors.name == "Corridor"
    assert vectors.vector.autoreset_mode == "same_step"  # type: ignore[union-attr]  # it is one
    assert EnvironmentSpec(CartPoleVectorEnv).vectorized(3).vector.num_envs == 3  # type: ignore[union-attr]  # the same
    with pytest.raises(InvalidOption, match="not a Gymnasium environment; subclass Vector"):
        find_target("echo").vectorized(2)


# -- what cannot be served ---------------------------------------------------------------------


class Stub(VectorEnv[Any, Any, Any]):
    """A vector of two counters; each test breaks something."""

    metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012  # as Gymnasium's
    isolation = "inline"

    def __init__(self, **broken: Any) -> None:
        self.num_envs = 2
        self.single_action_space = gymnasium.spaces.Discrete(2)
        self.single_observation_space = gymnasium.spaces.Box(0, 9, (3,), np.float32)
        self.rewards: Any = np.zeros(2)
        self.shown: Any = np.zeros((2, 3), np.float32)
        self.raises: Exception | None = None
        for name, value in broken.items():
            setattr(self, name, value)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros((2, 3), np.float32), {}

    def step(self, actions: Any) -> Any:
        if self.raises is not None:
            raise self.raises
        return self.shown, self.rewards, np.zeros(2, bool), np.zeros(2, bool), {}


class Modeless(Stub):
    metadata = {}  # noqa: RUF012  # as Gymnasium's


class Strange(Stub):
    metadata = {"autoreset_mode": "sometimes"}  # noqa: RUF012  # as Gymnasium's


class Empty(Stub):
    def __init__(self) -> None:
        super().__init__(num_envs=0)


class Unserved(Stub):
    def __init__(self) -> None:
        super().__init__(single_action_space=gymnasium.spaces.Space((), np.int64))


class Spaceless(Stub):
    def __init__(self) -> None:
        super().__init__(single_observation_space=None)


@pytest.mark.parametrize(
    ("source", "error", "told"),
    [
        (Modeless, InvalidModel, r"does not say when .*metadata\['autoreset_mode'\]"),
        (Strange, InvalidModel, "says 'sometimes' for when"),
        (Empty, InvalidModel, "a vector of 0 .* num_envs must be at least 1"),
        (Unserved, InvalidOption, "single_action_space of Unserved: a space of type Space"),
        (Spaceless, InvalidModel, "it has no single_observation_space"),
    ],
)
def test_a_vector_that_does_not_say_what_it_is(
    source: Callable[[], Any], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        EnvironmentSpec(source).check()
    with pytest.raises(error, match=told):
        EnvironmentSpec(source())


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({"shown": np.zeros((3, 3), np.float32)}, r"observation must be an array .*\(2, 3\)"),
        ({"shown": [[1.0, 2.0], [3.0]]}, "observation must be an array"),
        ({"rewards": np.zeros(3)}, r"rewards of shape \(3,\) for 2 environments"),
        ({"rewards": np.array(["a", "b"])}, "rewards are numbers"),
        ({"shown": None}, "observation must be an array"),
    ],
)
async def test_results_that_do_not_fit(broken: dict[str, Any], told: str) -> None:
    async with connect(Stub(**broken)) as env:
        await env.reset()
        with pytest.raises(InvalidObservation, match=told):
            await env.step([0, 1])
        assert (await env.reset()).observation.observations.shape == (2, 3)


async def test_actions_that_do_not_fit() -> None:
    async with connect(Stub()) as env:
        await env.reset()
        for actions in ([0, 1, 1], [0, 5], 1, [0.5, 1]):
            with pytest.raises(InvalidAction):
                await env.step(actions)
        assert (await env.step([0, 1])).observation.rewards.tolist() == [0, 0]


async def test_a_vector_that_raises_begins_anew() -> None:
    async with connect(Stub(raises=ZeroDivisionError("of a row"))) as env:
        await env.reset()
        with pytest.raises(EnvironmentRaised, match="of a row"):
            await env.step([0, 1])
        assert (await env.reset()).observation.observations.shape == (2, 3)


async def test_resets_that_do_not_fit() -> None:
    async with connect(Stub()) as env:
        for mask in ([True], [False, False], [1, 0]):
            with pytest.raises(InvalidOption, match="2 booleans of which one is true"):
                await env.reset(options={"reset_mask": mask})
        with pytest.raises(InvalidOption, match="3 seeds for the 2 environments"):
            await env.reset(seeds=[1, 2, 3])
        with pytest.raises(InvalidOption, match="takes one seed for all environments"):
            await env.reset(seeds=[1, 2])


def test_arguments_of_vectors_that_do_not_fit() -> None:
    for arguments, told in (
        ({"id": "CartPole-v1", "num_envs": 0}, "num_envs must be an integer of at least 1, got 0"),
        ({"id": "CartPoll-v1"}, "did you mean CartPole-v1"),
        ({"id": "CartPole-v1", "vectorization_mode": "both"}, "cannot be made with"),
        ({"id": "CartPole-v1", "autoreset_mode": "same_step"}, "vectorization_mode=sync makes"),
        ({"id": "CartPole-v1", "autoreset_mode": "never"}, "autoreset_mode must be one of next"),
        ({"id": "CartPole-v1", "colour": 3}, "cannot be made with"),
    ):
        with pytest.raises(InvalidOption, match=told):
            make_vector(**arguments)


def test_seeds_for_each_row() -> None:
    local, rows = corridors(AutoresetMode.NEXT_STEP), [4, 9, 2]
    host = EnvironmentSpec(corridors(AutoresetMode.NEXT_STEP)).build()
    there = host.reset(seeds=rows).observation.observations
    same(local.reset(seed=list[int | None](rows))[0], there)
    assert batch_space(local.single_observation_space, 3) == local.observation_space
