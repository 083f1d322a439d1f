"""Actions, observations and state."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

__all__ = ["RANDOM_ACTION", "OpenSpielAction", "OpenSpielObservation", "OpenSpielState"]

RANDOM_ACTION: Final = -1
"""An ``action_id`` that asks for a uniformly random legal action, drawn from the episode's seed."""


class OpenSpielAction(msgspec.Struct, frozen=True, omit_defaults=True):
    """A move of the player whose turn it is: by its number or by its name, one of the two.

    Attributes:
        action_id: one of the observation's ``legal_actions``, or ``RANDOM_ACTION`` (-1).
        move: the name of a legal move as the game writes it, in any case; its number as text
            will do, and so will both, ``4: x(1,1)``.
    """

    action_id: Annotated[int, Meta(ge=-1)] | None = None
    move: str | None = None


@dataclass(slots=True)
class OpenSpielObservation:
    """The view of the player whose turn it is.

    Attributes:
        info_state: float32 [size], flat; its shape is ``OpenSpielState.info_state_shape``. The
            game's information state tensor if it has one, else its observation tensor, else
            empty.
        legal_actions: the ``action_id`` values that may be given, ascending.
        legal_actions_mask: uint8 [number of actions], 1 where legal.
        game_phase: ``initial`` before the first move of an episode, ``terminal`` after the last.
        current_player_id: whose turn it is and whose eyes these are; -4 at the end, which is
            seen with the eyes of who moved last.
        opponent_last_action: the latest move of another player that this one may know: in games
            of perfect information, else ``None``.
        rewards: what each player got since the observation before.
        text: the position and the legal moves in words, where that was asked for or the game has
            no tensor; at the end how the game ended.
        legal_moves: the names of ``legal_actions``, in their order, where there is ``text``.
    """

    info_state: NDArray[np.float32]
    legal_actions: list[int]
    legal_actions_mask: NDArray[np.uint8]
    game_phase: Literal["initial", "playing", "terminal"]
    current_player_id: int
    opponent_last_action: int | None
    rewards: list[float]
    text: str
    legal_moves: list[str] = field(default_factory=list)


@dataclass(slots=True)
class OpenSpielState:
    """The game that is played and its position.

    Attributes:
        game_name: OpenSpiel's short name.
        game_params: all parameters, those not given at their defaults.
        agent_player: who the client plays; ``None``: everyone (``opponent_policy`` is ``self``).
        opponent_policy: who plays the others.
        num_players, num_distinct_actions: of the game.
        info_state_shape: of ``info_state``.
        returns: what each player has got in this episode.
        moves: moves of all players, chance included.
        played_by: who plays each player; ``self`` is the client.
    """

    game_name: str
    game_params: dict[str, Any]
    agent_player: int | None
    opponent_policy: str
    num_players: int
    num_distinct_actions: int
    info_state_shape: list[int]
    returns: list[float]
    moves: int
    played_by: list[str] = field(default_factory=list)
