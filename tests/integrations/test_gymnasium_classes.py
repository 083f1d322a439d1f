"""A plain Gymnasium class, with no code beyond it: served, checked, played, trained, filmed."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import psutil  # type: ignore[import-untyped]  # its stubs are not among our tools
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv
from gymnasium.wrappers import RecordVideo
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecVideoRecorder

from openenv_async import OutcomeStatus, serve
from openenv_async.errors import InvalidAction, InvalidOption, OpenEnvError, OperationUnsupported
from openenv_async.integrations.gymnasium import GymEnv, GymVectorEnv
from openenv_async.integrations.sb3 import OpenEnvVecEnv
from openenv_async.rollouts import RandomPolicy, collect_all, fetch_schema
from tests.cli.commands import PROGRAM, ROOT
from tests.integrations.grid import Grid
from tests.integrations.serving import served

TARGET = "tests.integrations.grid:Grid"


# -- as Gymnasium's own -------------------------------------------------------------------------


def test_an_adapter_of_a_class_is_the_class_step_for_step() -> None:
    local = Grid()
    with GymEnv(Grid) as env:
        assert env.observation_space == local.observation_space
        assert env.action_space == local.action_space
        env.action_space.seed(4)
        assert_same(env.reset(seed=7), local.reset(seed=7))
        for _ in range(200):
            action = env.action_space.sample()
            there, here = env.step(action), local.step(action)
            assert_same(there, here)
            if there[2] or there[3]:
                assert_same(env.reset(), local.reset())


def assert_same(there: Any, here: Any) -> None:
    """The same values, types and shapes."""
    assert type(there) is type(here)
    if isinstance(here, dict):
        assert there.keys() == here.keys()  # in the order of the space
        for key in here:
            assert_same(there[key], here[key])
    elif isinstance(here, tuple):
        assert len(there) == len(here)
        for left, right in zip(there, here, strict=True):
            assert_same(left, right)
    elif isinstance(here, np.ndarray):
        assert there.dtype == here.dtype
        np.testing.assert_array_equal(there, here)
    else:
        assert there == here


class Tells(Grid):
    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, _ = super().reset(seed=seed)
        return observation, {"none": options is None, "given": options or {}}


@pytest.mark.parametrize("options", [None, {}, {"timeout": 3.0}, {"seed": 4, "options": {}}])
def test_options_arrive_as_they_are_given(options: dict[str, Any] | None) -> None:
    with GymEnv(Tells) as env:
        assert env.reset(seed=1, options=options)[1] == {
            "none": options is None,
            "given": options or {},
        }


def test_gymnasiums_checker_passes() -> None:
    env = GymEnv(Grid, render_mode="rgb_array")
    check_env(env, skip_render_check=True)
    env.close()


@pytest.mark.parametrize(
    "source",
    [Grid, lambda: Grid(), Grid(), "CartPole-v1", TARGET],
    ids=["class", "factory", "instance", "id", "path"],
)
def test_an_adapter_takes_whatever_makes_one(source: Any) -> None:
    if callable(source) and not isinstance(source, type):
        source.__annotations__["return"] = Grid
    with GymEnv(source) as env:
        env.reset(seed=1)
        env.step(env.action_space.sample())
    assert [p for p in psutil.Process().children() if "openenv_async.cli" in p.cmdline()] == []


def test_a_vector_of_a_class_is_gymnasiums_vector() -> None:
    there = GymVectorEnv(Grid, 3, params={"size": 3})
    here: SyncVectorEnv = SyncVectorEnv([lambda: Grid(size=3)] * 3)
    assert there.single_action_space == here.single_action_space
    assert there.observation_space == here.observation_space
    assert_same(there.reset(seed=3), here.reset(seed=3))
    here.action_space.seed(1)
    for _ in range(60):
        actions = here.action_space.sample()
        left, right = there.step(actions), here.step(actions)
        assert_same(left[0], right[0])
        for a, b in zip(left[1:4], right[1:4], strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(left[4]["away"], right[4]["away"])
    there.close()
    here.close()


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
def test_actions_of_a_vector_may_have_an_axis_of_one(shape: tuple[int, ...]) -> None:
    env = GymVectorEnv(Grid, 2)
    env.reset(seed=1)
    assert env.step(np.array([1, 3]).reshape(shape))[0]["at"].shape == (2, 2)
    env.close()


@pytest.mark.parametrize(
    "actions",
    [
        [1.7, 1.0],
        np.array([1.0, 2.0]),
        ["1", "2"],
        np.array([True, True]),
        [None, 1],
        [0, 1],
        [1, 5],
    ],
    ids=str,
)
def test_actions_of_another_kind_are_refused_by_a_vector(actions: Any) -> None:
    env = GymVectorEnv(Grid, 2)
    env.reset(seed=1)
    with pytest.raises(InvalidAction, match=r"an integer from 1 to 4|Discrete\(4, start=1\)"):
        env.step(actions)
    env.step([1, 1])
    env.close()


def test_a_huge_range_of_actions_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.integrations.gymnasium.vector._MOST_PAYLOADS", 2)
    env = GymVectorEnv(Grid, 2)
    env.reset(seed=1)
    local = Grid()
    local.reset(seed=1)
    for action in (1, 2, 3, 4, 1, 2, 3, 4):
        seen = env.step([action, 5 - action])[0]["at"][0]
        np.testing.assert_array_equal(seen, local.step(action)[0]["at"])
        assert len(env._payloads) <= 4
    env.close()


def test_a_box_of_one_number_takes_actions_without_an_axis() -> None:
    env = GymVectorEnv("Pendulum-v1", 2)
    env.reset(seed=1)
    first = env.step(np.array([0.5, -0.5]))[0]
    env.reset(seed=1)
    np.testing.assert_array_equal(env.step(np.array([[0.5], [-0.5]]))[0], first)
    with pytest.raises(InvalidAction, match="an array of float32"):
        env.step(np.array(["a", "b"]))
    env.close()


class Dicts(Grid):
    """With an action of several parts."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Dict({"move": spaces.Discrete(4, start=1)})  # type: ignore[assignment]  # another

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        return self._seen(), float(action["move"]), False, False, {}


def test_an_action_of_parts_is_read_by_its_parts() -> None:
    env = GymEnv(Dicts)
    assert env.action_space == spaces.Dict({"move": spaces.Discrete(4, start=1)})
    env.reset(seed=1)
    env.step({"move": 1})
    assert env.step({"move": np.array([3])})[1] == 3.0
    wrong: Any
    for wrong in ({}, {"move": 1.5}, {"move": 1, "jump": 1}, 1, None):
        with pytest.raises(InvalidAction):
            env.step(wrong)
    env.close()
    vector = GymVectorEnv(Dicts, 2)
    vector.reset(seed=1)
    vector.step({"move": np.array([1, 2])})
    for wrong in ({}, {"move": np.array([1.5, 2.0])}, None):
        with pytest.raises(InvalidAction):
            vector.step(wrong)
    vector.close()


def test_a_copy_talks_to_the_same_server() -> None:
    with GymEnv(Grid) as env:
        env.reset(seed=3)
        twin = pickle.loads(pickle.dumps(env))
        assert_same(twin.reset(seed=3), env.reset(seed=3))
        twin.close()
        env.step(1)


def test_the_server_of_a_class_lets_nobody_else_in() -> None:
    with GymEnv(Grid) as env, pytest.raises(OpenEnvError, match="token"):
        GymEnv(env.client.client.base_url)


class Odd(spaces.Space[Any]):
    """A kind of space that only its author knows."""


class Unserved(gymnasium.Env[Any, Any]):
    """Its space is of a kind that does not travel."""

    def __init__(self) -> None:
        self.action_space = spaces.Discrete(2)
        self.observation_space = Odd()


@pytest.mark.parametrize("make", [GymEnv, lambda source: GymVectorEnv(source, 2)])
def test_what_cannot_be_served_is_told_with_the_reason(make: Any) -> None:
    with pytest.raises(InvalidOption, match=r"observation_space of Unserved.*Odd cannot be"):
        make(Unserved)
    with pytest.raises(TypeError, match="environment"):
        make(5)


# -- frames -------------------------------------------------------------------------------------


def test_frames_come_over_the_wire() -> None:
    local = Grid(render_mode="rgb_array")
    env = GymEnv(Grid, render_mode="rgb_array")
    assert env.metadata == {"render_modes": ["rgb_array", "ansi"], "render_fps": 10}
    env.reset(seed=2)
    local.reset(seed=2)
    for action in (1, 3, 3, 1):
        env.step(action)
        local.step(action)
        frame = env.render()
        np.testing.assert_array_equal(frame, local.render())
        frame[:] = 0  # it is the caller's own
    env.close()
    with GymEnv(Grid, render_mode="ansi") as text:
        text.reset(seed=2)
        assert text.render().startswith("at [")


def test_a_render_mode_that_is_not_there_is_told() -> None:
    with pytest.raises(OperationUnsupported, match="'depth_array' \\(it has: rgb_array, ansi\\)"):
        GymEnv(Grid, render_mode="depth_array")
    with pytest.raises(OperationUnsupported, match="needs a window"):
        GymEnv(Grid, render_mode="human")
    with GymEnv(Grid) as env:
        env.reset()
        assert env.client.state()["frame"] is None
        with pytest.raises(OperationUnsupported, match="render_mode='rgb_array'"):
            env.render()


def test_a_vector_renders_every_environment() -> None:
    vector = GymVectorEnv(Grid, 2, render_mode="rgb_array")
    vector.reset(seed=2)
    frames = vector.render()
    assert frames is not None
    for i, frame in enumerate(frames):
        local = Grid(render_mode="rgb_array")
        local.reset(seed=2 + i)
        np.testing.assert_array_equal(frame, local.render())
    vector.close()


@pytest.mark.filterwarnings("ignore:.*Overwriting existing videos")
def test_gymnasiums_recorder_makes_a_video(tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    env = RecordVideo(
        GymEnv(Grid, render_mode="rgb_array"), str(tmp_path), episode_trigger=lambda episode: True
    )
    env.reset(seed=1)
    for action in [1, 3] * 20:
        _, _, terminated, truncated, _ = env.step(np.int64(action))
        if terminated or truncated:
            break
    env.close()  # type: ignore[no-untyped-call]  # of a wrapper
    (film,) = tmp_path.glob("*.mp4")
    assert b"ftyp" in film.read_bytes()[:32]
    assert film.stat().st_size > 500


# -- all of it ----------------------------------------------------------------------------------


async def test_five_hundred_episodes_are_rolled_out() -> None:
    async with serve(Grid) as url:
        policy = RandomPolicy((await fetch_schema(url))["action"], 0)
        outcomes = await collect_all(url, policy, episodes=500, concurrency=32, seeds=0)
    assert len(outcomes) == 500
    kinds = {outcome.status for outcome in outcomes}
    assert kinds == {OutcomeStatus.COMPLETED, OutcomeStatus.TRUNCATED}
    for outcome in outcomes:
        assert outcome.episode_return == float(outcome.status is OutcomeStatus.COMPLETED)


def test_it_is_trained_and_filmed(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    env = OpenEnvVecEnv(Grid, 4, params={"size": 2}, render_mode="rgb_array")
    assert env.action_space == spaces.Discrete(4)
    model = PPO(
        "MultiInputPolicy", env, n_steps=32, batch_size=64, n_epochs=1, seed=0, device="cpu"
    )
    model.learn(256)
    assert model.ep_info_buffer
    images = env.get_images()
    assert [None if image is None else image.shape for image in images] == [(72, 72, 3)] * 4
    pytest.importorskip("moviepy")
    recorder = VecVideoRecorder(env, str(tmp_path), lambda step: step == 0, video_length=5)
    recorder.reset()
    for _ in range(7):
        recorder.step(np.zeros(4, np.int64))
    recorder.close()
    assert [film.suffix for film in tmp_path.iterdir()] == [".mp4"]
    torch.set_num_threads(before)


def test_the_command_line_validates_and_plays_it() -> None:
    done = run("validate", TARGET, "--json")
    report = json.loads(done.stdout)
    assert [check for check in report if check["result"] not in ("pass", "skip")] == []
    assert len([check for check in report if check["result"] == "pass"]) > 15
    done = run("rollout", TARGET, "--episodes", "8", "--seed", "0", "--json")
    summary = json.loads(done.stdout)
    assert summary["episodes"] == 8
    done = run("rollout", "CartPole-v1", "--episodes", "2", "--seed", "0", "--json")
    assert json.loads(done.stdout)["episodes"] == 2


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )


def test_workers_share_the_sessions_of_a_class() -> None:
    from openenv_async.engine import EngineOptions

    with served(Grid, options=EngineOptions(workers=2)) as url:
        env = GymVectorEnv(url, 4, render_mode="rgb_array")
        env.reset(seed=1)
        env.step([1, 2, 3, 4])
        frames = env.render()
        assert frames is not None
        assert {frame.shape for frame in frames} == {(72, 72, 3)}
        env.close()
