"""Each game step for step beside bare pyspiel: the same moves, and everything seen is the same."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pyspiel
import pytest
from openspiel_env import OpenSpielAction
from openspiel_env.environment import OpenSpielEnvironment
from openspiel_env.games import LoadedGame

GAMES = [
    kind.short_name
    for kind in pyspiel.registered_games()
    if kind.default_loadable and kind.short_name not in ("crossword", "colored_trails")
]
LIGHT = (
    *("tic_tac_toe", "connect_four", "chess", "backgammon", "kuhn_poker", "leduc_poker"),
    # says that it pays at the end only, and does before
    "repeated_leduc_poker",
    "negotiation",
    *("goofspiel", "hanabi", "2048", "go", "matrix_rps", "blotto", "mfg_crowd_modelling"),
)


def expected(state: pyspiel.State, kind: pyspiel.GameType, player: int) -> Any:
    """The tensor as pyspiel gives it."""
    if kind.provides_information_state_tensor:
        return state.information_state_tensor(player)
    return state.observation_tensor(player) if kind.provides_observation_tensor else []


def play_beside(name: str, seed: int, limit: int) -> int:
    """Play a game in both, and return how many moves were the same."""
    env = OpenSpielEnvironment(game_name=name, opponent_policy="self")
    result = env.reset(seed=seed, text=True)
    kind, players = env._loaded.game.get_type(), env._loaded.players
    game = env._loaded.game
    if env._loaded.draws:  # anew with each state that it makes, one for the observer of some
        game = pyspiel.load_game(name, game.get_parameters())
        LoadedGame(game).eyes()
    state, applied = game.new_initial_state(), 0
    rng, before = random.Random(seed), np.zeros(env._loaded.players)
    for moves in range(limit):
        log = env._table.log
        for move in log[applied:]:  # chance as it was drawn, and what the players chose
            if move is None:
                support = state.distribution_support()
                state.update_distribution([1.0 / max(1, len(support))] * len(support))
            elif isinstance(move, list):
                assert state.is_simultaneous_node()
                state.apply_actions(move)
            else:
                if state.is_chance_node():
                    assert move in dict(state.chance_outcomes())
                state.apply_action(move)
        applied = len(log)
        seen = result.observation
        returns = np.array(state.returns())
        assert np.array_equal(seen.rewards, returns - before)
        before = returns
        assert result.terminated == state.is_terminal()
        if result.done:
            return moves
        player = seen.current_player_id
        assert player == state.current_player() or state.is_simultaneous_node()
        assert 0 <= player < players
        legal = state.legal_actions(player)
        assert seen.legal_actions == legal
        assert np.flatnonzero(seen.legal_actions_mask).tolist() == legal
        names = [state.action_to_string(player, action) for action in legal]
        assert seen.legal_moves == names
        wanted = np.array(expected(state, kind, player), np.float32)
        assert np.array_equal(seen.info_state, wanted)
        if kind.provides_information_state_string and not env._loaded.is_open:
            assert state.information_state_string(player).rstrip("\n") in seen.text
        elif kind.provides_observation_string:
            assert state.observation_string(player).rstrip("\n") in seen.text
        chosen = rng.randrange(len(legal))
        name = names[chosen]
        by_name = names.count(name) == 1
        action = OpenSpielAction(move=name) if by_name else OpenSpielAction(legal[chosen])
        result = env.step(action)
    return limit


@pytest.mark.parametrize("game", LIGHT)
def test_known_games_are_those_of_pyspiel(game: str) -> None:
    assert play_beside(game, seed=3, limit=25) > 0


@pytest.mark.heavy
@pytest.mark.parametrize("game", GAMES)
def test_every_game_is_that_of_pyspiel(game: str) -> None:
    assert sum(play_beside(game, seed, limit=300) for seed in range(5)) > 0
