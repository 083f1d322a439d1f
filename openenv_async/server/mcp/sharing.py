"""Routes by which the client of a session lends it to agents, and reads what their steps gave.

The session is named by the header ``X-OpenEnv-Session: <id>.<secret>``, as everywhere over HTTP:
only its own client has that.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request

from openenv_async.engine import Engine
from openenv_async.engine.requests import transcode
from openenv_async.errors import InvalidOption, OperationUnsupported
from openenv_async.models import Format
from openenv_async.protocol import frames
from openenv_async.protocol.upstream import result_body
from openenv_async.server.http_headers import error_body
from openenv_async.server.http_sessions import HttpSessions
from openenv_async.server.mcp.sessions import AgentSessions, LentStep

__all__ = ["Sharing"]

_MAX_WAIT = 60.0
"""Seconds that a request for results may wait."""
_MAX_RESULTS = 256
"""Results of one answer."""


class Sharing:
    """The handlers. Each gives a body for the accepted format."""

    def __init__(self, engine: Engine, sessions: AgentSessions) -> None:
        self._engine = engine
        self._named = HttpSessions(engine).named
        self._sessions = sessions

    async def lend(self, request: Request, format: Format) -> Any:
        """Make the handle by which agents play in the session, and the token that opens it."""
        lent = self._sessions.lend(self._named(request, "share"))
        return {"handle": lent.handle, "path": f"/mcp/{lent.handle}", "token": lent.token}

    async def take_back(self, request: Request, format: Format) -> Any:
        """End the handle."""
        lent = self._sessions.lent(self._named(request, "share"))
        if lent is not None:
            lent.close()
        return {"status": "closed"}

    async def results(self, request: Request, format: Format) -> Any:
        """Tell the steps of agents, from ``?after=`` on, after ``&wait=`` seconds at most.

        Beside what each gave stand its action, and the seconds since it was answered; beside all
        the number of actions that were refused or were none, of the latter alone as well, and the
        first failure in a step of an agent, if there was any.

        Raises:
            OperationUnsupported: the session is not lent.
            InvalidOption: a number is none.
        """
        lent = self._sessions.lent(self._named(request, "share"))
        if lent is None:
            raise OperationUnsupported("the session is not shared: share() makes a handle of it")
        after, wait = (_number(request, name) for name in ("after", "wait"))
        await lent.observed(int(after), min(wait, _MAX_WAIT))
        now = self._engine.clock()
        steps = [
            step
            for number, step in enumerate(lent.steps, lent.first)
            if after <= number < after + _MAX_RESULTS
        ]
        told = {} if lent.failure is None else {"failure": error_body(lent.failure, None)["error"]}
        lent.is_failure_told = lent.failure is not None
        return {
            **told,
            "first": max(lent.first, int(after)),
            "results": [result_body(self._told(step.reply, format), format) for step in steps],
            "actions": [self._action(step, format) for step in steps],
            "ages": [max(now - step.at, 0.0) for step in steps],
            "mistakes": lent.mistakes,
            "unreadable": lent.unreadable,
            "is_over": lent.is_over,
        }

    def _told(self, frame: Any, format: Format) -> Any:
        return transcode(self._engine.spec, frame, "msgpack", format)

    def _action(self, step: LentStep, format: Format) -> msgspec.Raw:
        return msgspec.Raw(self._told(frames.Step(0, 0, 0, step.action), format).payload)


def _number(request: Request, name: str) -> float:
    text = request.query_params.get(name, "0")
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e9:
        raise InvalidOption(f"{name} must be a number from 0 on, got {text[:40]!r}", option=name)
    return number
