"""The client's side of ``openenv.v1``: channels, batches, replies, and coming back.

Everything that callers ask for in one loop turn leaves in one message; one message of replies
resolves many callers. The transport below only carries messages: a WebSocket, or memory.

Rules of coming back:

- A request stays in its channel's ``sent`` until it is answered.
- When the transport is lost, sessions live on at the server for its ``Timeouts.resume``. The
  connection dials again with backoff and jitter, resumes every channel and sends again what was
  not answered; the server knows by the numbers what it has done already.
- Another epoch means another run of the server: every session is lost, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import sys
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any, Final, Protocol

from openenv_async.deadlines import Deadlines
from openenv_async.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    InvalidModel,
    OpenEnvError,
    PayloadTooLarge,
    ProtocolError,
    ServerBusy,
    SessionClosed,
    SessionLost,
    VersionMismatch,
    error_from_wire,
)
from openenv_async.models import Format
from openenv_async.protocol.chunks import Assembler, ChunkQueue
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
    Chunk,
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
    Renew,
    Request,
    Step,
    Waiting,
    Welcome,
)
from openenv_async.types import Limits, Timeouts
from openenv_async.version import __version__

__all__ = ["Channel", "Connection", "Receiver", "Redial", "Transport"]

log = logging.getLogger("openenv_async.client")

_BACKSTOP: Final = 5.0
"""Seconds after the server's deadline at which the client stops waiting for its answer."""
_CLOSED_HERE: Final = SessionClosed("the session was closed by this side")
"""Never raised itself: callers get a copy."""
_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 2.0


class Transport(Protocol):
    """Carries messages. ``send`` never blocks; ``drained`` is awaited before more is sent."""

    subprotocol: str

    @property
    def congested(self) -> bool: ...

    def send(self, message: bytes, text: bool) -> None: ...

    async def drained(self) -> None: ...

    async def aclose(self) -> None: ...


class Receiver(Protocol):
    """What a channel hands its reply to: a future, or something cheaper that is one in this."""

    def done(self) -> bool: ...

    def set_result(self, result: Any, /) -> None: ...

    def set_exception(self, exception: Any, /) -> None: ...


Redial = Callable[["Connection"], Awaitable[Transport]]
"""Makes an open transport that delivers to the connection's ``receive`` and ``lost``."""


class Channel:
    """One session's place on a connection: its request numbers and the reply it waits for."""

    __slots__ = (
        "acked",
        "connection",
        "due",
        "error",
        "future",
        "id",
        "number",
        "opened",
        "scheduled",
        "secret",
        "sent",
        "seq",
        "sink",
        "steps",
        "waited",
        "waiting",
    )

    def __init__(self, connection: Connection, number: int, id: str, secret: str) -> None:
        self.connection = connection
        self.number = number
        self.id = id
        self.secret = secret
        self.opened = False
        self.seq = 0
        self.acked = 0
        self.steps = 0
        self.sent: dict[int, Request | Open] = {}
        self.future: Receiver | None = None
        self.waited = 0
        self.sink: Callable[[Partial], None] | None = None
        self.error: OpenEnvError | None = None
        self.waiting: tuple[int, int] | None = None
        self.due = inf
        self.scheduled = inf

    def call(self, request: Request | Open, timeout: float | None) -> asyncio.Future[Any]:
        """Send a request; the future holds the reply frame or raises the typed error.

        Args:
            request: with ``seq`` set by ``next_seq``.
            timeout: seconds the server was given, ``None`` for no deadline.
        """
        future: asyncio.Future[Any] = self.connection.loop.create_future()
        self.post(request, future, timeout)
        return future

    def post(self, request: Request | Open, receiver: Receiver, timeout: float | None) -> None:
        """As ``call``, for a receiver of the caller's own; it may serve call after call."""
        connection = self.connection
        error = self.error or connection.error
        if error is not None:
            receiver.set_exception(_fresh(error))
            return
        seq = 0 if type(request) is Open else request.seq  # type: ignore[union-attr]  # an Open has none
        running = self.future
        if running is not None and not running.done():  # only a close comes while a call runs
            running.set_exception(
                SessionClosed("the session was closed by this side while this call was running")
            )
        self.sent[seq] = request
        self.future = receiver
        self.waited = seq
        if timeout is None:
            self.due = inf
        else:
            self.due = connection.loop.time() + timeout + _BACKSTOP
            if self.due < self.scheduled:
                connection.deadlines.watch(self, self.due)
        connection.send(request)

    def next_seq(self) -> int:
        """The number of the next request."""
        self.seq = seq = self.seq + 1
        return seq

    def cancel(self, seq: int) -> None:
        """The caller of request ``seq`` gave up: tell the server, drop the late reply."""
        if self.waited == seq:
            self.future = None
        if seq in self.sent:
            self.connection.send(Cancel(self.number, seq))

    def grant(self, seq: int, units: int) -> None:
        """Allow more partial observations."""
        request = self.sent.get(seq)
        if type(request) is Step:
            request.credit += units  # in all: should the request be sent again
        self.connection.send(Credit(self.number, seq, units))

    def close_soon(self) -> None:
        """Ask for the session to be closed without waiting for the answer."""
        if self.error is None:
            self.connection.send(Close(self.number, self.next_seq(), self.acked))
        self.connection.forget(self)

    def fail(self, error: OpenEnvError) -> None:
        """The session is over: its caller, and every later one, meets ``error``."""
        self.error = error
        self.sent.clear()
        future, self.future = self.future, None
        if future is not None and not future.done():
            future.set_exception(_fresh(error))

    def resumption(self) -> list[Frame]:
        """What to send on a new transport: the session, and all that was not answered."""
        frames: list[Frame] = []
        if self.opened:
            frames.append(Open(self.number, self.id, self.secret, True, self.acked))
        for seq in sorted(self.sent):
            frames.append(self.sent[seq])
            if seq and (self.future is None or seq != self.waited):
                frames.append(Cancel(self.number, seq))
        return frames

    def check(self, now: float) -> float | None:
        """Give up on a server that is late with its own deadline."""
        future, connection = self.future, self.connection
        if future is None or self.error is not None:
            return None
        if now < self.due:
            return self.due if self.due != inf else None
        if now - self.due > 1.0:
            # This loop was held up; what it missed lies in the socket. Look again after reading.
            self.due = now + 1.0
            return self.due
        again = connection.doubt(self.due - _BACKSTOP, now)
        if again > now:
            self.due = again
            return again
        self.due = inf
        self.cancel(self.waited)
        self.future = None
        if not future.done():
            future.set_exception(
                DeadlineExceeded(
                    f"{connection.where} did not answer within the deadline it was given:"
                    " it is overloaded, or the network is stuck",
                    session_id=self.id,
                    request_id=self.waited or None,
                )
            )
        return None


class Connection:
    """A connection that many sessions share.

    Args:
        where: the address, for messages.
        limits, timeouts: of this side.
        redial: makes a transport, the first one and those after a loss.
    """

    def __init__(self, where: str, limits: Limits, timeouts: Timeouts, redial: Redial) -> None:
        self.where = where
        self.limits = limits
        self.timeouts = timeouts
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self.deadlines = Deadlines(self.loop.time, self.loop.call_at)
        self.error: OpenEnvError | None = None
        self.server: dict[str, Any] = {}
        self.epoch: str | None = None
        self.late_replies = 0
        self.reconnects = 0
        self.going_away: GoingAway | None = None
        self.heard_at = -inf
        self._doubted_at = -inf
        self._closing: set[asyncio.Task[None]] = set()
        self._redial = redial
        self._codec: MsgpackCodec | JsonCodec | None = None
        self._transport: Transport | None = None
        self._up = False
        self._channels: dict[int, Channel] = {}
        self._numbers = itertools.count(1)
        self._out: list[Frame] = []
        self._large = ChunkQueue(limits.chunk_size)
        self._assembler = Assembler(limits.max_message_size, inf)
        self._flushing: asyncio.Handle | None = None
        self._answered = 0
        self._blocked: asyncio.Task[None] | None = None
        self._coming_back: asyncio.Task[None] | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self._welcome: asyncio.Future[Welcome] | None = None
        self._chunk_size = limits.chunk_size
        self._max_size = limits.max_message_size

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Dial, say hello and wait for the server's welcome.

        Raises:
            ConnectFailed, Unauthorized: by dialling, or no welcome came in time.
            VersionMismatch: the server speaks another version.
        """
        try:
            await self._attach()
        except BaseException:
            await self.aclose()
            raise

    async def _attach(self) -> None:
        """Get a transport and greet."""
        transport = await self._redial(self)
        self._transport = transport
        codec = frame_codec(transport.subprotocol, "client", self.limits.max_message_size)
        self._codec = codec
        self._chunk_size = sys.maxsize if codec.text else self.limits.chunk_size
        hello = {
            "client": f"openenv_async/{__version__}",
            "max_message_size": self.limits.max_message_size,
            "max_batch_size": self.limits.max_batch_size,
        }
        self._welcome = self.loop.create_future()
        transport.send(
            codec.encode([Hello(PROTOCOL_VERSION, encode_map(hello, codec.format))]), codec.text
        )
        try:
            async with asyncio.timeout(self.timeouts.connect):
                welcome = await self._welcome
        except TimeoutError:
            self._transport = None
            await transport.aclose()
            raise ConnectFailed(
                f"{self.where} did not answer the handshake within"
                f" {self.timeouts.connect:g} s (Timeouts.connect)",
                phase="connect",
            ) from None
        finally:
            self._welcome = None
        if welcome.version != PROTOCOL_VERSION:
            raise VersionMismatch(f"{self.where} speaks protocol {welcome.version}")
        self.epoch = welcome.epoch
        self.server = decode_map(welcome.payload, codec.format)
        size = self.server.get("max_message_size")
        if isinstance(size, int) and size > 0:
            self._max_size = min(size, self.limits.max_message_size)
        self._up = True
        self._beat()

    @property
    def format(self) -> Format:
        """The payload format in use."""
        return "msgpack" if self._codec is None else self._codec.format

    @property
    def channel_count(self) -> int:
        """Sessions on this connection now."""
        return len(self._channels)

    @property
    def up(self) -> bool:
        """Whether there is a transport now, and not only the hope of one."""
        return self._up

    async def aclose(self) -> None:
        """Send what is queued, close the transport; callers that still wait meet an error."""
        if self.error is None and self._up:
            self._flush()
            if self._blocked is not None:
                await asyncio.wait([self._blocked], timeout=self.timeouts.close)
        transport = self._transport
        tasks: list[asyncio.Task[None]] = [*self._closing]
        tasks += [task for task in (self._blocked, self._coming_back) if task is not None]
        self._fail(SessionClosed("the connection was closed by this side"))
        if tasks:
            await asyncio.wait(tasks)
        if transport is not None:
            await transport.aclose()

    def lost(self, transport: Transport) -> None:
        """A transport is gone (called by it). The connection comes back if sessions wait."""
        if transport is not self._transport:
            return
        self._down()
        if self._welcome is not None:
            if not self._welcome.done():
                self._welcome.set_exception(
                    ConnectFailed(f"{self.where} closed the connection", phase="connect")
                )
            return  # whoever attaches deals with it
        if self.error is not None:
            return
        ttl = self._server_timeout("resume")
        waiting = any(channel.opened or channel.sent for channel in self._channels.values())
        if ttl is not None and waiting:
            self._coming_back = self.loop.create_task(self._come_back(ttl))
        else:
            self._fail(ConnectionLost(f"the connection to {self.where} was lost"))

    def doubt(self, since: float, now: float) -> float:
        """An answer is late. If nothing at all came ``since``, this transport may be dead.

        A network may swallow everything and tell nobody. Another transport decides: the session
        is resumed there, and the request sent again under its number.

        Returns:
            Until when to wait for that; in the past when there is nothing to wait for.
        """
        transport = self._transport
        if self._up and self.heard_at < since and transport is not None:
            self._doubted_at = now
            closing = self.loop.create_task(transport.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            self.lost(transport)
        return self._doubted_at + _BACKSTOP

    def _down(self) -> None:
        self._up = False
        self._transport = None
        self._out.clear()
        for handle in (self._flushing, self._blocked, self._heartbeat):
            if handle is not None:
                handle.cancel()
        self._heartbeat = self._flushing = self._blocked = None
        self._large.clear()
        self._assembler.clear()

    async def _come_back(self, ttl: float) -> None:
        """Dial until it works or the sessions are gone; then resume them."""
        epoch, give_up_at, delay = self.epoch, self.loop.time() + ttl, _FIRST_DELAY
        log.info("the connection to %s was lost: coming back", self.where)
        try:
            while True:
                try:
                    await self._attach()
                    break
                except OpenEnvError as exc:
                    if not exc.retryable:  # a server short of descriptors is, for one
                        raise
                    left = give_up_at - self.loop.time()
                    if left <= 0:
                        self._fail(self._gone(f"no connection could be made for {ttl:g} s: {exc}"))
                        return
                    await asyncio.sleep(min(delay * random.uniform(0.5, 1.5), left))
                    delay = min(delay * 2, _LONGEST_DELAY)
        except OpenEnvError as exc:
            self._coming_back, transport = None, self._transport
            self._fail(exc)
            if transport is not None:
                await transport.aclose()
            return
        finally:
            self._coming_back = None
        self.reconnects += 1
        for channel in list(self._channels.values()):
            if channel.opened and self.epoch != epoch:
                self._channels.pop(channel.number, None)
                channel.fail(self._gone("the server was restarted", channel))
                continue
            for frame in channel.resumption():
                self.send(frame)

    def _gone(self, why: str, channel: Channel | None = None) -> SessionLost:
        error = SessionLost(
            f"the session at {self.where} is lost, {why}; call reset() for a new episode"
        )
        if channel is not None:
            error.detail["last_acknowledged_request"] = channel.acked
            error.detail["last_acknowledged_step"] = channel.steps
            error.add_context(session_id=channel.id)
        return error

    def _fail(self, error: OpenEnvError) -> None:
        """The connection is over for good, and so is every session on it."""
        if self.error is not None:
            return
        self.error = error
        self._down()
        self.deadlines.close()
        if self._coming_back is not None:
            self._coming_back.cancel()
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            lost = error
            if isinstance(error, SessionLost):
                lost = _fresh(error)
                lost.detail["last_acknowledged_request"] = channel.acked
                lost.detail["last_acknowledged_step"] = channel.steps
            channel.fail(lost)

    def _server_timeout(self, name: str) -> float | None:
        """One of the server's own deadlines, as its welcome told them."""
        told = self.server.get("timeouts")
        value = told.get(name) if isinstance(told, dict) else None
        return value if isinstance(value, int | float) and value > 0 else None

    def _beat(self) -> None:
        """Renew the lease of an idle connection, three times in its length."""
        lease = self._server_timeout("lease")
        if self._up and lease is not None:
            self.send(Renew(0))
            self._heartbeat = self.loop.call_later(lease / 3, self._beat)

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
        self.deadlines.forget(channel)
        channel.fail(_CLOSED_HERE)

    # -- frames out ---------------------------------------------------------------------------

    def send(self, frame: Frame) -> None:
        """Queue a frame for the message that leaves at the end of this loop turn.

        Or at once, when as many have come as the last message had answers: then every caller that
        it woke has asked again, and a session alone need not wait for the turn to end.

        Without a transport it is dropped: what matters is in a channel's ``sent``.
        """
        if not self._up:
            return
        if (type(frame) is Step and len(frame.payload) > self._chunk_size) or self._large:
            self._send_large(frame)
        else:
            self._out.append(frame)
        if self._blocked is not None:
            return
        self._answered -= 1
        if not self._answered:
            if self._flushing is not None:
                self._flushing.cancel()
            self._flush()
        elif self._flushing is None:
            self._flushing = self.loop.call_soon(self._flush)

    def _send_large(self, frame: Any) -> None:
        """Queue a frame in pieces, or behind the pieces of its channel."""
        payload = getattr(frame, "payload", None)
        size = 0 if payload is None else len(payload)
        if size > self._max_size:
            self._refuse(frame, too_large(size, self._max_size))
        elif self._large.takes(frame.channel, size):
            self._large.put(frame)
        else:
            self._out.append(frame)

    def _flush(self) -> None:
        self._flushing = None
        out = self._out
        transport, codec = self._transport, self._codec
        if transport is None or codec is None:
            return
        if out:
            self._out = []
            try:
                message = codec.encode(out)
            except (ValueError, TypeError, OverflowError):
                out = self._encodable(out, codec)
                message = codec.encode(out)
            if len(message) <= self.limits.max_batch_size and len(message) <= self._max_size:
                transport.send(message, codec.text)
            else:
                for part in split_batch(out, self.limits.max_batch_size):
                    self._send_bounded(part, transport, codec)
        if self._large:
            # One piece a turn, so that others may go before the next.
            transport.send(codec.encode(self._large.next()), codec.text)
        if transport.congested:
            self._blocked = self.loop.create_task(self._unblock(transport))
        elif self._large:
            self._flushing = self.loop.call_soon(self._flush)

    def _send_bounded(self, frames: Any, transport: Transport, codec: Any) -> None:
        message = codec.encode(frames)
        if len(message) <= self._max_size:
            transport.send(message, codec.text)
            return
        if len(frames) > 1:
            for frame in frames:
                self._send_bounded([frame], transport, codec)
            return
        self._refuse(frames[0], too_large(len(message), self._max_size))

    def _encodable(self, frames: list[Frame], codec: Any) -> list[Frame]:
        """The frames without those that no message can carry, whose callers are told."""
        good = []
        for frame in frames:
            try:
                codec.encode([frame])
            except (ValueError, TypeError, OverflowError) as exc:
                self._refuse(frame, InvalidModel(f"the request cannot be encoded: {exc}"))
            else:
                good.append(frame)
        return good

    def _refuse(self, frame: Any, error: OpenEnvError) -> None:
        """A request that must not be sent: its number is given back, its caller told."""
        channel = self._channels.get(frame.channel)
        if channel is None:
            return
        seq = getattr(frame, "seq", 0)
        if seq and seq == channel.seq:
            channel.seq -= 1
        channel.sent.pop(seq, None)
        if channel.future is not None and channel.waited == seq:
            future, channel.future = channel.future, None
            if not future.done():
                future.set_exception(error.add_context(session_id=channel.id))

    async def _unblock(self, transport: Transport) -> None:
        """Wait until the transport takes more; frames queue up meanwhile."""
        with contextlib.suppress(OSError):
            await transport.drained()
        self._blocked = None
        if self._out or self._large:
            self._flush()

    # -- frames in ----------------------------------------------------------------------------

    def receive(self, message: bytes | str) -> None:
        """Take one message from the transport."""
        assert self._codec is not None
        self.heard_at = self.loop.time()
        try:
            frames = self._codec.decode(message)
        except OpenEnvError as exc:
            log.warning("unreadable message from %s: %s", self.where, exc)
            self._fail(ProtocolError(f"{self.where} sent an unreadable message: {exc}"))
            return
        channels, parts = self._channels, self._assembler.parts
        answered = self._answered = 0
        for frame in frames:
            if parts and type(frame) is not Chunk and getattr(frame, "channel", 0) in parts:
                self._complete(frame)
            channel = channels.get(getattr(frame, "channel", 0))
            if channel is None:
                self._on_other(frame)
                continue
            kind = type(frame)
            if kind is Failed:
                self._on_failed(channel, frame)
            elif kind is Partial:
                if channel.sink is not None and frame.seq == channel.waited:
                    channel.sink(frame)
            elif kind is Opened:
                self._on_opened(channel, frame)
            elif kind is Chunk:
                self._on_chunk(channel, frame)
            elif kind is Waiting:
                channel.waiting = (frame.position, frame.depth)
            elif kind is BadFrame:
                self._on_failed(channel, Failed(frame.channel, frame.seq, "", frame.error.message))
            else:
                seq = frame.seq
                if seq > channel.acked:
                    channel.acked = seq
                channel.sent.pop(seq, None)
                future = channel.future
                if seq == channel.waited and future is not None:
                    channel.future = None
                    if not future.done():
                        answered += 1
                        future.set_result(frame)
                else:
                    self.late_replies += 1
        self._answered = answered

    def _on_chunk(self, channel: Channel, frame: Chunk) -> None:
        try:
            self._assembler.add(frame)
        except PayloadTooLarge as exc:
            self._on_failed(channel, Failed(frame.channel, frame.seq, exc.code, exc.message))

    def _complete(self, frame: Any) -> None:
        payload = getattr(frame, "payload", None)
        if payload is not None and not len(payload):
            self._assembler.fill(frame)

    def _on_opened(self, channel: Channel, frame: Opened) -> None:
        channel.opened = True
        channel.waiting = None
        if channel.sent.pop(0, None) is None:
            return  # resumed
        future = channel.future
        if future is not None and channel.waited == 0:
            channel.future = None
            if not future.done():
                future.set_result(frame)

    def _on_failed(self, channel: Channel, frame: Failed) -> None:
        error = self._error(frame)
        error.add_context(session_id=channel.id, request_id=frame.seq or None)
        if frame.seq == 0:
            if isinstance(error, SessionLost):
                error.detail["last_acknowledged_request"] = channel.acked
                error.detail["last_acknowledged_step"] = channel.steps
            self._channels.pop(channel.number, None)
            channel.fail(error)
            return
        if frame.seq > channel.acked:
            channel.acked = frame.seq
        channel.sent.pop(frame.seq, None)
        future = channel.future
        if frame.seq == channel.waited and future is not None:
            channel.future = None
            if not future.done():
                future.set_exception(error)
        else:
            self.late_replies += 1

    def _on_other(self, frame: Any) -> None:
        """Frames of the connection itself, or of a channel that is gone."""
        if isinstance(frame, Welcome):
            if self._welcome is not None and not self._welcome.done():
                self._welcome.set_result(frame)
        elif isinstance(frame, GoingAway):
            self.going_away = frame
            log.info("%s is going away: %s", self.where, frame.reason)
        elif isinstance(frame, Failed) and frame.channel == 0:
            error = self._error(frame)
            if self._welcome is not None and not self._welcome.done():
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
