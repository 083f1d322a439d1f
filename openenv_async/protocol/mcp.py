"""The Model Context Protocol over HTTP: which dialect a request is in, and what it asks.

Rules:

- Revisions up to 2025-11-25 begin with ``initialize``; the answer may name a session, which every
  later request shows in ``Mcp-Session-Id``. From 2026-07-28 on there is no such beginning: every
  request says its revision in ``MCP-Protocol-Version`` and again in ``params._meta``, its method in
  ``Mcp-Method`` and the name of a tool or resource in ``Mcp-Name``. Headers and
  body must agree, since proxies go by the headers.
- A request of upstream's dialect on the same route has none of these headers, does not accept an
  event stream, and has other methods.
- Results of 2026-07-28 say what they are (``resultType``), and lists for how long they hold.
- An error's code settles the HTTP status.

Sources: the specification at modelcontextprotocol.io, revisions 2025-11-25 and 2026-07-28, and the
clients of the packages mcp 2.3.0 and fastmcp 4.2.3.
"""

from __future__ import annotations

import binascii
import enum
import re
from collections.abc import Mapping
from typing import Any, Final, Protocol

import msgspec

from openenv_async.protocol.json_rpc import (
    RpcCode,
    RpcFailure,
    RpcRequest,
    decoded,
    fields_of,
    rpc_result,
    scalar,
)

__all__ = [
    "LATEST_WITH_SESSIONS",
    "REVISIONS",
    "REVISIONS_WITH_SESSIONS",
    "SESSION_ID_HEADER",
    "McpCall",
    "McpCode",
    "Page",
    "accepts_events",
    "is_mcp",
    "page_of",
    "read_call",
    "status_of",
]

REVISIONS_WITH_SESSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
LATEST_WITH_SESSIONS: Final = REVISIONS_WITH_SESSIONS[-1]
_WITHOUT_SESSIONS: Final = ("2026-07-28",)
REVISIONS: Final = (*REVISIONS_WITH_SESSIONS, *_WITHOUT_SESSIONS)
"""Revisions of the protocol that are spoken, oldest first."""

SESSION_ID_HEADER: Final = "mcp-session-id"
VERSION_HEADER: Final = "mcp-protocol-version"
_METHOD_HEADER: Final = "mcp-method"
_NAME_HEADER: Final = "mcp-name"
_OWN_HEADERS: Final = (VERSION_HEADER, _METHOD_HEADER, _NAME_HEADER, SESSION_ID_HEADER)
_NAMED: Final[Mapping[str, str]] = {"tools/call": "name", "resources/read": "uri"}
"""The parameter that ``Mcp-Name`` repeats, by method."""
_VERSION_KEY: Final = "io.modelcontextprotocol/protocolVersion"
_CAPABILITIES_KEY: Final = "io.modelcontextprotocol/clientCapabilities"
_SERVER_KEY: Final = "io.modelcontextprotocol/serverInfo"
_OWN_METHODS: Final = frozenset({"initialize", "ping", "server/discover"})
_EVENTS: Final = "text/event-stream"
_ENCODED: Final = re.compile(r"=\?base64\?(.*)\?=")
_TTL: Final = 60_000
"""Milliseconds for which a client may keep a list: it changes only with the server."""
_LISTS: Final = frozenset({"server/discover", "tools/list", "resources/list"})
_LISTS_OF_MORE: Final = frozenset({"resources/templates/list", "resources/read"})
_MAX_TEXT: Final = 255


class McpCode(enum.IntEnum):
    """Codes of errors beside those of JSON-RPC."""

    HEADER_MISMATCH = -32020
    UNSUPPORTED_VERSION = -32022
    NOT_FOUND = -32002


_STATUSES: Final[Mapping[int, int]] = {
    RpcCode.PARSE_ERROR: 400,
    RpcCode.INVALID_REQUEST: 400,
    RpcCode.INVALID_PARAMS: 400,
    McpCode.HEADER_MISMATCH: 400,
    McpCode.UNSUPPORTED_VERSION: 400,
    RpcCode.METHOD_NOT_FOUND: 404,
}


def status_of(code: int, is_stateless: bool) -> int:
    """Return the HTTP status of an error: revisions with sessions answer what was read with 200."""
    if not is_stateless and code not in (RpcCode.PARSE_ERROR, RpcCode.INVALID_REQUEST):
        return 200
    return _STATUSES.get(code, 200)


class Headers(Protocol):
    """The headers of a request, as Starlette has them."""

    def get(self, key: str, default: str) -> str: ...

    def getlist(self, key: str) -> list[str]: ...

    def __contains__(self, key: object, /) -> bool: ...


def accepts_events(headers: Headers) -> bool:
    """Return whether an answer may be a stream of events."""
    return _EVENTS in headers.get("accept", "")


def is_mcp(headers: Headers, method: str | None) -> bool:
    """Return whether a ``POST`` is of this protocol and not of upstream's dialect.

    Args:
        headers: of the request.
        method: that its body asks for; ``None`` where it cannot be read.
    """
    if any(name in headers for name in _OWN_HEADERS) or accepts_events(headers):
        return True
    return method is not None and (method in _OWN_METHODS or method.startswith("notifications/"))


class McpCall(RpcRequest):
    """One request or notification, read.

    A notification has no ``id``.

    Attributes:
        revision: of the protocol; ``None`` for one that begins a session, which may choose.
        is_stateless: the revision has no sessions.
        progress_token: under which progress is told; ``None`` where it is not wanted.
    """

    revision: str | None
    is_stateless: bool
    progress_token: str | int | None = None

    def text(self, name: str) -> str:
        """A parameter that is a text.

        Raises:
            RpcFailure: it is missing or something else.
        """
        found = self.scalar(name)
        if not isinstance(found, str):
            raise RpcFailure(
                RpcCode.INVALID_PARAMS, f"params.{name} must be a text", request_id=self.id
            )
        return found

    def scalar(self, name: str) -> Any:
        """A scalar parameter; ``None`` where it is missing or a container."""
        return scalar(self.params.get(name))

    def object(self, name: str) -> dict[str, Any]:
        """A parameter that is an object, decoded; an empty one where it is missing.

        Raises:
            RpcFailure: it is something else.
        """
        raw = self.params.get(name)
        if raw is None or bytes(raw) == b"null":
            return {}
        found = decoded(raw)  # its depth was checked with all of the message
        if not isinstance(found, dict):
            raise RpcFailure(
                RpcCode.INVALID_PARAMS, f"params.{name} must be an object", request_id=self.id
            )
        return found

    def result(self, body: dict[str, Any], server: Mapping[str, str]) -> dict[str, Any]:
        """The response that carries ``body``."""
        if self.is_stateless:
            body = {**body, "resultType": "complete", "_meta": {_SERVER_KEY: server}}
            if self.method in _LISTS:
                body |= {"ttlMs": _TTL, "cacheScope": "private"}
            elif self.method in _LISTS_OF_MORE:
                body |= {"ttlMs": 0, "cacheScope": "private"}
        return rpc_result(self.id, body)


def read_call(rpc: RpcRequest, headers: Headers) -> McpCall:
    """Read what a request asks by its body and headers.

    Raises:
        RpcFailure: they do not agree, or the revision is not spoken.
    """
    said = headers.get(VERSION_HEADER, "")
    if not said or said in REVISIONS_WITH_SESSIONS:
        return McpCall(
            rpc.id, rpc.method, rpc.params, said or None, False, _token(_meta(rpc.params))
        )
    if said not in REVISIONS and rpc.method == "initialize":
        return McpCall(rpc.id, rpc.method, rpc.params, None, False)
    call = McpCall(rpc.id, rpc.method, rpc.params, said, True)
    if rpc.id is None:
        _check_version(said, None)
        return call
    meta = _meta(rpc.params)
    missing = [key for key in (_VERSION_KEY, _CAPABILITIES_KEY) if meta is None or key not in meta]
    if meta is None or missing:
        raise RpcFailure(
            RpcCode.INVALID_PARAMS,
            f"params._meta lacks {' and '.join(missing)}",
            request_id=rpc.id,
        )
    _check_headers(rpc, headers, scalar(meta[_VERSION_KEY]))
    _check_version(said, rpc.id)
    call.progress_token = _token(meta)
    return call


def _check_headers(rpc: RpcRequest, headers: Headers, version: Any) -> None:
    """Return if the headers say what the body says.

    Raises:
        RpcFailure: they do not.
    """
    wrong = next((name for name in _OWN_HEADERS if len(headers.getlist(name)) > 1), None)
    if wrong is not None:
        wrong = f"the header {wrong} is there more than once"
    elif headers.get(VERSION_HEADER, "") != version:
        wrong = f"the header {VERSION_HEADER} is not the body's revision"
    elif headers.get(_METHOD_HEADER, "") != rpc.method:
        wrong = f"the header {_METHOD_HEADER} is not the body's method"
    elif rpc.method in _NAMED:
        named = rpc.text(_NAMED[rpc.method])
        if named is not None and _decoded(headers.get(_NAME_HEADER, "")) != named:
            wrong = f"the header {_NAME_HEADER} is not the body's {_NAMED[rpc.method]}"
    if wrong is not None:
        raise RpcFailure(McpCode.HEADER_MISMATCH, wrong, request_id=rpc.id)


def _check_version(said: str, request_id: str | int | None) -> None:
    if said not in _WITHOUT_SESSIONS:
        raise RpcFailure(
            McpCode.UNSUPPORTED_VERSION,
            f"the revision {said[:40]!r} is not spoken here",
            {"supported": [*REVISIONS], "requested": said[:40]},
            request_id,
        )


def _decoded(value: str) -> str | None:
    """The text that a header's value stands for; ``None`` for one that is malformed."""
    found = _ENCODED.fullmatch(value)
    if found is None:
        return value
    try:
        return binascii.a2b_base64(found[1], strict_mode=True).decode()
    except (binascii.Error, ValueError):
        return None


def _meta(params: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw] | None:
    raw = params.get("_meta")
    return None if raw is None else fields_of(raw)


def _token(meta: Mapping[str, msgspec.Raw] | None) -> str | int | None:
    token = None if meta is None else scalar(meta.get("progressToken"))
    if isinstance(token, str) and len(token) <= _MAX_TEXT:
        return token
    return token if type(token) is int else None


class Page(msgspec.Struct):
    """Some items of a list: from ``start`` to before ``stop``, and the cursor of the next page."""

    start: int
    stop: int
    next_cursor: str | None


def page_of(call: McpCall, count: int, size: int) -> Page:
    """Return the page that a request for a list of ``count`` items asks for.

    Raises:
        RpcFailure: its cursor is not one of ours.
    """
    cursor = call.scalar("cursor")
    start = 0
    if cursor is not None:
        if not (isinstance(cursor, str) and cursor.isascii() and cursor.isdecimal()):
            start = count
        else:
            start = int(cursor[:10])
        if not 0 < start < count:
            raise RpcFailure(
                RpcCode.INVALID_PARAMS, "params.cursor is not one of this list", request_id=call.id
            )
    stop = min(count, start + size)
    return Page(start, stop, str(stop) if stop < count else None)
