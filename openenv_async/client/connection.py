"""The client's side of ``openenv.v1``: a connection that many sessions share, and coming back.

Everything that callers ask for in one loop turn leaves in one message; one message of replies
resolves many callers. The transport below only carries messages: a WebSocket, or memory.

Rules of coming back:

- A channel keeps a request until it is answered.
- When the transport is lost, sessions live on at the server for its ``Timeouts.resume``. The
  connection dials again with backoff and jitter, resumes every channel and sends again what was
  not answered; the server knows by the numbers what it has done already.
- Another epoch means another run of the server: every session is lost, and says so.
- A transport that is left is closed, and ``aclose`` waits for that.
- While the messages are lent to another thread, whatever would end the transport or speak on it
  first ends the loan.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from math import inf
from typing import Any, Final

from openenv_async.client.channel import Channel
from openenv_async.client.inbox import Inbox
from openenv_async.client.lending import DivertedMessages, Loan
from openenv_async.client.outbox import Outbox, SegmentTransport, Transport
from openenv_async.client.shared import SharedCodec
from openenv_async.deadlines import Deadlines
from openenv_async.endpoints.segments import map_segment
from openenv_async.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    OpenEnvError,
    OperationUnsupported,
    ProtocolError,
    ServerBusy,
    SessionClosed,
    SessionLost,
    VersionMismatch,
    error_from_wire,
    raised_again,
)
from openenv_async.models import Format
from openenv_async.protocol.blocks import SHARED_MEMORY
from openenv_async.protocol.codec import (
    JsonCodec,
    MsgpackCodec,
    WireMessage,
    decode_map,
    encode_map,
    frame_codec,
)
from openenv_async.protocol.columns import COLUMNS, COLUMNS_AGAIN, has_columns
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Failed,
    Frame,
    GoingAway,
    Hello,
    ListTasks,
    Payload,
    Renew,
    TasksListed,
    Welcome,
)
from openenv_async.renamed import renamed_attributes
from openenv_async.types import Limits, Timeouts
from openenv_async.version import __version__

__all__ = ["ClientConnection", "Redial"]

__getattr__ = renamed_attributes(__name__, {"Connection": "ClientConnection"})

log = logging.getLogger("openenv_async.client")

_CLOSED_HERE: Final = SessionClosed("the session was closed by this side")
"""The error of a closed connection; never raised itself: callers get a copy."""
_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 2.0

Redial = Callable[["ClientConnection"], Awaitable[Transport]]
"""A function that makes an open transport, which delivers to the connection's ``receive`` and
``lost``.
"""


def environment_of(server: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a server's welcome tells of its environment; ``None`` when it tells nothing."""
    if not isinstance(server.get("environment"), str):
        return None
    return {
        "name": server["environment"],
        **{
            name: server.get(f"environment_{name}")
            for name in ("version", "package", "params")
            if server.get(f"environment_{name}") is not None
        },
    }


class ClientConnection:
    """A connection that many sessions share.

    Args:
        where: the address, for messages.
        limits, timeouts: of this side.
        redial: makes a transport, the first one and those after a loss.

    Attributes:
        outbox: where channels put their frames.
        inbox: what brings them the server's.
        environment: what the server plays: its ``name``, ``version``, ``package`` and ``params``;
            ``None`` where it does not say. One object for all episodes, not to be changed.
        loan: by which another thread has the messages now.
    """

    def __init__(self, where: str, limits: Limits, timeouts: Timeouts, redial: Redial) -> None:
        self.where = where
        self.limits = limits
        self.timeouts = timeouts
        self.loop = asyncio.get_running_loop()
        self.clock = self.loop.time
        self.pid = os.getpid()
        self.deadlines = Deadlines(self.clock, self.loop.call_at)
        self.error: OpenEnvError | None = None
        self.server: dict[str, Any] = {}
        self.environment: dict[str, Any] | None = None
        self.epoch: str | None = None
        self.reconnects = 0
        self.going_away: GoingAway | None = None
        self.heard_at = -inf
        self._channels: dict[int, Channel] = {}
        self.outbox = Outbox(self.loop, limits, self._refuse)
        self.inbox = Inbox(self._channels, limits, self.outbox, self._on_own, self.error_of)
        self._doubted_at = -inf
        self._closing: set[asyncio.Task[None]] = set()
        self._redial = redial
        self._codec: MsgpackCodec | JsonCodec | None = None
        self._transport: Transport | None = None
        self._numbers = itertools.count(1)
        self._listings: dict[int, asyncio.Future[Payload]] = {}
        self._listing_numbers = itertools.count(1)
        self._coming_back: asyncio.Task[None] | None = None
        self._lost_at = -inf
        self._refused: OpenEnvError | None = None
        self._heartbeat: asyncio.TimerHandle | None = None
        self._welcome: asyncio.Future[Welcome] | None = None
        self.loan: Loan | None = None
        self._diverted: Callable[[WireMessage], None] | None = None

    # -- life -------------------------------------------------------------------------------------

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
        codec = self._codec_of(transport)
        self._codec = codec
        hello = {
            "client": f"openenv_async/{__version__}",
            "max_message_size": self.limits.max_message_size,
            "max_batch_size": self.limits.max_batch_size,
        }
        if isinstance(codec, SharedCodec):
            hello[SHARED_MEMORY] = True
        self._welcome = self.loop.create_future()
        transport.send(
            codec.encode([Hello(PROTOCOL_VERSION, encode_map(hello, codec.format))]), codec.text
        )
        try:
            async with asyncio.timeout(self.timeouts.connect):
                welcome = await self._welcome
        except TimeoutError:
            raise ConnectFailed(
                f"{self.where} did not answer the handshake within"
                f" {self.timeouts.connect:g} s (Timeouts.connect)",
                phase="connect",
            ) from None
        finally:
            self._welcome = None
        if welcome.version != PROTOCOL_VERSION:
            raise VersionMismatch(f"{self.where} speaks protocol {welcome.version}")
        if self._transport is not transport:
            raise self.error or self._hung_up()  # as soon as it had said welcome
        self.epoch = welcome.epoch
        self.server = decode_map(welcome.payload, codec.format)
        self.environment = environment_of(self.server)
        size = self.server.get("max_message_size")
        if not isinstance(size, int) or size <= 0:
            size = self.limits.max_message_size
        frames = self.server.get("max_frames")
        if not isinstance(frames, int) or frames <= 0:
            frames = self.limits.max_frames
        self.outbox.attach(transport, codec, size, frames)
        self._beat()

    def _codec_of(self, transport: Transport) -> MsgpackCodec | JsonCodec:
        """Return the codec of a new transport, which may have brought shared memory."""
        limit = self.limits.max_message_size
        if isinstance(transport, SegmentTransport) and SHARED_MEMORY in transport.grants:
            descriptors, transport.descriptors = transport.descriptors, []
            memory = map_segment(descriptors, self.limits.max_shared_size)
            if memory is not None:
                return SharedCodec(limit, memory)
        return frame_codec(transport.subprotocol, "client", limit)

    def _hung_up(self) -> ConnectFailed:
        return ConnectFailed(f"{self.where} closed the connection", phase="connect")

    @property
    def upstream(self) -> bool:
        """Return whether the server speaks upstream's dialect."""
        return self.server.get("dialect") == "upstream"

    @property
    def takes_columns(self) -> bool:
        """Return whether many sessions may be stepped by one frame."""
        return COLUMNS in (self.server.get("capabilities") or ()) and has_columns(self.format)

    @property
    def begins_again(self) -> bool:
        """True if the server may begin the next episode of a row in the step that ends one."""
        return COLUMNS_AGAIN in (self.server.get("capabilities") or ())

    @property
    def transport(self) -> str | None:
        """The kind of the transport in use, ``WebSocket`` or ``Unix socket``; ``None``: none."""
        return None if self._transport is None else self._transport.name

    @property
    def format(self) -> Format:
        """The payload format in use."""
        return "msgpack" if self._codec is None else self._codec.format

    @property
    def codec(self) -> MsgpackCodec | JsonCodec | None:
        """The codec of the transport; ``None`` before the first hello."""
        return self._codec

    @property
    def channel_count(self) -> int:
        """Sessions on this connection now."""
        return len(self._channels)

    @property
    def late_replies(self) -> int:
        """Frames that came when nobody waited for them any more."""
        return self.inbox.late_replies

    @property
    def up(self) -> bool:
        """True if there is a transport now, and not only the hope of one."""
        return self.outbox.attached

    async def aclose(self) -> None:
        """Send what is queued, close the transport; callers that still wait meet an error."""
        outbox = self.outbox
        if self.loan is not None:
            await self.loan.over()
        if self.error is None and outbox.attached:
            await outbox.drain(self.timeouts.close)
        tasks = [task for task in (outbox.blocked, self._coming_back) if task is not None]
        self._fail(SessionClosed("the connection was closed by this side"))
        self._leave()
        tasks += self._closing
        if tasks:
            await asyncio.wait(tasks)
        if isinstance(self._codec, SharedCodec):
            self._codec.close()  # a closed client may be kept for long

    def lost(self, transport: Transport) -> None:
        """A transport is gone (called by it). The connection comes back if sessions wait."""
        if transport is not self._transport:
            return
        if self.loan is not None and not self.loan.recall(lambda: self.lost(transport)):
            return
        self._down()
        if self._welcome is not None:
            if not self._welcome.done():
                self._welcome.set_exception(self._hung_up())
            return  # the next attach deals with it
        if self.error is not None:
            return
        ttl = self._server_timeout("resume")
        waiting = any(channel.opened or channel.unanswered() for channel in self._channels.values())
        if ttl is not None and waiting:
            self._coming_back = self.loop.create_task(self._come_back(ttl))
        else:
            self._fail(ConnectionLost(f"the connection to {self.where} was lost"))

    def doubt(self, since: float, now: float) -> float:
        """An answer is late. If nothing at all came ``since``, this transport may be dead.

        A network may swallow everything and tell nobody. Another transport decides: the session
        is resumed there, and the request sent again under its number.

        Returns:
            The time a transport was last abandoned for that, now or before; long ago if none was.
        """
        transport = self._transport
        if self.up and self.heard_at < since and transport is not None:
            self._doubted_at = now
            self.give_up(transport)
        return self._doubted_at

    def silence(self) -> str:
        """Return why a call got no answer within its deadline, and what helps."""
        refused = self._refused
        if refused is None:
            return (
                f"{self.where} did not answer within the deadline it was given:"
                " it is overloaded, or the network is stuck"
            )
        seconds = self.loop.time() - self._lost_at
        return (
            f"no answer within the deadline: the connection to {self.where} was lost"
            f" {seconds:.0f} s ago and cannot be made again: {refused.message}"
        )

    def give_up(self, transport: Transport) -> None:
        """Use a transport no more, without a word to the server, and come back on another."""
        self._close(transport, leaving=False)
        self.lost(transport)

    def is_on(self, transport: Transport) -> bool:
        """Return whether a transport is the one in use."""
        return self._transport is transport

    # -- lending ----------------------------------------------------------------------------------

    def lend(self, restore: Callable[[], None]) -> Loan | None:
        """Lend the messages to a thread without an event loop.

        Nothing but what that thread sends may be under way; a transport that cannot be used from
        another thread passes messages on.

        Args:
            restore: called when the loan ends, before anything else happens on the connection.

        Returns:
            ``None`` while it cannot be done.
        """
        transport = self._transport
        idle = self.outbox.attached and self.outbox.flushed()  # a handshake is nobody else's
        if transport is None or self.loan is not None or not idle:
            return None
        lend = getattr(transport, "lend", None)
        messages = lend(self._recall) if lend is not None else None
        if messages is None:
            messages = DivertedMessages(self, transport)
        self.loan = Loan(self, messages, restore)
        return self.loan

    def _recall(self) -> bool:
        return self.loan is None or self.loan.recall()

    def end_loan(self, heard_at: float) -> None:
        """The loan has ended (called by it); a message came last at ``heard_at``."""
        self.loan = None
        self.heard_at = max(self.heard_at, self.loop.time() + heard_at - time.monotonic())

    def divert(self, take: Callable[[WireMessage], None] | None) -> None:
        """Hand what is received to another thread from now on; ``None`` for no more."""
        self._diverted = take

    def _close(self, transport: Transport, leaving: bool = True) -> None:
        """Close a transport that is not used any more."""
        self.close_aside(transport.aclose(leaving))

    def close_aside(self, closing_it: Coroutine[Any, Any, None]) -> None:
        """Close something of this connection in a task, which ``aclose`` waits for."""
        closing = self.loop.create_task(closing_it)
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _down(self) -> None:
        """Detach the transport."""
        self._transport = None
        for asked in self._listings.values():
            if not asked.done():
                asked.set_exception(ConnectionLost(f"the connection to {self.where} was lost"))
        self.outbox.detach()
        self.inbox.clear()
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            self._heartbeat = None

    def _leave(self) -> None:
        """Do without the transport there is, and close it."""
        if self._transport is not None:
            self._close(self._transport)
        self._down()

    async def _come_back(self, ttl: float) -> None:
        """Dial until it works or the sessions are gone; then resume them."""
        epoch, delay = self.epoch, _FIRST_DELAY
        self._lost_at = self.loop.time()
        give_up_at = self._lost_at + ttl
        log.info("the connection to %s was lost: coming back", self.where)
        try:
            while True:
                try:
                    await self._attach()
                    break
                except OpenEnvError as exc:
                    if not exc.retryable:  # a server short of descriptors is, for one
                        raise
                    self._leave()
                    self._refused = exc
                    left = give_up_at - self.loop.time()
                    if left <= 0:
                        self._fail(self._gone(f"no connection could be made for {ttl:g} s: {exc}"))
                        return
                    await asyncio.sleep(min(delay * random.uniform(0.5, 1.5), left))
                    delay = min(delay * 2, _LONGEST_DELAY)
        except OpenEnvError as exc:
            self._fail(exc)
            return
        finally:
            self._coming_back = self._refused = None
        self.reconnects += 1
        for channel in list(self._channels.values()):
            if channel.opened and self.epoch != epoch:
                self._channels.pop(channel.number, None)
                channel.fail(self._gone("the server was restarted", channel))
                continue
            for frame in channel.resumption():
                self.outbox.send(frame)

    def _gone(self, why: str, channel: Channel | None = None) -> SessionLost:
        error = SessionLost(
            f"the session at {self.where} is lost, {why}; call reset() for a new episode"
        )
        if channel is not None:
            channel.add_progress(error)
            error.add_context(session_id=channel.id)
        return error

    def _fail(self, error: OpenEnvError) -> None:
        """The connection is over for good, and so is every session on it."""
        if self.error is not None:
            return
        self.error = error
        self._leave()
        self.deadlines.close()
        if self._coming_back is not None:
            self._coming_back.cancel()
        if self._welcome is not None and not self._welcome.done():
            self._welcome.set_exception(error)
        channels = list(self._channels.values())
        self._channels.clear()
        for channel in channels:
            lost = error
            if isinstance(error, SessionLost):
                lost = raised_again(error)
                channel.add_progress(lost)
            channel.fail(lost)

    def _server_timeout(self, name: str) -> float | None:
        """One of the server's own deadlines, as its welcome told them."""
        told = self.server.get("timeouts")
        value = told.get(name) if isinstance(told, dict) else None
        return value if isinstance(value, int | float) and value > 0 else None

    def _beat(self) -> None:
        """Renew the lease of an idle connection, three times in its length."""
        lease = self._server_timeout("lease")
        if self.up and lease is not None:
            self.outbox.send(Renew(0))
            self._heartbeat = self.loop.call_later(lease / 3, self._beat)

    # -- sessions ---------------------------------------------------------------------------------

    def channel(self, left_behind: Channel | None = None) -> Channel:
        """A new channel; its session is not open yet, or is that of a connection that is gone."""
        limit = self.server.get("max_channels", self.limits.max_channels)
        if len(self._channels) >= limit:
            raise ServerBusy(f"{limit} sessions are on this connection already (max_channels)")
        number = next(self._numbers)
        if left_behind is None:
            name = secrets.token_hex(32)
            channel = Channel(self, number, name[:32], name[32:])
        else:
            channel = Channel(self, number, left_behind.id, left_behind.secret)
            channel.succeed(left_behind)
        self._channels[channel.number] = channel
        return channel

    def forget(self, channel: Channel) -> None:
        """The channel is not used any more."""
        self._channels.pop(channel.number, None)
        self.deadlines.forget(channel)
        channel.fail(_CLOSED_HERE)

    def _refuse(self, frame: Any, error: OpenEnvError) -> Frame | None:
        """Tell the caller of a frame that cannot be sent; return the frame to send instead."""
        channel = self._channels.get(frame.channel)
        return None if channel is None else channel.refuse(getattr(frame, "seq", 0), error)

    # -- frames in --------------------------------------------------------------------------------

    def receive(self, message: WireMessage) -> None:
        """Take one message from the transport."""
        assert self._codec is not None
        self.heard_at = self.clock()
        if self._diverted is not None:
            self._diverted(message)
            return
        try:
            self.inbox.deliver(self._codec.decode(message))
        except OpenEnvError as exc:
            log.warning("unreadable message from %s: %s", self.where, exc)
            self._fail(ProtocolError(f"{self.where} sent an unreadable message: {exc}"))

    def _on_own(self, frame: Welcome | GoingAway | TasksListed | Failed) -> None:
        """A frame of the connection itself."""
        if isinstance(frame, TasksListed) or (isinstance(frame, Failed) and frame.seq):
            self._on_listed(frame)
        elif isinstance(frame, Welcome):
            if self._welcome is not None and not self._welcome.done():
                self._welcome.set_result(frame)
        elif isinstance(frame, GoingAway):
            self.going_away = frame
            log.info("%s is going away: %s", self.where, frame.reason)
        else:
            error = self.error_of(frame)
            if self._welcome is not None and not self._welcome.done():
                self._welcome.set_exception(error)
            else:
                log.warning("%s reports: %s", self.where, error)
                for channel in list(self._channels.values()):
                    channel.fail(error)

    # -- tasks ------------------------------------------------------------------------------------

    async def list_tasks(
        self, split: str | None, start: int, stop: int, timeout: float | None
    ) -> Payload:
        """Ask for the splits of the environment's tasks or a page of one; return what comes.

        Raises:
            OperationUnsupported: there are none, or the server cannot list any.
            ConnectionLost: meanwhile; it may be asked again.
            DeadlineExceeded: no reply within ``timeout`` seconds.
            OpenEnvError: the server's refusal.
        """
        if "tasks" not in (self.server.get("capabilities") or ()):
            name = self.server.get("environment") or "the environment"
            raise OperationUnsupported(
                f"{name} at {self.where} declares no tasks, or its server knows of none"
            )
        return await self._listed(timeout, "tasks", split, start, stop)

    async def list_tools(self, timeout: float | None) -> Payload:
        """Ask for the tools that agents may call; return what comes.

        Raises:
            OperationUnsupported: the server is too old to list any.
            ConnectionLost, DeadlineExceeded, OpenEnvError: as ``list_tasks``.
        """
        if "tools" not in (self.server.get("capabilities") or ()):
            raise OperationUnsupported(
                f"the server at {self.where} lists no tools: update it, or make the actions"
                " yourself"
            )
        return await self._listed(timeout, "tools", None, 0, 0)

    async def _listed(
        self, timeout: float | None, what: str, split: str | None, start: int, stop: int
    ) -> Payload:
        if self._coming_back is not None:
            await asyncio.wait({self._coming_back})
        if self.error is not None:
            raise raised_again(self.error)
        number = next(self._listing_numbers)
        asked: asyncio.Future[Payload] = self.loop.create_future()
        self._listings[number] = asked
        self.outbox.send(ListTasks(0, number, split, start, stop, what == "tools"))
        try:
            async with asyncio.timeout(timeout):
                return await asked
        except TimeoutError as exc:
            if isinstance(exc, OpenEnvError):
                raise
            raise DeadlineExceeded(
                f"{self.where} listed no {what} within {timeout:g} s (Timeouts.open)",
                field="open",
                value=timeout,
            ) from None
        finally:
            del self._listings[number]

    def _on_listed(self, frame: TasksListed | Failed) -> None:
        asked = self._listings.get(frame.seq)
        if asked is None or asked.done():
            self.inbox.late_replies += 1
        elif isinstance(frame, TasksListed):
            asked.set_result(frame.payload)
        else:
            asked.set_exception(self.error_of(frame))

    def error_of(self, frame: Failed) -> OpenEnvError:
        """Return the typed error of a frame; from any thread."""
        try:
            detail = decode_map(frame.payload, self.format)
        except ProtocolError:
            detail = {}
        error = error_from_wire(frame.code, frame.message, frame.retryable, detail)
        return error.add_context(server_version=self.server.get("server"))
