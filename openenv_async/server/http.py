"""The HTTP door: upstream's routes, with an episode that lives across calls.

Rules:

- A session is named by the header ``X-OpenEnv-Session: <id>.<secret>`` or by the cookie
  ``openenv_session``. ``/reset`` without one opens a session; ``/open`` does just that, also
  under an id that the client made, so that asking again is the same request.
- ``X-OpenEnv-Seq`` numbers the requests of a session: a repeated number gets the reply that was
  kept. Without it the next number is taken. Replies carry the highest number taken.
- ``X-OpenEnv-Timeout`` is the deadline in seconds, 0 for none.
- A caller who disconnects cancels what is running for him; one who numbers his requests may
  come back for the reply within a grace, or at once by asking for something else.
- ``Content-Type`` and ``Accept`` choose the format: JSON as upstream's, msgpack, or tagged JSON.
  The richer of the two is what the session speaks; it changes only while nothing runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from openenv_async.engine import Engine, Session
from openenv_async.engine.host import Wire
from openenv_async.engine.traced import TracedHost
from openenv_async.engine.transcode import transcode
from openenv_async.errors import (
    EpisodeNotStarted,
    InvalidModel,
    InvalidObservation,
    OpenEnvError,
    OperationCancelled,
    SessionBusy,
    SessionClosed,
)
from openenv_async.models import Format
from openenv_async.protocol import frames
from openenv_async.protocol.codec import too_large
from openenv_async.protocol.upstream import (
    read_fields,
    read_reset,
    result_body,
    scalar,
    state_body,
)
from openenv_async.server.exchange import (
    MEDIA,
    SEQ_HEADER,
    SESSION_HEADER,
    accepted_format,
    body_response,
    encode_body,
    error_response,
    forget,
    named,
    new_name,
    refuse_extra,
    request_number,
    request_timeout,
    richer,
    sent_format,
    session_name,
    step_timeout,
)
from openenv_async.server.guard import Guard
from openenv_async.server.metrics import LoopWatch, prometheus_text, read_stats
from openenv_async.server.openapi import describe
from openenv_async.server.port import OPENING, CallPort, as_error
from openenv_async.tracing import NO_TRACE, trace_of

__all__ = ["HttpPort", "http_routes"]

_RETRY_GRACE: Final = 2.0
"""Seconds that a numbered request runs on after its caller disconnected."""
_NOBODY: Final = "its caller went away before it learned the session's name"

Handler = Callable[[Request], Awaitable[Response]]


class HttpPort(CallPort):
    """The door of one session: its replies, and who still waits for them."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.trace = NO_TRACE  # so that each request may bring its own
        self._callers: dict[int, int] = {}
        self.orphan: int | None = None

    def enter(self, seq: int) -> None:
        """One more caller waits for ``seq``."""
        self._callers[seq] = self._callers.get(seq, 0) + 1
        if self.orphan == seq:
            self.orphan = None

    def leave(self, seq: int) -> bool:
        """A caller does not wait any more; whether he was the last."""
        left = self._callers.pop(seq) - 1
        if left:
            self._callers[seq] = left
        return not left


def http_routes(engine: Engine, guard: Guard, watch: LoopWatch) -> list[Route]:
    """The routes of one engine, for any Starlette or FastAPI router."""
    door = _Door(engine, watch)
    table: tuple[tuple[str, str, Callable[[Request, Format], Awaitable[Any]]], ...] = (
        ("POST", "/open", door.open),
        ("POST", "/reset", door.reset),
        ("POST", "/step", door.step),
        ("POST", "/close", door.close),
        ("GET", "/state", door.state),
        ("GET", "/schema", door.schema),
        ("GET", "/metadata", door.metadata),
        ("GET", "/health", door.health),
        ("GET", "/stats", door.stats),
        ("GET", "/metrics.json", door.stats),
        ("GET", "/metrics", door.metrics),
        ("GET", "/openapi.json", door.openapi),
    )
    return [
        Route(path, _endpoint(handler, guard, engine), methods=[method], name=path[1:])
        for method, path, handler in table
    ]


def _endpoint(
    handler: Callable[[Request, Format], Awaitable[Any]], guard: Guard, engine: Engine
) -> Handler:
    """A handler's body or error as a response."""

    async def endpoint(request: Request) -> Response:
        format = accepted_format(request)
        try:
            guard.check(request.scope)
            result = await handler(request, format)
            response = result if isinstance(result, Response) else body_response(result, format)
        except OpenEnvError as exc:
            response = error_response(request, exc, format)
        except ClientDisconnect:
            return Response(status_code=OperationCancelled.http_status)  # nobody reads it
        session: Session | None = getattr(request.state, "session", None)
        if session is not None:
            response.headers[SEQ_HEADER] = str(session.log.taken)
        engine.stats.bytes_out += len(response.body)
        return response

    return endpoint


class _Door:
    """The handlers, over one engine. Each gives a body for the accepted format."""

    def __init__(self, engine: Engine, watch: LoopWatch) -> None:
        self._engine = engine
        self._watch = watch

    # -- sessions ---------------------------------------------------------------------------

    async def open(self, request: Request, format: Format) -> Response:
        sent = sent_format(request)
        fields = read_fields(await self._read(request), sent)
        resume = scalar(fields, "resume", sent)
        options = fields.pop("options", None)
        refuse_extra(fields)
        name = session_name(request) or new_name()
        payload = None if options is None else self._payload("any", bytes(options), sent, "msgpack")
        session, opened = await self._open(name, "msgpack", payload, resume is True, request)
        body = {
            "session": ".".join(name),
            "resumed": opened.resumed,
            "seq": opened.seq,
            "epoch": self._engine.epoch,
        }
        return named(body_response(body, format), request, session)

    async def reset(self, request: Request, format: Format) -> Response:
        sent = sent_format(request)
        fields = read_fields(await self._read(request), sent)
        seed, episode_id, options = read_reset(fields, sent)
        payload = encode_body(options, sent) if options else None
        name = session_name(request)
        if name is None:
            wire = richer(sent, format)
            session, _ = await self._open(new_name(), wire, None, False, request)
        else:
            session = self._find(request, name)
        timeout = request_timeout(request)

        def frame(seq: int, ack: int, wire: Format) -> frames.Request:
            data = None if payload is None else self._payload("any", payload, sent, wire)
            return frames.Reset(0, seq, ack, data, seed, episode_id, timeout)

        try:
            reply = await self._call(session, request, frame, sent, format)
        except OpenEnvError as exc:
            # The session exists all the same: let the caller keep it.
            return named(error_response(request, exc, format), request, session)
        except (ClientDisconnect, asyncio.CancelledError):
            if name is None:
                session.shut(SessionClosed(_NOBODY))
            raise
        assert isinstance(reply, frames.Begun)
        return named(body_response(result_body(reply, format), format), request, session)

    async def step(self, request: Request, format: Format) -> Any:
        sent = sent_format(request)
        fields = read_fields(await self._read(request), sent)
        action = fields.pop("action", None)
        timeout = step_timeout(fields, sent)
        scalar(fields, "request_id", sent)  # upstream's; ours is the header
        if action is None:
            raise InvalidModel("Field required: action", type="missing", loc=["body", "action"])
        refuse_extra(fields)
        session = self._session(request, "step")
        seconds = request_timeout(request) if timeout is None else timeout
        payload = bytes(action)

        def frame(seq: int, ack: int, wire: Format) -> frames.Request:
            data = self._payload("action", payload, sent, wire)
            return frames.Step(0, seq, ack, data, seconds)

        reply = await self._call(session, request, frame, sent, format)
        assert isinstance(reply, frames.Observation)
        return result_body(reply, format)

    async def state(self, request: Request, format: Format) -> Any:
        session = self._session(request, "state")
        timeout = request_timeout(request)
        reply = await self._call(
            session,
            request,
            lambda seq, ack, _: frames.State(0, seq, ack, timeout),
            format,
            format,
        )
        assert isinstance(reply, frames.StateIs)
        return state_body(reply, format)

    async def close(self, request: Request, format: Format) -> Response:
        sent = sent_format(request)
        refuse_extra(read_fields(await self._read(request), sent))
        session = self._session(request, "close")
        timeout = request_timeout(request)
        await self._call(
            session,
            request,
            lambda seq, ack, _: frames.Close(0, seq, ack, timeout),
            sent,
            format,
        )
        response = body_response({"status": "closed"}, format)
        forget(response, request)
        return response

    # -- descriptions -----------------------------------------------------------------------

    async def schema(self, request: Request, format: Format) -> Any:
        return self._engine.spec.schema

    async def metadata(self, request: Request, format: Format) -> Any:
        spec = self._engine.spec
        optional = ("readme_content", "author", "documentation_url")
        return {
            "name": spec.name,
            "description": spec.description,
            "version": spec.version,
            **{key: getattr(spec.cls, key, None) for key in optional},
        }

    async def health(self, request: Request, format: Format) -> Any:
        return {"status": "healthy"}

    async def openapi(self, request: Request, format: Format) -> Any:
        return describe(self._engine.spec)

    async def stats(self, request: Request, format: Format) -> Any:
        return self._stats()

    async def metrics(self, request: Request, format: Format) -> Response:
        text, media = prometheus_text(self._stats())
        return Response(text, media_type=media)

    def _stats(self) -> dict[str, Any]:
        self._watch.start()
        return read_stats(self._engine, self._watch)

    # -- inside -----------------------------------------------------------------------------

    async def _read(self, request: Request) -> bytes:
        """The body, refused as soon as it is known to be too large."""
        limit = self._engine.options.limits.max_message_size
        announced = request.headers.get("content-length", "")
        if announced.isascii() and announced.isdigit() and int(announced) > limit:
            raise too_large(int(announced), limit)
        parts: list[bytes] = []
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise too_large(size, limit)
            parts.append(part)
        self._engine.stats.bytes_in += size
        return b"".join(parts)

    def _session(self, request: Request, operation: str) -> Session:
        name = session_name(request)
        if name is None:
            raise EpisodeNotStarted(
                f"/{operation} without a session: call /reset first and send the"
                f" {SESSION_HEADER} header or the cookie that it returns",
                phase=operation,
            )
        return self._find(request, name)

    def _find(self, request: Request, name: tuple[str, str]) -> Session:
        request.state.session = session = self._engine.find(*name)
        return session

    async def _open(
        self,
        name: tuple[str, str],
        format: Format,
        payload: bytes | None,
        resume: bool,
        request: Request,
    ) -> tuple[Session, frames.Opened]:
        """Open the session of this name, or join the one that exists."""
        engine = self._engine
        existing = engine.sessions.get(name[0])
        port = existing.port if existing is not None else None
        if not isinstance(port, HttpPort):
            port = HttpPort(engine.wire(format))
            port.trace = trace_of(request.scope["headers"]) or NO_TRACE
        waiting = port.expect(OPENING)
        session = engine.open(
            frames.Open(0, *name, resume, 0, payload, request_timeout(request)), port
        )
        try:
            if not waiting.done():
                await _reply_or_disconnect(waiting, request)
        except (ClientDisconnect, asyncio.CancelledError):
            if session is not None and session_name(request) is None:
                session.shut(SessionClosed(_NOBODY))
            raise
        reply = waiting.result()
        if isinstance(reply, frames.Failed):
            raise as_error(reply, port.wire.format)
        if isinstance(reply, OpenEnvError):
            raise reply
        assert session is not None
        assert isinstance(reply, frames.Opened)
        request.state.session = session
        return session, reply

    async def _call(
        self,
        session: Session,
        request: Request,
        frame: Callable[[int, int, Format], frames.Request],
        sent: Format,
        format: Format,
    ) -> frames.Frame:
        """Submit one request and wait for its reply, in ``format``.

        Raises:
            OpenEnvError: the reply is an error.
        """
        port = self._port(session, richer(sent, format))
        wire = port.wire.format
        numbered = request_number(request)
        seq = numbered or session.log.taken + 1
        if port.orphan is not None and port.orphan != seq:
            session.cancel(port.orphan)  # its caller asks for something else now
        submitted = frame(seq, seq - 1, wire)
        waiting = port.expect(seq)
        port.enter(seq)
        if isinstance(session.host, TracedHost):
            session.host.trace = trace_of(request.scope["headers"]) or NO_TRACE
        session.submit(submitted)
        try:
            if not waiting.done():
                await _reply_or_disconnect(waiting, request)
        finally:
            if port.leave(seq) and not waiting.done():
                self._abandoned(session, port, seq, grace=numbered is not None)
        reply = waiting.result()
        if isinstance(reply, OpenEnvError):
            raise reply
        if isinstance(reply, frames.Failed):
            raise as_error(reply, wire)
        try:
            return cast(frames.Frame, transcode(self._engine.spec, reply, wire, format))
        except OpenEnvError as exc:
            raise InvalidObservation(
                f"the reply cannot be said in {MEDIA[format]}: {exc.message}"
            ) from None

    def _abandoned(self, session: Session, port: HttpPort, seq: int, grace: bool) -> None:
        """Nobody waits for a request any more."""
        if not grace:
            session.cancel(seq)
            return
        port.orphan = seq

        def give_up() -> None:
            if port.orphan == seq:
                port.orphan = None
                session.cancel(seq)

        asyncio.get_running_loop().call_later(_RETRY_GRACE, give_up)

    def _port(self, session: Session, format: Format) -> HttpPort:
        """The session's HTTP port, in ``format`` unless something runs in another one."""
        port = session.port
        idle = session.current is None
        if not isinstance(port, HttpPort):
            if not idle:
                raise SessionBusy(
                    "the session is being used over another connection: wait for that call"
                )
            port = HttpPort(self._engine.wire(format))
            session.attach(port, 0)
        elif idle:
            port.wire = self._engine.wire(format)
        return port

    def _payload(self, kind: Any, payload: bytes, old: Format, new: Format) -> bytes:
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
    watching = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait([waiting, watching], return_when=asyncio.FIRST_COMPLETED)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    if not waiting.done():
        raise ClientDisconnect


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
