"""Loaded games and what never changes about them.

Rules:

- A game is loaded once in a process and shared by its sessions: OpenSpiel's games are constant.
  One that draws its chance itself is loaded for each episode, with the episode's seed.
- The facts that steps ask for again and again (tensor, words, moves by number) are looked up
  once, here.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from typing import Any, Final

import msgspec
import numpy as np
import pyspiel
from numpy.typing import NDArray
from pyspiel import State

__all__ = ["Eyes", "LoadedGame", "load_game"]

_KEPT: Final = 32
"""Games that a process keeps loaded beside those that are played."""
_SMALL: Final = 64
"""Actions of a game whose sets of legal moves come again."""
_POSITIONS: Final = 1024
"""Sets of legal moves that are kept of such a game."""
_FLOAT: Final = np.dtype("<f4")
_NOTHING: Final = np.empty(0, _FLOAT)

Tensor = Callable[[State, int], list[float]]
Words = Callable[[State, int], str]


class LoadedGame:
    """A game and the facts about it.

    Args:
        game: of OpenSpiel.
        draws: it draws its chance itself.

    Attributes:
        name: its short name.
        players: how many there are.
        actions: how many different ones players have.
        shape: of the tensor; [0] where the game has none.
        size: numbers of the tensor.
        tensor_of: gives it as a list; ``None`` where the game has none.
        is_open: everybody sees everything.
        is_sequential: players never move at once.
        min_utility: the least that a player may get.
        simulation_times: seconds of a simulation by the search's name; ``None``: it cannot search.
    """

    def __init__(self, game: pyspiel.Game, draws: bool = False) -> None:
        kind = game.get_type()
        self.game = game
        self.draws = draws
        self.name: str = kind.short_name
        self.players: int = game.num_players()
        self.actions: int = game.num_distinct_actions()
        self.is_open = kind.information == pyspiel.GameType.Information.PERFECT_INFORMATION
        self.is_sequential = kind.dynamics == pyspiel.GameType.Dynamics.SEQUENTIAL
        self.has_information_state_string: bool = kind.provides_information_state_string
        self.min_utility: float = game.min_utility()
        self.shape, self.tensor_of = _tensor_of(game)
        self.size = math.prod(self.shape)
        self.words = _words_of(kind, self.is_open)
        self.simulation_times: dict[str, float | None] = {}
        self._is_small = self.actions <= _SMALL
        self._kept: dict[tuple[int, ...], tuple[NDArray[np.uint8], list[dict[str, int]]]] = {}

    @property
    def has_tensor(self) -> bool:
        return self.tensor_of is not None

    def eyes(self) -> Eyes:
        """Return what sees the game's states for one session."""
        return Eyes(self)

    def told(self, legal: list[int]) -> tuple[NDArray[np.uint8], list[dict[str, int]]]:
        """Return legal moves as a mask and as actions.

        Returns:
            uint8 [number of actions], 1 where legal, read-only; and the actions as they are sent.
            Both are kept for small games: nobody changes them.
        """
        if not self._is_small:
            return self._told(legal)
        key = tuple(legal)
        found = self._kept.get(key)
        if found is None:
            if len(self._kept) >= _POSITIONS:
                self._kept.clear()
            found = self._kept[key] = self._told(legal)
        return found

    def _told(self, legal: list[int]) -> tuple[NDArray[np.uint8], list[dict[str, int]]]:
        mask = bytearray(self.actions)
        for action in legal:
            mask[action] = 1
        moves = [{"action_id": action} for action in legal]
        return np.frombuffer(bytes(mask), np.uint8), moves

    def decision(self) -> State | None:
        """Return the first position in which one player moves, or ``None`` if all move at once."""
        state, rng = self.game.new_initial_state(), random.Random(0)
        while state.is_chance_node():
            outcomes, weights = zip(*state.chance_outcomes(), strict=True)
            state.apply_action(rng.choices(outcomes, weights)[0])
        return state if state.current_player() >= 0 else None


class Eyes:
    """A buffer that OpenSpiel writes tensors of states to, of one session.

    It is many times as fast as its lists (chess: 1 µs for 220), and the same numbers.
    """

    __slots__ = ("_look", "_seen")

    def __init__(self, loaded: LoadedGame) -> None:
        self._seen = _NOTHING
        self._look: Callable[[State, int], None] | None = None
        if loaded.tensor_of is None:
            return
        try:
            observer = loaded.game.make_observer(
                pyspiel.IIGObservationType(
                    perfect_recall=loaded.tensor_of is State.information_state_tensor,
                    public_info=True,
                    private_info=pyspiel.PrivateInfoType.SINGLE_PLAYER,
                ),
                {},
            )
            observation = pyspiel._Observation(loaded.game, observer)
            seen = np.frombuffer(observation, _FLOAT)
            if seen.size == loaded.size:
                self._seen, self._look = seen, observation.set_from
                return
        except (pyspiel.SpielError, RuntimeError, TypeError, ValueError):
            pass  # a game whose observer is another one, or in Python
        tensor, self._seen = loaded.tensor_of, np.zeros(loaded.size, _FLOAT)

        def look(state: State, player: int) -> None:
            self._seen[:] = tensor(state, player)

        self._look = look

    def tensor(self, state: State, player: int) -> NDArray[np.float32]:
        """float32 [size]; empty where the game has none."""
        if self._look is not None:
            self._look(state, player)
        return self._seen.copy()


@functools.lru_cache(maxsize=_KEPT)
def _shared(name: str, params: str) -> LoadedGame:
    """A game that is kept; the parameters are text for the cache's sake."""
    given = msgspec.json.decode(params, type=dict[str, Any]) if params else {}
    game = pyspiel.load_game(name, given) if given else pyspiel.load_game(name)
    parameters = game.get_parameters()
    return LoadedGame(game, "rng_seed" in parameters and "rng_seed" not in given)


def load_game(name: str, params: str, seed: int) -> LoadedGame:
    """Return a game, shared where its chance is drawn by who plays it.

    Args:
        name: of the game, with parameters in brackets or not.
        params: its parameters as a JSON object; empty where it has none.
        seed: of a game that draws for itself.
    """
    loaded = _shared(name, params)
    if not loaded.draws:
        return loaded
    parameters = loaded.game.get_parameters() | {"rng_seed": seed % (1 << 31)}
    return LoadedGame(pyspiel.load_game(loaded.name, parameters), draws=True)


def _tensor_of(game: pyspiel.Game) -> tuple[list[int], Tensor | None]:
    """The shape of a game's tensor and what gives it; [0] and ``None`` where it has none."""
    kind = game.get_type()
    if kind.provides_information_state_tensor:
        return list(game.information_state_tensor_shape()), State.information_state_tensor
    if kind.provides_observation_tensor:
        return list(game.observation_tensor_shape()), State.observation_tensor
    return [0], None


def _words_of(kind: pyspiel.GameType, is_open: bool) -> Words:
    """Return the view of a state in words: the board if all see it, else what a player knows."""
    words: Words = lambda state, player: str(state)  # noqa: E731
    information = kind.provides_information_state_string
    if kind.provides_observation_string and (is_open or not information):
        words = State.observation_string
    elif information and not is_open:
        words = State.information_state_string
    return words
