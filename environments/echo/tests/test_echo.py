from __future__ import annotations

import time

import pytest
from echo_env import ENVIRONMENT, EchoAction, EchoEnv, EchoObservation
from echo_env.app import app
from echo_env.environment import EchoEnvironment

from openenv_async import OutcomeStatus, connect, rollout, serve
from openenv_async.errors import InvalidAction
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.discovery import find_entry, find_target


async def test_it_says_what_it_is_told() -> None:
    async with serve(EchoEnvironment) as url, EchoEnv(url) as env:
        result = await env.reset()
        assert result.observation.echo == "Ready"
        assert result.reward is None
        result = await env.step(EchoAction(message="hello"))
        assert isinstance(result.observation, EchoObservation)
        assert result.observation.echo == "Echo: hello"
        assert abs(result.observation.timestamp - time.time()) < 60
        assert not result.done
        state = await env.state()
        assert state["status"] == "running"


async def test_the_application_serves() -> None:
    async with serve(app) as url, EchoEnv(url) as env:
        assert (await env.reset()).observation.echo == "Ready"


async def test_an_action_that_is_none_is_refused() -> None:
    async with connect(EchoEnvironment, client=EchoEnv) as env:
        await env.reset()
        with pytest.raises(InvalidAction):
            await env.step(EchoAction(message=3))  # type: ignore[arg-type]  # wrong on purpose
        assert (await env.step(EchoAction("again"))).observation.echo == "Echo: again"


async def test_a_rollout_has_no_return_because_nothing_is_rewarded() -> None:
    async with connect(EchoEnvironment, client=EchoEnv) as env:
        outcome = await rollout(env, lambda observation: EchoAction("x"), max_steps=5)
    assert outcome.status is OutcomeStatus.TRUNCATED
    assert outcome.steps == 5
    assert outcome.episode_return is None


def test_it_is_found_by_name() -> None:
    assert find_entry("Echo_Env") == ENVIRONMENT
    assert ENVIRONMENT.client_class() is EchoEnv
    assert ENVIRONMENT.action_class() is EchoAction
    assert find_target("echo-env").cls is EchoEnvironment


async def test_its_tools_say_what_they_are_told() -> None:
    spec = EnvironmentSpec(EchoEnvironment)
    async with connect(EchoEnvironment, client=EchoEnv) as env:
        await env.reset()
        given = {}
        for tool in spec.tools("act"):
            result = await env.step(EchoAction(**tool.action({"message": "hey"})))
            given[tool.name] = result.observation.result
    assert given == {"echo_message": "hey", "echo_with_length": {"message": "hey", "length": 3}}
