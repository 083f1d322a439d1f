"""The environment that is validated: its actions, what is compared of it, and play on it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from openenv_async import EngineOptions, Environment, StepResult, serve
from openenv_async.checks.registry import CheckFailed, Skipped
from openenv_async.checks.validation.candidate import Candidate, answered, play
from openenv_async.errors import InvalidAction
from openenv_async.rollouts import fetch_schema
from tests.checks.validation.broken import Good, RaisesInClose, RaisesInStep

RNG = random.Random(0)


def test_an_action_is_given_drawn_or_missing() -> None:
    schema = {"action": {"const": 7}}
    assert Candidate(actions=("only",), schema=schema).action(RNG) == "only"
    assert Candidate(schema=schema).action(RNG) == 7
    with pytest.raises(Skipped, match="gives no action schema"):
        Candidate().action(RNG)
    impossibles: list[dict[str, Any]] = [{"enum": []}, {"$ref": "#/$defs/Gone"}]
    for impossible in impossibles:
        with pytest.raises(Skipped, match="no action can be drawn"):
            Candidate(schema={"action": impossible}).action(RNG)


def test_fields_that_vary_are_not_compared() -> None:
    candidate = Candidate(varying=frozenset({"took"}))
    one = candidate.turn(StepResult({"n": 1, "took": 0.1}, 1.0))
    assert one == candidate.turn(StepResult({"n": 1, "took": 0.2}, 1.0))
    assert one != candidate.turn(StepResult({"n": 2, "took": 0.1}, 1.0))
    assert one != candidate.turn(StepResult({"n": 1, "took": 0.1}, 2.0))
    assert one != candidate.turn(StepResult({"n": 1, "took": 0.1}, 1.0, terminated=True))
    state = candidate.state({"n": 1, "took": 5, "episode_id": "a", "step_count": 3})
    assert state == candidate.state({"n": 1, "episode_id": "b", "step_count": 4})
    assert state != candidate.state({"n": 2})


def test_a_reward_that_is_not_a_number_is_equal_to_itself() -> None:
    one, other = (Candidate().turn(StepResult({"n": 1}, float("nan"))) for _ in range(2))
    assert one == other


async def test_an_episode_is_played() -> None:
    async with serve(Good) as url:
        candidate = Candidate(url=url, actions=({"by": 1},))
        async with candidate.session() as env:
            played = [kind async for kind, _ in play(candidate, env, seed=3, steps=4)]
            assert played == ["reset"] + ["step"] * 4
            assert [kind async for kind, _ in play(candidate, env, seed=3, steps=0)] == ["reset"]
            whole = [result async for _, result in play(candidate, env, seed=3, steps=500)]
            assert [result.done for result in whole] == [False] * 20 + [True]


class Choosy(Environment[int, dict[str, Any], Any]):
    """Takes even numbers only."""

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: int) -> dict[str, Any]:
        if action % 2:
            raise InvalidAction("odd")
        return {"reward": 1.0}


class Particular(Choosy):
    """Takes one number, and says which."""

    def legal_actions(self) -> list[int]:
        return [1_000_001]

    def step(self, action: int) -> dict[str, Any]:
        if action != 1_000_001:
            raise InvalidAction("another")
        return {"reward": 1.0}


async def test_legal_actions_are_drawn_where_they_are_told() -> None:
    async with serve(Particular) as url:
        schema = (await fetch_schema(url))["action"]
        candidate = Candidate(url=url, schema={"action": schema})
        async with candidate.session() as env:
            played = [kind async for kind, _ in play(candidate, env, seed=0, steps=3)]
    assert played == ["reset", "step", "step", "step"]


async def test_refused_actions_are_left_out_until_all_are() -> None:
    async with serve(Choosy) as url:
        some = Candidate(url=url, actions=(1, 2))
        async with some.session() as env:
            played = [kind async for kind, _ in play(some, env, seed=0, steps=3)]
            assert played == ["reset", "step", "step", "step"]
        none = Candidate(url=url, actions=(1,))
        async with none.session() as env:
            with pytest.raises(Skipped, match=r"refuses every action.*odd"):
                async for _ in play(none, env, seed=0, steps=3):
                    pass


async def test_what_goes_wrong_is_a_finding_that_names_the_call() -> None:
    async with serve(RaisesInStep) as url:
        candidate = Candidate(url=url)
        async with candidate.session() as env:
            await answered(env, "reset", seed=1)
            with pytest.raises(
                CheckFailed, match=r"\{'by': 1\}\) failed: .*broken.*validation\.actions"
            ):
                await answered(env, "step", {"by": 1})
            with pytest.raises(InvalidAction):
                await answered(env, "step", {"by": "far"})


async def test_a_full_server_is_not_a_finding() -> None:
    async with serve(Good, options=EngineOptions(max_sessions=1)) as url:
        candidate = Candidate(url=url, timeout=0.2)
        async with candidate.session() as env:
            await answered(env, "reset")
            with pytest.raises(Skipped, match="no room for another session"):
                async with candidate.session():
                    pass


async def test_a_server_that_is_gone_is_a_finding() -> None:
    with pytest.raises(CheckFailed, match="no session could be opened"):
        async with Candidate(url="http://127.0.0.1:9").session():
            pass


async def test_closing_openly_raises_what_close_raised() -> None:
    from openenv_async.errors import EnvironmentRaised

    async with serve(RaisesInClose) as url, Candidate(url=url).session() as env:
        await env.reset()
        with pytest.raises(EnvironmentRaised):
            await env.close_openly()
