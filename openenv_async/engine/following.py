"""Sessions that somebody looks at: their requests and replies, as they are answered.

Rules:

- A session that nobody looks at pays nothing: the log of its replies is a plain ``ReplyLog``. That
  of one that is looked at is of the class ``FollowedLog`` until a while after the last look; a log
  is never replaced, for whatever keeps many of them at once has it.
- Everything that is answered goes through the log: a step alone, one of many in a column frame,
  one that ran in another process. Requests of visitors, which have no number, are told to it.
- Events are copies and bounded: counted by number, their payloads by size. A follower that is
  slower than the session misses events, and learns how many.
- The return of an episode is known to those who saw its beginning.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple, Protocol

from openenv_async.engine.requests import Codecs
from openenv_async.engine.resends import Digest
from openenv_async.errors import OpenEnvError, ResourceLimit
from openenv_async.models import Format
from openenv_async.protocol.frames import Begun, Failed, Observation, Reply, Reset, Step
from openenv_async.protocol.replies import ReplyLog, SharedReply

__all__ = ["Event", "FollowedLog", "Following", "Record"]

_MAX_EVENTS: Final = 256
_MAX_SMALL: Final = 64 * 1024
"""Bytes of a payload that is kept for every event."""
_MAX_LARGE: Final = 4 * 1024 * 1024
"""Bytes of a payload that is kept for the newest event alone."""
_MAX_RECORDS: Final = 1024
_MAX_FOLLOWERS: Final = 32
_LOOK_TTL: Final = 15.0
"""Seconds that a session is recorded after somebody looked at it."""


class Event(NamedTuple):
    """A request of a session that was answered.

    Attributes:
        number: it counts from 1 since somebody began to look.
        at: seconds since the epoch.
        format: of the payloads.
        operation: reset, step, state or close.
        action: payload of a step, or options of a reset; ``None`` where too large or none.
        reply: without its payloads.
        observation: payload of the reply; ``None`` where too large or none.
        size: bytes of it.
        info: payload of what the environment told beside it; likewise.
        total: return of the episode so far; ``None`` where its beginning was not seen, or no reward
            was given.
        step: number in its episode; likewise.
    """

    number: int
    at: float
    format: Format
    operation: str
    action: bytes | None
    reply: Any
    observation: bytes | None
    size: int
    info: bytes | None
    total: float | None
    step: int | None


class Followed(Protocol):
    """A session, as it is looked at.

    Attributes:
        log: of its replies.
        codecs: of what it runs.
        dead: why it is over, if it is.
    """

    log: ReplyLog[Reply]
    codecs: Codecs
    dead: OpenEnvError | None


class Record:
    """The record of one session that is looked at.

    Attributes:
        total: return of the episode so far; ``None`` where its beginning was not seen, or no reward
            was given.
        steps: of the episode; likewise.
        until: when it ends if nobody looks again, by the loop's clock.
        followers: how many follow every event.
        events: the newest, oldest first.
        ended: the session is over.
    """

    __slots__ = ("_numbered", "ended", "events", "followers", "steps", "total", "until")

    def __init__(self) -> None:
        self.total: float | None = None
        self.steps: int | None = None
        self.until = 0.0
        self.followers = 0
        self.events: deque[Event] = deque(maxlen=_MAX_EVENTS)
        self.ended = False
        self._numbered = 0

    @property
    def count(self) -> int:
        """Events so far, those that are forgotten included."""
        return self._numbered

    def answered(self, request: Any, reply: Any, format: Format) -> None:
        """Take notice of a reply."""
        kind = type(reply)
        if kind is Begun:
            self.total, self.steps = reply.reward, 0
        elif kind is Observation and self.steps is not None:
            self.steps += 1
            if reply.reward is not None:
                self.total = reply.reward if self.total is None else self.total + reply.reward
        if self.followers:
            self.keep(request, reply, format)

    def keep(self, request: Any, reply: Any, format: Format) -> None:
        """Keep a reply as an event."""
        events = self.events
        if events and events[-1].size > _MAX_SMALL:
            events[-1] = events[-1]._replace(observation=None)
        if isinstance(request, Digest):
            request = request.request
            action = None
        else:
            action = getattr(request, "payload", None)
        payload = None if isinstance(reply, Failed) else getattr(reply, "payload", None)
        size = 0 if payload is None else len(payload)
        info = getattr(reply, "info", None)
        self._numbered += 1
        events.append(
            Event(
                number=self._numbered,
                at=time.time(),
                format=format,
                operation=_operation(request, reply),
                action=None if action is None or len(action) > _MAX_SMALL else bytes(action),
                reply=_bare(reply),
                observation=None if payload is None or size > _MAX_LARGE else bytes(payload),
                size=size,
                info=None if info is None or len(info) > _MAX_SMALL else bytes(info),
                total=self.total,
                step=self.steps,
            )
        )


def _operation(request: Any, reply: Any) -> str:
    if isinstance(request, Reset) or (isinstance(reply, Begun) and not isinstance(request, Step)):
        return "reset"
    return type(request).__name__.lower() if request is not None else "step"


def _bare(reply: Any) -> dict[str, Any]:
    """Return what a reply says beside its payloads."""
    names = ("reward", "terminated", "truncated", "episode_id", "seed", "code", "message")
    return {name: getattr(reply, name) for name in names if hasattr(reply, name)}


class FollowedLog(ReplyLog[Reply]):
    """The log of a session that somebody looks at."""

    __slots__ = ()

    def keep(self, seq: int, reply: Reply, size: int, format: Format, request: Any = None) -> None:
        """Keep a reply, and tell it."""
        super().keep(seq, reply, size, format, request)
        self.observer.answered(request, reply, format)

    def follow(
        self, seq: int, ack: int, reply: Reply, size: int, format: Format, request: Any
    ) -> None:
        """Acknowledge, then keep a reply and tell it."""
        self.acknowledge(ack)
        self.keep(seq, reply, size, format, request)

    def shared(self, reply: SharedReply[Reply]) -> None:
        """Tell the session's part of a reply to many, which is kept already."""
        kept = reply.of(self)
        self.observer.answered(kept.request, kept.reply, kept.format)

    def release(self) -> None:
        """Tell that the session is over."""
        super().release()
        self.observer.ended = True


class Following:
    """The sessions of an engine that somebody looks at.

    Args:
        clock: in seconds.

    Attributes:
        records: of those sessions; empty while nobody looks.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.records: dict[Followed, Record] = {}
        self._followers = 0
        self._timer: asyncio.TimerHandle | None = None

    def look(self, session: Followed) -> Record | None:
        """Return what is known of a session, and record it for a while.

        Returns:
            ``None`` where a thousand others are recorded, or the session is over.
        """
        record = self.records.get(session)
        if record is None:
            if len(self.records) >= _MAX_RECORDS or session.dead is not None:
                return None
            record = self.records[session] = Record()
            session.log.observer = record
            session.log.__class__ = FollowedLog
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_LOOK_TTL, self._expire)
        record.until = self._clock() + _LOOK_TTL
        return record

    def check_room(self) -> None:
        """Check that one more session may be followed.

        Raises:
            ResourceLimit: too many are.
        """
        if self._followers >= _MAX_FOLLOWERS:
            raise ResourceLimit(
                f"{self._followers} sessions are followed, which is as many as there may be: follow"
                " fewer, or come back later",
                retry_after=_LOOK_TTL,
            )

    @contextmanager
    def follow(self, session: Followed) -> Iterator[Record]:
        """Record every event of a session while the block runs.

        Raises:
            ResourceLimit: too many are followed already.
        """
        self.check_room()
        record = self.look(session)
        if record is None:
            raise ResourceLimit(
                f"the session is over, or {_MAX_RECORDS} others are looked at: come back later",
                retry_after=_LOOK_TTL,
            )
        self._followers += 1
        record.followers += 1
        if not record.events:
            kept = session.log.get(session.log.taken)
            if kept is not None:  # what its client sees now
                record.keep(kept.request, kept.reply, kept.format)
        try:
            yield record
        finally:
            self._followers -= 1
            record.followers -= 1
            if not record.followers:
                record.events.clear()

    def answered_together(self, logs: Iterable[Any], reply: SharedReply[Reply]) -> None:
        """Tell a reply to many sessions to those that are looked at."""
        for log in logs:
            if type(log) is FollowedLog:
                log.shared(reply)

    def visited(self, session: Followed, request: Any, reply: Reply) -> None:
        """Tell the reply to a visitor's request, which no log keeps."""
        record = self.records.get(session)
        if record is not None:
            record.answered(request, reply, session.codecs.format)

    def _expire(self) -> None:
        """Let go of the sessions that nobody has looked at for a while."""
        now = self._clock()
        for session, record in list(self.records.items()):
            if record.ended or (now >= record.until and not record.followers):
                del self.records[session]
                session.log.__class__ = ReplyLog
                session.log.observer = None
        self._timer = None
        if self.records:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_TTL, self._expire)

    def close(self) -> None:
        """Look at nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
