"""Many games as one session."""

from __future__ import annotations

import numpy as np
import pytest
from openspiel_env import OpenSpielAction
from openspiel_env.environment import OpenSpielEnvironment
from openspiel_env.vector import OpenSpielVectorEnvironment

from openenv_async import serve
from openenv_async.errors import InvalidAction, InvalidOption
from openenv_async.integrations.gymnasium import GymVectorEnv


def test_each_row_is_the_game_of_its_seed() -> None:
    vector = OpenSpielVectorEnvironment(num_envs=3, game_name="kuhn_poker", agent_player=1)
    singles = [OpenSpielEnvironment(game_name="kuhn_poker", agent_player=1) for _ in range(3)]
    seeds = [5, 6, 7]
    rows = vector.reset(seed=5)
    results = [env.reset(seed=seed) for env, seed in zip(singles, seeds, strict=True)]
    rng = np.random.default_rng(0)
    played = 0
    for _ in range(40):
        actions = []
        for i, result in enumerate(results):
            seen = result.observation
            assert np.array_equal(rows.observations["info_state"][i], seen.info_state)
            mask = rows.observations["legal_actions_mask"][i]
            assert np.array_equal(mask, seen.legal_actions_mask)
            assert rows.observations["current_player_id"][i] == seen.current_player_id
            actions.append(-1 if result.done else int(rng.choice(np.flatnonzero(mask))))
        rows = vector.step(np.array(actions))
        for i, (env, action) in enumerate(zip(singles, actions, strict=True)):
            if results[i].done:
                seeds[i] += 3
                results[i] = env.reset(seed=seeds[i])
                assert not rows.given[i]
            else:
                results[i] = env.step(OpenSpielAction(action))
                assert (rows.rewards[i], rows.terminated[i]) == (
                    results[i].reward,
                    results[i].terminated,
                )
                played += 1
    assert played > 50


def test_one_move_that_is_not_legal_changes_no_row() -> None:
    vector = OpenSpielVectorEnvironment(num_envs=2, game_name="tic_tac_toe")
    vector.reset(seed=0)
    for wrong in ([0, 9], [0, -2], [0], [0.0, 1.0]):
        with pytest.raises(InvalidAction, match=r"not legal in row 1|a batch of moves is 2"):
            vector.step(np.array(wrong))
    assert vector.state()["returns"] == [[0.0, 0.0]] * 2
    assert vector.step(np.array([0, 0])).given.all()
    with pytest.raises(InvalidOption, match="a vector has no text"):
        OpenSpielVectorEnvironment(num_envs=2, text=True)


async def test_it_is_a_vector_of_gymnasium_over_a_socket() -> None:
    import asyncio

    def play(url: str) -> None:
        env = GymVectorEnv(url)
        try:
            seen, _ = env.reset(seed=1)
            for _ in range(12):
                actions = [
                    int(np.flatnonzero(row)[0]) if row.any() else 0
                    for row in seen["legal_actions_mask"]
                ]
                seen, rewards, *_ = env.step(np.array(actions))
                assert rewards.shape == (4,)
                assert seen["info_state"].shape == (4, 27)
        finally:
            env.close()

    params = {"num_envs": 4, "game_name": "tic_tac_toe"}
    async with serve(OpenSpielVectorEnvironment, params=params) as url:
        await asyncio.to_thread(play, url)
