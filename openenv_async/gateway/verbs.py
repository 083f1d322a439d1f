"""The gateway's verbs over HTTP: open and end sessions, read what they sampled, publish weights.

Rules:

- Every verb but ``GET /healthz`` needs the admin token, which no session's key replaces. A gateway
  without one has no verbs over HTTP: an agent of this machine could call them.
- A list of models and a count of tokens are for agents, and need a session's key.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeAlias, TypeVar
from urllib.parse import parse_qs

import msgspec

from openenv_async.errors import CallRefused, OpenEnvError, OperationCancelled, Unauthorized
from openenv_async.gateway.app import (
    Receive,
    Scope,
    Send,
    error_body,
    headers_of,
    key_of,
    read_body,
    send_whole,
)
from openenv_async.gateway.calls import Call, Dialect
from openenv_async.gateway.dialects import COUNT_ROUTES, DIALECTS, count_page, models_page
from openenv_async.gateway.metrics import gateway_text
from openenv_async.gateway.sessions import Budget, ModelSession, Prices
from openenv_async.server.auth import Guard

__all__ = ["Verbs", "VerbsBackend"]

Reply: TypeAlias = tuple[int, dict[str, str], bytes]

_N = TypeVar("_N", int, float)
_NUMBERS: Final = {"reward": "a number", "member": "a whole number"}
_MAX_VERB: Final = 2**20
_encode: Final = msgspec.json.Encoder().encode


class VerbsBackend(Protocol):
    """The part of the gateway that its verbs need.

    Attributes:
        is_open: it takes calls.
    """

    is_open: bool

    def session_of(self, key: str) -> ModelSession:
        """Return the session that a key opens."""
        ...

    def admit(self, session: ModelSession) -> None:
        """Let one more request of a session in; its ``release`` follows at the end."""
        ...

    async def open(
        self, *, budget: Budget | None = None, prices: Prices | None = None
    ) -> ModelSession:
        """Open a session."""
        ...

    async def close_session(self, session: ModelSession) -> None:
        """Let a session take no more calls; its records stay."""
        ...

    async def end(self, session: ModelSession | str) -> None:
        """End a session."""
        ...

    def session(self, id: str) -> ModelSession:
        """Return a session."""
        ...

    def sessions(self) -> list[ModelSession]:
        """Return the open sessions."""
        ...

    def publish(self, version: str | int) -> None:
        """Name the version of the weights."""
        ...

    def stats(self) -> dict[str, Any]:
        """Return what the gateway does now."""
        ...

    def models(self) -> list[str]:
        """Return names of models."""
        ...

    async def count_tokens(self, call: Call) -> int:
        """Return the tokens of a prompt."""
        ...


class _Opening(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /sessions``."""

    budget: Budget | None = None
    prices: Prices | None = None


class _Version(msgspec.Struct, forbid_unknown_fields=True):
    """The body of ``POST /versions``."""

    version: str | int


class Verbs:
    """The answers to what is not a call.

    Args:
        backend: what is asked.
        token: of the admin; ``None``: no verbs over HTTP.
    """

    def __init__(self, backend: VerbsBackend, token: str | None) -> None:
        self._backend = backend
        self._guard = None if token is None else Guard(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        path = scope["path"]
        dialect: Dialect | None = None
        if path.startswith("/v1/"):
            is_messages = path.startswith("/v1/messages") or any(
                name == b"anthropic-version" for name, _ in scope["headers"]
            )
            dialect = DIALECTS.get("messages" if is_messages else "chat")
        try:
            status, headers, body = await self._reply(scope, receive)
        except OpenEnvError as exc:
            status, headers, body = error_body(exc) if dialect is None else dialect.error(exc)
        await send_whole(send, status, headers, b"" if scope["method"] == "HEAD" else body)

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        method, path = scope["method"], scope["path"]
        place = path.strip("/").split("/")
        match method, place:
            case "GET" | "HEAD", ["healthz"]:
                if not self._backend.is_open:
                    return 503, {}, _encode({"status": "draining"})
                return _json({"status": "ok"})
            case "GET", ["v1", "models", *name] if len(name) < 2:
                return self._models(scope, name)
            case "POST", _ if path in COUNT_ROUTES:
                return await self._count(COUNT_ROUTES[path], scope, receive)
        known = _VERBS.get((method, place[0]))
        if known is None or not known[0] <= len(place) <= known[1]:
            raise CallRefused(f"the gateway has nothing at {method} {path[:200]}", status=404)
        if self._guard is None:
            raise Unauthorized(
                "this gateway has no admin token, so that its verbs are not to be had over HTTP:"
                " give one (admin_token=; --token-file or OPENENV_TOKEN)"
            )
        self._guard.check(scope)
        body = await read_body(receive, headers_of(scope), _MAX_VERB)
        if body is None:
            raise OperationCancelled("the client left before the end of its request")
        return await known[2](self, place[1:], scope, body)

    def _models(self, scope: Scope, name: list[str]) -> Reply:
        headers = headers_of(scope)
        self._backend.session_of(key_of(headers))
        dialect = "messages" if "anthropic-version" in headers else "chat"
        page = models_page(dialect, name or self._backend.models())
        if name:
            page = _encode(json.loads(page)["data"][0])
        return 200, {}, page

    async def _count(self, dialect: Dialect, scope: Scope, receive: Receive) -> Reply:
        headers = headers_of(scope)
        session = self._backend.session_of(key_of(headers))
        self._backend.admit(session)
        try:
            body = await read_body(receive, headers, session.limits.max_body_size)
            call = dialect.read(body or b"", headers)
            return 200, {}, count_page(dialect.name, await self._backend.count_tokens(call))
        finally:
            session.release()

    async def _opened(self, place: list[str], scope: Scope, body: bytes) -> Reply:
        if place:
            return await self._closed(place)
        asked = _read(body or b"{}", _Opening)
        session = await self._backend.open(budget=asked.budget, prices=asked.prices)
        return _json(
            {
                "id": session.id,
                "key": session.key,
                "openai_base_url": session.openai_base_url,
                "anthropic_base_url": session.anthropic_base_url,
            }
        )

    async def _closed(self, place: list[str]) -> Reply:
        session = self._backend.session(place[0])
        if place[1:] != ["close"]:
            raise CallRefused(
                f"a session is closed by POST /sessions/{session.id}/close", status=404
            )
        await self._backend.close_session(session)
        return _json(session.summary())

    async def _ended(self, place: list[str], scope: Scope, body: bytes) -> Reply:
        session = self._backend.session(place[0])
        await self._backend.end(session)
        return _json(session.summary())

    async def _read(self, place: list[str], scope: Scope, body: bytes) -> Reply:
        if not place:
            return _json({"sessions": [each.summary() for each in self._backend.sessions()]})
        session = self._backend.session(place[0])
        match place[1:]:
            case []:
                return _json(session.summary())
            case ["calls"]:
                return _lines(session.records)
            case ["rows"]:
                asked = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
                for name in asked:
                    if name not in _OF_ROWS:
                        raise CallRefused(
                            f"rows take {', '.join(_OF_ROWS)}, not {name[:80]!r}: see"
                            f" GET /sessions/ID/rows?reward=1&group=g&member=0"
                        )
                reward = _number(asked, "reward", float)
                member = _number(asked, "member", int)
                rows = session.rows(
                    reward=reward,
                    group=asked.get("group", [None])[-1],
                    member=member,
                )
                return _lines(rows)
        raise CallRefused(
            f"a session has calls and rows, not {place[1][:200]!r}: GET"
            f" /sessions/{session.id}/calls",
            status=404,
        )

    async def _published(self, place: list[str], scope: Scope, body: bytes) -> Reply:
        version = _read(body, _Version).version
        self._backend.publish(version)
        return _json({"version": version})

    async def _stats(self, place: list[str], scope: Scope, body: bytes) -> Reply:
        return _json(self._backend.stats())

    async def _metrics(self, place: list[str], scope: Scope, body: bytes) -> Reply:
        text, media_type = gateway_text(self._backend.stats())
        return 200, {"content-type": media_type}, text


_OF_ROWS: Final = ("reward", "group", "member")

_Verb: TypeAlias = Callable[[Verbs, list[str], Scope, bytes], Awaitable[Reply]]
_VERBS: Final[dict[tuple[str, str], tuple[int, int, _Verb]]] = {
    ("POST", "sessions"): (1, 3, Verbs._opened),
    ("GET", "sessions"): (1, 3, Verbs._read),
    ("DELETE", "sessions"): (2, 2, Verbs._ended),
    ("POST", "versions"): (1, 1, Verbs._published),
    ("GET", "stats"): (1, 1, Verbs._stats),
    ("GET", "metrics"): (1, 1, Verbs._metrics),
}
"""Verbs by method and the first part of their path: fewest and most parts, and what answers."""


def _json(value: Any) -> Reply:
    return 200, {}, _encode(value)


def _lines(values: list[Any]) -> Reply:
    """A reply with a line of JSON for each value."""
    body = b"".join([_encode(value) + b"\n" for value in values])
    return 200, {"content-type": "application/x-ndjson"}, body


def _read(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise CallRefused(f"the request's body does not say what to do: {exc}") from exc


def _number(asked: dict[str, list[str]], name: str, read: Callable[[str], _N]) -> _N | None:
    [text] = asked.get(name, [""])[-1:]
    if not text:
        return None
    with contextlib.suppress(ValueError):
        if math.isfinite(number := read(text)):
            return number
    raise CallRefused(f"{name} is {_NUMBERS[name]}, got {text[:80]!r}")
