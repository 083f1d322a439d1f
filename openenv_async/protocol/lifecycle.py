"""What may be asked of a session when: a table.

    phase      Reset     Step                State   Close
    FRESH      RUNNING   EpisodeNotStarted   stays   CLOSED
    RUNNING    RUNNING   RUNNING or ENDED    stays   CLOSED
    ENDED      RUNNING   EpisodeEnded        stays   CLOSED
    CLOSED     SessionClosed for everything

A reset that fails leaves FRESH: the environment's episode is undefined. A step that fails
leaves RUNNING: the environment decides whether it can go on.
"""

from __future__ import annotations

import enum
from typing import Final

from openenv_async.errors import EpisodeEnded, EpisodeNotStarted, OpenEnvError, SessionClosed

__all__ = ["Phase", "refuse"]


class Phase(enum.IntEnum):
    """Where a session stands in its episode."""

    FRESH = 0
    RUNNING = 1
    ENDED = 2
    CLOSED = 3


_CLOSED: Final = (SessionClosed, "the session is closed: open a new one")
_REFUSED: Final[dict[tuple[Phase, str], tuple[type[OpenEnvError], str]]] = {
    (Phase.FRESH, "step"): (EpisodeNotStarted, "step() before reset(): call reset() first"),
    (Phase.ENDED, "step"): (
        EpisodeEnded,
        "step() after the episode ended: call reset() first",
    ),
    (Phase.CLOSED, "reset"): _CLOSED,
    (Phase.CLOSED, "step"): _CLOSED,
    (Phase.CLOSED, "state"): _CLOSED,
    (Phase.CLOSED, "close"): _CLOSED,
}


def refuse(phase: Phase, operation: str) -> OpenEnvError | None:
    """The error that ``operation`` (reset, step, state, close) meets in ``phase``, or ``None``."""
    entry = _REFUSED.get((phase, operation))
    return None if entry is None else entry[0](entry[1], phase=operation)
