"""A caller's mistake is refused before anything is played; it never becomes an outcome."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

from openenv_async import (
    EnvClient,
    GenericEnvClient,
    HTTPEnvClient,
    OutcomeStatus,
    StepResult,
    connect,
    serve,
)
from openenv_async.errors import InvalidOption, SessionClosed, TargetNotFound, WrongTarget
from openenv_async.pool import EnvPool
from openenv_async.providers.static import StaticProvider
from openenv_async.rollouts import (
    RandomPolicy,
    Trajectory,
    VersionedPolicy,
    collect,
    collect_all,
    replay,
    rollout,
    stream,
    stream_groups,
)
from openenv_async.rollouts.checking import check_count, check_policy, check_seconds, check_seed
from openenv_async.server import create_app
from tests.rollouts.environments import Counting, Move, Seen

NO_SERVER = "http://127.0.0.1:1"


class CountingEnv(EnvClient[Move, Seen, dict[str, Any]]):
    pass


def move(observation: Any) -> dict[str, int]:
    return {"amount": 1}


async def a_client() -> Any:
    return GenericEnvClient(NO_SERVER)


class Gym(gymnasium.Env[Any, Any]):
    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        raise AssertionError("played")


NOT_TARGETS: list[tuple[Any, type[Exception], str]] = [
    (None, WrongTarget, "give the URL of a server"),
    (3, WrongTarget, "give the URL of a server"),
    (b"echo", WrongTarget, "give the URL of a server"),
    (object(), WrongTarget, "a pool or a provider"),
    ({"url": NO_SERVER}, WrongTarget, "give the URL of a server"),
    ([], WrongTarget, "was given no URL"),
    ([3], WrongTarget, "number 1 of the targets must be"),
    ([NO_SERVER, "localhost:1"], ValueError, "not a valid server address"),
    (CountingEnv, WrongTarget, r"functools.partial\(CountingEnv, url\)"),
    (connect(Counting), WrongTarget, "it was not entered"),
    (a_client, WrongTarget, "which is async"),
    (lambda url: GenericEnvClient(url), WrongTarget, "cannot be called without arguments"),
    ("ehco", TargetNotFound, "did you mean echo"),
    ("localhost:1", TargetNotFound, "write http://localhost:1"),
]


@pytest.mark.parametrize(
    ("target", "error", "message"),
    NOT_TARGETS,
    ids=lambda value: repr(value).partition(" at 0x")[0][:30],
)
async def test_what_is_no_target_is_refused_at_once_with_the_remedy(
    target: Any, error: type[Exception], message: str
) -> None:
    for make in (
        lambda: collect(target, move, episodes=3),
        lambda: stream(target, move, episodes=3),
        lambda: stream_groups(target, move, group_size=2),
    ):
        with pytest.raises(error, match=message):
            make()
    trajectory = Trajectory(0)
    trajectory.seed = 1
    with pytest.raises(error, match=message):
        await rollout(target, move)
    with pytest.raises(error, match=message):
        await replay(target, trajectory)


@pytest.mark.parametrize("made", [None, 3, CountingEnv, Counting, Counting(), Gym(), object()])
async def test_what_a_factory_makes_has_to_be_a_client(made: Any) -> None:
    with pytest.raises(WrongTarget, match="a client with async reset and step is needed"):
        await collect_all(lambda: made, move, episodes=2)
    with pytest.raises(WrongTarget, match="a client with async reset and step is needed"):
        async with stream(lambda: made, move, episodes=2) as episodes:
            await anext(episodes)


async def test_arguments_of_a_target_are_refused_where_they_mean_nothing() -> None:
    pool = EnvPool(StaticProvider(NO_SERVER))
    for target in (pool, lambda: GenericEnvClient(NO_SERVER), GenericEnvClient(NO_SERVER)):
        with pytest.raises(ValueError, match="connections= belongs to URLs"):
            collect(target, move, episodes=2, connections=2)
    with pytest.raises(InvalidOption, match="takes no token"):
        collect(pool, move, episodes=2, token="secret")
    with pytest.raises(InvalidOption, match="takes no params"):
        collect(NO_SERVER, move, episodes=2, params={"goal": 2})
    async with connect(Counting) as env:
        with pytest.raises(InvalidOption, match="plays on the client itself"):
            await rollout(env, move, params={"goal": 2})
        with pytest.raises(InvalidOption, match="plays on the client itself"):
            await rollout(env, move, token="secret")


async def test_a_target_is_played_on_with_its_types_and_arguments() -> None:
    played = await rollout(Counting, lambda seen: Move(2), params={"goal": 4}, seed=3)
    assert (played.status, played.steps) == (OutcomeStatus.COMPLETED, 2)
    assert type(played.trajectory.transitions[0].observation) is Seen  # type: ignore[union-attr]  # it was recorded
    found = await replay(Counting, played.trajectory, params={"goal": 4})  # type: ignore[arg-type]  # it was recorded
    assert found is None
    differs = await replay(Counting(9), played.trajectory)  # type: ignore[arg-type]  # it was recorded
    assert differs is not None
    assert differs.field == "terminated"
    all_played = await collect_all(Counting, lambda seen: Move(1), episodes=3, connections=2)
    assert [outcome.steps for outcome in all_played] == [3, 3, 3]
    async with stream_groups(Counting, move, group_size=2, groups=1, params={"goal": 1}) as groups:
        assert [len(group.episodes) async for group in groups] == [2]


async def test_a_typo_in_the_factory_is_raised() -> None:
    def typo() -> Any:
        return GenericEnvClint(NO_SERVER)  # type: ignore[name-defined]  # noqa: F821  # the typo

    for make in (typo, lambda: GenericEnvClient(NO_SERVER, tokn="x"), lambda: None):
        with pytest.raises((NameError, TypeError)):
            await collect_all(make, move, episodes=3)


class Player:
    def for_episode(self, index: int) -> Any:
        return move


class Caller:
    def __call__(self, observation: Any) -> Any:
        return move(observation)


async def a_policy(observation: Any) -> Any:
    return move(observation)


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        lambda: {"amount": 1},
        lambda: "random",
        lambda: a_policy({}),
        lambda: Player,
        lambda: Caller,
        lambda: RandomPolicy,
        lambda: VersionedPolicy,
        lambda: lambda: move,
        lambda: lambda observation, turn, extra: move,
        lambda: lambda *, observation: move,
    ],
)
async def test_a_policy_that_cannot_be_asked_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match="policy"):
        await rollout(GenericEnvClient(NO_SERVER), make())
    with pytest.raises(TypeError, match="policy"):
        collect(NO_SERVER, make(), episodes=1)
    with pytest.raises(TypeError, match="policy"):
        stream(NO_SERVER, make())


async def test_policies_of_every_usual_form_are_taken() -> None:
    class Method:
        def decide(self, observation: Any, turn: Any) -> Any:
            return move(observation)

        async def later(self, observation: Any) -> Any:
            return move(observation)

    policies: list[Any] = [
        move,
        a_policy,
        Player(),
        Caller(),
        VersionedPolicy(move),
        Method().decide,
        Method().later,
        functools.partial(lambda amount, observation: {"amount": amount}, 1),
        lambda *anything: {"amount": 1},
        lambda observation, temperature=1.0: {"amount": 1},
        lambda observation, turn, greedy=True: {"amount": 1},
    ]
    async with serve(Counting) as url:
        for policy in policies:
            [outcome] = await collect_all(url, policy, episodes=1)
            assert outcome.status is OutcomeStatus.COMPLETED


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        *(({name: value}, ValueError) for name in ("episodes", "concurrency", "min_episodes",
          "max_ahead", "max_steps") for value in (0, -1)),
        *(({name: value}, TypeError) for name in ("episodes", "concurrency", "min_episodes",
          "max_ahead", "max_steps", "connections") for value in ("3", 3.0, True, [3])),
        *(({name: value}, ValueError) for name in ("timeout", "deadline")
          for value in (0, -1.0, math.nan)),
        *(({name: value}, TypeError) for name in ("timeout", "deadline")
          for value in ("5", True, [1])),
        ({"seeds": "abc"}, TypeError),
        ({"seeds": 1.0}, TypeError),
        ({"seeds": True}, TypeError),
        ({"seeds": [1, 2.0, 3]}, TypeError),
        ({"seeds": [1, 2, None]}, TypeError),
        ({"seeds": {1, 2, 3}}, TypeError),
        ({"seeds": [1, 2, 1 << 63]}, ValueError),
        ({"seeds": (1 << 63) - 2}, ValueError),
        ({"seeds": -1}, ValueError),
        ({"reset_options": ["goal"]}, TypeError),
        ({"reset_options": "goal"}, TypeError),
        ({"reset_options": {1: 2}}, TypeError),
        ({"reset_options": {"seed": 1}, "seeds": 2}, ValueError),
        ({"on_progress": 3}, TypeError),
        ({"summary": {}}, TypeError),
        ({"retry": "sometimes"}, ValueError),
    ],
    ids=str,
)  # fmt: skip
def test_arguments_that_make_no_sense_are_refused_at_once(
    wrong: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        collect(NO_SERVER, move, **{"episodes": 3, **wrong})


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"group_size": 0}, ValueError),
        ({"group_size": "3"}, TypeError),
        ({"groups": 0}, ValueError),
        ({"groups": 1.5}, TypeError),
        ({"seed": "abc"}, TypeError),
        ({"max_staleness": 1}, ValueError),
        ({"max_staleness": "1"}, TypeError),
        ({"episode": 3}, TypeError),
    ],
    ids=str,
)
def test_arguments_of_streams_that_make_no_sense_are_refused_at_once(
    wrong: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        stream_groups(NO_SERVER, move, **{"group_size": 2, **wrong})


async def test_numbers_of_numpy_are_numbers() -> None:
    numbers: dict[str, Any] = {
        "episodes": np.int64(2),
        "concurrency": np.int8(1),
        "seeds": np.arange(3),
        "timeout": np.float32(30),
        "max_steps": np.uint8(9),
    }
    async with serve(Counting) as url:
        outcomes = await collect_all(url, move, **numbers)
    assert [o.episode.seed for o in outcomes if o.episode] == [0, 1]
    assert all(type(o.index) is int for o in outcomes)


async def test_what_the_server_calls_a_wrong_option_is_raised() -> None:
    app = create_app(Counting)
    async with serve(app) as url:
        for options in ({"goal": "three"}, {"gaol": 3}, {"goal": object()}):
            with pytest.raises((ValueError, TypeError)):
                await collect_all(url, move, episodes=20, reset_options=options)
        assert app.state.openenv.engine.stats.steps == 0


async def test_a_client_of_another_shape_is_no_failed_environment() -> None:
    class Blocking:
        def reset(self) -> StepResult[int]:
            return StepResult(0)

        def step(self, action: Any) -> StepResult[int]:
            raise AssertionError("played")

    class Unwrapped:
        async def reset(self) -> dict[str, int]:
            return {"n": 0}

    class Unseeded(Unwrapped):
        async def reset(self) -> Any:
            return StepResult(0)

    for env in (Blocking(), Unwrapped()):
        with pytest.raises(TypeError, match="async and gives a StepResult"):
            await rollout(env, move)
    with pytest.raises(TypeError, match=r"cannot be called with \['seed'\]"):
        await rollout(Unseeded(), move, seed=1)
    with pytest.raises(TypeError, match="no step"):
        await rollout(Unseeded(), move)


async def test_a_client_that_was_closed_is_no_failed_environment() -> None:
    async with serve(Counting) as url:
        client = CountingEnv(url)
        await client.open()
        await client.close()
        with pytest.raises(SessionClosed, match="make a new one"):
            await rollout(client, lambda seen: Move(1))


def test_a_class_is_a_policy_only_where_calling_it_is_all_that_it_is_for() -> None:
    class Inheriting(Caller):
        pass

    check_policy(int)
    for wrong in (Caller, Inheriting, Player):
        with pytest.raises(TypeError, match=f"give an instance of it, {wrong.__name__}"):
            check_policy(wrong)


@pytest.mark.parametrize("seconds", [1e-9, 3, math.inf, np.float32(2.0)])
def test_any_positive_number_is_a_number_of_seconds(seconds: Any) -> None:
    assert check_seconds("timeout", seconds) == float(seconds)
    assert type(check_seconds("timeout", seconds)) is float


@pytest.mark.parametrize(("least", "value"), [(1, 1), (0, 0), (5, 5), (5, 6)])
def test_a_count_may_be_the_least(least: int, value: int) -> None:
    assert check_count("episodes", value, least) == value
    with pytest.raises(ValueError, match=f"episodes must be at least {least}, got {least - 1}"):
        check_count("episodes", least - 1, least)


def test_seeds_are_from_nought_to_the_largest_of_64_bits() -> None:
    assert [check_seed("seed", seed) for seed in (0, (1 << 63) - 1)] == [0, (1 << 63) - 1]
    for seed in (-1, 1 << 63):
        with pytest.raises(ValueError, match="seed must be from 0"):
            check_seed("seed", seed)


async def test_a_closed_client_over_http_and_a_closed_pool_are_no_failed_environments() -> None:
    client = HTTPEnvClient(NO_SERVER)
    pool = EnvPool.from_url(NO_SERVER)
    await client.close()
    await pool.aclose()
    for closed in (client, pool):
        with pytest.raises(SessionClosed, match="make a new one"):
            await rollout(closed, lambda seen: Move(1))
