"""A user's program, for type checkers alone: ``test_typing.py`` has mypy and pyright read it.

Nothing in it may be reported. ``assert_type`` also refuses an expression that is ``Any``.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import assert_type

from openenv_async import (
    AutoEnv,
    ClientSettings,
    EnvClient,
    Environment,
    EnvPool,
    GenericEnvClient,
    HTTPEnvClient,
    StepResult,
    SyncEnvClient,
    SyncEnvPool,
    collect,
    connect_in_process,
    rollout,
)
from openenv_async.providers.process import ProcessProvider
from openenv_async.rollouts import collect_all, stream
from openenv_async.targets.auto import AutoEnvClient, OwningEnvClient, TypedAutoEnvClient
from openenv_async.types import EpisodeInfo, Outcome, OutcomeStatus, Trajectory, Transition


@dataclass
class Guess:
    number: int


@dataclass
class Hint:
    text: str


@dataclass
class Secret:
    number: int


class Client(EnvClient[Guess, Hint, Secret]):
    """A user's client, with a method of its own."""

    def tries(self) -> int:
        return 0 if self.episode is None else self.episode.step_count


class Other(EnvClient[Guess, Hint, Secret]):
    """Another one."""


class HTTPClient(HTTPEnvClient[Guess, Hint, Secret]):
    """The same over HTTP."""


async def awaited(url: str) -> None:
    async with Client(url) as env:
        assert_type(env, Client)
        assert_type(env.tries(), int)
        result = await env.reset(seed=3, reset_options={"level": 1})
        assert_type(result, StepResult[Hint])
        assert_type(result.observation, Hint)
        assert_type(result.observation.text, str)
        result = await env.step(Guess(3), timeout=1.0)
        assert_type(result, StepResult[Hint])
        assert_type(result.reward, float | None)
        assert_type(result.done, bool)
        assert_type(await env.state(), Secret)
        assert_type(env.episode, EpisodeInfo | None)
        async for partial in env.stream_step(Guess(4)):
            assert_type(partial, StepResult[Hint])
        assert_type(env.settings, ClientSettings)
    other = Client.with_settings(url, env.settings.replace(token="t"))
    assert_type(other, Client)
    assert_type(await other, Client)
    assert_type(await other.open(), Client)
    assert_type(Client.from_docker_image("image"), Client)
    plain = EnvClient[Guess, Hint, Secret](url)
    assert_type((await plain.step(Guess(1))).observation, Hint)


def blocking(url: str) -> None:
    with Client(url).sync() as env:
        assert_type(env, SyncEnvClient[Guess, Hint, Secret])
        assert_type(env.reset(), StepResult[Hint])
        assert_type(env.step(Guess(3)).observation.text, str)
        assert_type(env.state(), Secret)
        for partial in env.stream_step(Guess(4)):
            assert_type(partial, StepResult[Hint])
    with SyncEnvClient[Guess, Hint, Secret](url) as same:
        assert_type(same.step(Guess(3)), StepResult[Hint])


def over_http(url: str) -> None:
    env = HTTPClient(url, timeouts=ClientSettings().timeouts)
    result: StepResult[Hint] = env.reset(seed=1)
    assert_type(result.observation, Hint)
    result = env.step(Guess(1))
    assert_type(env.step(Guess(1)).observation.text, str)
    state = env.state()
    assert isinstance(state, Secret)
    assert_type(state.number, int)
    assert_type(env.sync().state(), Secret)
    assert_type(env.sync().step(Guess(2)), StepResult[Hint])
    assert_type(env.open(), HTTPClient)
    env.close()


async def over_http_awaited(url: str) -> None:
    async with HTTPClient(url) as env:
        assert_type(env, HTTPClient)
        assert_type(await env.reset(), StepResult[Hint])
        assert_type(await env.step(Guess(1)), StepResult[Hint])
        assert_type(await env.state(), Secret)
        assert_type(await env.open(), HTTPClient)
        assert_type(await env.close(), None)


def read(outcome: Outcome[Hint, Guess]) -> None:
    assert_type(outcome.status, OutcomeStatus)
    assert_type(outcome.trajectory, Trajectory[Hint, Guess] | None)
    if outcome.trajectory is not None:
        assert_type(outcome.trajectory.final_observation, Hint | None)
        for transition in outcome.trajectory.transitions:
            assert_type(transition, Transition[Hint, Guess])
            assert_type(transition.action.number, int)
            assert_type(transition.observation.text, str)


def policy(observation: Hint) -> Guess:
    return Guess(len(observation.text))


async def pooled(url: str) -> None:
    async with EnvPool.from_url(url, client=Client) as pool, pool.session() as env:
        assert_type(pool, EnvPool[Client])
        assert_type(env, Client)
        assert_type(pool.session(client=Other), Other)
        assert_type(pool.shared(), EnvPool[Client])
        assert_type(await pool.rollout(policy, seed=1), Outcome[Hint, Guess])
        assert_type(await pool.group(policy, 4), list[Outcome[Hint, Guess]])
        async for outcome in pool.collect(policy, 4, min_episodes=2):
            assert_type(outcome, Outcome[Hint, Guess])
        async for episode in pool.stream(policy):
            assert_type(episode.outcome, Outcome[Hint, Guess])
        async for group in pool.stream_groups(policy, group_size=2):
            assert_type(group.episodes[0].outcome, Outcome[Hint, Guess])

        async def work(env: Client, number: int) -> str:
            return (await env.step(Guess(number))).observation.text

        async for result in pool.map(work, [1, 2]):
            assert_type(result.item, int)
            assert_type(result.unwrap(), str)
    assert_type(EnvPool.from_spec("game:Guess").session(), GenericEnvClient)
    assert_type(EnvPool.from_env("game", client=Client).session(), Client)
    with SyncEnvPool.from_url(url, client=Client) as blocking_pool:
        with blocking_pool.session() as same:
            assert_type(same, SyncEnvClient[Guess, Hint, Secret])
        for outcome in blocking_pool.collect(policy, 4):
            assert_type(outcome, Outcome[Hint, Guess])


async def collected(url: str) -> None:
    make = functools.partial(Client, url)
    async for outcome in collect(make, policy, episodes=4):
        assert_type(outcome, Outcome[Hint, Guess])
    assert_type(await collect_all(make, policy, episodes=4), list[Outcome[Hint, Guess]])
    async with EnvPool.from_url(url, client=Client) as pool:
        assert_type(await collect_all(pool, policy, episodes=4), list[Outcome[Hint, Guess]])
    async for episode in stream(make, policy):
        assert_type(episode.outcome.trajectory, Trajectory[Hint, Guess] | None)
    async with Client(url) as env:
        assert_type(await rollout(env, policy), Outcome[Hint, Guess])


async def pooled_by_provider(url: str) -> None:
    async with EnvPool(ProcessProvider("guess"), client=Client) as pool:
        assert_type(pool, EnvPool[Client])
        async with pool.session() as env:
            assert_type(env, Client)
            assert_type(await env.step(Guess(1)), StepResult[Hint])
        env = await pool.session(acquire_timeout=1.0)
        assert_type(env.tries(), int)
        async with pool.session(client=GenericEnvClient) as plain:
            assert_type(plain, GenericEnvClient)
        outcomes = collect(pool, policy, episodes=3, max_steps=5)
        assert_type(outcomes, AsyncGenerator[Outcome[Hint, Guess], None])
        async for outcome in outcomes:
            read(outcome)
        assert_type(await collect_all(pool, policy, episodes=3), list[Outcome[Hint, Guess]])
        async for outcome in collect(lambda: Client(url), policy, episodes=3):
            assert_type(outcome, Outcome[Hint, Guess])
        assert_type(await rollout(env, policy, max_steps=3), Outcome[Hint, Guess])
    generic = EnvPool(ProcessProvider("guess"))
    assert_type(generic, EnvPool[GenericEnvClient])
    assert_type(generic.session(), GenericEnvClient)


class Guessing(Environment[Guess, Hint, Secret]):
    """A user's environment."""

    def reset(self, *, seed: int | None = None) -> Hint:
        return Hint("begin")

    def step(self, action: Guess) -> Hint:
        return Hint("higher" if action.number < 5 else "lower")

    def state(self) -> Secret:
        return Secret(5)


def by_name() -> None:
    assert_type(AutoEnv.from_env("guess"), AutoEnvClient)
    with AutoEnv.from_env(Guessing, params={}) as env:
        assert_type(env, TypedAutoEnvClient[Guess, Hint, Secret])
        assert_type(env.step(Guess(1)), StepResult[Hint])
        assert_type(env.state(), Secret)
        assert_type(env.provider_reason, str)


async def by_name_awaited(client: Client) -> None:
    assert_type(await AutoEnv.afrom_env("guess", provider="process"), OwningEnvClient)
    env = await AutoEnv.afrom_env(Guessing)
    assert_type(env, EnvClient[Guess, Hint, Secret])
    assert_type(await env.step(Guess(1)), StepResult[Hint])
    assert_type(await AutoEnv.afrom_env(client), EnvClient[Guess, Hint, Secret])


async def in_process() -> None:
    async with connect_in_process(Guessing) as env:
        assert_type(env, EnvClient[Guess, Hint, Secret])
        assert_type((await env.step(Guess(1))).observation, Hint)
    async with connect_in_process(Guessing, client=Client) as own:
        assert_type(own, Client)


async def played_on_other_clients(url: str) -> None:
    async for outcome in collect(HTTPClient(url), policy, episodes=1):
        assert_type(outcome, Outcome[Hint, Guess])
    async for outcome in collect(Client(url).sync(), policy, episodes=1):
        assert_type(outcome, Outcome[Hint, Guess])
    assert_type(await rollout(HTTPClient(url), policy), Outcome[Hint, Guess])
