"""Policies for the players that the client does not play.

Every choice is a function of the state and of the episode's generator: none keeps anything, so
that an episode can be played again and gone on with from a snapshot.
"""

from __future__ import annotations

import random

import pyspiel

from openspiel_env.settings import OpponentPolicy, Settings

__all__ = ["choose_opponent"]

_UCT_C = 2.0
_SEEDS = 1 << 31


def choose_opponent(settings: Settings) -> OpponentPolicy | None:
    """The opponent that the settings name; ``None`` for self-play."""
    match settings.opponent_policy:
        case "self":
            return None
        case "random":
            return lambda state, player, rng: rng.choice(state.legal_actions(player))
        case "first":
            return lambda state, player, rng: state.legal_actions(player)[0]
        case "last":
            return lambda state, player, rng: state.legal_actions(player)[-1]
        case "middle":
            return _middle
        case "mcts":
            return _mcts(settings.mcts_simulations)
        case policy:
            assert not isinstance(policy, str), "the settings checked it"
            return policy


def _middle(state: pyspiel.State, player: int, rng: random.Random) -> int:
    legal: list[int] = state.legal_actions(player)
    return legal[len(legal) // 2]


def _mcts(simulations: int) -> OpponentPolicy:
    """OpenSpiel's UCT with one random playout per leaf; a fresh tree for every move."""

    def choose(state: pyspiel.State, player: int, rng: random.Random) -> int:
        bot = pyspiel.MCTSBot(
            state.get_game(),
            pyspiel.RandomRolloutEvaluator(1, rng.randrange(_SEEDS)),
            _UCT_C,
            simulations,
            0,  # MB of memory: no limit
            True,  # solve: proven wins and losses are backed up
            rng.randrange(_SEEDS),
            False,  # verbose
        )
        return int(bot.step(state))

    return choose
