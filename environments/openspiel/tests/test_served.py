"""Over a socket."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from openspiel_env import ENVIRONMENT, OpenSpielAction, OpenSpielEnv, OpenSpielState, cfr
from openspiel_env.environment import OpenSpielEnvironment
from openspiel_env.policies import catch

from openenv_async import EngineOptions, OutcomeStatus, serve
from openenv_async.errors import InvalidAction, InvalidOption
from openenv_async.rollouts import RandomPolicy, collect_all, fetch_schema
from openenv_async.targets.discovery import find_target
from openenv_async.testing import served_application


async def test_sixteen_sessions_side_by_side_play_the_same_game() -> None:
    async def play(url: str, seed: int) -> list[tuple[bytes, float | None, list[int]]]:
        async with OpenSpielEnv(url) as env:
            result = await env.reset(seed=seed)
            trace = []
            for i in range(40):
                seen = result.observation
                assert seen.info_state.dtype == np.float32
                trace.append((seen.info_state.tobytes(), result.reward, seen.legal_actions))
                if result.done:
                    break
                choice = seen.legal_actions[i * 7 % len(seen.legal_actions)]
                result = await env.step(OpenSpielAction(choice))
            return trace

    async with serve(OpenSpielEnvironment, params={"game_name": "backgammon"}) as url:
        alone = await play(url, 7)
        traces = await asyncio.gather(*(play(url, 7 if i % 2 else 100 + i) for i in range(16)))
    assert all(trace == alone for trace in traces[1::2])
    assert all(trace != alone for trace in traces[::2])


@pytest.mark.parametrize("game", ["catch", "chess", "goofspiel", "cribbage"])
async def test_random_play_is_legal(game: str) -> None:
    params = {"game_name": game, "max_steps": 30}
    async with serve(OpenSpielEnvironment, params=params) as url:
        policy = RandomPolicy((await fetch_schema(url))["action"], 0)
        outcomes = await collect_all(url, policy, episodes=6, concurrency=3, seeds=0)
    assert {outcome.status for outcome in outcomes} <= {
        OutcomeStatus.COMPLETED,
        OutcomeStatus.TRUNCATED,
    }
    assert all(outcome.steps for outcome in outcomes)
    for outcome in outcomes:
        assert outcome.trajectory is not None
        assert outcome.mistakes == 0
        for step in outcome.trajectory.transitions:
            listed = step.observation["legal_actions"]
            assert step.action["action_id"] in listed
            # the mask counts from -1, which is an action of its own
            assert (np.flatnonzero(step.action_mask) - 1).tolist() == list(listed)


async def test_the_example_policy_beats_random_play() -> None:
    async with serve(OpenSpielEnvironment) as url:
        good = await collect_all(lambda: OpenSpielEnv(url), catch, episodes=20, seeds=0)
    assert [outcome.episode_return for outcome in good] == [1.0] * 20


async def test_two_players_share_an_episode() -> None:
    params = {"game_name": "tic_tac_toe", "opponent_policy": "self"}
    async with serve(OpenSpielEnvironment, params=params) as url, OpenSpielEnv(url) as env:
        result = await env.reset(seed=0)
        moves: dict[int, list[int]] = {0: [0, 1, 2], 1: [3, 4]}
        while not result.done:
            player = result.observation.current_player_id
            with pytest.raises(InvalidAction):
                await env.step(OpenSpielAction(99))
            result = await env.step(OpenSpielAction(moves[player].pop(0)))
        assert result.observation.rewards == [1.0, -1.0]
        state = await env.state()
        assert isinstance(state, OpenSpielState)
        assert state.returns == [1.0, -1.0]


async def test_a_client_chooses_the_game_but_no_code() -> None:
    async with serve(OpenSpielEnvironment) as url, OpenSpielEnv(url) as env:
        result = await env.reset(game_name="kuhn_poker", agent_player=1, opponent_policy="last")
        assert result.observation.current_player_id == 1
        assert (await env.state()).game_name == "kuhn_poker"
        for bad in ("os:getcwd", "clever"):
            with pytest.raises(InvalidOption):
                await env.reset(opponent_policy=bad)
        assert len((await env.reset()).observation.legal_actions) == 3
        assert (await env.state()).game_name == "catch"


async def test_worker_processes_play_too() -> None:
    params = {"game_name": "connect_four", "opponent_policy": "mcts", "mcts_simulations": 20}
    options = EngineOptions(workers=1)
    async with serve(OpenSpielEnvironment, params=params, options=options) as url:
        policy = RandomPolicy((await fetch_schema(url))["action"], 0)
        outcomes = await collect_all(url, policy, episodes=2, seeds=0)
    assert [outcome.status for outcome in outcomes] == [OutcomeStatus.COMPLETED] * 2


def test_it_is_found_by_name() -> None:
    spec = find_target("openspiel", {"game_name": "chess"})
    assert spec.cls is OpenSpielEnvironment
    assert spec.contract.isolation == "inline"
    assert ENVIRONMENT.client_class() is OpenSpielEnv
    assert ENVIRONMENT.action_class() is OpenSpielAction


def test_the_application_and_its_isolation_are_set_from_outside() -> None:
    told = served_application(
        "openspiel_env.app",
        "spec.build().state().game_name",
        "spec.contract.isolation",
        OPENSPIEL_GAME="hex",
        OPENSPIEL_ISOLATION="process",
    )
    assert told == ["hex", "process"]


async def test_sessions_go_on_while_a_game_is_solved() -> None:
    """A reset waits for the table of an opponent, and for nobody else does a step."""
    cfr._solved.cache_clear()
    options: dict[str, Any] = {
        "game_name": "leduc_poker",
        "opponent_policy": "cfr",
        "cfr_iterations": 40,
    }
    async with (
        serve(OpenSpielEnvironment) as url,
        OpenSpielEnv(url) as solved,
        OpenSpielEnv(url, share=False) as other,
    ):
        await other.reset(seed=0)
        waiting = asyncio.create_task(solved.reset(seed=0, **options))
        steps = 0
        while not waiting.done():
            if (await other.step(OpenSpielAction(1))).done:
                await other.reset(seed=steps)
            steps += 1
        seen = (await waiting).observation
        assert steps > 20
        while seen.game_phase != "terminal":
            seen = (await solved.step(OpenSpielAction(seen.legal_actions[0]))).observation
        assert (await solved.state()).played_by == ["self", "cfr"]
        with pytest.raises(InvalidOption, match="has no game"):
            await solved.reset(game_name="chesss")
        assert (await solved.reset(seed=1)).observation.game_phase == "initial"
