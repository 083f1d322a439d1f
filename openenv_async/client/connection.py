"""The client's side of one ``openenv.v1`` connection: channels, batches, replies.

Everything that callers ask for in one loop turn leaves in one message; one message of replies
resolves many callers. The transport below only carries messages: a WebSocket, or memory.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

from openenv_async.deadlines import Deadlines
from openenv_async.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    OpenEnvError,
    PayloadTooLarge,
    ProtocolError,
    ServerBusy,
    SessionClosed,
    VersionMismatch,
    error_from_wire,
)
from openenv_async.models import Format
from openenv_async.protocol.codec import (
    BadFrame,
    JsonCodec,
    MsgpackCodec,
    decode_map,
    encode_map,
    frame_codec,
    split_batch,
    too_large,
)
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Cancel,
    Close,
    Closed,
    Credit,
    Failed,
    Frame,
    GoingAway,
    Hello,
    Open,
    Opened,
    Partial,
    Request,
    Waiting,
    Welcome,
)
from openenv_async.types import Limits, Timeouts
from openenv_async.version import __version__

__all__ = ["Channel", "Connection", "Transport"]

log = logging.getLogger("openenv_async.client")

_BACKSTOP = 5.0
"""Seconds after the server's deadline at which the client stops waiting for its answer."""


class Transport(Protocol):
    """Carries messages. ``send`` never blocks; ``drained`` is awaited before more is sent."""

    @property
    def congested(self) -> bool: ...

    def send(self, message: bytes, text: bool) -> None: ...

    async def drained(self) -> None: ...

    async def aclose(self) -> None: ...


class Channel:
    """One session's place on a connection: its request numbers and the reply it waits for."""

    __slots__ = (
        "acked",
        "connection",
        "due",
        "error",
        "id",
        "number",
        "pending",
        "scheduled",
        "secret",
        "seq",
        "sink",
        "waiting",
        "watched",
    )

    def __init__(self, connection: Connection, number: int, id: str, secret: str) -> None:
        self.connection = connection
        self.number = number
        self.id = id
        self.secret = secret
        self.seq = 0
        self.acked = 0
        self.pending: dict[int, asyncio.Future[Any]] = {}
        self.sink: Callable[[Partial], None] | None = None
        self.error: OpenEnvError | None = None
        self.waiting: tuple[int, int] | None = None
        self.due = inf
        self.watched = ""
        self.scheduled = inf

    def call(self, request: Request | Open, timeout: float | None) -> asyncio.Future[Any]:
        """Send a request; the future holds the reply frame or raises the typed error.

        Args:
            request: with ``seq`` set by ``next_seq``.
            timeout: seconds the server was given, ``None`` for no deadline.
        """
        connection = self.connection
        future: asyncio.Future[Any] = connection.loop.create_future()
        error = self.error or connection.error
        if error is not None:
            future.set_exception(_fresh(error))
            return future
        self.pending[0 if type(request) is Open else request.seq] = future  # type: ignore[union-attr]  # an Open has none
        if timeout is not None:
            self.due = connection.loop.time() + timeout + _BACKSTOP
            if self.due < self.scheduled:
                connection.deadlines.watch(self, self.due)
        else:
            self.due = inf
        connection.send(request)
        return future

    def next_seq(self) -> int:
        """The number of the next request."""
        self.seq = seq = self.seq + 1
        return seq

    def cancel(self, seq: int) -> None:
        """The caller of request ``seq`` gave up: tell the server and drop the late reply."""
        if self.pending.pop(seq, None) is not None and self.connection.error is None:
            self.connection.send(Cancel(self.number, seq))

    def grant(self, seq: int, units: int) -> None:
        """Allow more partial observations."""
        self.connection.send(Credit(self.number, seq, units))

    def close_soon(self) -> None:
        """Ask for the session to be closed without waiting for the answer."""
        if self.error is None and self.connection.error is None:
            self.connection.send(Close(self.number, self.next_seq(), self.acked))
        self.connection.forget(self)

    def fail(self, error: OpenEnvError) -> None:
        """The session is over: every caller meets ``error``."""
        self.error = error
        pending, self.pending = self.pending, {}
        for future in pending.values():
            if not future.done():
                future.set_exception(_fresh(error))

    def check(self, now: float) -> float | None:
        """Give up on a server that is late with its own deadline."""
        if not self.pending or self.error is not None:
            return None
        if now < self.due:
            return self.due if self.due != inf else None
        if now - self.due > 1.0:
            # This loop was held up; what it missed lies in the socket. Look again after reading.
            self.due = now + 1.0
            return self.due
        self.due = inf
        pending, self.pending = self.pending, {}
        for seq, future in pending.items():
            if not future.done():
                if seq:
                    self.connection.send(Cancel(self.number, seq))
                future.set_exception(
                    DeadlineExceeded(
                        "the server did not answer within the deadline it was given: it is"
                        " overloaded or the network is stuck",
                        session_id=self.id,
                        request_id=seq,
                        field="step",
                    )
                )
        return None


class Connection:
    """A connection that many sessions share.

    Args:
        connect: makes a transport; it is given the connection, to which it delivers messages
            through ``receive`` and its end through ``lost``.
        limits, timeouts: of this side.
        where: the address, for messages.
    """

    def __init__(self, where: str, limits: Limits, timeouts: Timeouts) -> None:
        self.where = where
        self.limits = limits
        self.timeouts = timeouts
        self.loop = asyncio.get_running_loop()
        self.deadlines = Deadlines(self.loop.time, self.loop.call_at)
        self.error: OpenEnvError | None = None
        self.server: dict[str, Any] = {}
        self.epoch: str | None = None
        self.late_replies = 0
        self.going_away: GoingAway | None = None
        self._codec: MsgpackCodec | JsonCodec | None = None
        self._transport: Transport | None = None
        self._channels: dict[int, Channel] = {}
        self._numbers = itertools.count(1)
        self._out: list[Frame] = []
        self._flushing: asyncio.Handle | asyncio.Task[None] | None = None
        self._blocked: asyncio.Task[None] | None = None
        self._welcome: asyncio.Future[Welcome] = self.loop.create_future()
        self._max_size = limits.max_message_size

    # -- life ---------------------------------------------------------------------------------

    async def start(self, transport: Transport, subprotocol: str) -> None:
        """Say hello over an open transport and wait for the server's welcome.

        Raises:
            VersionMismatch: the server speaks another version.
            ConnectFailed: it did not answer in time.
        """
        self._transport = transport
        self._codec = frame_codec(subprotocol, "client", self.limits.max_message_size)
        hello = {
            "client": f"openenv_async/{__version__}",
            "max_message_size": self.limits.max_message_size,
            "max_batch_size": self.limits.max_batch_size,
        }
        self.send(Hello(PROTOCOL_VERSION, encode_map(hello, self.format)))
        try:
            async with asyncio.timeout(self.timeouts.connect):
                welcome = await self._welcome
        except TimeoutError:
            raise ConnectFailed(
                f"{self.where} did not answer the handshake within"
                f" {self.timeouts.connect:g} s (Timeouts.connect)",
                phase="connect",
            ) from None
        if welcome.version != PROTOCOL_VERSION:
            raise VersionMismatch(f"{self.where} speaks protocol {welcome.version}")
        self.epoch = welcome.epoch
        self.server = decode_map(welcome.payload, self.format)
        size = self.server.get("max_message_size")
        if isinstance(size, int) and size > 0:
            self._max_size = min(size, self._max_size)

    @property
    def format(self) -> Format:
        """The payload format in use."""
        return "msgpack" if self._codec is None else self._codec.format

    @property
    def channel_count(self) -> int:
        """Sessions on this connection now."""
        return len(self._channels)

    async def aclose(self) -> None:
        """Send what is queued, close the transport; callers that still wait meet an error."""
        if self.error is None:
            self._flush()
            if self._blocked is not None:
                await asyncio.wait([self._blocked], timeout=self.timeouts.close)
        self.lost(SessionClosed("the connection was closed by this side"))
        if self._transport is not None:
            await self._transport.aclose()

    def lost(self, error: OpenEnvError | None = None) -> None:
        """The transport is gone (called by it): every session on it is over."""
        if self.error is not None:
            return
        self.error = error or ConnectionLost(f"the connection to {self.where} was lost")
        self.deadlines.close()
        if self._flushing is not None:
            self._flushing.cancel()
        if self._blocked is not None:
            self._blocked.cancel()
        self._out.clear()
        if not self._welcome.done():
            self._welcome.set_exception(_fresh(self.error))
            self._welcome.exception()  # it may be that nobody waits for it any more
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.fail(self.error)

    # -- sessions -----------------------------------------------------------------------------

    def channel(self, id: str, secret: str) -> Channel:
        """A new channel; its session is not open yet."""
        limit = self.server.get("max_channels", self.limits.max_channels)
        if len(self._channels) >= limit:
            raise ServerBusy(f"{limit} sessions are on this connection already (max_channels)")
        channel = Channel(self, next(self._numbers), id, secret)
        self._channels[channel.number] = channel
        return channel

    def forget(self, channel: Channel) -> None:
        """The channel is not used any more."""
        self._channels.pop(channel.number, None)
        channel.fail(SessionClosed("the session was closed by this side"))

    # -- frames out ---------------------------------------------------------------------------

    def send(self, frame: Frame) -> None:
        """Queue a frame for the message that leaves at the end of this loop turn."""
        out = self._out
        out.append(frame)
        if len(out) == 1 and self._blocked is None:
            self._flushing = self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        out = self._out
        if not out or self._transport is None or self._codec is None:
            return
        self._out = []
        codec, transport = self._codec, self._transport
        message = codec.encode(out)
        if len(message) <= min(self.limits.max_batch_size, self._max_size):
            transport.send(message, codec.text)
        else:
            for part in split_batch(out, self.limits.max_batch_size):
                self._send_bounded(part)
        if transport.congested:
            self._blocked = self.loop.create_task(self._unblock(transport))

    def _send_bounded(self, frames: Any) -> None:
        assert self._codec is not None
        assert self._transport is not None
        message = self._codec.encode(frames)
        if len(message) <= self._max_size:
            self._transport.send(message, self._codec.text)
            return
        if len(frames) > 1:
            for frame in frames:
                self._send_bounded([frame])
            return
        frame = frames[0]
        channel = self._channels.get(frame.channel)
        if channel is not None:
            channel.connection._refuse(channel, frame, too_large(len(message), self._max_size))

    def _refuse(self, channel: Channel, frame: Any, error: PayloadTooLarge) -> None:
        """A request that must not be sent: its number is given back, its caller told."""
        seq = getattr(frame, "seq", 0)
        if seq and seq == channel.seq:
            channel.seq -= 1
        future = channel.pending.pop(seq, None)
        if future is not None and not future.done():
            future.set_exception(error)

    async def _unblock(self, transport: Transport) -> None:
        """Wait until the transport takes more; frames queue up meanwhile."""
        try:
            await transport.drained()
        finally:
            self._blocked = None
        if self._out:
            self._flush()

    # -- frames in ----------------------------------------------------------------------------

    def receive(self, message: bytes | str) -> None:
        """Take one message from the transport."""
        assert self._codec is not None
        try:
            frames = self._codec.decode(message)
        except OpenEnvError as exc:
            log.warning("unreadable message from %s: %s", self.where, exc)
            self.lost(ProtocolError(f"{self.where} sent an unreadable message: {exc}"))
            return
        channels = self._channels
        for frame in frames:
            channel = channels.get(getattr(frame, "channel", 0))
            if channel is None:
                self._on_other(frame)
                continue
            kind = type(frame)
            if kind is Failed:
                self._on_failed(channel, frame)
            elif kind is Partial:
                if channel.sink is not None and frame.seq in channel.pending:
                    channel.sink(frame)
            elif kind is Opened:
                self._resolve(channel, 0, frame)
            elif kind is Waiting:
                channel.waiting = (frame.position, frame.depth)
            elif kind is BadFrame:
                self._on_failed(channel, Failed(frame.channel, frame.seq, "", frame.error.message))
            else:
                seq = frame.seq
                future = channel.pending.pop(seq, None)
                if seq > channel.acked:
                    channel.acked = seq
                if future is not None and not future.done():
                    future.set_result(frame)
                else:
                    self.late_replies += 1

    def _resolve(self, channel: Channel, seq: int, frame: Frame) -> None:
        future = channel.pending.pop(seq, None)
        if future is not None and not future.done():
            future.set_result(frame)

    def _on_failed(self, channel: Channel, frame: Failed) -> None:
        error = self._error(frame)
        error.add_context(session_id=channel.id, request_id=frame.seq or None)
        if frame.seq > channel.acked:
            channel.acked = frame.seq
        future = channel.pending.pop(frame.seq, None)
        if future is not None:
            if not future.done():
                future.set_exception(error)
        elif frame.seq == 0:
            self._channels.pop(channel.number, None)
            channel.fail(error)
        else:
            self.late_replies += 1

    def _on_other(self, frame: Any) -> None:
        """Frames of the connection itself, or of a channel that is gone."""
        if isinstance(frame, Welcome):
            if not self._welcome.done():
                self._welcome.set_result(frame)
        elif isinstance(frame, GoingAway):
            self.going_away = frame
            log.info("%s is going away: %s", self.where, frame.reason)
        elif isinstance(frame, Failed) and frame.channel == 0:
            error = self._error(frame)
            if not self._welcome.done():
                self._welcome.set_exception(error)
            else:
                log.warning("%s reports: %s", self.where, error)
                for channel in list(self._channels.values()):
                    channel.fail(error)
        elif not isinstance(frame, Closed):
            self.late_replies += 1

    def _error(self, frame: Failed) -> OpenEnvError:
        try:
            detail = decode_map(frame.payload, self.format)
        except ProtocolError:
            detail = {}
        error = error_from_wire(frame.code, frame.message, frame.retryable, detail)
        return error.add_context(server_version=self.server.get("server"))


def _fresh(error: OpenEnvError) -> OpenEnvError:
    """A copy, so that one stored error raised by many callers shares no traceback."""
    copy: OpenEnvError = type(error)(error.message, retryable=error.retryable, **error.to_wire())
    return copy
