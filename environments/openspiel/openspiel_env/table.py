"""One game being played: chance, simultaneous moves and mean fields are dealt with here.

Rules:

- After every call the game is over or ``player`` has to move: chance nodes are drawn from the
  generator, mean-field nodes get a uniform population.
- At a simultaneous node the players move one after the other, lowest number first, and see
  nothing of each other's moves; the moves are applied together when the last is in.
- Everything applied is logged. A log replayed on a fresh game gives the same state, for games
  whose own serialisation leaves their random generator out too.
- The player whose turn it is, is asked for once a move: a call costs more than its answer.
"""

from __future__ import annotations

import random
from typing import Final

import pyspiel

__all__ = ["TERMINAL", "Move", "Table"]

TERMINAL: Final = int(pyspiel.PlayerId.TERMINAL)
_CHANCE: Final = int(pyspiel.PlayerId.CHANCE)
_SIMULTANEOUS: Final = int(pyspiel.PlayerId.SIMULTANEOUS)
_MEAN_FIELD: Final = int(pyspiel.PlayerId.MEAN_FIELD)
Move = int | list[int] | None
"""One player's or chance's action, a joint one, or a mean field's update."""


class Table:
    """A game from its start.

    Args:
        game: what is played.
        rng: draws chance.

    Attributes:
        state: of OpenSpiel.
        player: who has to move; ``TERMINAL`` at the end and before ``start``.
        is_simultaneous: the players move at once now.
        log: everything that was applied.
        pending: what the first players chose at a simultaneous node.
    """

    __slots__ = ("game", "is_simultaneous", "log", "pending", "player", "rng", "state")

    def __init__(self, game: pyspiel.Game, rng: random.Random) -> None:
        self.game = game
        self.rng = rng
        self.state: pyspiel.State = game.new_initial_state()
        self.log: list[Move] = []
        self.pending: list[int] = []
        self.player = TERMINAL
        self.is_simultaneous = False

    def start(self) -> None:
        """Go on to the first player's move."""
        self._settle()

    def replay(self, log: list[Move], pending: list[int]) -> None:
        """Bring a fresh table to where the log ends.

        Raises:
            pyspiel.SpielError: the log is not one of this game.
        """
        for move in log:
            self._apply(move)
        self.pending = pending
        self._settle()

    @property
    def over(self) -> bool:
        return self.player == TERMINAL

    def legal_actions(self) -> list[int]:
        """The moves of the player who has to move, ascending."""
        if self.player == TERMINAL:
            return []
        actions: list[int] = self.state.legal_actions(self.player)
        return actions

    def move(self, action: int) -> None:
        """The player who has to move plays ``action``, which is legal."""
        if self.is_simultaneous:
            self.pending.append(action)
        else:
            self.state.apply_action(action)
            self.log.append(action)
        self._settle()

    def _apply(self, move: Move) -> None:
        if move is None:
            support = self.state.distribution_support()
            self.state.update_distribution([1.0 / max(1, len(support))] * len(support))
        elif isinstance(move, list):
            self.state.apply_actions_with_legality_checks(move)
        else:
            self.state.apply_action(move)
        self.log.append(move)

    def _settle(self) -> None:
        state = self.state
        while (player := state.current_player()) < 0:
            if player == _CHANCE:
                self._apply(self._drawn())
            elif player == _SIMULTANEOUS:
                if self._is_chosen_at():
                    return
            elif player == _MEAN_FIELD:
                self._apply(None)
            else:
                break
        self.is_simultaneous = False
        self.player = TERMINAL if player < 0 or state.is_terminal() else player

    def _is_chosen_at(self) -> bool:
        """Return whether somebody has yet to choose; else what all chose is applied."""
        for player in range(len(self.pending), self.game.num_players()):
            if self.state.legal_actions(player):
                self.player, self.is_simultaneous = player, True
                return True
            self.pending.append(0)  # who has no move takes part with any
        joint, self.pending = self.pending, []
        self._apply(joint)
        return False

    def _drawn(self) -> int:
        outcomes = self.state.chance_outcomes()
        if len(outcomes) == 1:
            return int(outcomes[0][0])
        actions, weights = zip(*outcomes, strict=True)
        return int(self.rng.choices(actions, weights)[0])
