"""A game's parameters, tried out in a process of their own before the server takes them.

A trial also measures what the game takes, so that a server can refuse a client's that is too large
before it loads it.

OpenSpiel checks few of its parameters. Of those it does not, a bad one raises some exception of
C++ (``IndexError``, ``ValueError``, ``MemoryError``) when the game is loaded, begun or looked at;
or it ends the process, or never comes back. So parameters are played with once where that harms
nobody; the answer is kept. It takes a tenth of a second, or at most ``_CPU`` seconds of CPU time.

This file is also the program of that process: it imports nothing but ``pyspiel``.
"""

from __future__ import annotations

import functools
import json
import math
import random
import resource
import signal
import subprocess
import sys
from typing import Any, Final, NamedTuple

__all__ = ["Trial", "tried"]

_CPU: Final = 2  # seconds
_WALL: Final = 20.0
_MEMORY: Final = 2 << 30  # bytes of address space
_MOVES: Final = 20


class Trial(NamedTuple):
    """The outcome of a trial.

    Attributes:
        failure: what is wrong with the parameters; empty if nothing was found.
        size: numbers of the tensor.
        actions: how many different ones players have.
        memory: bytes that the process grew by.
    """

    failure: str
    size: int = 0
    actions: int = 0
    memory: int = 0


def tried(game: str, params: str) -> Trial:
    """Try a game's parameters out.

    Args:
        game: name of a game, with parameters in brackets or not.
        params: its parameters as a JSON object.
    """
    try:
        return _tried(game, params)
    except subprocess.TimeoutExpired:
        return Trial(f"it did not begin within {_WALL:g} s")
    except OSError:
        return Trial("")  # no process to try it in


@functools.lru_cache(maxsize=1024)
def _tried(game: str, params: str) -> Trial:
    """Return what a trial found. One that gave no answer raises, so that it is not kept."""
    command = [sys.executable, "-P", __file__, game, params]
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=_WALL, check=False
    )
    if done.returncode == -signal.SIGXCPU:
        return Trial(f"it did not begin within {_CPU} s of CPU time")
    if done.returncode < 0:
        return Trial(f"OpenSpiel ends the process with {signal.Signals(-done.returncode).name}")
    told = done.stdout.rpartition("\n\n")[2].strip()
    if done.returncode == 2:
        return Trial(told)
    return Trial("", *json.loads(told)) if done.returncode == 0 else Trial("")


def _play(game: Any) -> tuple[int, int]:
    """Do what the environment does with a game, for some moves; the tensor's size and actions."""
    rng = random.Random(0)
    kind = game.get_type()
    count: int = game.num_distinct_actions()
    shape: list[int] = [0]
    state = game.new_initial_state()
    if kind.provides_information_state_tensor:
        shape = game.information_state_tensor_shape()
        tensor = type(state).information_state_tensor
    elif kind.provides_observation_tensor:
        shape = game.observation_tensor_shape()
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
    return math.prod(shape), count


def _held() -> int:
    """The most bytes that this program has held; ``ru_maxrss`` would count who started it."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line[:6] == "VmHWM:")
    except (OSError, StopIteration):
        return 0


def _main(name: str, params: str) -> int:
    import pyspiel

    resource.setrlimit(resource.RLIMIT_CPU, (_CPU, _CPU))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        before = _held()
        given = json.loads(params)
        found = _play(pyspiel.load_game(name, given) if given else pyspiel.load_game(name))
        sys.stdout.write(f"\n\n{json.dumps([*found, max(0, _held() - before)])}")
    except Exception as exc:
        sys.stdout.write(f"\n\n{type(exc).__name__}: {' '.join(str(exc).split())}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
