"""Draining: a server that is to stop lets its episodes end, within a time, and begins no other.

Rules:

- From its begin no session is opened, no waiting one admitted and no episode begun; clients are
  told (``GoingAway``, with the seconds that are left), those that connect later as well. Steps go
  on, and clients whose connections break come back to them.
- It ends when no episode is under way, a moment later if sessions are still open: their clients may
  still ask for the state. At the end of its time it ends regardless. Then every session that is
  left is closed, and its client told so.
- Asked for a second time, the time counts from then. A drained server stays so until it stops.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from math import inf
from typing import Any, Final, Protocol

from starlette.requests import Request
from starlette.responses import Response

from openenv_async.engine import Engine
from openenv_async.engine.connection import ServerConnection
from openenv_async.errors import InvalidOption
from openenv_async.models import Format
from openenv_async.protocol.upstream import read_fields, scalar
from openenv_async.server.auth import caller_of
from openenv_async.server.http_headers import body_response, read_body, refuse_extra, sent_format
from openenv_async.types import MAX_SECONDS

__all__ = ["DRAIN_SECONDS", "Drain", "DrainRoutes", "Drainable", "checked_seconds"]

log = logging.getLogger("openenv_async.server")

DRAIN_SECONDS: Final = 30.0
"""Seconds that episodes have where nobody says how many; those that Kubernetes gives a pod."""
REASON: Final = "it is being drained"
"""The reason told to clients."""
_LOOK: Final = 0.05
_CLOSING_TIME: Final = 1.0
"""Seconds that sessions whose episodes have ended have to be closed by their clients."""


class Drain:
    """The draining of one server.

    Args:
        engine: its sessions.
        connections: gives those that are to be told.
        seconds: that episodes have where a request says nothing.
    """

    def __init__(
        self,
        engine: Engine,
        connections: Callable[[], Iterable[ServerConnection]],
        seconds: float = DRAIN_SECONDS,
    ) -> None:
        self._engine = engine
        self._connections = connections
        self._seconds = checked_seconds(seconds)
        self._task: asyncio.Task[None] | None = None
        self._lost = 0

    def begin(
        self, seconds: float | None = None, finished: Callable[[], None] | None = None
    ) -> None:
        """Begin no further episode; those under way have ``seconds`` from now.

        Args:
            seconds: by default those of the constructor.
            finished: called when it is over, unless the server stops before.

        Raises:
            InvalidOption: ``seconds`` is not a time.
        """
        seconds = self._seconds if seconds is None else checked_seconds(seconds)
        self._engine.drain(REASON, seconds)
        for connection in self._connections():
            connection.going_away(REASON, seconds)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="openenv-drain")
        if finished is not None:
            self._task.add_done_callback(lambda task: None if task.cancelled() else finished())

    async def aclose(self) -> None:
        """Wait no longer: the server stops."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        engine = self._engine
        playing = await engine.playing()
        log.info("draining: %d episodes have %.1f s to end", playing, engine.seconds_left)
        closes_at = inf
        while engine.sessions and engine.seconds_left:
            now = engine.clock()
            closes_at = inf if playing else min(closes_at, now + _CLOSING_TIME)
            if now >= closes_at:
                break
            await asyncio.sleep(min(_LOOK, engine.seconds_left))
            playing = await engine.playing()
        engine.shut_all()
        self._lost += playing
        if playing:
            log.warning("drained: %d episodes did not end in time and are lost", playing)
        else:
            log.info("drained: every episode ended")

    async def status(self) -> dict[str, Any]:
        """Return whether it drains, how long it has and how many episodes are under way."""
        drains = self._engine.draining is not None
        return {
            "draining": drains,
            "finished": self._task is not None and self._task.done(),
            "seconds": self._engine.seconds_left if drains else None,
            "lost": self._lost,
            "playing": await self._engine.playing(),
            "sessions": len(self._engine.sessions),
        }


class Drainable(Protocol):
    """A server, or several as one, that can be drained."""

    def begin(
        self, seconds: float | None = None, finished: Callable[[], None] | None = None
    ) -> None: ...

    async def status(self) -> dict[str, Any]: ...


class DrainRoutes:
    """The handlers of ``/drain`` and ``/ready``. Each gives a body for the accepted format.

    Args:
        drain: what they ask.
        max_size: bytes of a body.
    """

    def __init__(self, drain: Drainable, max_size: int) -> None:
        self._drain = drain
        self._max_size = max_size

    async def post(self, request: Request, format: Format) -> Response:
        """Begin; the body may say ``seconds``. Asked again, the new time counts."""
        caller_of(request.scope).check_admin("draining a server")
        sent = sent_format(request)
        fields = read_fields(await read_body(request, self._max_size), sent)
        seconds = scalar(fields, "seconds", sent)
        refuse_extra(fields)
        self._drain.begin(seconds)
        return body_response(await self._drain.status(), format, status=202)

    async def get(self, request: Request, format: Format) -> Any:
        """Tell whether it drains, how long it has and how many episodes are under way."""
        return await self._drain.status()

    async def ready(self, request: Request, format: Format) -> Response:
        """Tell whether new sessions may come: 200, or 503 with the reason."""
        draining = (await self._drain.status())["draining"]
        body = {"ready": not draining, "reason": REASON if draining else None}
        return body_response(body, format, status=503 if draining else 200)


def checked_seconds(seconds: Any) -> float:
    """Return the time that episodes have.

    Raises:
        InvalidOption: it is not a number of seconds.
    """
    if type(seconds) not in (int, float) or not 0 <= seconds <= MAX_SECONDS:
        raise InvalidOption(
            f"seconds to drain must be a number from 0 to {MAX_SECONDS:g}, got {seconds!r:.60}",
            option="seconds",
        )
    return float(seconds)
