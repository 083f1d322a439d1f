"""The engine's side of one ``openenv.v1`` connection, whatever carries its messages.

``receive`` takes a message, ``take`` gives the messages to send; ``wake`` is called when there
is something to take. Replies that come during ``receive`` need no wake-up: the carrier takes
right after it. So a batch in becomes a batch out.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from math import inf
from typing import Any, Final

from openenv_async.engine.callers import OWNER, Caller
from openenv_async.engine.columns import BegunRows, Columns
from openenv_async.engine.deadlines import PeerAction, PeerTimes, decide_peer
from openenv_async.engine.engine import Engine
from openenv_async.engine.listing import PAGE_SIZE
from openenv_async.engine.quotas import Account
from openenv_async.engine.requests import Codecs, error_frame, failed
from openenv_async.engine.session import Session
from openenv_async.engine.steps import take_steps
from openenv_async.errors import (
    OpenEnvError,
    ProtocolError,
    ServerBusy,
    SessionNotFound,
    VersionMismatch,
)
from openenv_async.models.depth import check_json_containers, check_msgpack_containers
from openenv_async.protocol.chunks import Assembler, ChunkQueue
from openenv_async.protocol.codec import (
    BadFrame,
    JsonCodec,
    MsgpackCodec,
    WireMessage,
    batch_end,
    decode_map,
    encode_map,
    too_large,
)
from openenv_async.protocol.columns import (
    COLUMNS,
    COLUMNS_AGAIN,
    StepRows,
    channels_of,
    has_columns,
)
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Cancel,
    Chunk,
    Close,
    Credit,
    Frame,
    GoingAway,
    Hello,
    ListTasks,
    Open,
    Payload,
    Release,
    Renew,
    Reset,
    State,
    Step,
    StepColumns,
    TasksListed,
    Welcome,
)
from openenv_async.telemetry.tracing import TraceContext
from openenv_async.version import __version__

__all__ = ["ServerConnection"]

_PRUNE: Final = 64
"""Channels from which on those of dead sessions are looked for, again at twice the rest."""
_LOOK: Final = 5.0
"""Seconds between two looks at whether a peer is alive, at most."""
_FRAME_COST: Final = 512
"""Bytes that a frame which waits counts beside its payload: an error has a message."""
_MAX_LISTINGS: Final = 16
"""Listings of tasks under way on one connection."""
_MANY: Final = 4
"""Payloads of the greatest size that one connection may be sending at once."""
_HANDLERS: Final = {
    Step: "_on_request",
    Reset: "_on_request",
    State: "_on_request",
    Close: "_on_request",
    Open: "_on_open",
    Cancel: "_on_cancel",
    Credit: "_on_credit",
    Renew: "_on_renew",
    ListTasks: "_on_list",
    StepColumns: "_on_columns",
    Release: "_on_release",
    Hello: "_on_hello",
    BadFrame: "_on_bad",
    Chunk: "_on_chunk",
}
"""The method for each kind of frame: its name, since bound methods would hold their connection."""


def _nothing() -> None:
    """Do nothing: the carrier is gone."""


def _payload_size(frame: Any) -> int:
    payload = getattr(frame, "payload", None)
    return 0 if payload is None else len(payload)


class ServerConnection:
    """One connection: its channels, and the frames that wait to be sent.

    Args:
        engine: its sessions answer.
        codec: the negotiated frame codec, in the role of the server.
        wake: called (on the loop) when replies became ready outside ``receive``.
        cut: called when the peer counts as dead: no frame for ``Timeouts.lease``, no data taken
            for ``Timeouts.write``, or no Hello within ``Timeouts.connect``.
        refuse: called once with the reason when the peer sent more unreadable frames than
            ``Limits.max_bad_frames``; nothing more is taken from it then.

    Attributes:
        caller: who opens sessions on it.
        account: that pays for what comes and goes; ``None`` where nobody's is counted.
        ready: frames of the next message; only looked at from outside, as ``large`` is.
        large: channels on which large payloads wait to be taken in pieces.
    """

    def __init__(
        self,
        engine: Engine,
        codec: MsgpackCodec | JsonCodec,
        wake: Callable[[], None],
        cut: Callable[[], None],
        refuse: Callable[[str], None] | None = None,
    ) -> None:
        self.engine = engine
        self.codec = codec
        self.codecs: Codecs = engine.codecs(codec.format)
        self.scheduled = inf
        self.seen_at = self._made_at = engine.clock()
        self.sending_since = inf
        self.trace: TraceContext | None = None
        self.caller: Caller = OWNER
        self.account: Account | None = None
        self._wake = wake
        self._cut = cut
        self._refuse = refuse
        self._is_refused = False
        self._bad = 0
        self._gone = False
        timeouts = engine.options.timeouts
        self._look_at = inf
        self._postponed = inf
        self._look = min(_LOOK, (timeouts.lease or inf) / 4, (timeouts.write or inf) / 4)
        self.ready: list[Frame] = []
        self._ready_size = 0
        limits = engine.options.limits
        self._max_containers = limits.max_containers
        self._chunk_size = self._small_size = limits.chunk_size
        # JSON has no chunks: there a payload is part of its frame.
        self._large = ChunkQueue(sys.maxsize if codec.text else limits.chunk_size)
        self.large: dict[int, Any] = self._large.channels  # asked for each frame: costs no call
        self._much = False
        self._assembler = Assembler(limits.max_message_size, _MANY * limits.max_message_size)
        self._receiving = False
        self._greeted = False
        self._peer_max_size = limits.max_message_size
        self._channels: dict[int, Session] = {}
        self._columns: Columns | None = None
        self._rows_left = False
        self._listings: set[asyncio.Task[None]] = set()
        self._prune_at = _PRUNE

    # -- the carrier's side -------------------------------------------------------------------

    def receive(self, message: WireMessage) -> None:
        """Take one message. Never raises: what is wrong with it is answered."""
        frames = self.decode(message)
        at = 0
        while at < len(frames):
            at = self.handle(frames, at, len(frames))

    def decode(self, message: WireMessage) -> Sequence[Any]:
        """The frames of a message, none when it is unreadable, which is answered."""
        if self._is_refused:
            return ()
        self.seen_at = self.engine.clock()
        try:
            frames = self.codec.decode(message)
            if len(message) > self._max_containers:  # each takes a byte at least
                frames = [self._bounded_payload(frame) for frame in frames]
            if not self._greeted and frames and type(frames[0]) is not Hello:
                raise ProtocolError("the first frame of a connection must be Hello")
        except OpenEnvError as exc:
            self._refuse_message(exc)
            return ()
        if self.account is not None:
            self._charge(frames, len(message), self.account)
        return frames

    def _charge(self, frames: Sequence[Any], size: int, account: Account) -> None:
        """Have the caller pay for a message, and its steps and resets wait for their turn."""
        account.receive(size)
        channels: list[int] = []
        for frame in frames:
            kind = type(frame)
            if kind is Step or kind is Reset:
                channels.append(frame.channel)
            elif kind is StepColumns:
                with contextlib.suppress(ProtocolError):  # which answers it when it is its turn
                    limit = self.engine.options.limits.max_channels
                    channels += channels_of(frame.channels, limit)
        if channels:
            wait = account.charge(len(channels) * self.engine.rows)
            for channel in channels if wait else ():
                session = self._channels.get(channel)
                if session is not None:
                    session.delay(account, wait)

    def begin_rows(self, message: bytes) -> BegunRows | None:
        """Begin the rows of a message that is one column frame, if all of them run together.

        Called by another thread, while the loop leaves everything of this connection alone.

        Returns:
            The batch, which no executor was given; ``None`` if the loop is to take the message.
        """
        columns = self._columns
        if (
            self.account is not None
            or columns is None
            or self._assembler.parts
            or self.pending
            or self._is_refused
        ):
            return None
        try:
            frames = self.codec.decode(message)
        except OpenEnvError:
            return None
        if len(frames) != 1 or type(frames[0]) is not StepColumns:
            return None
        return columns.begin_whole(frames[0])

    def handle(self, frames: Sequence[Any], start: int, stop: int) -> int:
        """Handle ``frames[start:stop]``, or fewer when a reply of much work came up.

        Returns:
            The index of the next frame.
        """
        self._receiving = True
        self._much = self._rows_left = False
        parts, at = self._assembler.parts, start
        try:
            while at < stop and not (self._much or self._is_refused):
                if not parts:
                    at = take_steps(self, frames, at, stop)
                    if at == stop or self._much:
                        break
                frame = frames[at]
                at += 1
                if parts and type(frame) is not Chunk and getattr(frame, "channel", 0) in parts:
                    if not self._assembler.complete(frame):
                        continue  # answered when its payload became too large
                    frame = self._bounded_payload(frame)
                getattr(self, _HANDLERS[type(frame)])(frame)
                if self._rows_left:
                    at -= 1  # the frame goes on where it has stopped
                    break
        except OpenEnvError as exc:
            self._refuse_message(exc)
        finally:
            self._receiving = False
        return stop if self._is_refused else at

    def _bounded_payload(self, frame: Any) -> Any:
        """The frame, or a bad one in its place when its payload has too many containers."""
        payload = getattr(frame, "payload", None)
        if payload is None or len(payload) <= self._max_containers:
            return frame
        if type(frame) is Chunk or type(frame) is StepColumns:  # of which each row is answered
            return frame
        check = check_json_containers if self.codec.text else check_msgpack_containers
        try:
            check(payload, self._max_containers)
        except OpenEnvError as exc:
            seq = getattr(frame, "seq", 0)
            return BadFrame(getattr(frame, "channel", 0), seq, exc, True)
        return frame

    def _refuse_message(self, error: OpenEnvError) -> None:
        self._fail(0, 0, error)
        self._count_bad()

    def _count_bad(self) -> None:
        """One more frame or message could not be read; of a peer that goes on so, no more is."""
        self.engine.stats.bad_frames += 1
        self._bad += 1
        limit = self.engine.options.limits.max_bad_frames
        if self._bad <= limit or self._is_refused:
            return
        self._is_refused = True
        reason = f"more than {limit} frames that cannot be read (Limits.max_bad_frames)"
        self._fail(0, 0, ProtocolError(f"the connection is closed: {reason}"))
        if self._refuse is not None:
            self._refuse(reason)

    @property
    def pending(self) -> bool:
        """True while there is anything to take."""
        return bool(self.ready or self.large)

    @property
    def unsent(self) -> int:
        """Bytes that wait to be taken, about."""
        return self._ready_size + _FRAME_COST * len(self.ready) + self._large.size

    def take(self) -> list[bytes]:
        """The pending frames as messages, each within the batch size where frames allow it.

        Of the large payloads it gives one piece, so that others may go before the next.
        """
        messages: list[bytes] = []
        while self.ready:
            messages.append(self.take_batch())
        if self.large:
            messages += self.take_piece()
        return messages

    def take_piece(self) -> list[bytes]:
        """A message with one piece of a large payload, if any waits."""
        return [self.codec.encode(self._large.next())] if self.large else []

    def take_batch(self) -> bytes:
        """One message of the pending frames but the large ones; there must be some."""
        out = self.ready
        size, self.ready, self._ready_size = self._ready_size, [], 0
        limit = min(self.engine.options.limits.max_batch_size, self._peer_max_size)
        if size <= limit or len(out) == 1:  # of payloads: the message may be longer
            message = self.codec.encode(out)
            if len(message) <= (self._peer_max_size if len(out) == 1 else limit):
                return message
        end = batch_end(out, 0, limit)
        if end < len(out):
            self.ready = out[end:]
            self._ready_size = sum(map(_payload_size, self.ready))
        return self._bounded(out[:end])

    def _bounded(self, frames: Any) -> bytes:
        """Encode a slice; a frame over the peer's limit becomes an error for that call only."""
        message = self.codec.encode(frames)
        if len(message) <= self._peer_max_size:
            return message
        return self.codec.encode([self._shrunk(frame) for frame in frames])

    def _shrunk(self, frame: Frame) -> Frame:
        size = len(self.codec.encode([frame]))
        return frame if size <= self._peer_max_size else self._refused(frame, size)

    def _refused(self, frame: Frame, size: int) -> Frame:
        error = too_large(size, self._peer_max_size)
        channel, seq = getattr(frame, "channel", 0), getattr(frame, "seq", 0)
        return error_frame(channel, seq, error, self.codec.format)

    def expect_hello(self) -> None:
        """Cut the peer when it has not said Hello within ``Timeouts.connect``."""
        timeouts = self.engine.options.timeouts
        self._look_at = self._made_at + (timeouts.connect or timeouts.lease or inf)
        self.engine.deadlines.watch(self, self._look_at)

    def check(self, now: float) -> float | None:
        """Act on the deadlines of the peer; called by the engine's heap."""
        if self._gone:
            return None
        timeouts = self.engine.options.timeouts
        if self._greeted:
            lease_ends = self.seen_at + (timeouts.lease or inf)
        else:
            lease_ends = self._made_at + (timeouts.connect or timeouts.lease or inf)
        write_ends = self.sending_since + (timeouts.write or inf)
        times = PeerTimes(lease_ends, write_ends, self._look_at, self._postponed)
        action, again = decide_peer(times, now, self._look)
        if action is PeerAction.CUT:
            self.engine.stats.cut += 1
            cut = self._cut
            self.lost(left=now >= lease_ends)
            cut()
            return None
        if action is PeerAction.POSTPONE:
            self._postponed = times.dead_at
        self._look_at = again
        return again

    def lost(self, left: bool = False) -> None:
        """The connection is gone: tell the engine about every session on it, let go of the carrier.

        Args:
            left: the client will not come back: it said so, or its lease ran out.
        """
        self._gone = True
        self._wake = self._cut = _nothing
        self._refuse = None
        self.engine.deadlines.forget(self)
        self._large.clear()
        self._assembler.clear()
        for listing in self._listings:
            listing.cancel()
        channels, self._channels = self._channels, {}
        if self._columns is not None:
            self._columns.lost()
            self._columns = None
        for session in channels.values():
            self.engine.lost(session, self, left)

    def going_away(self, reason: str, grace: float) -> None:
        """Announce that the server stops."""
        self.send(GoingAway(reason, grace))

    # -- the sessions' side -------------------------------------------------------------------

    def send(self, frame: Frame, size: int = 0) -> None:
        """Queue a frame for the next message."""
        out = self.ready
        if size > self._small_size or self.large:
            self._send_large(frame, size)
        else:
            out.append(frame)
            self._ready_size += size
            if len(out) > 1:
                return
        if not self._receiving:
            self._wake()

    def _send_large(self, frame: Any, size: int) -> None:
        """Queue a frame in pieces, or behind the pieces of its channel."""
        self._much = self._much or size > self._chunk_size
        if size > self._peer_max_size:
            frame = self._refused(frame, size)
        if self._large.takes(getattr(frame, "channel", 0), size):
            self._large.put(frame)
        else:
            self.ready.append(frame)
            self._ready_size += size

    def is_shared(self, payload: Payload) -> bool:
        """Return whether a payload lies in memory that the peer maps, and is sent from there."""
        return False

    def ended(self, channel: int, reason: OpenEnvError) -> None:
        """Tell the client and forget the channel."""
        self._channels.pop(channel, None)
        self._forget_rows()
        self._fail(channel, 0, reason)

    def _forget_rows(self) -> None:
        """The sessions on the channels have changed."""
        if self._columns is not None:
            self._columns.forget()

    # -- frames -------------------------------------------------------------------------------

    def _on_request(self, frame: Reset | Step | State | Close) -> None:
        session = self._channels.get(frame.channel)
        if session is None:
            self._fail(
                frame.channel,
                frame.seq,
                SessionNotFound(f"channel {frame.channel} has no session: open one on it first"),
            )
            return
        session.submit(frame)
        if type(frame) is Close and session.closing:  # one that was refused changes nothing
            self._channels.pop(frame.channel, None)
            self._forget_rows()

    def _on_columns(self, frame: StepColumns) -> None:
        columns = self._columns
        if columns is None:
            if not has_columns(self.codec.format):
                raise ProtocolError("this server takes no columns: send one Step a session")
            size = min(self._chunk_size, self._peer_max_size)
            columns = self._columns = Columns(
                self, self._channels, self._on_row, self._on_bad_rows, size
            )
        self.engine.stats.column_frames += 1
        self._rows_left = not columns.take(frame)

    def _on_row(self, request: Step | Reset) -> None:
        bounded = self._bounded_payload(request)
        getattr(self, _HANDLERS[type(bounded)])(bounded)

    def _on_bad_rows(self, rows: StepRows, error: OpenEnvError) -> None:
        """Answer each row of a frame that cannot be read; it counts as one bad frame."""
        for channel, seq in zip(rows.channels, rows.seqs, strict=True):
            session = self._channels.get(channel)
            if session is not None:
                session.log.pass_over(seq)
            self._fail(channel, seq, error)
        self._count_bad()

    def _on_release(self, frame: Release) -> None:
        raise ProtocolError("this connection has no shared memory: there is nothing to give back")

    def _on_open(self, frame: Open) -> None:
        there = self._channels.get(frame.channel)
        if frame.channel < 1 or (there is not None and there.dead is None):
            problem = "is taken" if frame.channel > 0 else "is reserved"
            error = ProtocolError(f"channel {frame.channel} {problem}: choose another")
            self.send(failed(frame, error, self.codec.format))
            return
        limit = self.engine.options.limits.max_channels
        if len(self._channels) >= min(self._prune_at, limit):
            self._forget_dead()
        if len(self._channels) >= limit:
            error = ProtocolError(
                f"this connection has {limit} sessions already (max_channels):"
                " open another connection"
            )
            self.send(failed(frame, error, self.codec.format))
            return
        if not self.engine.in_worker:
            frame.lenient = False  # of upstream's dialect, whose server asks its workers for it
        session = self.engine.open(frame, self)
        if session is not None:
            self._channels[frame.channel] = session
            self._forget_rows()

    def _forget_dead(self) -> None:
        """Drop sessions that could not be built, or were refused while they waited."""
        channels = self._channels
        for number in [n for n, session in channels.items() if session.dead is not None]:
            del channels[number]
        self._forget_rows()
        self._prune_at = max(_PRUNE, 2 * len(channels))

    def _on_chunk(self, frame: Chunk) -> None:
        try:
            self._assembler.add(frame)
        except OpenEnvError as exc:
            self._fail(frame.channel, frame.seq, exc)
            session = self._channels.get(frame.channel)
            if session is None:
                self._count_bad()
            else:
                session.log.pass_over(frame.seq)

    def _on_cancel(self, frame: Cancel) -> None:
        session = self._channels.get(frame.channel)
        if session is not None:
            session.cancel(frame.seq)

    def _on_credit(self, frame: Credit) -> None:
        session = self._channels.get(frame.channel)
        if session is not None:
            session.add_credit(frame.seq, frame.units)

    def _on_renew(self, frame: Renew) -> None:
        session = self._channels.get(frame.channel)
        if session is not None:
            session.renew(frame.ack)

    def _on_list(self, frame: ListTasks) -> None:
        if len(self._listings) >= _MAX_LISTINGS:
            error = ServerBusy(
                f"{_MAX_LISTINGS} listings of tasks are under way on this connection: await one"
                " before the next"
            )
            self._fail(frame.channel, frame.seq, error)
            return
        listing = asyncio.get_running_loop().create_task(self._list(frame))
        self._listings.add(listing)
        listing.add_done_callback(self._listings.discard)

    async def _list(self, frame: ListTasks) -> None:
        limit = min(PAGE_SIZE, self._peer_max_size // 2)
        listing = self.engine.listing
        try:
            if frame.tools:
                payload = await listing.tools(self.codec.format)
            else:
                payload = await listing.payload(
                    frame.split, frame.start, frame.stop, self.codec.format, limit
                )
        except OpenEnvError as exc:
            self._fail(frame.channel, frame.seq, exc)
        else:
            # Never in pieces: those belong to the channels of sessions.
            size = min(len(payload), self._chunk_size)
            self.send(TasksListed(frame.channel, frame.seq, payload), size)

    def _on_hello(self, frame: Hello) -> None:
        if frame.version < PROTOCOL_VERSION:
            raise VersionMismatch(
                f"the client speaks protocol {frame.version}, this server {PROTOCOL_VERSION}:"
                " update the older one"
            )
        offered = decode_map(frame.payload, self.codec.format)
        size = offered.get("max_message_size")
        if isinstance(size, int) and size > 0:
            self._peer_max_size = min(size, self._peer_max_size)
        self._greeted = True
        self._look_at = self.seen_at + self._look
        self.engine.deadlines.watch(self, self._look_at)
        self.send(Welcome(PROTOCOL_VERSION, self.engine.epoch, self._welcome()))
        if self.engine.draining is not None:
            self.going_away(self.engine.draining, self.engine.seconds_left)

    def _welcome(self) -> bytes | None:
        engine = self.engine
        limits, timeouts = engine.options.limits, engine.options.timeouts
        spec = engine.spec
        capabilities = ["cancel"] + (["stream"] if spec.contract.streams else [])
        capabilities += ["tasks"] if spec.tasks is not None else []
        capabilities += ["tools"]
        capabilities += ["render"] if spec.contract.renders else []
        capabilities += [COLUMNS, COLUMNS_AGAIN] if has_columns(self.codec.format) else []
        vector = spec.vector
        return encode_map(
            {
                "server": f"openenv_async/{__version__}",
                "environment": spec.name,
                "environment_version": spec.version,
                "environment_package": spec.package,
                "environment_params": spec.told_params,
                "invalid_action_reward": spec.invalid_action_reward,
                "schema_hash": spec.schema_hash,
                "isolation": spec.contract.isolation,
                "uses_seed": spec.contract.takes_seed,
                "reset_options": sorted(spec.contract.reset_options),
                "render": spec.render_settings,
                "vector": None if vector is None else vector.told(),
                "capabilities": capabilities,
                "max_sessions": engine.max_sessions,
                "timeouts": {
                    field.name: getattr(timeouts, field.name) for field in fields(timeouts)
                },
                "max_message_size": limits.max_message_size,
                "max_batch_size": limits.max_batch_size,
                "max_frames": limits.max_frames,
                "max_channels": limits.max_channels,
                "max_credit": limits.max_credit,
            },
            self.codec.format,
        )

    def _on_bad(self, frame: BadFrame) -> None:
        session = self._channels.get(frame.channel) if frame.is_request else None
        if session is not None:
            session.log.pass_over(frame.seq)
        self._fail(frame.channel, frame.seq, frame.error)
        if isinstance(frame.error, ProtocolError):
            self._count_bad()

    def _fail(self, channel: int, seq: int, error: OpenEnvError) -> None:
        self.send(error_frame(channel, seq, error, self.codec.format))
