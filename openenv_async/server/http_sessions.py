"""The sessions behind HTTP: found, opened, and called, one reply to each request.

Rules:

- A session answers HTTP through one ``HttpReplySink``, whichever client sends the requests;
  requests of the same number wait for the same reply.
- Callers who disconnect cancel what is running for them; those who number their requests may come
  back for the reply within a grace, or at once by asking for something else.
- Calls of upstream's dialect on one session, over its sockets or HTTP, wait for their turn.
- A session that is opened for one call is closed before the call is answered.
- The richer of the formats sent and accepted is what the session speaks; it changes only while
  nothing runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, cast

from starlette.requests import ClientDisconnect, Request

from openenv_async.engine import Engine, Session
from openenv_async.engine.callers import OWNER
from openenv_async.engine.requests import Codecs, transcode
from openenv_async.engine.runner import TracedRunner
from openenv_async.errors import (
    EpisodeNotStarted,
    InvalidObservation,
    OpenEnvError,
    SessionBusy,
    SessionClosed,
    error_from_wire,
)
from openenv_async.models import Format
from openenv_async.protocol import frames
from openenv_async.protocol.codec import decode_map
from openenv_async.protocol.frames import Failed, Frame, Opened, Partial, Waiting
from openenv_async.renamed import renamed_attributes
from openenv_async.server.auth import caller_of
from openenv_async.server.http_headers import (
    MEDIA,
    SESSION_HEADER,
    has_foreign_cookie,
    new_name,
    request_number,
    request_timeout,
    richer,
    session_name,
)
from openenv_async.telemetry.tracing import NO_TRACE, TraceContext, trace_of

__all__ = [
    "NOBODY",
    "OPENING",
    "CallReplySink",
    "HttpReplySink",
    "HttpSessions",
    "as_error",
    "disconnected",
]

OPENING: Final = 0
"""The number under which the answer to Open is waited for."""
NOBODY: Final = "its caller went away before it learned the session's name"
_RETRY_GRACE: Final = 2.0
"""Seconds that a numbered request runs on after its caller disconnected."""


class CallReplySink:
    """A reply sink with one future per request number."""

    def __init__(self, codecs: Codecs) -> None:
        self.codecs = codecs
        self._waiting: dict[int, asyncio.Future[Frame | OpenEnvError]] = {}

    def expect(self, seq: int) -> asyncio.Future[Frame | OpenEnvError]:
        """The future of the reply to ``seq``; callers that repeat a request share it."""
        future = self._waiting.get(seq)
        if future is None or future.done():  # its caller was cancelled, and waits no more
            future = self._waiting[seq] = asyncio.get_running_loop().create_future()
        return future

    def send(self, frame: Frame, size: int = 0) -> None:
        """Hand a reply to the calls that wait for it."""
        if isinstance(frame, Partial | Waiting):
            return  # nobody asks for them here
        seq = OPENING if isinstance(frame, Opened) else getattr(frame, "seq", OPENING)
        self._resolve(seq, frame)

    def ended(self, channel: int, reason: OpenEnvError) -> None:
        """Raise ``reason`` in every call that waits."""
        for seq in list(self._waiting):
            self._resolve(seq, reason)

    def _resolve(self, seq: int, reply: Frame | OpenEnvError) -> None:
        future = self._waiting.pop(seq, None)
        if future is not None and not future.done():
            future.set_result(reply)


class HttpReplySink(CallReplySink):
    """The replies of one session, and a count of the callers that wait for each.

    Attributes:
        caller: who opens a session with it.
        turn: held by the call of upstream's dialect that runs.
        on_end: of the socket that shares it with HTTP; called when the session ends by itself.
        closes: the session is to end when that socket leaves.
    """

    def __init__(self, codecs: Codecs) -> None:
        super().__init__(codecs)
        # So that each request may bring its own.
        self.trace: TraceContext | None = NO_TRACE
        self.caller = OWNER
        self._callers: dict[int, int] = {}
        self.orphan: int | None = None
        self.turn: Final = asyncio.Lock()
        self.on_end: Callable[[OpenEnvError], None] | None = None
        self.closes = False

    def ended(self, channel: int, reason: OpenEnvError) -> None:
        """Raise ``reason`` in every call that waits, and tell the socket."""
        super().ended(channel, reason)
        if self.on_end is not None:
            self.on_end(reason)

    def enter(self, seq: int) -> None:
        """One more caller waits for ``seq``."""
        self._callers[seq] = self._callers.get(seq, 0) + 1
        if self.orphan == seq:
            self.orphan = None

    def leave(self, seq: int) -> bool:
        """Stop one caller's wait; return whether it was the last."""
        left = self._callers.pop(seq) - 1
        if left:
            self._callers[seq] = left
        return not left


class HttpSessions:
    """The sessions of one engine, as HTTP requests name and call them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def named(self, request: Request, operation: str) -> Session:
        """The session that ``request`` names.

        Raises:
            EpisodeNotStarted: it names none.
            ProtocolError, SessionNotFound, SessionClosed: it names one that cannot be had.
        """
        name = session_name(request)
        if name is None:
            why = ""
            if has_foreign_cookie(request):
                why = " (the cookie sent is of another server, or of an earlier run of this one)"
            raise EpisodeNotStarted(
                f"/{operation} without a session: call /reset first and send the"
                f" {SESSION_HEADER} header or the cookie that it returns{why}",
                phase=operation,
            )
        return self.find(request, name)

    def find(self, request: Request, name: tuple[str, str]) -> Session:
        """The session of this id and secret, which the response is to tell about."""
        session = self._engine.find(*name, caller_of(request.scope))
        request.state.session = session
        return session

    async def open(
        self,
        name: tuple[str, str],
        format: Format,
        payload: bytes | None,
        resume: bool,
        request: Request,
        *,
        lenient: bool = False,
    ) -> tuple[Session, frames.Opened]:
        """Open the session of this name, or join the one that exists.

        Args:
            name: id and secret.
            format: of its replies.
            payload: constructor options.
            resume: it must exist.
            request: the caller's.
            lenient: its steps need no episode, as upstream's dialect has it.

        Raises:
            OpenEnvError: it cannot be opened, or the secret is not its own.
            ClientDisconnect: the caller went away.
        """
        engine = self._engine
        timeout = request_timeout(request)
        asked = frames.Open(0, *name, resume, 0, payload, timeout, lenient=lenient)
        existing = engine.sessions.get(name[0])
        sink = None
        caller = caller_of(request.scope)
        if (
            existing is not None
            and hmac.compare_digest(existing.secret, name[1])
            and caller.may_see(existing)
        ):
            # Others may wait there: the answer to a wrong secret is not theirs.
            sink = existing.sink
        if not isinstance(sink, HttpReplySink):
            sink = HttpReplySink(engine.codecs(format))
            sink.trace = trace_of(request.scope["headers"]) or NO_TRACE
            sink.caller = caller
        waiting = sink.expect(OPENING)
        session = engine.open(asked, sink)
        try:
            if not waiting.done():
                await _reply_or_disconnect(waiting, request)
        except (ClientDisconnect, asyncio.CancelledError):
            if session is not None and (lenient or session_name(request) is None):
                session.shut(SessionClosed(NOBODY))
            raise
        reply = waiting.result()
        if isinstance(reply, frames.Failed):
            raise as_error(reply, sink.codecs.format)
        if isinstance(reply, OpenEnvError):
            raise reply
        assert session is not None
        assert isinstance(reply, frames.Opened)
        request.state.session = session
        return session, reply

    async def call(
        self,
        session: Session,
        request: Request,
        frame: Callable[[int, int, Format], frames.Request],
        sent: Format,
        format: Format,
        *,
        is_upstream: bool = False,
    ) -> frames.Frame:
        """Submit one request and wait for its reply, in ``format``.

        Args:
            session: whose.
            request: the caller's.
            frame: makes the frame of its number, the one before, and the session's format.
            sent: the format of the body.
            format: of the reply.
            is_upstream: it has no number of its caller's.

        Raises:
            OpenEnvError: the reply is an error, or the number belongs to another request.
        """
        sink = self.sink_of(session, richer(sent, format))
        running = sink.codecs.format
        numbered = None if is_upstream else request_number(request)
        seq = numbered or session.log.taken + 1
        if sink.orphan is not None and sink.orphan != seq:
            session.cancel(sink.orphan)  # its caller asks for something else now
        submitted = frame(seq, seq - 1, running)
        session.check_number(submitted)
        waiting = sink.expect(seq)
        sink.enter(seq)
        if isinstance(session.runner, TracedRunner):
            session.runner.trace = trace_of(request.scope["headers"]) or NO_TRACE
        session.charge(submitted)
        session.submit(submitted)
        try:
            if not waiting.done():
                await _reply_or_disconnect(waiting, request)
        finally:
            if sink.leave(seq) and not waiting.done():
                self._abandoned(session, sink, seq, grace=numbered is not None)
        reply = waiting.result()
        if isinstance(reply, OpenEnvError):
            raise reply
        if isinstance(reply, frames.Failed):
            raise as_error(reply, running)
        try:
            return cast(frames.Frame, transcode(self._engine.spec, reply, running, format))
        except OpenEnvError as exc:
            raise InvalidObservation(
                f"the reply cannot be said in {MEDIA[format]}: {exc.message}"
            ) from None

    async def call_in_turn(
        self,
        session: Session,
        request: Request,
        frame: Callable[[int, int, Format], frames.Request],
    ) -> frames.Frame:
        """Call as ``call`` does, in upstream's dialect, once the calls before it are over."""
        async with self.sink_of(session, "plain").turn:
            return await self.call(session, request, frame, "plain", "plain", is_upstream=True)

    @contextlib.asynccontextmanager
    async def for_one_call(self, request: Request, format: Format) -> AsyncIterator[Session]:
        """A new session, closed when the block is left; the response does not name it.

        Raises:
            OpenEnvError: it cannot be opened.
        """
        session, _ = await self.open(new_name(), format, None, False, request, lenient=True)
        request.state.session = None
        try:
            try:
                yield session
            except OpenEnvError:
                await self._close(session, request, format)
                raise
            await self._close(session, request, format)
        except BaseException:
            session.shut(SessionClosed("the call that it was opened for is over"))
            raise

    async def _close(self, session: Session, request: Request, format: Format) -> None:
        with contextlib.suppress(OpenEnvError):  # the call was answered, and the log tells this
            await self.call(
                session,
                request,
                lambda seq, ack, _: frames.Close(0, seq, ack),
                format,
                format,
                is_upstream=True,
            )

    def _abandoned(self, session: Session, sink: HttpReplySink, seq: int, grace: bool) -> None:
        """Cancel a request that nobody waits for any more."""
        if not grace:
            session.cancel(seq)
            return
        sink.orphan = seq

        def cancel() -> None:
            if sink.orphan == seq:
                sink.orphan = None
                session.cancel(seq)

        asyncio.get_running_loop().call_later(_RETRY_GRACE, cancel)

    def sink_of(self, session: Session, format: Format) -> HttpReplySink:
        """The session's HTTP sink, in ``format`` unless something runs in another one."""
        sink = session.sink
        idle = session.current is None
        if not isinstance(sink, HttpReplySink):
            if not idle:
                raise SessionBusy(
                    "the session is being used over another connection: wait for that call"
                )
            sink = HttpReplySink(self._engine.codecs(format))
            session.attach(sink, 0)
        elif idle:
            sink.codecs = self._engine.codecs(format)
        return sink

    def payload(self, kind: Any, payload: bytes, old: Format, new: Format) -> bytes:
        """A request's payload in the session's format."""
        if old == new:
            return payload
        spec = self._engine.spec
        try:
            return spec.codec(kind, new).encode(spec.codec(kind, old).decode(payload))
        except OpenEnvError:
            # It is wrong, or cannot be said in the new format: let the session say so.
            return spec.codec("any", new).encode(spec.codec("any", old).decode(payload))


async def _reply_or_disconnect(waiting: asyncio.Future[Any], request: Request) -> None:
    """Wait for a reply.

    Raises:
        ClientDisconnect: the caller went away first.
    """
    watching = asyncio.create_task(disconnected(request))
    try:
        await asyncio.wait([waiting, watching], return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    if not waiting.done():
        raise ClientDisconnect


async def disconnected(request: Request) -> None:
    """Return once the caller of a request, whose body was read, is gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def as_error(reply: Failed, format: Format) -> OpenEnvError:
    """The typed error that a reply carries."""
    detail = decode_map(reply.payload, format)
    return error_from_wire(reply.code, reply.message, reply.retryable, detail)


__getattr__ = renamed_attributes(
    __name__, {"CallPort": "CallReplySink", "HttpPort": "HttpReplySink"}
)
