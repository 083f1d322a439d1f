"""Over a socket."""

from __future__ import annotations

import asyncio

import numpy as np
from atari_env import ENVIRONMENT, AtariAction, AtariEnv, AtariState
from atari_env.environment import AtariEnvironment
from atari_env.policies import follow_the_ball

from openenv_async import OutcomeStatus, serve
from openenv_async.rollouts import RandomPolicy, collect_all, fetch_schema
from openenv_async.targets.discovery import find_target
from openenv_async.testing import served_application

Step = tuple[bytes, float | None, bool]


async def test_sixteen_sessions_side_by_side_play_the_same_game() -> None:
    params = {
        "game_name": "breakout",
        "obs_type": "resized",
        "repeat_action_probability": 0.25,
        "noop_max": 20,
    }

    async def play(url: str, seed: int) -> list[Step]:
        async with AtariEnv(url) as env:
            result = await env.reset(seed=seed)
            trace: list[Step] = [(result.observation.screen.tobytes(), None, False)]
            for i in range(25):
                result = await env.step(AtariAction(i * 5 // 3 % 4))
                screen = result.observation.screen
                assert screen.dtype == np.uint8
                assert screen.shape == (4, 84, 84)
                trace.append((screen.tobytes(), result.reward, result.done))
            return trace

    async with serve(AtariEnvironment, params=params) as url:
        alone = await play(url, 7)
        traces = await asyncio.gather(*(play(url, 7 if i % 2 else 100 + i) for i in range(16)))
    assert all(trace == alone for trace in traces[1::2])
    assert all(trace != alone for trace in traces[::2])


async def test_a_lost_life_ends_an_episode_but_not_the_game() -> None:
    params = {"game_name": "breakout", "terminal_on_life_loss": True, "fire_reset": True}
    async with serve(AtariEnvironment, params=params) as url, AtariEnv(url) as env:
        lives = []
        for _ in range(6):
            result = await env.reset()
            lives.append(result.observation.lives)
            while not result.done:
                result = await env.step(AtariAction(0))
        assert lives == [5, 4, 3, 2, 1, 5]
        await env.reset()
        assert (await env.reset(new_game=True)).observation.lives == 5


async def test_the_schema_knows_the_game_and_random_play_fits_it() -> None:
    params = {"game_name": "freeway", "frame_stack": 2}
    async with serve(AtariEnvironment, params=params) as url:
        schema = await fetch_schema(url)
        outcomes = await collect_all(
            url, RandomPolicy(schema["action"], 0), episodes=3, max_steps=15, seeds=0
        )
        async with AtariEnv(url) as env:
            result = await env.reset()
            state = await env.state()
    assert [outcome.status for outcome in outcomes] == [OutcomeStatus.TRUNCATED] * 3
    action = schema["action"]["$defs"]["AtariAction"]["properties"]["action_id"]
    assert (action["minimum"], action["maximum"]) == (0, 2)
    assert "1: UP" in action["description"]
    screen = schema["observation"]["$defs"]["AtariObservation"]["properties"]["screen"]
    assert screen["x-ndarray"] == {"dtype": "|u1", "shape": [2, 210, 160, 3], "low": 0, "high": 255}
    assert result.observation.screen.shape == (2, 210, 160, 3)
    assert isinstance(state, AtariState)
    assert state.game_name == "freeway"


async def test_the_example_policy_beats_random_play() -> None:
    params = {"noop_max": 30, "max_num_frames_per_episode": 1000}
    async with serve(AtariEnvironment, params=params) as url:
        good = await collect_all(lambda: AtariEnv(url), follow_the_ball, episodes=2, seeds=0)
        policy = RandomPolicy((await fetch_schema(url))["action"], 0)
        chance = await collect_all(url, policy, episodes=2, seeds=0)
    returns = [sum(outcome.episode_return or 0.0 for outcome in each) for each in (good, chance)]
    assert returns[0] > returns[1] + 2 * 2, returns


def test_it_is_found_by_name() -> None:
    spec = find_target("atari", {"game_name": "breakout"})
    assert spec.cls is AtariEnvironment
    assert spec.contract.isolation == "inline"
    assert ENVIRONMENT.client_class() is AtariEnv
    assert ENVIRONMENT.action_class() is AtariAction


def test_the_application_and_its_isolation_are_set_from_outside() -> None:
    told = served_application(
        "atari_env.app",
        "spec.build().state().game_name",
        "spec.contract.isolation",
        ATARI_GAME="Freeway",
        ATARI_ISOLATION="process",
    )
    assert told == ["freeway", "process"]
