"""The routes that show live sessions, follow one, and cancel or close what it does.

Rules:

- A caller sees its own sessions alone, unless it is an administrator; to everybody else a session
  does not exist.
- A request of a browser that changes something must come from the server's own page.
- Events are sent as server-sent events, in the tagged JSON of the protocol, ten times a second at
  most; a follower that is slower than the session misses events and is told how many.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from openenv_async.engine import Engine, Session
from openenv_async.engine.callers import Caller
from openenv_async.engine.following import Event, Record
from openenv_async.engine.requests import operation
from openenv_async.errors import (
    InvalidOption,
    OpenEnvError,
    ResourceLimit,
    SessionClosed,
    SessionNotFound,
)
from openenv_async.models import Format
from openenv_async.protocol.frames import Begun, Close, Observation, Open
from openenv_async.server.auth import Guard, caller_of
from openenv_async.server.history import History
from openenv_async.server.http_headers import encode_body

__all__ = ["SessionRow", "SessionViews"]

_PAGE: Final = 200
_LOOK: Final = 0.1
_HEARTBEAT: Final = 15.0
_LONGEST: Final = 3600.0
_AT_ONCE: Final = 50
"""Events that are sent together; of more the newest."""
_MAX_MESSAGE: Final = 300
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}


@dataclasses.dataclass(frozen=True, slots=True)
class SessionRow:
    """A live session, as it is listed.

    Attributes:
        id: of the session; its secret is told to nobody.
        age: seconds since it was opened.
        idle: seconds since its last request was answered; 0 while one runs.
        state: ``waiting`` for capacity, ``parked`` without its client, ``closing``, ``playing`` an
            episode, ``over`` after one, else ``open``.
        running: the request that runs, if one does.
        episode_id: of the last reset.
        seed: of the same, where it is known.
        requests: that were taken.
        steps: of the episode, where they are known.
        reward: of the last reply.
        total: return of the episode, known to those who looked at its beginning.
        error: code and message of its last failure.
    """

    id: str
    age: float
    idle: float
    state: str
    running: str | None
    episode_id: str | None
    seed: int | None
    requests: int
    steps: int | None
    reward: float | None
    total: float | None
    error: tuple[str, str] | None


class SessionViews:
    """The handlers. Each gives a body for the accepted format.

    Args:
        engine: whose sessions they are.
        guard: tells the server's page from others.
        history: of the engine.
    """

    def __init__(self, engine: Engine, guard: Guard, history: History) -> None:
        self._engine = engine
        self._guard = guard
        self._history = history

    def rows(self, request: Request, start: int = 0) -> tuple[int, list[SessionRow]]:
        """Return how many sessions the caller may see, and two hundred of them, oldest first."""
        seen = [one for one in self._engine.sessions.values() if _may_see(request, one)]
        return len(seen), [self._row(one) for one in seen[start : start + _PAGE]]

    async def listing(self, request: Request, format: Format) -> Any:
        """List live sessions, from ``?start=`` on, two hundred at most, oldest first.

        Raises:
            InvalidOption: ``start`` is not a number.
        """
        text = request.query_params.get("start", "0")
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise InvalidOption(
                f"start must be a number from 0 on, got {text[:40]!r}", option="start"
            )
        count, rows = self.rows(request, int(text))
        engine = self._engine
        return {
            "count": count,
            "sessions": [dataclasses.asdict(row) for row in rows],
            "waiting": engine.waiting,
            "longest_wait": engine.longest_wait,
            "max_sessions": engine.max_sessions,
            "draining": engine.draining,
        }

    async def history(self, request: Request, format: Format) -> Any:
        """Tell the last five minutes of the server, a sample a second."""
        return self._history.told()

    async def cancel(self, request: Request, format: Format) -> Any:
        """Cancel what a session runs.

        Raises:
            OriginRefused: another page asks.
            SessionNotFound: there is no such session, or the caller may not see it.
        """
        self._guard.check_page(request.scope)
        session = self._found(request)
        current = session.current
        if current is None or isinstance(current, Open | Close):
            return {"status": "idle"}
        if session.visitor is not None:
            session.end_visit(session.visitor)
        else:
            session.cancel(current.seq)
        return {"status": "cancelled", "operation": operation(current)}

    async def close(self, request: Request, format: Format) -> Any:
        """Close a session; its client is told.

        Raises:
            OriginRefused: another page asks.
            SessionNotFound: there is no such session, or the caller may not see it.
        """
        self._guard.check_page(request.scope)
        self._found(request).shut(
            SessionClosed("the session was closed by an operator of the server: open a new one")
        )
        return {"status": "closing"}

    async def follow(self, request: Request, format: Format) -> Response:
        """Send the requests of a session and their replies as they are answered.

        Raises:
            SessionNotFound: there is no such session, or the caller may not see it.
            ResourceLimit: too many are followed.
        """
        session = self._found(request)
        self._engine.following.check_room()
        return StreamingResponse(
            self._events(session, caller_of(request.scope)),
            media_type="text/event-stream",
            headers=_HEADERS,
        )

    async def _events(self, session: Session, caller: Caller) -> AsyncIterator[bytes]:
        try:
            with self._engine.following.follow(session) as record:
                async for part in self._parts(session, record):
                    self._engine.sent(len(part), caller)
                    yield part
        except ResourceLimit as exc:
            yield _message("end", {"code": exc.code, "message": exc.message})

    async def _parts(self, session: Session, record: Record) -> AsyncIterator[bytes]:
        sent = 0
        silent = 0.0
        state = None
        until = self._engine.clock() + _LONGEST
        while self._engine.clock() < until:  # then the browser asks again
            events = [event for event in record.events if event.number > sent]
            skipped = record.count - sent - len(events[-_AT_ONCE:])
            row = self._row(session)
            now = (row.state, row.running, row.error)
            if events or now != state:
                state, silent = now, 0.0
                sent = record.count
                told = {
                    "session": dataclasses.asdict(row),
                    "skipped": max(skipped, 0),
                    "events": [self._event(event) for event in events[-_AT_ONCE:]],
                }
                yield _message("steps", told)
            elif silent >= _HEARTBEAT:
                silent = 0.0
                yield b": nothing new\n\n"
            if session.dead is not None:
                yield _message("end", {"code": session.dead.code, "message": session.dead.message})
                return
            await asyncio.sleep(_LOOK)
            silent += _LOOK

    def _event(self, event: Event) -> dict[str, Any]:
        kind = "state" if event.operation == "state" else "observation"
        return {
            "number": event.number,
            "at": event.at,
            "operation": event.operation,
            **event.reply,
            "action": self._said(
                "action" if event.operation == "step" else "any", event.action, event.format
            ),
            "observation": self._said(kind, event.observation, event.format),
            "size": event.size,
            "info": self._said("any", event.info, event.format),
            "total": event.total,
            "step": event.step,
        }

    def _said(self, kind: Any, payload: bytes | None, format: Format) -> Any:
        """Return a payload in tagged JSON."""
        if payload is None:
            return None
        if format == "json":
            return msgspec.Raw(payload)
        codec = self._engine.spec.codec
        try:
            value = codec(kind, format).decode(payload)
            return msgspec.Raw(codec(kind, "json").encode(value))
        except OpenEnvError:
            return None  # what the environment gave is told to its client

    def _found(self, request: Request) -> Session:
        session = self._engine.sessions.get(request.path_params["session"])
        if session is None or not _may_see(request, session):
            raise SessionNotFound("no live session has this id: it may have ended")
        return session

    def _row(self, session: Session) -> SessionRow:
        engine, log = self._engine, session.log
        now = engine.clock()
        record = engine.following.look(session)
        kept = log.get(log.taken)
        last = None if kept is None else kept.reply
        current = session.current
        dead = session.dead is not None
        runs = None if current is None or dead else operation(current)
        steps = None if record is None else record.steps
        if steps is None and session.runner.steps:
            steps = session.runner.steps
        error = session.last_error
        return SessionRow(
            id=session.id,
            age=now - session.opened_at,
            idle=0.0 if runs is not None else max(now - session.active_at, 0.0),
            state=_state(session, last),
            running=runs,
            episode_id=session.episode_id,
            seed=last.seed if isinstance(last, Begun) else session.runner.seed,
            requests=log.taken,
            steps=steps,
            reward=last.reward if isinstance(last, Begun | Observation) else None,
            total=None if record is None else record.total,
            error=None if error is None else (error[0], error[1][:_MAX_MESSAGE]),
        )


def _may_see(request: Request, session: Session) -> bool:
    """Return whether the caller of a request may see, follow, cancel and close a session."""
    return caller_of(request.scope).may_see(session)


def _message(event: str, data: Any) -> bytes:
    """Return a server-sent event; JSON has no line breaks."""
    return f"event: {event}\ndata: ".encode() + encode_body(data, "plain") + b"\n\n"


def _state(session: Session, last: Any) -> str:
    """Return the word for what a session is doing."""
    if session.dead is not None or session.closing:
        return "closing"
    if session.ticket is not None:
        return "waiting"
    if session.sink is None:
        return "parked"
    if isinstance(last, Begun | Observation):
        return "over" if last.terminated or last.truncated else "playing"
    return "playing" if session.episode_id is not None else "open"
