"""Plain Gymnasium classes, instances, factories and ids, served as they are."""

from __future__ import annotations

import functools
import pickle
import subprocess
import sys
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from openenv_async import Environment, connect, create_app, serve
from openenv_async.client.env import GenericEnvClient
from openenv_async.engine import EngineOptions
from openenv_async.errors import (
    EnvironmentRaised,
    EnvironmentStartFailed,
    InvalidAction,
    InvalidModel,
    InvalidObservation,
    InvalidOption,
    TargetNotFound,
)
from openenv_async.hosts import hosted, is_registered_id
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.discovery import find_target
from tests.legal_games import Bits, Pairs, Seen


class Corridor(gymnasium.Env[dict[str, Any], np.int64]):
    """Steps of 1 to 4 along a corridor with a picture of it."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012  # as in the base class

    def __init__(self, render_mode: str | None = None, length: int = 6) -> None:
        self.render_mode = render_mode
        self.length = length
        self.at = 0
        self.observation_space = spaces.Dict(
            {
                "picture": spaces.Box(0, 255, (4, 4, 3), np.uint8),
                "at": spaces.Discrete(64, start=1),
            }
        )
        self.action_space = spaces.Discrete(4, start=1)

    def _seen(self) -> dict[str, Any]:
        return {"picture": np.full((4, 4, 3), self.at, np.uint8), "at": self.at + 1}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.at = int((options or {}).get("at", 0))
        return self._seen(), {"drawn": int(self.np_random.integers(1000))}

    def step(self, action: Any) -> tuple[dict[str, Any], Any, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.at += int(action)
        ended = self.at >= self.length
        return self._seen(), np.float32(0.5), ended, False, {"trail": np.arange(self.at)}

    def render(self) -> Any:
        return np.full((8, 8, 3), 10 * self.at, np.uint8)


def make_corridor(length: int = 3) -> Corridor:
    return Corridor(length=length)


SOURCES = [Corridor, make_corridor, functools.partial(Corridor, length=3), Corridor(length=3)]


@pytest.mark.parametrize("source", SOURCES, ids=["class", "factory", "partial", "instance"])
@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_whatever_makes_one_is_an_environment(source: Any, format: Any) -> None:
    async with connect(source, format=format) as env:
        result = await env.reset(seed=3, options={"at": 1})
        assert result.observation["at"] == 2
        assert result.observation["picture"].dtype == np.uint8
        assert result.info == {"drawn": int(np.random.default_rng(3).integers(1000))}
        assert result.reward is None
        result = await env.step(1)
        assert (result.reward, result.done) == (0.5, False)
        np.testing.assert_array_equal(result.info["trail"], [0, 1])
        with pytest.raises(InvalidAction, match=r'got \{.move.: 4\}; write \{"value": …\}'):
            await env.step({"move": 4})
        with pytest.raises(InvalidOption, match=r"\(it takes: seed, episode_id, keep_rng and opti"):
            await env.reset(move=4)
        result = await env.step({"value": 4})
        assert (result.terminated, result.truncated) == (True, False)
        state = await env.state()
        assert (state.id, state.elapsed_steps, state.frame) == ("Corridor", 2, None)


async def test_an_id_of_the_registry_is_an_environment() -> None:
    local = gymnasium.make("CartPole-v1")
    async with connect("CartPole-v1") as env:
        result = await env.reset(seed=5)
        np.testing.assert_array_equal(result.observation, local.reset(seed=5)[0])
        result = await env.step(1)
        np.testing.assert_array_equal(result.observation, local.step(1)[0])
        assert (await env.state()).max_episode_steps == 500
    spec = find_target("CartPole-v1", {"max_episode_steps": 7})
    assert spec.name == "CartPole-v1"
    assert find_target("gymnasium.envs.classic_control:CartPole-v1").name == "CartPole-v1"
    with pytest.raises(TargetNotFound, match=r"'CartPoll-v1'.*did you mean CartPole-v1.*echo"):
        find_target("CartPoll-v1")
    with pytest.raises(InvalidOption, match="did you mean CartPole-v1"):
        EnvironmentSpec("CartPoll-v1")
    assert not is_registered_id("echo")
    assert not is_registered_id("module:Class")
    assert is_registered_id("ALE/Pong-v5")


async def test_a_class_of_a_module_is_found() -> None:
    spec = find_target("gymnasium.envs.classic_control.cartpole:CartPoleEnv")
    assert (spec.name, spec.contract.isolation) == ("CartPoleEnv", "inline")
    assert spec.schema["action"]["maximum"] == 1
    with pytest.raises(InvalidOption, match="cannot be built with"):
        EnvironmentSpec(Corridor, params={"lengths": 3})


async def test_the_generator_goes_on_where_it_stood() -> None:
    local = Corridor()
    drawn = [local.reset(seed=3)[1], local.reset()[1]]
    async with connect(Corridor) as env:
        there = [await env.reset(seed=3), await env.reset(keep_rng=True)]
    assert [result.info for result in there] == drawn


class Calm(Corridor):
    isolation: ClassVar[str] = "inline"
    version: ClassVar[str] = "2.5"
    description: ClassVar[str] = "A corridor."


class Own(Corridor):
    isolation: ClassVar[str] = "process"
    session_options: ClassVar[frozenset[str]] = frozenset({"length"})


def test_attributes_of_the_class_count() -> None:
    spec = EnvironmentSpec(Calm)
    assert (spec.contract.isolation, spec.version, spec.description) == (
        "inline",
        "2.5",
        "A corridor.",
    )
    assert EnvironmentSpec(Corridor).contract.isolation == "thread"
    assert EnvironmentSpec(Own).contract.isolation == "process"


@pytest.mark.parametrize("options", [None, EngineOptions(workers=1)], ids=["own", "shared"])
async def test_it_runs_in_a_process(options: EngineOptions | None) -> None:
    async with (
        serve(Own, options=options) as url,
        GenericEnvClient(url, options={"length": 2, "render_mode": "rgb_array"}) as env,
    ):
        await env.reset(seed=1)
        assert (await env.step(2)).terminated
        np.testing.assert_array_equal((await env.state())["frame"], np.full((8, 8, 3), 20))


async def test_an_id_runs_in_worker_processes() -> None:
    options = EngineOptions(workers=1)
    async with serve("CartPole-v1", options=options) as url, GenericEnvClient(url) as env:
        await env.reset(seed=1)
        assert (await env.step(1)).reward == 1.0


async def test_an_environment_of_this_runtime_is_left_alone() -> None:
    class Ours(Environment[Any, Any, Any]):
        def reset(self) -> int:
            return 0

        def step(self, action: Any) -> int:
            return 1

    for each in (Ours, Ours(), make_corridor, len, 5, "echo", "http://127.0.0.1:1"):
        assert hosted(each) is None


def test_a_wrapped_instance_has_the_name_of_what_is_inside() -> None:
    spec = EnvironmentSpec(gymnasium.wrappers.TimeLimit(Calm(), 5))
    assert (spec.name, spec.contract.isolation) == ("Calm", "inline")


def test_a_vector_is_an_environment_too() -> None:
    vector: Any = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    assert EnvironmentSpec(vector).is_vector
    assert not EnvironmentSpec(gymnasium.make("CartPole-v1")).is_vector
    vector.close()


def test_a_factory_must_say_what_it_makes() -> None:
    with pytest.raises(TypeError, match="annotate its return type with the Environment or gym"):
        EnvironmentSpec(lambda: Corridor())


def test_gymnasium_is_not_imported_for_others() -> None:
    code = (
        "import sys, openenv_async\n"
        "from openenv_async.spec import EnvironmentSpec\n"
        "class E:\n"
        "    def reset(self): return {}\n"
        "    def step(self, action): return {}\n"
        "EnvironmentSpec(E); EnvironmentSpec(E())\n"
        "print('gymnasium' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_what_is_served_still_pickles() -> None:
    assert pickle.loads(pickle.dumps(EnvironmentSpec(Corridor).source)) is Corridor


# -- what is returned ---------------------------------------------------------------------------


class Returning(gymnasium.Env[Any, Any]):
    """Returns what it is told to."""

    isolation: ClassVar[str] = "inline"
    on_reset: Any = (0, {})
    on_step: Any = None

    def __init__(self) -> None:
        self.action_space = spaces.Discrete(2)
        self.observation_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        return self.on_reset

    def step(self, action: Any) -> Any:
        return self.on_step


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (0, "int 0: it must return \\(observation, info\\)"),
        ((0,), "1 values"),
        ((0, None), "2 values \\(int, NoneType\\)"),
        ((0, 0.0, False, {}), "4 values"),
        (None, "NoneType None"),
        ((1.7, {}), "observation must be an integer from 0 to 2, got 1.7"),
    ],
)
async def test_a_reset_that_returns_something_else_is_refused(returned: Any, message: str) -> None:
    class Wrong(Returning):
        on_reset = returned

    async with connect(Wrong) as env:
        with pytest.raises(InvalidObservation, match=rf"reset\(\) of Wrong returned.*{message}"):
            await env.reset()


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "a return is missing"),
        (1, "int 1: it must return"),
        ((1, 1.0, True, {}), "4 values.*Gym before 0.26"),
        ((1, 1.0, True, False), "4 values"),
        ((1, 1.0, True, False, None), "where info is a dict"),
        ([1, 1.0, True, False, {}], "list"),
        ((1, 1.0, True, False, {}, 0), "6 values"),
        ((9, 1.0, True, False, {}), "must be an integer from 0 to 2, got 9"),
        (("1", 1.0, True, False, {}), "must be an integer from 0 to 2, got '1'"),
        ((None, 1.0, True, False, {}), "got None"),
        ((np.array([1]), 1.0, True, False, {}), "got an array"),
    ],
)
async def test_a_step_that_returns_something_else_is_refused(returned: Any, message: str) -> None:
    class Wrong(Returning):
        on_step = returned

    async with connect(Wrong) as env:
        await env.reset()
        with pytest.raises(InvalidObservation, match=rf"step\(\) of Wrong returned.*{message}"):
            await env.step(1)


async def test_a_wrong_action_is_refused_and_the_episode_goes_on() -> None:
    async with connect(Corridor) as env:
        await env.reset()
        for wrong in (0, 5, 1.7, "1", True, None, [1], {"action": 1}, float("nan")):
            with pytest.raises(InvalidAction, match="an integer from 1 to 4"):
                await env.step(wrong)
        assert (await env.step(np.array([2]))).observation["at"] == 3
        assert (await env.state()).elapsed_steps == 1


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ((1, "1.0", True, False, {}), "reward"),
        ((1, 1.0, "false", False, {}), "terminated='false'"),
        ((1, 1.0, False, "after 10 steps", {}), "truncated='after"),
        ((1, 1.0, None, False, {}), "terminated=None"),
        ((1, 1.0, [1], False, {}), "terminated"),
        ((1, np.array([1.0, 2.0]), True, False, {}), "reward"),
        ((1, 1.0, True, False, {"thing": object()}), "'thing'"),
    ],
)
async def test_rewards_and_ends_are_read_strictly(returned: Any, message: str) -> None:
    class Wrong(Returning):
        on_step = returned

    async with connect(Wrong) as env:
        await env.reset()
        with pytest.raises(InvalidObservation, match=rf"step\(\) of Wrong returned.*{message}"):
            await env.step(1)


@pytest.mark.parametrize("reward", [1, True, np.float32(1.0), np.int64(1), np.array(1.0)])
async def test_numpys_numbers_are_rewards_and_ends(reward: Any) -> None:
    class Right(Returning):
        on_step: Any = (1, reward, np.bool_(True), np.bool_(False), {})

    async with connect(Right) as env:
        await env.reset()
        result = await env.step(1)
    assert (result.reward, result.terminated, result.truncated) == (1.0, True, False)


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_a_reward_that_is_not_finite_arrives(reward: float, format: Any) -> None:
    class Right(Returning):
        on_step: Any = (1, reward, True, False, {})

    async with connect(Right, format=format) as env:
        await env.reset()
        assert str((await env.step(1)).reward) == str(reward)


class Spaceless(Returning):
    def __init__(self) -> None:
        self.action_space = spaces.Discrete(2)


class Sized(Returning):
    def __init__(self, size: int) -> None:
        super().__init__()


class Unlicensed(Returning):
    def __init__(self) -> None:
        raise RuntimeError("no licence")


@pytest.mark.parametrize(
    ("cls", "error", "message"),
    [
        (Spaceless, InvalidModel, "Spaceless cannot be served: it has no observation_space; set"),
        (Sized, InvalidOption, r"Sized cannot be built without its argument 'size'.*params="),
        (Unlicensed, EnvironmentStartFailed, "Unlicensed could not be built.*no licence"),
    ],
)
async def test_what_cannot_be_served_is_refused_when_the_server_is_made(
    cls: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        create_app(cls)
    with pytest.raises(error, match=message):
        async with connect(cls):
            pass
    create_app(Sized, params={"size": 3})


class Strict(Returning):
    """Takes no options."""

    def reset(self, seed: int | None = None) -> Any:  # type: ignore[override]  # as some do
        return 0, {}


async def test_options_that_reset_does_not_take_are_refused() -> None:
    async with connect(Strict) as env:
        await env.reset(seed=1)
        with pytest.raises(InvalidOption, match=r"reset\(\) of Strict takes no options"):
            await env.reset(options={"level": 1})


async def test_what_it_raises_is_told() -> None:
    class Broken(Returning):
        def step(self, action: Any) -> Any:
            raise RuntimeError("broken")

    async with connect(Broken) as env:
        await env.reset()
        with pytest.raises(EnvironmentRaised, match="broken"):
            await env.step(1)


def test_masks_are_announced_where_they_can_be_known() -> None:
    """Of an info nothing is known before it is there; a method and a space can be seen."""
    for env, told in ((Bits, "advised"), (Seen, "advised"), (Pairs, None)):
        assert EnvironmentSpec(env).schema["action"].get("x-legal-actions") == told


def test_a_mask_is_told_until_the_end_and_an_infos_own_is_kept() -> None:
    env: Any = hosted(Bits)()
    assert env.reset(seed=0).info["action_mask"].tolist() == [1, 1, 0, 1]
    for step in range(3):
        result = env.step(np.array([0, 1], np.int8))
        assert ("action_mask" in result.info) == (step < 2)
    own = type("Own", (Bits,), {"_info": lambda self: {"action_mask": "as I say"}})
    assert hosted(own)().reset().info == {"action_mask": "as I say"}
