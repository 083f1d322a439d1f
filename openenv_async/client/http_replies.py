"""What a server's HTTP replies say: the bodies by route, and the errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from openenv_async.depth import check_msgpack_depth
from openenv_async.errors import (
    ConnectFailed,
    OpenEnvError,
    ProtocolError,
    ServerError,
    Unauthorized,
    error_from_wire,
)
from openenv_async.types import MAX_DEPTH

if TYPE_CHECKING:
    import aiohttp

__all__ = ["MEDIA", "Opened", "Result", "State", "read_reply", "taken_number"]

T = TypeVar("T")

MEDIA: Final = "application/msgpack"
_GATEWAY_ERRORS: Final = (502, 503, 504)
_MAX_DIGITS: Final = 18


class Opened(msgspec.Struct):
    """Of ``/open``."""

    seq: int = 0


class Result(msgspec.Struct):
    """Of ``/reset`` and ``/step``."""

    observation: msgspec.Raw
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    info: msgspec.Raw = msgspec.Raw(b"\xc0")  # msgspec reads ``Raw | None`` as None alone
    episode_id: str = ""
    seed: int = 0


class State(msgspec.Struct):
    """Of ``/state``."""

    state: msgspec.Raw
    episode_id: str | None = None
    seed: int | None = None
    step_count: int = 0


class _Problem(msgspec.Struct):
    code: str
    message: str
    retryable: bool = False
    detail: dict[str, Any] = {}


class _Failure(msgspec.Struct):
    error: _Problem


def taken_number(response: aiohttp.ClientResponse) -> int | None:
    """The number of the last request that the server took, if it says one."""
    text = response.headers.get("X-OpenEnv-Seq", "")
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        return int(text)
    return None


def read_reply(url: str, response: aiohttp.ClientResponse, body: bytes, reply: type[T]) -> T:
    """The reply in a response with this body.

    Args:
        url: whose response it is.
        response: its status and headers.
        body: all of it.
        reply: what was asked for.

    Raises:
        OpenEnvError: the reply is an error, or no reply of such a server.
    """
    if response.content_type != MEDIA:
        raise _foreign(url, response.status, response.reason or "")
    check_msgpack_depth(body, MAX_DEPTH + 4)
    try:
        if response.status < 400:
            return msgspec.msgpack.decode(body, type=reply)
        problem = msgspec.msgpack.decode(body, type=_Failure).error
    except (msgspec.MsgspecError, ValueError) as exc:
        raise ProtocolError(f"{url} sent an unreadable reply: {exc}") from None
    raise error_from_wire(problem.code, problem.message, problem.retryable, problem.detail)


def _foreign(url: str, status: int, reason: str) -> OpenEnvError:
    """The error for an answer that no openenv_async server gave."""
    text = f"{url} answered HTTP {status} {reason}".rstrip()
    if status in (401, 403):
        return Unauthorized(f"{text}: check the token")
    if status in _GATEWAY_ERRORS:
        return ServerError(f"{text}: the server behind it is not reachable", retryable=True)
    return ConnectFailed(f"{text}, and is no openenv_async server", retryable=False)
