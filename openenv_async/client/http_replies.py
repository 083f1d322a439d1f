"""What a server's HTTP replies say: the bodies by route, and the errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from openenv_async.client.refusals import refused, unauthorized
from openenv_async.errors import (
    OpenEnvError,
    ProtocolError,
    Unauthorized,
    error_from_wire,
)
from openenv_async.models.depth import check_msgpack_depth
from openenv_async.types import MAX_DEPTH

if TYPE_CHECKING:
    import aiohttp

__all__ = [
    "MEDIA",
    "Failure",
    "Opened",
    "Result",
    "State",
    "read_failure",
    "read_reply",
    "taken_number",
]

T = TypeVar("T")

MEDIA: Final = "application/msgpack"
_MAX_DIGITS: Final = 18


class Opened(msgspec.Struct):
    """Of ``/open``."""

    seq: int = 0
    reset_options: list[str] = []


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


class Failure(msgspec.Struct):
    """Of every route, and of a WebSocket's handshake: what went wrong, in place of the reply."""

    error: _Problem

    def made(self) -> OpenEnvError:
        """The typed error."""
        said = self.error
        return error_from_wire(said.code, said.message, said.retryable, said.detail)


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
        return _foreign(url, response)
    if isinstance(error, Unauthorized):
        return unauthorized(f"{url} answered HTTP {response.status}", _has_token(response))
    return error


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
        raise _foreign(url, response)
    check_msgpack_depth(body, MAX_DEPTH + 4)
    try:
        if response.status < 400:
            return msgspec.msgpack.decode(body, type=reply)
        failure = msgspec.msgpack.decode(body, type=Failure)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise ProtocolError(f"{url} sent an unreadable reply: {exc}") from None
    error = failure.made()
    if isinstance(error, Unauthorized):
        raise unauthorized(f"{url} answered HTTP {response.status}", _has_token(response))
    raise error


def _foreign(url: str, response: aiohttp.ClientResponse) -> OpenEnvError:
    """The error for an answer that no openenv_async server gave."""
    return refused(
        url,
        response.status,
        response.headers,
        has_token=_has_token(response),
        websocket=False,
        path=response.url.path,
    )


def _has_token(response: aiohttp.ClientResponse) -> bool:
    return "Authorization" in response.request_info.headers
