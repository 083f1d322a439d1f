"""Errors for a server that does not let a client in: by what it answered, or what the network said.

Rules:

- A server of this package says itself why; that is kept.
- A status is told for what it may mean. A token is mentioned only where one was sent or asked
  for: many servers answer 403 to a path at which they serve nothing.
- A request that a quota refused may be sent again when its turn comes within its deadline.
- The names that libraries below use (``ssl:default``, errno lists) are put in plain words.
"""

from __future__ import annotations

import errno
import re
import socket
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from openenv_async.endpoints.addresses import told_url
from openenv_async.endpoints.redaction import redacted
from openenv_async.errors import (
    ConnectFailed,
    OpenEnvError,
    QuotaReached,
    ServerError,
    Unauthorized,
    error_from_wire,
)

if TYPE_CHECKING:
    import aiohttp

__all__ = [
    "Failure",
    "Problem",
    "closed_early",
    "foreign",
    "has_token",
    "pause_for_turn",
    "read_failure",
    "reason_of",
    "refusal",
    "refused",
    "unauthorized",
    "unreachable",
]

_GATEWAY_ERRORS: Final = (502, 503, 504)
_NO_UPGRADE: Final = (200, 400, 405, 426)
"""Statuses that answer a WebSocket's request that lost its Upgrade headers on the way."""
_ERRNO: Final = re.compile(r"\[Errno (-?\d+)\]")


class Problem(msgspec.Struct):
    """An error as a reply tells it."""

    code: str
    message: str
    retryable: bool = False
    detail: dict[str, Any] = {}

    def made(self) -> OpenEnvError:
        """The typed error."""
        return error_from_wire(self.code, self.message, self.retryable, self.detail)


class Failure(msgspec.Struct):
    """The error that any route, or a WebSocket's handshake, sends in place of its reply."""

    error: Problem

    def made(self) -> OpenEnvError:
        """The typed error."""
        return self.error.made()


def read_failure(body: bytes | bytearray) -> OpenEnvError | None:
    """The error that an openenv_async server gave in JSON; ``None`` for what is none."""
    try:
        return msgspec.json.decode(body, type=Failure).made()
    except (msgspec.MsgspecError, ValueError):
        return None


def refusal(url: str, response: aiohttp.ClientResponse, body: bytes) -> OpenEnvError:
    """The error for an answer in JSON that is not what was asked for."""
    error = read_failure(body)
    if error is None:
        return foreign(url, response)
    if isinstance(error, Unauthorized):
        text = f"{told_url(url)} answered HTTP {response.status}"
        return unauthorized(text, has_token(response))
    return error


def foreign(url: str, response: aiohttp.ClientResponse) -> OpenEnvError:
    """The error for an answer that no openenv_async server gave."""
    return refused(
        url,
        response.status,
        response.headers,
        has_token=has_token(response),
        websocket=False,
        path=response.url.path,
    )


def has_token(response: aiohttp.ClientResponse) -> bool:
    return "Authorization" in response.request_info.headers


def refused(
    url: str,
    status: int,
    headers: Mapping[str, str],
    *,
    has_token: bool,
    websocket: bool,
    path: str,
) -> OpenEnvError:
    """The error for an answer that no server of this package gave.

    Args:
        url: the address that was given.
        status: of the answer.
        headers: of the answer.
        has_token: whether a token was sent.
        websocket: whether a WebSocket was asked for.
        path: of the request.
    """
    what = "the WebSocket" if websocket else "the request"
    text = f"{told_url(url)} answered HTTP {status}{_phrase(status)}"
    elsewhere = headers.get("Location")
    if 300 <= status < 400 and elsewhere is not None:
        return _failed(
            f"{text}, a redirection to {elsewhere}: give the address of the server itself"
        )
    if status == 401:
        return unauthorized(text, has_token)
    if status == 407:
        return _failed(
            f"{text}: the proxy wants credentials, which go into HTTPS_PROXY or HTTP_PROXY"
        )
    if status == 403:
        cure = (
            "check the path of the address, then the token"
            if has_token
            else (
                "check the path of the address, and what is asked for before the server is reached"
            )
        )
        message = f"{text}: it refuses {what} to {path}, or serves nothing there: {cure}"
        return Unauthorized(message) if has_token else _failed(message)
    if status in _GATEWAY_ERRORS:
        message = f"{text}: the server behind it is not reachable, or not up yet"
        if websocket:
            return ConnectFailed(message, phase="connect")
        return ServerError(message, retryable=True)
    if status == 404:
        return _failed(
            f"{text}, and is not an openenv_async server at {path}: check the path of the address"
            " (the server's own address has none, http://HOST:PORT)",
            retryable=websocket,
        )
    if websocket and status in _NO_UPGRADE:
        return _failed(
            f"{text} instead of a WebSocket: it is no such server, or a proxy before it drops the"
            " headers Upgrade and Connection; let the proxy pass them on, or use HTTPEnvClient",
            retryable=True,
        )
    instead = "instead of a WebSocket" if websocket else "and is not an openenv_async server"
    return _failed(
        f"{text}{' ' if websocket else ', '}{instead}: check host and port", retryable=websocket
    )


def unauthorized(text: str, has_token: bool) -> Unauthorized:
    """The error for a server that asks for a token, or for another one.

    Args:
        text: what it answered.
        has_token: whether one was sent.
    """
    if has_token:
        return Unauthorized(f"{text}: the token is not the server's, check the token")
    return Unauthorized(
        f"{text}: it needs a token, and none was given: token=… (--token-file or OPENENV_TOKEN)"
    )


def unreachable(url: str, exc: BaseException) -> ConnectFailed:
    """The error for a connection that could not be made.

    Args:
        url: the address that was given.
        exc: from the library that tried.
    """
    reason = reason_of(url, exc)
    return ConnectFailed(f"cannot connect to {told_url(url)}: {reason}", phase="connect")


def closed_early(url: str) -> str:
    """Return what a connection may mean that was closed before anything of HTTP was said."""
    hint = "" if _is_tls(url) else "; if it speaks TLS, write https://"
    return f"it closed the connection without an HTTP answer: check host and port{hint}"


def pause_for_turn(refused: QuotaReached, left: float) -> float:
    """Return the seconds after which to send again what a quota refused before it was executed.

    Args:
        refused: says when the turn comes.
        left: seconds until the deadline of the call.

    Raises:
        QuotaReached: the turn comes after the deadline, or the quota is that of sessions.
    """
    wait = refused.detail.get("retry_after")
    is_of_sessions = refused.detail.get("quota") == "sessions"
    if is_of_sessions or not isinstance(wait, int | float) or not 0 < wait < left:
        raise refused
    return float(wait)


def reason_of(url: str, exc: BaseException) -> str:
    """Return why a connection failed, with the remedy where there is one."""
    parts = urlsplit(url)
    where = f"{parts.hostname}:{parts.port}" if _has_port(url) else str(parts.hostname)
    for cause in _causes(exc):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({cause.verify_message.strip('. ')}): give ssl="
                " (a command: the variable SSL_CERT_FILE) the PEM file of its authority, and the"
                " host name that it is for"
            )
        if isinstance(cause, ssl.SSLError) and "TLSV1_ALERT" not in str(cause.reason):
            return (
                f"it does not speak TLS there: write http:// instead of https:// ({cause.reason})"
            )
        if isinstance(cause, socket.gaierror):
            return f"there is no host {parts.hostname!r}: check the name"
        if isinstance(cause, OSError):
            number = _number(cause)
            if number == errno.ECONNREFUSED:
                return f"nothing listens at {where}: start the server, or check host and port"
            if number in (errno.ECONNRESET, errno.EPIPE):
                return closed_early(url)
            if number in (errno.EHOSTUNREACH, errno.ENETUNREACH):
                return f"there is no way to {where}: check the host and the network"
    text = " ".join(str(exc).split())
    if isinstance(exc, EOFError) or "valid HTTP response" in text or "disconnected" in text:
        return closed_early(url)
    return redacted(text)


def _causes(exc: BaseException) -> list[BaseException]:
    """The error, and what lies inside it, the innermost first."""
    found: list[BaseException] = []
    inner: BaseException | None = exc
    while inner is not None and inner not in found:
        found.append(inner)
        for name in ("certificate_error", "os_error"):
            held = getattr(inner, name, None)
            if isinstance(held, BaseException):
                found.append(held)
        inner = inner.__cause__ or inner.__context__
    return found[::-1]


def _number(error: OSError) -> int | None:
    """The errno, also of the error that asyncio makes of several alike."""
    if error.errno is not None:
        return error.errno
    numbers = set(_ERRNO.findall(str(error)))
    return int(numbers.pop()) if len(numbers) == 1 else None


def _failed(message: str, retryable: bool = False) -> ConnectFailed:
    return ConnectFailed(message, phase="connect", retryable=retryable)


def _phrase(status: int) -> str:
    try:
        return f" {HTTPStatus(status).phrase}"
    except ValueError:
        return ""


def _is_tls(url: str) -> bool:
    return url.startswith(("https:", "wss:"))


def _has_port(url: str) -> bool:
    try:
        return urlsplit(url).port is not None
    except ValueError:
        return False
