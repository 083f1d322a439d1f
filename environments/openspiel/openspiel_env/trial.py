"""A game's parameters, tried out in a process of their own before the server takes them.

OpenSpiel checks few of its parameters. Of those it does not, a bad one raises some exception of
C++ (``IndexError``, ``ValueError``, ``MemoryError``) when the game is loaded, begun or looked at;
or it ends the process, or never comes back. So parameters are played with once where that harms
nobody; the answer is kept. It takes a tenth of a second, or at most ``_CPU`` seconds of CPU time.

This file is also the program of that process: it imports nothing but ``pyspiel``.
"""

from __future__ import annotations

import functools
import json
import random
import resource
import signal
import subprocess
import sys
from typing import Any, Final

__all__ = ["failure"]

_CPU: Final = 2  # seconds
_WALL: Final = 20.0
_MEMORY: Final = 2 << 30  # bytes of address space
_MOVES: Final = 20


def failure(game: str, params: str) -> str:
    """Say what is wrong with parameters; empty if nothing was found.

    Args:
        game: name of a game, with parameters in brackets or not.
        params: its parameters as a JSON object.
    """
    try:
        return _failure(game, params)
    except subprocess.TimeoutExpired:
        return f"it did not begin within {_WALL:g} s"
    except OSError:
        return ""  # no process to try it in


@functools.lru_cache(maxsize=1024)
def _failure(game: str, params: str) -> str:
    """Return what a trial found. One that gave no answer raises, so that it is not kept."""
    command = [sys.executable, "-P", __file__, game, params]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=_WALL, check=False
    )
    if done.returncode == -signal.SIGXCPU:
        return f"it did not begin within {_CPU} s of CPU time"
    if done.returncode < 0:
        return f"OpenSpiel ends the process with {signal.Signals(-done.returncode).name}"
    if done.returncode == 2:
        return done.stdout.rpartition("\n\n")[2].strip()
    return ""


def _play(game: Any) -> None:
    """Do what the environment does with a game, for some moves."""
    rng = random.Random(0)
    kind = game.get_type()
    game.num_distinct_actions()
    state = game.new_initial_state()
    if kind.provides_information_state_tensor:
        game.information_state_tensor_shape()
        tensor = type(state).information_state_tensor
    elif kind.provides_observation_tensor:
        game.observation_tensor_shape()
        tensor = type(state).observation_tensor
    else:
        tensor = lambda state, player: str(state)  # noqa: E731
    moves = 0
    while moves < _MOVES and not state.is_terminal():
        moves += not state.is_chance_node()  # dealing may take many
        if state.is_chance_node():
            actions, weights = zip(*state.chance_outcomes(), strict=True)
            state.apply_action(rng.choices(actions, weights)[0])
        elif state.is_mean_field_node():
            support = state.distribution_support()
            state.update_distribution([1.0 / max(1, len(support))] * len(support))
        elif state.is_simultaneous_node():
            players = range(game.num_players())
            for player in players:
                tensor(state, player)
            legal = [state.legal_actions(player) or [0] for player in players]
            state.apply_actions([rng.choice(each) for each in legal])
        else:
            player = state.current_player()
            tensor(state, player)
            state.apply_action(rng.choice(state.legal_actions(player)))
    for player in range(game.num_players()):
        tensor(state, player)
    state.returns()


def _main(name: str, params: str) -> int:
    import pyspiel

    resource.setrlimit(resource.RLIMIT_CPU, (_CPU, _CPU))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        given = json.loads(params)
        _play(pyspiel.load_game(name, given) if given else pyspiel.load_game(name))
    except Exception as exc:
        sys.stdout.write(f"\n\n{type(exc).__name__}: {' '.join(str(exc).split())}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
