"""The headers of HTTP requests, and the responses to them."""

from __future__ import annotations

import math
import re
import secrets
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from openenv_async.engine import Session
from openenv_async.errors import (
    InvalidModel,
    OpenEnvError,
    ProtocolError,
    SessionClosed,
    SessionNotFound,
    Unauthorized,
)
from openenv_async.models import Format
from openenv_async.protocol.codec import too_large
from openenv_async.protocol.upstream import Fields, problems, scalar
from openenv_async.types import MAX_SECONDS
from openenv_async.version import __version__

__all__ = [
    "COOKIE",
    "COOKIE_SCOPE",
    "MEDIA",
    "SEQ_HEADER",
    "SESSION_HEADER",
    "TIMEOUT_HEADER",
    "accepted_format",
    "body_response",
    "encode_body",
    "error_body",
    "error_response",
    "forget",
    "has_foreign_cookie",
    "named",
    "new_name",
    "read_body",
    "refuse_extra",
    "request_number",
    "request_timeout",
    "richer",
    "sent_format",
    "session_name",
    "step_timeout",
]

COOKIE: Final = "openenv_session"
"""The beginning of cookies' names; the rest is of the server, since cookies know no ports."""
COOKIE_SCOPE: Final = "openenv.cookie"
"""The key of a request's scope under which the name of this server's cookie stands."""
SESSION_HEADER: Final = "X-OpenEnv-Session"
SEQ_HEADER: Final = "X-OpenEnv-Seq"
TIMEOUT_HEADER: Final = "X-OpenEnv-Timeout"
_NAME: Final = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{32})")
_TYPES: Final[dict[str, Format]] = {
    "application/msgpack": "msgpack",
    "application/openenv+json": "json",
    "application/json": "plain",
}
MEDIA: Final = {format: media for media, format in _TYPES.items()}
_RICHNESS: Final[dict[Format, int]] = {"plain": 0, "json": 1, "msgpack": 2}
_UNPROCESSABLE: Final = 422


async def read_body(request: Request, limit: int) -> bytes:
    """The body, refused as soon as it is known to be too large.

    Raises:
        PayloadTooLarge: it has more than ``limit`` bytes.
    """
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
    return b"".join(parts)


def sent_format(request: Request) -> Format:
    """The format of the body; JSON when the header says nothing that is known."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    return _TYPES.get(media, "plain")


def accepted_format(request: Request) -> Format:
    """The format of the reply: the first known one in ``Accept``, else that of the body."""
    for item in request.headers.get("accept", "").split(","):
        format = _TYPES.get(item.partition(";")[0].strip().lower())
        if format is not None:
            return format
    return sent_format(request)


def richer(one: Format, other: Format) -> Format:
    return max(one, other, key=_RICHNESS.__getitem__)


def session_name(request: Request) -> tuple[str, str] | None:
    """Session id and secret, if the caller names a session.

    Raises:
        ProtocolError: the header or cookie is not a valid name.
    """
    name = request.headers.get(SESSION_HEADER)
    if not name:
        cookies = request.cookies
        name = cookies.get(_cookie(request)) or cookies.get(COOKIE)
    if not name:
        return None
    match = _NAME.fullmatch(name)
    if match is None:
        raise ProtocolError(f"{SESSION_HEADER} must be <32 hex digits>.<32 hex digits>")
    return match[1], match[2]


def _cookie(request: Request) -> str:
    name: str = request.scope.get(COOKIE_SCOPE, COOKIE)
    return name


def has_foreign_cookie(request: Request) -> bool:
    """Return whether the caller sends the session cookie of another server or an earlier run."""
    return any(name.startswith(COOKIE) for name in request.cookies)


def new_name() -> tuple[str, str]:
    return secrets.token_hex(16), secrets.token_hex(16)


def request_number(request: Request) -> int | None:
    text = request.headers.get(SEQ_HEADER)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) > 0):
        raise ProtocolError(f"{SEQ_HEADER} must be a positive integer")
    return int(text)


def request_timeout(request: Request) -> float | None:
    text = request.headers.get(TIMEOUT_HEADER)
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_SECONDS:
        raise ProtocolError(
            f"{TIMEOUT_HEADER} must be a number of seconds, at most {MAX_SECONDS:g}, 0 for no"
            " deadline"
        )
    return seconds


def step_timeout(fields: Fields, format: Format) -> float | None:
    seconds = scalar(fields, "timeout_s", format)
    if seconds is None:
        return None
    if type(seconds) not in (int, float) or not 0 < seconds <= MAX_SECONDS:
        raise InvalidModel(
            f"timeout_s must be a positive number of seconds, at most {MAX_SECONDS:g}",
            type="greater_than",
            loc=["body", "timeout_s"],
        )
    return float(seconds)


def refuse_extra(fields: Fields) -> None:
    for name in fields:
        raise InvalidModel(
            f"unknown field {name!r:.80} in the body", type="extra_forbidden", loc=["body", name]
        )


def _path(request: Request) -> str:
    """Return the path of the mount: sessions of different environments must not meet."""
    path: str = request.scope["path"]
    return path.rpartition("/")[0] or "/"


# -- responses --------------------------------------------------------------------------------


def encode_body(value: Any, format: Format) -> bytes:
    if format == "msgpack":
        return msgspec.msgpack.encode(value, enc_hook=str)
    return msgspec.json.encode(value, enc_hook=str)


def body_response(body: Any, format: Format, status: int = 200) -> Response:
    return Response(encode_body(body, format), status, media_type=MEDIA[format])


def error_body(error: OpenEnvError, detail: Any) -> dict[str, Any]:
    """An error as HTTP says it: ``detail`` as upstream does, ``error`` as it is."""
    error.add_context(server_version=f"openenv_async/{__version__}")
    return {
        "detail": detail,
        "error": {
            "code": error.code,
            "message": error.message,
            "retryable": error.retryable,
            "detail": error.to_wire(),
        },
    }


def error_response(request: Request, error: OpenEnvError, format: Format) -> Response:
    status = error.http_status
    detail: Any = error.message
    if status == _UNPROCESSABLE:
        detail = problems(error, ("body",))
    response = body_response(error_body(error, detail), format, status)
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = "Bearer"
    retry_after = error.detail.get("retry_after")
    if isinstance(retry_after, int | float):
        response.headers["Retry-After"] = str(math.ceil(retry_after))
    if isinstance(error, SessionNotFound | SessionClosed) and _sends_cookie(request):
        forget(response, request)  # so that the next /reset opens a new one
    return response


def _sends_cookie(request: Request) -> bool:
    return _cookie(request) in request.cookies or COOKIE in request.cookies


def named(response: Response, request: Request, session: Session) -> Response:
    name = f"{session.id}.{session.secret}"
    response.headers[SESSION_HEADER] = name
    response.set_cookie(
        _cookie(request),
        name,
        path=_path(request),
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return response


def forget(response: Response, request: Request) -> None:
    for name in {_cookie(request), COOKIE}.intersection(request.cookies) or [_cookie(request)]:
        response.delete_cookie(name, path=_path(request), httponly=True, samesite="strict")
