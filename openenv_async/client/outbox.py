"""The frames that leave on a connection: those of one loop turn, in one message.

Rules:

- Without a transport everything is dropped: a channel keeps what matters.
- While the transport is congested, frames queue up.
- A large payload goes in pieces, one a turn, and what follows it on its channel behind it.
- Loans of shared memory go back with the next message.
- A frame that no message can carry is handed to ``refuse``, and the rest still goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from openenv_async.client.shared import SharedCodec
from openenv_async.errors import InvalidModel, OpenEnvError
from openenv_async.protocol.chunks import ChunkQueue
from openenv_async.protocol.codec import JsonCodec, MsgpackCodec, split_batch, too_large
from openenv_async.protocol.frames import Frame, Step
from openenv_async.types import Limits

__all__ = ["Outbox", "SegmentTransport", "Transport"]


class Transport(Protocol):
    """A carrier of messages.

    Attributes:
        name: of its kind, for people.
        subprotocol: of the messages.
        congested: whether ``drained`` is to be awaited before more is sent; ``send`` never blocks.
    """

    name: str
    subprotocol: str
    congested: bool

    def send(self, message: bytes, text: bool) -> None: ...

    async def drained(self) -> None: ...

    async def aclose(self, leaving: bool = True) -> None:
        """Close.

        Args:
            leaving: whether to say so, at which the server ends the sessions on it; otherwise
                they wait for their client to resume them.
        """
        ...


@runtime_checkable
class SegmentTransport(Transport, Protocol):
    """A transport over which the server may pass descriptors.

    Attributes:
        grants: what the server granted, by name.
        descriptors: those that came with it; who takes them removes and closes them.
    """

    grants: Mapping[str, Any]
    descriptors: list[int]


class Outbox:
    """A queue of frames, written to the transport that it is attached to.

    Args:
        loop: whose turns count.
        limits: of this side.
        refuse: told of a frame that cannot be sent, and why; gives the one to send instead.

    Attributes:
        answered: frames that may still come before all whom the last message woke have asked
            again.
        blocked: waits until a congested transport takes more.
        queue: frames of the next message.
        small_size: bytes of the largest payload whose step only joins the queue and is counted in
            ``answered``, so that ``Channel.step`` does that itself; below 0 when none does.
        flushing: what sends the queue when this loop turn ends.
    """

    __slots__ = (
        "_chunk_size",
        "_codec",
        "_large",
        "_limits",
        "_loop",
        "_max_frames",
        "_max_size",
        "_refuse",
        "_shared",
        "_transport",
        "answered",
        "blocked",
        "flushing",
        "queue",
        "small_size",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        refuse: Callable[[Any, OpenEnvError], Frame | None],
    ) -> None:
        self._loop = loop
        self._limits = limits
        self._refuse = refuse
        self._transport: Transport | None = None
        self._codec: MsgpackCodec | JsonCodec | None = None
        self._chunk_size: int  # this and the next two are set by attach
        self._max_size: int
        self._max_frames: int
        self.queue: list[Frame] = []
        self._shared: SharedCodec | None = None
        self._large = ChunkQueue(limits.chunk_size)
        self.flushing: asyncio.Handle | None = None
        self.blocked: asyncio.Task[None] | None = None
        self.answered = 0
        self.small_size = -1

    @property
    def attached(self) -> bool:
        """True if there is a transport."""
        return self._transport is not None

    @property
    def max_size(self) -> int:
        """Bytes of the largest message that may be sent."""
        return self._max_size

    def flushed(self) -> bool:
        """Send what is queued; whether nothing waits any more."""
        if self.queue and self.blocked is None:
            self._flush()
        return not self.queue and not self._large.channels and self.blocked is None

    def attach(
        self,
        transport: Transport,
        codec: MsgpackCodec | JsonCodec,
        max_size: int,
        max_frames: int = sys.maxsize,
    ) -> None:
        """Send from now on.

        Args:
            transport: where to.
            codec: of its subprotocol.
            max_size: bytes of the largest message that the peer takes.
            max_frames: frames of a message that it takes.
        """
        self._transport = transport
        self._codec = codec
        self._shared = codec if isinstance(codec, SharedCodec) else None
        self._chunk_size = sys.maxsize if codec.text else self._limits.chunk_size
        self.small_size = -1 if self._large.channels else self._chunk_size
        self._max_size = min(max_size, self._limits.max_message_size)
        self._max_frames = max_frames

    def detach(self) -> None:
        """The transport is gone, and with it all that was queued."""
        self._transport = self._shared = None
        self.small_size = -1
        self.queue.clear()
        self._large.clear()
        for handle in (self.flushing, self.blocked):
            if handle is not None:
                handle.cancel()
        self.flushing = self.blocked = None

    async def drain(self, timeout: float | None) -> None:
        """Write what is queued; give a congested transport ``timeout`` seconds to take it."""
        self._flush()
        if self.blocked is not None:
            await asyncio.wait([self.blocked], timeout=timeout)

    def send(self, frame: Frame) -> None:
        """Queue a frame for the message that leaves at the end of this loop turn.

        Or at once, when as many have come as the last message had answers: then every caller that
        it woke has asked again, and a session alone need not wait for the turn to end.
        """
        if self._transport is None:
            return
        if (type(frame) is Step and len(frame.payload) > self._chunk_size) or self._large.channels:
            self._send_large(frame)
        else:
            self.queue.append(frame)
        self.answered -= 1
        if not self.answered or self.flushing is None:
            self.hurry()

    def hurry(self) -> None:
        """Send the queue at once if every caller has asked again, else when the turn ends."""
        if self.blocked is not None:
            return
        if not self.answered:
            if self.flushing is not None:
                self.flushing.cancel()
            self._flush()
        elif self.flushing is None:
            self.flushing = self._loop.call_soon(self._flush)

    def _send_large(self, frame: Any) -> None:
        """Queue a frame in pieces, or behind the pieces of its channel."""
        payload = getattr(frame, "payload", None)
        size = 0 if payload is None else len(payload)
        if size > self._max_size:
            instead = self._refuse(frame, too_large(size, self._max_size))
            if instead is not None:
                self.queue.append(instead)
        elif self._large.takes(frame.channel, size):
            self._large.put(frame)
            self.small_size = -1
        else:
            self.queue.append(frame)

    def _flush(self) -> None:
        self.flushing = None
        out = self.queue
        transport, codec = self._transport, self._codec
        if transport is None or codec is None:
            return
        if self._shared is not None and self._shared.has_returns:
            out.insert(0, self._shared.take_release())
        if out:
            self.queue = []
            try:
                message = codec.encode(out)
            except (ValueError, TypeError, OverflowError):
                out = self._encodable(out, codec)
                message = codec.encode(out)
            size = len(message)
            if (
                size <= self._limits.max_batch_size
                and size <= self._max_size
                and len(out) <= self._max_frames
            ):
                transport.send(message, codec.text)
            else:
                for part in split_batch(out, self._limits.max_batch_size, self._max_frames):
                    self._send_bounded(part, transport, codec)
        if self._large.channels:
            # One piece a turn, so that others may go before the next.
            transport.send(codec.encode(self._large.next()), codec.text)
            if not self._large.channels:
                self.small_size = self._chunk_size
        if transport.congested:
            if self.blocked is None:
                self.blocked = self._loop.create_task(self._unblock(transport))
        elif self._large.channels:
            self.flushing = self._loop.call_soon(self._flush)

    def _send_bounded(self, frames: Any, transport: Transport, codec: Any) -> None:
        message = codec.encode(frames)
        if len(message) <= self._max_size:
            transport.send(message, codec.text)
            return
        if len(frames) > 1:
            for frame in frames:
                self._send_bounded([frame], transport, codec)
            return
        instead = self._refuse(frames[0], too_large(len(message), self._max_size))
        if instead is not None:
            transport.send(codec.encode([instead]), codec.text)

    def _encodable(self, frames: list[Frame], codec: Any) -> list[Frame]:
        """The frames without those that no message can carry."""
        good = []
        for frame in frames:
            try:
                codec.encode([frame])
            except (ValueError, TypeError, OverflowError) as exc:
                error = InvalidModel(f"the request cannot be encoded: {exc}")
                instead = self._refuse(frame, error)
                if instead is not None:
                    good.append(instead)
            else:
                good.append(frame)
        return good

    async def _unblock(self, transport: Transport) -> None:
        """Wait until the transport takes more."""
        with contextlib.suppress(OSError):
            await transport.drained()
        self.blocked = None
        if self.queue or self._large.channels:
            self._flush()
