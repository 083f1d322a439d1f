"""Policies for the players that the client does not play.

Every choice is a function of the state and of the episode's generator: none keeps anything, so
that an episode can be played again and gone on with from a snapshot.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

import pyspiel

from openenv_async.errors import InvalidOption
from openspiel_env import cfr
from openspiel_env.games import LoadedGame
from openspiel_env.settings import SELF, OpponentPolicy, Settings

__all__ = ["choose_opponents"]

_UCT_C: Final = 2.0
_SEEDS: Final = 1 << 31
_TRIED: Final = 4
"""Simulations of a search that is measured: OpenSpiel's fail with one."""
_SLOW: Final = 0.02  # seconds of a search that is not measured again


def choose_opponents(settings: Settings, loaded: LoadedGame) -> list[OpponentPolicy | None]:
    """Return who plays each player; ``None`` is the client.

    Raises:
        InvalidOption: one cannot play this game.
    """
    return [_opponent(each, settings, loaded) for each in settings.played_by(loaded.players)]


def _opponent(
    policy: str | OpponentPolicy, settings: Settings, loaded: LoadedGame
) -> OpponentPolicy | None:
    match policy:
        case "self":
            assert policy == SELF
            return None
        case "random":
            return _random
        case "first":
            return lambda state, player, rng: state.legal_actions(player)[0]
        case "last":
            return lambda state, player, rng: state.legal_actions(player)[-1]
        case "middle":
            return _middle
        case "mcts":
            if not (loaded.is_open and loaded.is_sequential):
                raise _unable(policy, "turn-based games of perfect information", loaded)
            return _searcher(policy, _mcts, settings, loaded)
        case "is_mcts":
            if not loaded.is_sequential:
                raise _unable(policy, "turn-based games", loaded)
            return _searcher(policy, _is_mcts, settings, loaded)
        case "cfr":
            if not (loaded.is_sequential and loaded.has_information_state_string):
                raise _unable(policy, "turn-based games with information states", loaded)
            return cfr.load(settings.cfr_table, loaded, settings.cfr_iterations).choose
        case _:
            assert callable(policy), "the settings checked it"
            return _checked(policy)


def _unable(policy: str, games: str, loaded: LoadedGame) -> InvalidOption:
    return InvalidOption(
        f"opponent_policy {policy} plays {games}, which {loaded.name} is not: take another",
        option="opponent_policy",
    )


def _searcher(
    name: str,
    search: Callable[[int], OpponentPolicy],
    settings: Settings,
    loaded: LoadedGame,
) -> OpponentPolicy:
    """Return a search, if it can play the game and does so in time: it has no clock of its own.

    Raises:
        InvalidOption: the game cannot draw what is hidden, or a move takes longer than
            ``max_move_time``.
    """
    if name not in loaded.simulation_times:
        loaded.simulation_times[name] = _simulation_time(search(_TRIED), loaded)
    once = loaded.simulation_times[name]
    if once is None:
        raise _unable(name, "games that can draw what is hidden", loaded)
    expected = once * settings.mcts_simulations
    if expected > settings.max_move_time:
        raise InvalidOption(
            f"a move of {name} in {loaded.name} takes about {expected:.2g} s with"
            f" {settings.mcts_simulations} simulations, and this server allows"
            f" {settings.max_move_time:g} s (max_move_time): take fewer",
            option="mcts_simulations",
        )
    return search(settings.mcts_simulations)


def _simulation_time(search: OpponentPolicy, loaded: LoadedGame) -> float | None:
    """Seconds of a simulation, the least of three searches; ``None`` where it fails."""
    state, taken = loaded.decision(), []
    if state is None:
        return None
    for number in range(3):
        begun = time.perf_counter()
        try:
            search(state, state.current_player(), random.Random(number))
        except pyspiel.SpielError:
            return None
        taken.append(time.perf_counter() - begun)
        if taken[-1] > _SLOW:
            break
    return min(taken) / _TRIED


def _checked(policy: OpponentPolicy) -> OpponentPolicy:
    """A policy from the outside, whose moves are looked at before they are made."""

    def choose(state: pyspiel.State, player: int, rng: random.Random) -> int:
        action = policy(state, player, rng)
        if action not in state.legal_actions(player):
            raise ValueError(f"the opponent's policy chose {action}, which is not legal")
        return int(action)

    return choose


def _random(state: pyspiel.State, player: int, rng: random.Random) -> int:
    legal: list[int] = state.legal_actions(player)
    return rng.choice(legal)


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


def _is_mcts(simulations: int) -> OpponentPolicy:
    """OpenSpiel's information set MCTS: each simulation draws anew what the player cannot see."""

    def choose(state: pyspiel.State, player: int, rng: random.Random) -> int:
        bot = pyspiel.ISMCTSBot(
            rng.randrange(_SEEDS),
            pyspiel.RandomRolloutEvaluator(1, rng.randrange(_SEEDS)),
            _UCT_C,
            max(2, simulations),  # it fails with one
            -1,  # worlds: one for each simulation
            pyspiel.ISMCTSFinalPolicyType.MAX_VISIT_COUNT,
            False,  # by information states, not by observations
            False,  # a game whose moves depend on what is hidden is not for it
        )
        return int(bot.step(state))

    return choose
