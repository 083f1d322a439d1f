"""Upstream's dialect over WebSocket: one socket, one session, one request at a time, JSON text.

``/ws`` takes upstream's messages, ``/mcp`` bare requests of JSON-RPC.

Rules:

- The socket is accepted first; what stops the session from opening is then said unprompted and
  the socket closed with 1000.
- Messages are answered in order. The reader goes on while one is being answered, so that a peer
  that leaves interrupts its step; it stops when too much is waiting.
- A socket of ``/ws?session_id=`` takes part in a session that JSON-RPC made, and leaves it alive.
- A session answers its socket and HTTP through one sink, each call in its turn.
- A bad message costs an error reply, never the episode; too many of them end the session.
- Messages come from a ``Transport`` and go to it, where the server offers one; the handshake and
  closing are ASGI's, as is all of it without one.
- A peer that takes no data for ``Timeouts.write`` is cut, and so is one that answers no ping for
  ``Timeouts.lease``, where the server can ping: it may be silent for as long as it likes.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import weakref
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from openenv_async.engine import Engine, Session
from openenv_async.errors import (
    GoingAway,
    OpenEnvError,
    ProtocolError,
    SessionBusy,
    SessionClosed,
)
from openenv_async.protocol.codec import WireMessage
from openenv_async.protocol.frames import (
    Begun,
    Close,
    Failed,
    Frame,
    Observation,
    Open,
    Request,
    Reset,
    State,
    StateIs,
    Step,
)
from openenv_async.protocol.json_rpc import rpc_error, rpc_text
from openenv_async.protocol.upstream import (
    Call,
    Refusal,
    error_message,
    read_message,
    result_message,
    rpc_message,
    state_message,
)
from openenv_async.server.auth import caller_of
from openenv_async.server.http_sessions import OPENING, HttpReplySink, as_error
from openenv_async.server.transport import Message, Receive, Scope, Send, Transport
from openenv_async.server.upstream_rpc import MakeFrame, UpstreamRpc, failure_of
from openenv_async.telemetry.tracing import trace_of

__all__ = ["RpcSocket", "UpstreamSocket"]

log = logging.getLogger("openenv_async.server")

_NORMAL: Final = 1000
_GOING_AWAY: Final = 1001
_TOO_BIG: Final = 1009
_LOOK: Final = 5.0
"""Seconds between two looks at whether the peer reads."""
_MESSAGE_COST: Final = 256
"""Bytes that a waiting message counts for beside its text."""
_TOOL: Final = b"_tool"
"""Part of every action of upstream's for tools, ``list_tools`` and ``call_tool``."""
_MAX_NAMES: Final = 100
"""Names of dropped options that the log tells of."""


class _DialectSocket:
    """One WebSocket and its session. ``websocket.connect`` was received already.

    Attributes:
        own: the session, once it is open.
        caller: who connected.
    """

    def __init__(
        self, engine: Engine, rpc: UpstreamRpc, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.scheduled = inf
        self.own: Session | None = None
        self._rpc = rpc
        self._scope = scope
        self._sink = HttpReplySink(engine.codecs("plain"))
        self._sink.trace = trace_of(scope["headers"])
        self._sink.caller = self.caller = caller_of(scope)
        self._running = 0
        self._is_guest = False
        extensions = scope.get("extensions", {})
        self._abort: Callable[[], None] | None = extensions.get("openenv.abort")
        self._ping: Callable[[float], None] | None = extensions.get("openenv.ping")
        self._transport: Transport | None = extensions.get("openenv.transport")
        self._writable = asyncio.Event()
        self._writable.set()
        limits = engine.options.limits
        self._most_waiting = min(limits.max_message_size, limits.max_unsent_size // 4)
        self._task: asyncio.Task[None] | None = None
        self._sending_since = inf
        self._suspected = inf
        self._is_cut = False
        self._engine = engine
        self._receive = receive
        self._send = send
        self._inbox: deque[tuple[str | None, int]] = deque()
        self._waiting_size = 0
        self._bad = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._over: OpenEnvError | None = None

    async def run(self) -> None:
        """Accept and serve until the peer is gone."""
        if self._transport is not None:
            self._transport.attach(self)
        await self._send({"type": "websocket.accept"})
        self._task = asyncio.current_task()
        self._engine.deadlines.watch(self, self._engine.clock() + self._look)
        lease = self._engine.options.timeouts.lease
        if lease is not None and self._ping is not None:
            self._ping(lease)
        reader = asyncio.create_task(self._read(), name="openenv-upstream-reader")
        worker = asyncio.create_task(self._work(), name="openenv-upstream")
        try:
            await asyncio.wait([reader, worker], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            if not self._is_cut or self._task is None:
                raise
            self._task.uncancel()
        finally:
            self._task = None
            reader.cancel()
            worker.cancel()
            await asyncio.wait([reader, worker])
            if self._transport is not None:
                await self._transport.aclose()
        for task in (reader, worker):
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, OSError):
                raise error

    @property
    def _look(self) -> float:
        return min(_LOOK, (self._engine.options.timeouts.write or inf) / 4)

    def check(self, now: float) -> float | None:
        """Cut a peer that does not read: called by the engine's heap."""
        if self._task is None:
            return None
        if now < self._sending_since + (self._engine.options.timeouts.write or inf):
            return now + self._look
        if self._suspected != self._sending_since:  # perhaps it was this loop that was blocked
            self._suspected = self._sending_since
            return now + self._look
        self._engine.stats.cut += 1
        self._is_cut = True
        if self._abort is not None:
            self._abort()
        self._task.cancel()
        return None

    def _ended(self, reason: OpenEnvError) -> None:
        """The session is over: say so and close."""
        self._over = reason
        self._news.set()

    # -- reading ------------------------------------------------------------------------------

    async def _read(self) -> None:
        limit = self._engine.options.limits.max_message_size
        while True:
            event = await self._receive()
            if event["type"] != "websocket.receive":
                return
            text: str | None = event.get("text")
            if text is not None and len(text) > limit:
                await self._close(_TOO_BIG)
                return
            self._keep(text)
            while self._waiting_size > self._most_waiting:
                self._room.clear()
                await self._room.wait()

    def take(self, message: WireMessage) -> None:
        """Take a message of a transport, which refuses those that are too large."""
        self._keep(message if isinstance(message, str) else None)
        if self._waiting_size > self._most_waiting and self._transport is not None:
            self._transport.hold()

    def congestion(self, congested: bool) -> None:
        """The peer began to read slower than we write, or has caught up."""
        if congested:
            self._writable.clear()
        else:
            self._writable.set()

    def _keep(self, text: str | None) -> None:
        """Keep a message until its turn; ``None`` stands for a binary one."""
        size = 0 if text is None else len(text)
        self._engine.received(size, self.caller)
        size += _MESSAGE_COST
        self._inbox.append((text, size))
        self._waiting_size += size
        self._news.set()

    async def _next(self) -> str | None:
        while not self._inbox:
            if self._over is not None:
                raise self._over
            self._news.clear()
            await self._news.wait()
        was_full = self._waiting_size > self._most_waiting
        text, size = self._inbox.popleft()
        self._waiting_size -= size
        if was_full and self._waiting_size <= self._most_waiting:
            self._room.set()
            if self._transport is not None:
                self._transport.release()
        return text

    # -- the session --------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            session = self.own = await self._begin()
            while await self._answer(session, await self._next()):
                pass
            await self._close(_NORMAL)
        except OpenEnvError as exc:
            await self._text(self._said(exc))
            await self._close(_GOING_AWAY if isinstance(exc, GoingAway) else _NORMAL)
        finally:
            self._leave()

    async def _begin(self) -> Session:
        """Return the session of this socket, open.

        Raises:
            OpenEnvError: it cannot be opened.
        """
        self._sink.on_end = self._ended
        opening = self._sink.expect(OPENING)
        request = Open(1, secrets.token_hex(16), secrets.token_hex(16), lenient=True)
        self.own = self._engine.open(request, self._sink)
        opened = await opening
        if isinstance(opened, Failed):
            raise as_error(opened, "plain")
        if isinstance(opened, OpenEnvError):
            raise opened
        assert self.own is not None
        return self.own

    def _leave(self) -> None:
        """Let go of the session, which the client of its own socket cannot come back to."""
        session, sink = self.own, self._sink
        if session is None:
            return
        if self._is_guest:
            sink.on_end = None
            if self._running:
                session.cancel(self._running)
            if sink.closes:
                session.shut(SessionClosed("the session was closed by its client"))
        else:
            self._engine.lost(session, sink, True)

    async def call(self, session: Session, frame: MakeFrame) -> Frame:
        """Run one request of the session.

        Raises:
            OpenEnvError: it failed.
        """
        reply = await self._reply(session, frame)
        if isinstance(reply, Failed):
            raise as_error(reply, "plain")
        return reply

    async def _reply(self, session: Session, frame: MakeFrame) -> Frame:
        """Return the reply to one request, that it failed included.

        Raises:
            OpenEnvError: the session is over.
        """
        if self._is_guest:
            sink = self._sink
            async with sink.turn:
                if session.current is None:
                    sink.codecs = self._engine.codecs("plain")
                reply = await self._submit(session, frame)
                self._running = 0
        else:  # nobody else calls through this sink
            reply = await self._submit(session, frame)
            self._running = 0
        if isinstance(reply, OpenEnvError):
            raise reply
        return reply

    def _submit(self, session: Session, frame: MakeFrame) -> asyncio.Future[Frame | OpenEnvError]:
        """Submit one request; return the future of its reply."""
        self._running = seq = session.log.taken + 1
        waiting = self._sink.expect(seq)
        request = frame(seq, seq - 1, "plain")
        session.charge(request)
        session.submit(request)
        return waiting

    async def _answer(self, session: Session, message: str | None) -> bool:
        """Answer one message; ``False`` after a close.

        Raises:
            OpenEnvError: the session is over.
        """
        raise NotImplementedError

    def _said(self, error: OpenEnvError) -> str:
        """The last message, which says why the socket is closed."""
        raise NotImplementedError

    def _count_bad(self) -> None:
        """Take notice of a message that could not be read.

        Raises:
            ProtocolError: it was one too many.
        """
        limits = self._engine.options.limits
        self._bad += 1
        if self._bad > limits.max_bad_frames:
            raise ProtocolError(
                f"the connection is closed: more than {limits.max_bad_frames} messages that"
                " cannot be read (Limits.max_bad_frames)"
            )

    # -- writing ------------------------------------------------------------------------------

    async def _text(self, text: str) -> None:
        self._engine.sent(len(text), self.caller)
        transport = self._transport
        if transport is None:
            await self._put({"type": "websocket.send", "text": text})
            return
        if transport.congested:
            self._sending_since = self._engine.clock()
            await self._writable.wait()
            self._sending_since = inf
        transport.write(text.encode(), True)

    async def _close(self, code: int) -> None:
        await self._put({"type": "websocket.close", "code": code})

    async def _put(self, message: Message) -> None:
        self._sending_since = self._engine.clock()
        await self._send(message)
        self._sending_since = inf


class UpstreamSocket(_DialectSocket):
    """One WebSocket of an upstream client at ``/ws``."""

    async def _begin(self) -> Session:
        query = dict(parse_qsl(self._scope.get("query_string", b"").decode("latin-1")))
        handle = query.get("session_id")
        if not handle:
            return await super()._begin()
        session = self._rpc.find(handle, self.caller)
        sink = self._rpc.sink_of(session)
        if sink.on_end is not None:
            raise SessionBusy(f"Session {session.id} already has an attached WebSocket")
        sink.on_end = self._ended
        self._sink, self._is_guest = sink, True
        return session

    def _said(self, error: OpenEnvError) -> str:
        if self.own is None and isinstance(error, SessionBusy):
            return Refusal("SESSION_ERROR", error.message).encode()
        return error_message(error)

    async def _answer(self, session: Session, message: str | None) -> bool:
        call = read_message(message, self._engine.options.limits.max_containers)
        if isinstance(call, Refusal):
            await self._text(call.encode())
            self._count_bad()
            return True
        if call.kind == "mcp":
            await self._text(rpc_message(await self._rpc.respond(call.payload, self)))
            return True
        if call.kind == "step" and _TOOL in call.payload:
            try:
                told = await self._rpc.step(call.payload, self)
            except OpenEnvError as exc:
                if self._over is not None:
                    raise
                await self._text(error_message(exc))
                return True
            if told is not None:
                await self._text(result_message(told))
                return True
        if call.kind == "close" and self._is_guest:
            return False
        reply = await self._reply(session, lambda seq, ack, _: self._request(call, seq, ack))
        if call.kind == "close":
            return False
        match reply:
            case Begun() | Observation():
                await self._text(result_message(reply))
            case StateIs():
                await self._text(state_message(reply))
            case Failed():
                await self._text(error_message(as_error(reply, "plain")))
            case _:
                raise AssertionError(f"unexpected reply {reply!r}")
        return True

    def _request(self, call: Call, seq: int, ack: int) -> Request:
        match call.kind:
            case "reset":
                return Reset(1, seq, ack, self._options(call), call.seed, call.episode_id)
            case "step":
                return Step(1, seq, ack, call.payload)
            case "state":
                return State(1, seq, ack)
            case _:
                return Close(1, seq, ack)

    def _options(self, call: Call) -> bytes | None:
        """A reset's options without those that the environment does not declare."""
        options = call.options
        unknown = self._engine.spec.unknown_options(options)
        if unknown:
            _warn_once(self._engine, unknown)
            options = {key: raw for key, raw in options.items() if key not in unknown}
        return msgspec.json.encode(options) if options else None


class RpcSocket(_DialectSocket):
    """One WebSocket of an upstream client at ``/mcp``."""

    def _said(self, error: OpenEnvError) -> str:
        return rpc_text(rpc_error(failure_of(error, None)))

    async def _answer(self, session: Session, message: str | None) -> bool:
        reply = await self._rpc.respond(message, self)
        await self._text(rpc_text(reply))
        if reply["id"] is None and "error" in reply:
            self._count_bad()
        return True


_dropped: weakref.WeakKeyDictionary[Engine, set[str]] = weakref.WeakKeyDictionary()


def _warn_once(engine: Engine, names: list[str]) -> None:
    """Upstream drops such options in silence; here the log names each, once per environment."""
    known = _dropped.setdefault(engine, set())
    new = [name for name in names if name not in known]
    if new and len(known) < _MAX_NAMES:
        known.update(new)
        log.warning(
            "reset() of %s takes no %s: dropped, as upstream's dialect wants it",
            engine.spec.name,
            ", ".join(repr(name[:80]) for name in new),
        )
