"""The frames that come in on a connection: each for its channel, each reply for its caller.

Rules:

- A reply acknowledges its request, even when no caller waits for it any more.
- A payload that came in pieces is put together before its frame is delivered.
- A session that failed loses its channel before its caller learns of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, Final

from openenv_async.client.channel import Channel
from openenv_async.client.outbox import Outbox
from openenv_async.errors import OpenEnvError, PayloadTooLarge, SessionLost
from openenv_async.protocol.chunks import Assembler
from openenv_async.protocol.codec import BadFrame
from openenv_async.protocol.columns import replies_of
from openenv_async.protocol.frames import (
    Begun,
    Chunk,
    Closed,
    Failed,
    GoingAway,
    Observation,
    ObservationColumns,
    Opened,
    Partial,
    StateIs,
    TasksListed,
    Waiting,
    Welcome,
)
from openenv_async.types import Limits

__all__ = ["Inbox"]

_OTHER_REPLIES: Final = frozenset({Begun, StateIs, Closed})
_OWN: Final = frozenset({Welcome, GoingAway, TasksListed})
"""Frames of the connection itself."""


class Inbox:
    """The delivery of frames to their channels.

    Args:
        channels: the connection's, by number.
        limits: of this side.
        outbox: told how many callers a message woke.
        own: takes the frames of the connection itself.
        error: makes the typed error of a ``Failed`` frame.

    Attributes:
        late_replies: frames that came when nobody waited for them any more.
    """

    __slots__ = ("_assembler", "_channels", "_error", "_outbox", "_own", "late_replies")

    def __init__(
        self,
        channels: dict[int, Channel],
        limits: Limits,
        outbox: Outbox,
        own: Callable[[Any], None],
        error: Callable[[Failed], OpenEnvError],
    ) -> None:
        self._channels = channels
        self._outbox = outbox
        self._own = own
        self._error = error
        self._assembler = Assembler(limits.max_message_size, inf)
        self.late_replies = 0

    def clear(self) -> None:
        """The transport is gone: forget the pieces of payloads that came on it."""
        self._assembler.clear()

    def deliver(self, frames: Sequence[Any]) -> None:
        """Take the frames of one message."""
        channels, parts, outbox = self._channels, self._assembler.parts, self._outbox
        answered = outbox.answered = 0
        for frame in frames:
            kind = type(frame)
            if kind is Observation and not parts:  # the common one, before the questions
                channel = channels.get(frame.channel)
            elif kind is ObservationColumns:
                self.deliver(replies_of(frame))
                answered += outbox.answered
                continue
            elif (
                parts
                and kind is not Chunk
                and getattr(frame, "channel", 0) in parts
                and not self._assembler.complete(frame)
            ):
                continue  # its request failed when the payload became too large
            else:
                channel = channels.get(getattr(frame, "channel", 0))
            if channel is None:
                self._on_other(frame)
            elif kind is Observation or kind in _OTHER_REPLIES:
                seq = frame.seq
                if seq > channel.acked:
                    channel.acked = seq
                future = None
                if seq == channel.waited:
                    channel.asked = None
                    future, channel.future = channel.future, None
                else:
                    channel.settle(seq)
                if future is None:
                    self.late_replies += 1
                elif not future.done():
                    answered += 1
                    future.set_result(frame)
            elif kind is Failed:
                self._on_failed(channel, frame)
            elif kind is Partial:
                if channel.sink is not None and frame.seq == channel.waited:
                    channel.sink(frame)
            elif kind is Opened:
                channel.on_opened(frame)
            elif kind is Chunk:
                self._on_chunk(channel, frame)
            elif kind is Waiting:
                channel.waiting = (frame.position, frame.depth)
            elif kind is BadFrame:
                self._on_failed(channel, Failed(frame.channel, frame.seq, "", frame.error.message))
        outbox.answered = answered

    def _on_chunk(self, channel: Channel, frame: Chunk) -> None:
        try:
            self._assembler.add(frame)
        except PayloadTooLarge as exc:
            self._on_failed(channel, Failed(frame.channel, frame.seq, exc.code, exc.message))

    def _on_failed(self, channel: Channel, frame: Failed) -> None:
        error = self._error(frame)
        error.add_context(session_id=channel.id, request_id=frame.seq or None)
        if frame.seq == 0:
            if isinstance(error, SessionLost):
                channel.add_progress(error)
            self._channels.pop(channel.number, None)
            channel.fail(error)
        elif not channel.on_failed(frame.seq, error):
            self.late_replies += 1

    def _on_other(self, frame: Any) -> None:
        """A frame of the connection itself, or of a channel that is gone."""
        kind = type(frame)
        if kind in _OWN or (kind is Failed and frame.channel == 0):
            self._own(frame)
        elif kind is not Closed:
            self.late_replies += 1
