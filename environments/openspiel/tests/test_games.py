"""Every game of OpenSpiel, played to its end or for many steps."""

from __future__ import annotations

import numpy as np
import pyspiel
import pytest
from openspiel_env import RANDOM_ACTION, OpenSpielAction
from openspiel_env.environment import OpenSpielEnvironment

ANY = OpenSpielAction(RANDOM_ACTION)
GAMES = [
    kind.short_name
    for kind in pyspiel.registered_games()
    if kind.default_loadable and kind.short_name != "crossword"
]
SLOW = ("bridge", "bridge_uncontested_bidding", "colored_trails")
NESTED = [
    "turn_based_simultaneous_game(game=goofspiel(num_cards=4,imp_info=True))",
    "repeated_game(stage_game=matrix_pd(),num_repetitions=5)",
    "misere(game=kuhn_poker())",
    "coop_to_1p(game=tiny_hanabi())",
    "normal_form_extensive_game(game=kuhn_poker())",
    "cached_tree(game=leduc_poker())",
    "add_noise(epsilon=1.,seed=1,game=kuhn_poker())",
    "zerosum(game=kuhn_poker())",
    "start_at(history=0;1,game=kuhn_poker())",
]


def play(game: str, opponent: str, seed: int, limit: int) -> tuple[list[bytes], bool]:
    env = OpenSpielEnvironment(game_name=game, opponent_policy=opponent)
    result = env.reset(seed=seed)
    size = int(np.prod(env.state().info_state_shape))
    trace, totals = [], np.zeros(env.state().num_players)
    for count in range(limit):
        seen = result.observation
        assert seen.info_state.dtype == np.float32
        assert seen.info_state.shape == (size,)
        assert seen.info_state.size or seen.text
        assert np.flatnonzero(seen.legal_actions_mask).tolist() == seen.legal_actions
        totals += seen.rewards
        trace.append(seen.info_state.tobytes() + repr((seen.rewards, seen.legal_actions)).encode())
        if result.done:
            assert seen.game_phase == "terminal"
            assert seen.current_player_id == -4
            assert seen.legal_actions == []
            break
        assert seen.legal_actions
        if count + 1 < limit:
            result = env.step(ANY)
    assert np.allclose(totals, env.state().returns)
    return trace, result.done


def test_it_is_the_whole_library() -> None:
    assert len(pyspiel.registered_games()) >= 126
    assert len(GAMES) >= 112


@pytest.mark.parametrize("game", [game for game in GAMES if game not in SLOW] + NESTED)
def test_a_game_is_played_alike_from_the_same_seed(game: str) -> None:
    trace, _ = play(game, "random", seed=5, limit=60)
    assert trace == play(game, "random", seed=5, limit=60)[0]
    together, _ = play(game, "self", seed=5, limit=40)
    assert len(together) > 1


@pytest.mark.heavy
@pytest.mark.parametrize("game", GAMES)
def test_a_game_is_played_to_its_end(game: str) -> None:
    assert play(game, "random", seed=1, limit=12_000)[1]


@pytest.mark.parametrize("game", ["backgammon", "hanabi", "leduc_poker", "goofspiel", "chess"])
def test_known_games_come_to_an_end(game: str) -> None:
    assert play(game, "random", seed=1, limit=2_000)[1]


@pytest.mark.parametrize(
    "game", ["negotiation", "stones_and_gems", "tarok", "leduc_poker", "blackjack", "2048", "pig"]
)
def test_chance_follows_the_seed(game: str) -> None:
    assert play(game, "random", 1, 30)[0] == play(game, "random", 1, 30)[0]
    assert any(play(game, "random", 1, 30)[0] != play(game, "random", n, 30)[0] for n in (2, 3, 4))
