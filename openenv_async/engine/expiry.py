"""The deadlines of a session: what is looked at when its time has come, and what follows.

Rules:

- While it waits for capacity it is told its position, and gives up at the deadline of ``open``.
- A parked one, whose client did not come back, and an idle one are closed.
- A request past its deadline is interrupted. What does not stop within a grace is abandoned:
  the session dies, its capacity is given back, the rest of the server is not concerned.
- A look that comes late proves nothing: the loop was held up, and the reply may lie unread. It is
  put off for that, once for a deadline: a loop that is always late has deadlines all the same.

Functions over a ``Session``, which keeps the times: setting one is part of every request, so it
must cost no call.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Final

from openenv_async.engine.requests import RunnerReply, RunnerRequest, operation
from openenv_async.errors import DeadlineExceeded, SessionClosed, SessionLost
from openenv_async.protocol.frames import Close, Reset, Step

if TYPE_CHECKING:
    from openenv_async.engine.session import Session

__all__ = ["HELD_UP", "WAITING_NEWS", "expired", "idle_at", "look", "out_of_time", "timeout_of"]

log = logging.getLogger("openenv_async.engine")

WAITING_NEWS: Final = 1.0
"""Seconds after which a waiting client hears its position again."""
HELD_UP: Final = 0.2
"""Seconds by which a look may be late; more, and this loop was held up, not who is looked at."""


def timeout_of(session: Session, request: RunnerRequest) -> float | None:
    """Seconds for this request: the server's, or less where the client asked for less."""
    own = session.engine.own_timeouts[type(request)]
    asked = request.timeout
    if not asked or asked <= 0:
        return own
    return asked if own is None else min(own, asked)


def idle_at(session: Session) -> float:
    """When it counts as idle if nothing comes."""
    idle = session.engine.options.timeouts.idle
    return inf if idle is None else session.active_at + idle


def out_of_time(session: Session, request: RunnerRequest) -> bool:
    """Start the clock of an episode; whether a step is refused because it ran out."""
    engine = session.engine
    now = engine.clock()
    if isinstance(request, Reset):
        session.episode_due = now + (engine.options.timeouts.episode or inf)
    elif isinstance(request, Step):
        if now >= session.episode_due:
            engine.stats.timeouts += 1
            session.complete(request, expired(session, request))
            return True
    elif isinstance(request, Close):
        session.episode_due = inf
    return False


def look(session: Session, now: float) -> float | None:
    """Act on what is due; the next time to look, or ``None`` for never."""
    if session.dead is not None:
        return None
    if session.ticket is not None:
        return _look_at_waiting(session, now)
    if now >= session.parked_until:
        _close_parked(session)
        return None
    idle_from = idle_at(session)
    if session.current is not None:
        if now >= session.due:
            return _overdue(session, now)
        return min(session.due, session.parked_until, max(idle_from, now + 1.0))
    if now < idle_from:
        next_look = min(idle_from, session.parked_until)
        return next_look if next_look != inf else None
    _close_idle(session)
    return None


def _look_at_waiting(session: Session, now: float) -> float | None:
    if now >= session.parked_until:  # nobody waits for it any more
        session.give_up(SessionLost("its client did not come back in time"))
        return None
    if now >= session.due:
        session.give_up(session.engine.busy())
        return None
    session.send(session.engine.place_of(session))
    return min(session.due, session.parked_until, now + WAITING_NEWS)


def _close_parked(session: Session) -> None:
    session.parked_until = inf
    session.engine.stats.abandoned += 1
    ttl = session.engine.options.timeouts.resume
    log.info("its client did not come back: closing", extra={"session_id": session.id})
    session.shut(SessionLost(f"its client did not come back in time (Timeouts.resume, {ttl} s)"))


def _close_idle(session: Session) -> None:
    idle = session.engine.options.timeouts.idle
    session.engine.stats.expired += 1
    log.info("idle for %g s: closing", idle, extra={"session_id": session.id})
    session.shut(
        SessionClosed(
            f"the session was idle for {idle:g} s and was closed: raise Timeouts.idle"
            " or open a new one",
            field="idle",
            value=idle,
        )
    )


def _overdue(session: Session, now: float) -> float | None:
    """Interrupt the running request; the second time, give its environment up."""
    request = session.current
    assert request is not None
    if now - session.due > HELD_UP and session.postponed is not request:
        # This loop was held up, and the reply may be there, unread: look again after that.
        session.postponed = request
        session.due = now + HELD_UP / 2
        return session.due
    if session.interrupted != "deadline":
        session.engine.stats.timeouts += 1
        session.interrupted = "deadline"
        session.postponed = None  # the grace is another deadline
        if session.executor.interrupt(session):
            session.due = now + session.engine.options.interrupt_grace
            return session.due
    session.executor.abandon(session)
    log.warning(
        "%s() did not stop at its deadline: its environment is given up",
        operation(request),
        extra={"session_id": session.id},
    )
    session.finish(
        expired(session, request),
        SessionClosed(
            f"{operation(request)}() did not stop at its deadline and its environment was"
            " given up: open a new session"
        ),
    )
    return None


def expired(session: Session, request: RunnerRequest) -> RunnerReply:
    """The reply of a request that took too long; of one that was being closed, why it was."""
    engine = session.engine
    what = operation(request)
    name = engine.spec.name
    gone = engine.closing_reason(session)
    if gone is not None and not isinstance(request, Close):
        return session.failure(request, gone)
    if isinstance(request, Step | Reset) and engine.clock() >= session.episode_due:
        field, seconds = "episode", engine.options.timeouts.episode or 0.0
        message = (
            f"the episode of {name} took longer than its deadline of {seconds:g} s: raise"
            " Timeouts.episode; reset() begins another"
        )
    else:
        field, seconds = what, timeout_of(session, request) or 0.0
        whose = "client" if seconds == request.timeout else "server"
        message = (
            f"{what}() of {name} took longer than its deadline of {seconds:g} s: raise"
            f" Timeouts.{what} of the {whose} or make it faster"
        )
    error = DeadlineExceeded(message, field=field, value=seconds, phase=what, env=name)
    return session.failure(request, error)
