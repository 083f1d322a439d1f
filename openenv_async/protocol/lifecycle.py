"""The lifecycle of a session: a table of phases and moves.

Rules:

- ``TRANSITIONS[phase][move]`` is the next phase; a missing key is an illegal move.
- A reset that is accepted leaves FRESH, since the environment's episode is undefined until it has
  begun. So a reset that fails leaves FRESH too.
- A step that fails leaves RUNNING: the environment decides whether it can go on.
- Nothing is legal once the session is closed.
- ``LENIENT`` is the table of sessions of upstream's dialect, where the environment decides about
  a step before the first reset or after the end of an episode.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from openenv_async.errors import (
    EpisodeEnded,
    EpisodeNotStarted,
    OpenEnvError,
    ProtocolError,
    SessionClosed,
)

__all__ = ["LENIENT", "START", "TRANSITIONS", "Move", "Phase", "advance"]


class Phase(enum.IntEnum):
    """The place of a session in its episode."""

    FRESH = 0
    RUNNING = 1
    ENDED = 2
    CLOSED = 3


class Move(enum.Enum):
    """The events of a session: the four operations, and how the first two turned out."""

    RESET = "reset"
    BEGIN = "begin"
    """A reset returned, and the episode goes on."""
    STEP = "step"
    END = "end"
    """A reset or a step returned, and the episode is terminated or truncated."""
    STATE = "state"
    CLOSE = "close"


START: Final = Phase.FRESH

TRANSITIONS: Final[Mapping[Phase, Mapping[Move, Phase]]] = {
    Phase.FRESH: {
        Move.RESET: Phase.FRESH,
        Move.BEGIN: Phase.RUNNING,
        Move.END: Phase.ENDED,
        Move.STATE: Phase.FRESH,
        Move.CLOSE: Phase.CLOSED,
    },
    Phase.RUNNING: {
        Move.RESET: Phase.FRESH,
        Move.STEP: Phase.RUNNING,
        Move.END: Phase.ENDED,
        Move.STATE: Phase.RUNNING,
        Move.CLOSE: Phase.CLOSED,
    },
    Phase.ENDED: {
        Move.RESET: Phase.FRESH,
        Move.STATE: Phase.ENDED,
        Move.CLOSE: Phase.CLOSED,
    },
    Phase.CLOSED: {},
}

LENIENT: Final[Mapping[Phase, Mapping[Move, Phase]]] = {
    **TRANSITIONS,
    Phase.FRESH: {**TRANSITIONS[Phase.FRESH], Move.STEP: Phase.RUNNING},
    Phase.ENDED: {**TRANSITIONS[Phase.ENDED], Move.STEP: Phase.RUNNING},
}


def advance(
    phase: Phase, move: Move, table: Mapping[Phase, Mapping[Move, Phase]] = TRANSITIONS
) -> Phase:
    """Return the phase after ``move``.

    Args:
        phase: the session's.
        move: its next.
        table: what is legal.

    Raises:
        EpisodeNotStarted, EpisodeEnded, SessionClosed: the caller asked for it too early or late.
        ProtocolError: the episode began or ended where it cannot.
    """
    try:
        return table[phase][move]
    except KeyError:
        raise _illegal(phase, move) from None


def _illegal(phase: Phase, move: Move) -> OpenEnvError:
    """Return the error of a move that the table does not have."""
    if phase is Phase.CLOSED:
        return SessionClosed("the session is closed: open a new one", phase=move.value)
    if move is not Move.STEP:
        return ProtocolError(f"an episode cannot {move.value} while it is {phase.name.lower()}")
    if phase is Phase.FRESH:
        return EpisodeNotStarted("step() before reset(): call reset() first", phase="step")
    return EpisodeEnded("step() after the episode ended: call reset() first", phase="step")
