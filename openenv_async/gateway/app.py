"""The gateway's HTTP: a request of an agent becomes a call, pieces and an answer become bytes.

A plain ASGI function: a call costs one lookup of its key and one task for its sample, and nothing
is parsed that its dialect does not need. Everything that agents may ask is in one table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from functools import partial
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from openenv_async.errors import (
    CallRefused,
    JournalFailed,
    OpenEnvError,
    PayloadTooLarge,
    Unauthorized,
)
from openenv_async.gateway.calls import Answer, Call, Delivery, Dialect, Piece
from openenv_async.gateway.retries import Sample
from openenv_async.gateway.sessions import Generation, ModelSession, Reader
from openenv_async.server.uvicorn_protocols import HTTPConnection, connection_of
from openenv_async.telemetry.spans import is_on
from openenv_async.telemetry.tracing import current, trace_of

__all__ = ["Backend", "GatewayApp", "error_body"]

log = logging.getLogger("openenv_async.gateway")

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Verb: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_EVENT_STREAM: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
)


_SENT_WITH_END: Final = 65_536
"""Bytes of pieces that may wait for the end, once it is there: what the system takes at once."""


class Backend(Protocol):
    """The part of the gateway that HTTP needs."""

    def session_of(self, key: str) -> ModelSession:
        """Return the session that a key opens.

        Raises:
            Unauthorized: it opens none.
        """
        ...

    def admit(self, session: ModelSession) -> None:
        """Let one more request of a session in; its ``release`` follows at the end.

        Raises:
            OpenEnvError: the session or its limits do not allow it.
        """
        ...

    def answer(self, session: ModelSession, call: Call) -> Generation:
        """Return the sample that answers a call: a new one, one that runs, or a kept one.

        Raises:
            OpenEnvError: it cannot be had.
        """
        ...

    def leaving(self, generation: Generation) -> int:
        """Note that the end of an answer leaves now: its client may have it whole from then on.

        Returns:
            The place of this delivery among those of the sample.

        Raises:
            JournalFailed: it cannot be noted: the end must not leave.
        """
        ...

    def delivered(self, generation: Generation, delivery: Delivery, place: int | None) -> None:
        """Note how an answer reached its client; ``place`` is there if its end left."""
        ...

    def unread(self, session: str, sample: Sample, place: int) -> None:
        """Note that a delivery of a sample, which seemed whole, was not."""
        ...


class GatewayApp:
    """The ASGI application of a gateway.

    Args:
        backend: what answers.
        routes: dialect of each path that takes calls.
        verb: answers everything that is not for agents.
        max_body_size: bytes of a request.
    """

    def __init__(
        self,
        backend: Backend,
        routes: Mapping[str, Dialect],
        verb: Verb,
        max_body_size: int,
    ) -> None:
        self.routes = routes
        self._backend = backend
        self._verb = verb
        self._max_body_size = max_body_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        kind = scope["type"]
        if kind == "http":
            dialect = self.routes.get(scope["path"])
            if dialect is not None:
                await self._call(dialect, scope, receive, send)
            else:
                await self._verb(scope, receive, send)
        elif kind == "lifespan":
            while (await receive())["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _call(self, dialect: Dialect, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        if is_on() and (trace := trace_of(scope["headers"])) is not None:
            current.set(trace)  # of the task of this request, and of the sample that it begins
        try:
            if scope["method"] != "POST":
                raise CallRefused(f"{scope['path']} takes POST, not {scope['method']}", status=405)
            session = self._backend.session_of(key_of(headers))
            self._backend.admit(session)
        except OpenEnvError as exc:
            await send_whole(send, *dialect.error(exc))
            return
        try:
            await self._admitted(session, dialect, headers, receive, send)
        finally:
            session.release()

    async def _admitted(
        self,
        session: ModelSession,
        dialect: Dialect,
        headers: Mapping[str, str],
        receive: Receive,
        send: Send,
    ) -> None:
        connection = connection_of(send)
        if connection is None:
            await self._answered(session, dialect, headers, receive, send, None)
            return
        session.connections.add(connection)
        try:
            await self._answered(session, dialect, headers, receive, send, connection)
        finally:
            session.connections.discard(connection)

    async def _answered(
        self,
        session: ModelSession,
        dialect: Dialect,
        headers: Mapping[str, str],
        receive: Receive,
        send: Send,
        connection: HTTPConnection | None,
    ) -> None:
        limits = session.limits
        try:
            if connection is not None and connection.has_whole_request:
                body = await read_body(receive, headers, self._max_body_size)
            else:
                async with asyncio.timeout(limits.body_timeout):
                    body = await read_body(receive, headers, self._max_body_size)
            if body is None:
                return  # the client has left
            call = dialect.read(body, headers)
            generation = self._backend.answer(session, call)
        except OpenEnvError as exc:
            await send_whole(send, *dialect.error(exc))
            return
        except TimeoutError:
            late = CallRefused(
                f"the body of the request did not come whole within {limits.body_timeout:g} s"
                " (GatewayLimits.body_timeout)",
                status=408,
            )
            await send_whole(send, *dialect.error(late))
            if connection is not None:
                connection.cut()  # its rest would be taken for another request
            return
        reader = Reader(generation, call.is_streamed)
        if connection is not None:
            connection.on_lost = reader.leave
            if connection.is_lost:
                reader.leave()
        delivery: Delivery = "broken"
        try:
            delivery = await self._written(dialect, call, generation, reader, send, connection)
        finally:
            reader.close()
            place = reader.place
            if connection is not None:
                connection.on_lost = None
                if place is not None and not connection.is_lost:
                    sample = generation.sample  # the generation itself is let go of
                    about = session.id, sample, connection.received, place
                    connection.on_lost = partial(self._lost, connection, *about)
            self._backend.delivered(generation, delivery, place)

    def _lost(
        self, connection: HTTPConnection, session: str, sample: Sample, received: int, place: int
    ) -> None:
        """Note that the connection ended over which an answer went out last, whole as it seemed.

        Args:
            connection: it.
            session: id of the sample's session.
            sample: what went out.
            received: how often data had come then. A client that began to send another request
                since had the answer before.
            place: of the delivery among those of the sample.
        """
        if connection.was_reset and connection.received == received:
            self._backend.unread(session, sample, place)

    async def _written(
        self,
        dialect: Dialect,
        call: Call,
        generation: Generation,
        reader: Reader,
        send: Send,
        connection: HTTPConnection | None,
    ) -> Delivery:
        """Send an answer whole, or its pieces as they come; an error before has its own status."""
        pieces = await reader.more()  # none of an answer that is not streamed
        answer = None if pieces else self._leaving(generation, reader, connection)
        if answer is None and not pieces:
            return "broken"
        if isinstance(answer, OpenEnvError):
            await send_whole(send, *dialect.error(answer))
            return "error"
        if connection is not None:
            connection.hold()  # the head goes out with what follows it
        try:
            if answer is None or call.is_streamed:
                return await self._stream(
                    dialect, call, generation, reader, send, connection, pieces, answer
                )
            record = generation.record
            body = dialect.whole(call, record.call_id, answer, record.started_at)
            await send_whole(send, 200, {"x-request-id": record.call_id}, body)
            return _as_seen(reader, "whole")
        finally:
            if connection is not None:
                connection.flush()

    async def _stream(
        self,
        dialect: Dialect,
        call: Call,
        generation: Generation,
        reader: Reader,
        send: Send,
        connection: HTTPConnection | None,
        pieces: list[Piece],
        answer: Answer | OpenEnvError | None,
    ) -> Delivery:
        """Send pieces, those that come later, and the end, which ``answer`` is if it has come."""
        record = generation.record
        headers = [*_EVENT_STREAM, (b"x-request-id", record.call_id.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        events = dialect.events(call, record.call_id, record.started_at)
        data = events.begin()
        while pieces:
            data += b"".join([events.piece(piece) for piece in pieces])
            if data and not (generation.is_done and len(data) < _SENT_WITH_END):
                await send({"type": "http.response.body", "body": data, "more_body": True})
                if connection is not None:
                    connection.flush()
                data = b""
            pieces = await reader.more()
        answer = answer or self._leaving(generation, reader, connection)
        if answer is None:
            return "broken"
        is_whole = isinstance(answer, Answer)
        data += events.end(answer) if isinstance(answer, Answer) else events.fail(answer)
        # Some clients take a stream that ends for an answer that does: one that failed is cut.
        is_cut = not is_whole and connection is not None
        await send({"type": "http.response.body", "body": data, "more_body": is_cut})
        delivery = _as_seen(reader, "whole" if is_whole else "error")
        if is_cut and connection is not None:
            connection.cut()
        return delivery

    def _leaving(
        self, generation: Generation, reader: Reader, connection: HTTPConnection | None
    ) -> Answer | OpenEnvError | None:
        """Return the answer, whose end leaves now, or the error that stands in its place.

        ``None``: its client has left.
        """
        if reader.is_gone:
            return None
        if connection is not None and connection.is_closing:
            connection.cut()
            return None
        answer = generation.answer
        if answer is None:
            assert generation.error is not None
            return generation.error
        try:
            reader.place = self._backend.leaving(generation)
        except JournalFailed as exc:
            return exc
        return answer


def _as_seen(reader: Reader, delivery: Delivery) -> Delivery:
    """Return how an answer ended of which the last bytes were handed over."""
    return "broken" if reader.is_gone else delivery


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the headers of a request, names in lower case; of one that repeats, the last."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def key_of(headers: Mapping[str, str]) -> str:
    """Return the key that a request shows.

    Raises:
        Unauthorized: it shows none.
    """
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key.strip()
    key = headers.get("x-api-key", "")
    if not key:
        raise Unauthorized(
            "a session's key is needed: send it as Authorization: Bearer KEY or as x-api-key"
        )
    return key


async def read_body(receive: Receive, headers: Mapping[str, str], max_size: int) -> bytes | None:
    """Return the body of a request; ``None`` when its client left before the end.

    Raises:
        PayloadTooLarge: it is larger than ``max_size`` bytes.
    """
    told = headers.get("content-length", "")
    if told.isdigit() and int(told) > max_size:
        raise _too_large(int(told), max_size)
    message = await receive()
    if message["type"] == "http.disconnect":
        return None
    body: bytes = message["body"]
    if not message["more_body"]:
        if len(body) > max_size:
            raise _too_large(len(body), max_size)
        return body
    parts = [body]
    size = len(body)
    while message["more_body"]:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message["body"])
        size += len(parts[-1])
        if size > max_size:
            raise _too_large(size, max_size)
    return b"".join(parts)


def _too_large(size: int, limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the request has {size} bytes, more than the {limit} that GatewayLimits.max_body_size"
        " allows",
        size=size,
        limit=limit,
    )


async def send_whole(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Send an answer of JSON."""
    pairs = [(b"content-length", str(len(body)).encode())]
    if "content-type" not in headers:
        pairs.append((b"content-type", b"application/json"))
    pairs += [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body})


def error_body(error: OpenEnvError) -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body of an error of no dialect."""
    about = {"code": error.code, "message": error.message, "retryable": error.retryable}
    status = error.detail.get("status", error.http_status)
    return status, {}, msgspec.json.encode({"error": about})
