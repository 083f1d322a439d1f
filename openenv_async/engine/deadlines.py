"""Decisions on deadlines, of a session and of the peer of a connection: times in, a decision out.

Rules:

- A session that waits for capacity is told its position, and refused at the deadline of ``open``.
- A parked session, whose client did not come back, and an idle one are closed.
- A request past its deadline is interrupted. One that has not stopped within a grace is abandoned:
  the session dies, its capacity is given back, the rest of the server is not concerned.
- A peer is cut when it sent nothing for the time of its lease, or took no data for that of a write.
- A look that comes late proves nothing: the loop was blocked, and the reply or the frame may lie
  unread. It is postponed for that, once for a deadline: a loop that is always late has deadlines
  all the same.

Nothing here has a clock, a session or a socket. Times are seconds of one monotonic clock; ``inf``
is never. The owner of the times carries the decision out.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from math import inf
from typing import Final

__all__ = [
    "LATE",
    "NEWS_INTERVAL",
    "Action",
    "PeerAction",
    "PeerTimes",
    "Times",
    "decide",
    "decide_peer",
    "due_at",
    "shorter",
]

LATE: Final = 0.2
"""Seconds by which a look may be late; with more, this loop was blocked, not the other side."""
NEWS_INTERVAL: Final = 1.0
"""Seconds after which a waiting client hears its position again."""
_RUNNING_LOOK: Final = 1.0
"""Seconds until the next look at a session that is past its idle time and has a running request."""


class Action(enum.Enum):
    """The possible decisions about a session."""

    WAIT = enum.auto()
    """Nothing is due."""
    POSTPONE = enum.auto()
    """The look is late: note it, and look again."""
    TELL_POSITION = enum.auto()
    """Tell a client that waits for capacity where it stands."""
    REFUSE_WAITING = enum.auto()
    """Waiting for capacity took as long as ``open`` may take."""
    FORGET_WAITING = enum.auto()
    """The client that waited for capacity did not come back."""
    CLOSE_PARKED = enum.auto()
    """The client of a parked session did not come back."""
    CLOSE_IDLE = enum.auto()
    """Nothing was asked of the session for too long."""
    INTERRUPT = enum.auto()
    """The running request is past its deadline."""
    ABANDON = enum.auto()
    """The running request was interrupted and has not stopped within its grace."""


class PeerAction(enum.Enum):
    """The possible decisions about the peer of a connection."""

    WAIT = enum.auto()
    """The peer counts as alive."""
    POSTPONE = enum.auto()
    """The look is late: note it, and look again."""
    CUT = enum.auto()
    """The peer counts as dead."""


@dataclass(frozen=True, slots=True)
class Times:
    """The times of a session, and what they are the times of.

    Attributes:
        due: when the running request must have ended, or waiting for capacity.
        parked_until: when the client must have come back.
        idle_at: when the session counts as idle.
        is_waiting: it waits for capacity.
        is_running: a request runs.
        is_interrupted: the running request was interrupted at its deadline.
        is_postponed: this deadline of the running request was postponed before.
    """

    due: float = inf
    parked_until: float = inf
    idle_at: float = inf
    is_waiting: bool = False
    is_running: bool = False
    is_interrupted: bool = False
    is_postponed: bool = False


def decide(times: Times, now: float) -> tuple[Action, float]:
    """Return what is to be done about a session at ``now``, and when to look again."""
    due, parked_until, idle_at = times.due, times.parked_until, times.idle_at
    if times.is_waiting:
        if now >= parked_until:
            return Action.FORGET_WAITING, inf
        if now >= due:
            return Action.REFUSE_WAITING, inf
        return Action.TELL_POSITION, min(due, parked_until, now + NEWS_INTERVAL)
    if now >= parked_until:
        return Action.CLOSE_PARKED, inf
    if times.is_running:
        if now < due:
            look = max(idle_at, now + _RUNNING_LOOK)
            return Action.WAIT, min(due, parked_until, look)
        if now - due > LATE and not times.is_postponed:
            return Action.POSTPONE, now + LATE / 2
        return Action.ABANDON if times.is_interrupted else Action.INTERRUPT, inf
    if now < idle_at:
        return Action.WAIT, min(idle_at, parked_until)
    return Action.CLOSE_IDLE, inf


@dataclass(frozen=True, slots=True)
class PeerTimes:
    """The times of a connection's peer.

    Attributes:
        lease_ends: when it must have sent a frame.
        write_ends: when it must have taken the data that is being sent.
        look_at: when this look was to be.
        postponed: the deadline that was postponed before.
    """

    lease_ends: float = inf
    write_ends: float = inf
    look_at: float = inf
    postponed: float = inf

    @property
    def dead_at(self) -> float:
        """The time at which the peer counts as dead."""
        return min(self.lease_ends, self.write_ends)


def decide_peer(times: PeerTimes, now: float, interval: float) -> tuple[PeerAction, float]:
    """Return what is to be done about a peer at ``now``, and when to look again.

    Args:
        times: its times.
        now: the time of the look.
        interval: seconds between two looks at most.
    """
    dead_at = times.dead_at
    if now < dead_at:
        return PeerAction.WAIT, min(dead_at, now + interval)
    if now - times.look_at > LATE and times.postponed != dead_at:
        return PeerAction.POSTPONE, now + LATE
    return PeerAction.CUT, inf


def shorter(own: float | None, asked: float | None) -> float | None:
    """Return the seconds for a request: the server's, or the client's where those are fewer.

    Args:
        own: the server's; ``None`` where it has none.
        asked: the client's; ``None``, 0 or less asks for nothing.
    """
    if not asked or asked <= 0:
        return own
    return asked if own is None else min(own, asked)


def due_at(now: float, own: float | None, asked: float | None, episode_due: float) -> float:
    """Return when a request that starts ``now`` must have ended, its episode's end included."""
    if asked and asked > 0 and (own is None or asked < own):  # as in shorter
        own = asked
    if own is None:
        return episode_due
    due = now + own
    return due if due < episode_due else episode_due
