"""The environment, over a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium_env import (
    ENVIRONMENT,
    GymnasiumAction,
    GymnasiumEnv,
    GymnasiumObservation,
    GymnasiumState,
)
from gymnasium_env.environment import GymnasiumEnvironment, InlineGymnasiumEnvironment

from openenv_async import OutcomeStatus, StepResult, serve
from openenv_async.errors import (
    EnvironmentRaised,
    EpisodeNotStarted,
    InvalidAction,
    InvalidOption,
    OperationUnsupported,
)
from openenv_async.rollouts import RandomPolicy, collect_all, fetch_schema, rollout
from openenv_async.targets.discovery import find_target
from openenv_async.testing import served_application

BOTH = pytest.mark.parametrize("cls", [GymnasiumEnvironment, InlineGymnasiumEnvironment])
Episode = list[tuple[Any, float | None, bool, bool]]


class Awkward(gymnasium.Env[dict[str, Any], Any]):
    """Nested spaces, info with arrays, and an end of either kind."""

    def __init__(self, limit: int = 3) -> None:
        self.observation_space = gymnasium.spaces.Dict(
            {
                "pixels": gymnasium.spaces.Box(0, 255, (2, 2), np.uint8),
                "pair": gymnasium.spaces.Tuple((gymnasium.spaces.Discrete(9),) * 2),
            }
        )
        self.action_space = gymnasium.spaces.Discrete(3)
        self.limit = limit
        self.options: Any = None

    def _observation(self) -> dict[str, Any]:
        return {"pixels": np.full((2, 2), 7, np.uint8), "pair": (1, np.int64(2))}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        return self._observation(), {"options": options, "lives": np.arange(2, dtype=np.int16)}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if action == 2:
            raise RuntimeError("broken")
        return self._observation(), np.float64(0.5), action == 1, False, {"mean": np.float32(1.5)}


gymnasium.register("Awkward-v0", entry_point=Awkward, max_episode_steps=3)  # type: ignore[arg-type]  # a class makes one


def local(id: str, seed: int, actions: list[Any]) -> Episode:
    env = gymnasium.make(id)
    observation, _ = env.reset(seed=seed)
    episode: Episode = [(observation, None, False, False)]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        episode.append((observation, float(reward), terminated, truncated))
        if terminated or truncated:
            break
    env.close()
    return episode


async def served(url: str, seed: int, actions: list[Any]) -> Episode:
    def as_row(result: StepResult[GymnasiumObservation]) -> Any:
        return (result.observation.value, result.reward, result.terminated, result.truncated)

    async with GymnasiumEnv(url) as env:
        episode: Episode = [as_row(await env.reset(seed=seed))]
        for action in actions:
            result = await env.step(GymnasiumAction(action))
            episode.append(as_row(result))
            if result.done:
                break
    return episode


def same(left: Episode, right: Episode) -> bool:
    return len(left) == len(right) and all(
        np.asarray(a[0]).dtype == np.asarray(b[0]).dtype
        and np.array_equal(np.asarray(a[0]), np.asarray(b[0]))
        and a[1:] == b[1:]
        for a, b in zip(left, right, strict=True)
    )


@BOTH
@pytest.mark.parametrize("id", ["CartPole-v1", "Blackjack-v1", "MountainCarContinuous-v0"])
async def test_sixteen_sessions_with_one_seed_are_one_episode(
    cls: type[GymnasiumEnvironment], id: str
) -> None:
    """And it is the local one, whatever other sessions do in between."""
    space = gymnasium.make(id).action_space
    space.seed(1)
    actions = [space.sample() for _ in range(60)]
    wanted = local(id, 5, actions)
    async with serve(cls, params={"id": id}) as url:
        episodes = await asyncio.gather(
            *(served(url, 5, actions) for _ in range(16)),
            *(served(url, seed, actions) for seed in range(10, 18)),
        )
    for episode in episodes[:16]:
        assert same(episode, wanted)
    assert not same(episodes[16], wanted)


@BOTH
async def test_random_play_fits_the_spaces(cls: type[GymnasiumEnvironment]) -> None:
    for id in ("CartPole-v1", "Blackjack-v1", "Pendulum-v1", "FrozenLake-v1", "Awkward-v0"):
        async with serve(cls, params={"id": id}) as url:
            policy = RandomPolicy((await fetch_schema(url))["action"], 0)
            outcomes = await collect_all(
                url, policy, episodes=6, concurrency=3, max_steps=20, seeds=0
            )
        usable = {OutcomeStatus.COMPLETED, OutcomeStatus.TRUNCATED}
        if id == "Awkward-v0":  # which breaks at one of its three actions
            usable.add(OutcomeStatus.ENV_ERROR)
        assert {o.status for o in outcomes} <= usable, id


async def test_ends_are_told_apart() -> None:
    async with (
        serve(GymnasiumEnvironment, params={"id": "Awkward-v0"}) as url,
        GymnasiumEnv(url) as env,
    ):
        outcomes = [
            await rollout(env, policy)
            for policy in (
                lambda observation: GymnasiumAction(0),
                lambda observation, turn: GymnasiumAction(int(turn.t == 1)),
            )
        ]
        assert (await env.state()).elapsed_steps == 2
    assert [o.status for o in outcomes] == [OutcomeStatus.TRUNCATED, OutcomeStatus.COMPLETED]
    assert [o.episode_return for o in outcomes] == [1.5, 1.0]


async def test_observations_info_options_and_state_come_through() -> None:
    params = {"id": "Awkward-v0", "limit": 4, "max_episode_steps": 9}
    async with serve(GymnasiumEnvironment, params=params) as url, GymnasiumEnv(url) as env:
        result = await env.reset(options={"level": 2})
        assert result.observation.value["pixels"].dtype == np.uint8
        assert result.observation.value["pixels"].tolist() == [[7, 7], [7, 7]]
        assert result.observation.value["pair"] == [1, 2]
        assert result.reward is None
        assert result.info["options"] == {"level": 2}
        assert result.info["lives"].dtype == np.int16
        result = await env.step(GymnasiumAction(0))
        assert result.reward == 0.5
        assert result.info == {"mean": 1.5}
        assert await env.state() == GymnasiumState("Awkward-v0", 1, 9)


class Network(gymnasium.Env[Any, Any]):
    """Graphs to see, one of two kinds of action, and pictures."""

    metadata = {"render_modes": ["rgb_array", "ansi"], "render_fps": 5}  # noqa: RUF012  # as theirs

    def __init__(self, render_mode: str | None = None) -> None:
        self.observation_space = gymnasium.spaces.Graph(
            gymnasium.spaces.Box(0, 9, (2,), np.float32), gymnasium.spaces.Discrete(3)
        )
        self.action_space = gymnasium.spaces.OneOf(
            (gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(-1, 1, (2,), np.float32))
        )
        self.render_mode = render_mode

    def _seen(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(1 << 30)))
        return self.observation_space.sample()

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.taken: list[Any] = []
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.taken.append(action)
        return self._seen(), float(action[0]), len(self.taken) > 4, False, {}

    def render(self) -> Any:
        if self.render_mode == "ansi":
            return f"{len(self.taken)} taken"
        picture = np.zeros((20, 30, 3), np.uint8)
        picture[len(self.taken)] = 255
        return picture


gymnasium.register("Network-v0", entry_point=Network)  # type: ignore[arg-type]  # a class makes one


@pytest.mark.parametrize("codec", ["openenv.v1.msgpack", "openenv.v1.json", "upstream"])
async def test_graphs_and_alternatives_travel_as_dicts_and_pairs(codec: str) -> None:
    here = Network()
    params = {"id": "Network-v0"}
    async with (
        serve(GymnasiumEnvironment, params=params) as url,
        GymnasiumEnv(url, subprotocol=codec) as env,
    ):
        seen = (await env.reset(seed=3)).observation.value
        wanted, _ = here.reset(seed=3)
        actions = here.action_space
        actions.seed(0)
        for _ in range(5):
            for name, value in wanted._asdict().items():
                assert np.array_equal(seen[name], value), name
            action = actions.sample()
            plain = [int(action[0]), action[1]]
            result = await env.step(GymnasiumAction(plain))
            seen, (wanted, reward, ended, *_) = result.observation.value, here.step(action)
            assert (result.reward, result.terminated) == (reward, ended)
    async with serve(GymnasiumEnvironment, params=params) as url, GymnasiumEnv(url) as env:
        await env.reset()
        with pytest.raises(InvalidAction, match=r"action\[1\] must be an integer from 0 to 2"):
            await env.step(GymnasiumAction([0, 7]))


async def test_frames_travel() -> None:
    params = {"id": "Network-v0"}
    async with serve(GymnasiumEnvironment, params=params) as url:
        for mode in ("rgb_array", "ansi"):
            here = Network(mode)
            async with GymnasiumEnv(url, options={"render_mode": mode}) as env:
                with pytest.raises(EpisodeNotStarted, match="call reset"):
                    await env.render()
                await env.reset()
                here.reset()
                assert np.array_equal(await env.render(), here.render())
                await env.step(GymnasiumAction([0, 1]))
                here.step((0, 1))
                assert np.array_equal(await env.render(), here.render())
        async with GymnasiumEnv(url) as env:
            await env.reset()
            with pytest.raises(OperationUnsupported, match="open the session with"):
                await env.render()


async def test_a_bad_action_is_refused_and_the_episode_goes_on() -> None:
    async with (
        serve(GymnasiumEnvironment, params={"id": "CartPole-v1"}) as url,
        GymnasiumEnv(url) as env,
    ):
        await env.reset(seed=0)
        with pytest.raises(InvalidAction, match="an integer from 0 to 1, got 7"):
            await env.step(GymnasiumAction(7))
        await env.step(GymnasiumAction(1))
        assert (await env.state()).elapsed_steps == 1


async def test_what_the_environment_raises_is_told() -> None:
    async with (
        serve(GymnasiumEnvironment, params={"id": "Awkward-v0"}) as url,
        GymnasiumEnv(url) as env,
    ):
        await env.reset()
        with pytest.raises(EnvironmentRaised, match="broken"):
            await env.step(GymnasiumAction(2))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"id": "CartPoll-v1"}, "did you mean CartPole-v1"),
        ({"id": "cartpole"}, "did you mean CartPole"),
        ({"id": "Xyzzy-v0"}, "gymnasium.registry"),
        ({"id": "no_such_module:Thing-v0"}, "Gymnasium has no environment"),
        ({"id": "Elsewhere/Thing-v0"}, "name the module that registers Elsewhere/ too"),
        ({"id": "CartPole-v1", "color": "red"}, "cannot be made with"),
        ({"id": "CartPole-v99"}, "no environment 'CartPole-v99'|cannot be made"),
    ],
)
def test_what_cannot_be_made_is_told(params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        GymnasiumEnvironment(**params)
    with pytest.raises(InvalidOption, match=message):
        GymnasiumEnvironment.schemas(**params)


def test_it_closes_what_it_made(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    monkeypatch.setattr(Awkward, "close", lambda self: closed.append(1))
    GymnasiumEnvironment("Awkward-v0").close()
    GymnasiumEnvironment.schemas("Awkward-v0")
    assert len(closed) == 2


def test_it_is_found_by_name() -> None:
    spec = find_target("gymnasium", {"id": "Blackjack-v1"})
    assert spec.contract.isolation == "inline"
    assert find_target("gymnasium", {"id": "LunarLander-v3"}).contract.isolation == "thread"
    assert find_target("gymnasium", {"id": "Nowhere-v0"}).contract.isolation == "thread"
    assert spec.schema["action"]["properties"]["value"]["maximum"] == 1
    assert find_target("gymnasium-inline").contract.isolation == "inline"
    assert ENVIRONMENT.client_class() is GymnasiumEnv
    assert ENVIRONMENT.action_class() is GymnasiumAction


def test_the_application_and_its_isolation_are_set_from_outside() -> None:
    told = served_application(
        "gymnasium_env.app",
        "spec.params['id']",
        "spec.contract.isolation",
        GYMNASIUM_ID="MountainCar-v0",
        GYMNASIUM_ISOLATION="inline",
    )
    assert told == ["MountainCar-v0", "inline"]
