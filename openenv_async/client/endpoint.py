"""One HTTP server as its clients reach it: address, headers, trust, sockets.

Rules:

- A request whose connection was lost is sent again: callers number or name what must run once,
  or ask for one attempt.
- ``ConnectFailed`` means that nothing was sent. After a first attempt that may have arrived, it
  is ``ConnectionLost``.
- Proxies of the environment variables are for other hosts than this one.
"""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import msgspec

from openenv_async.client.channel import BACKSTOP
from openenv_async.client.refusals import (
    Failure,
    foreign,
    has_token,
    reason_of,
    unauthorized,
    unreachable,
)
from openenv_async.client.settings import ClientSettings
from openenv_async.endpoints.addresses import checked_url, is_here, told_url
from openenv_async.endpoints.redaction import redacted
from openenv_async.endpoints.tls import trusted
from openenv_async.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    OpenEnvError,
    ProtocolError,
    Unauthorized,
)
from openenv_async.models.depth import check_msgpack_depth
from openenv_async.protocol.codec import too_large
from openenv_async.types import MAX_DEPTH

if TYPE_CHECKING:
    from ssl import SSLContext

    import aiohttp

__all__ = [
    "MEDIA",
    "Endpoint",
    "Opened",
    "Rendered",
    "ResultReply",
    "Sockets",
    "State",
    "read_reply",
    "taken_number",
]

T = TypeVar("T")

_connected: Final[ContextVar[list[Any] | None]] = ContextVar("openenv_connected", default=None)

MEDIA: Final = "application/msgpack"
_MAX_DIGITS: Final = 18
_PAUSES: Final = (0.0, 0.1, 0.5, 1.0)
"""Seconds before each further attempt of a request whose connection was lost."""


class Sockets:
    """One aiohttp session of one event loop, counted by its users.

    An asynchronous generator holds it: the loop closes those when it ends (``asyncio.run``
    does), so a client that nobody closed leaves no socket behind.
    """

    _open: Final[dict[tuple[asyncio.AbstractEventLoop, bool], Sockets]] = {}

    def __init__(self, loop: asyncio.AbstractEventLoop, trust_env: bool) -> None:
        self.loop = loop
        self.client: aiohttp.ClientSession
        self._trust_env = trust_env
        self._users = 0
        self._life = self._live()

    @classmethod
    async def acquire(cls, trust_env: bool) -> Sockets:
        """The sockets of the running loop; pair with ``release``.

        Args:
            trust_env: whether proxies of the environment variables apply.
        """
        key = (asyncio.get_running_loop(), trust_env)
        sockets = cls._open.get(key)
        if sockets is None:
            sockets = cls._open[key] = cls(*key)
            await anext(sockets._life)  # does not suspend
        sockets._users += 1
        return sockets

    @staticmethod
    def note_new() -> list[Any]:
        """Return a list that gets the address of each connection made in this context from now on.

        After a request without one it is empty: that went over a connection that was kept open.
        """
        connected: list[Any] = []
        _connected.set(connected)
        return connected

    async def release(self) -> None:
        """One user less; the last one closes. From any loop and thread."""
        if self.loop is asyncio.get_running_loop():
            await self._leave()
        elif self.loop.is_running():
            asyncio.run_coroutine_threadsafe(self._leave(), self.loop)
        else:
            self._users -= 1  # they closed with their loop, or wait for it to run again

    async def _leave(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._unlist()
            await self._life.aclose()

    def _unlist(self) -> None:
        """Retire these sockets: callers from now on, while they are closing, get others."""
        key = (self.loop, self._trust_env)
        if self._open.get(key) is self:
            del self._open[key]

    async def _live(self) -> AsyncGenerator[None, None]:
        import aiohttp

        try:
            async with aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, socket_factory=_new_socket),
                cookie_jar=aiohttp.DummyCookieJar(),  # sessions are named by header
                trust_env=self._trust_env,
            ) as self.client:
                yield
        finally:
            self._unlist()


def _new_socket(info: tuple[Any, ...]) -> socket.socket:
    """Return the socket of a new connection, and note it; ``info`` is as of ``getaddrinfo``."""
    connected = _connected.get()
    if connected is not None:
        connected.append(info[4])
    return socket.socket(*info[:3])


# -- replies --------------------------------------------------------------------------------------


class Opened(msgspec.Struct):
    """The reply to ``/open``."""

    seq: int = 0
    reset_options: list[str] = []


class ResultReply(msgspec.Struct):
    """The reply to ``/reset`` and ``/step``."""

    observation: msgspec.Raw
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    info: msgspec.Raw = msgspec.Raw(b"\xc0")  # msgspec reads ``Raw | None`` as None alone
    episode_id: str = ""
    seed: int = 0


class State(msgspec.Struct):
    """The reply to ``/state``."""

    state: msgspec.Raw
    episode_id: str | None = None
    seed: int | None = None
    step_count: int = 0


class Rendered(msgspec.Struct):
    """The reply to ``/render``."""

    frame: msgspec.Raw
    episode_id: str | None = None
    step_count: int = 0


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
        raise foreign(url, response)
    check_msgpack_depth(body, MAX_DEPTH + 4)
    try:
        if response.status < 400:
            return msgspec.msgpack.decode(body, type=reply)
        failure = msgspec.msgpack.decode(body, type=Failure)
    except (msgspec.MsgspecError, ValueError) as exc:
        raise ProtocolError(f"{told_url(url)} sent an unreadable reply: {exc}") from None
    error = failure.made()
    if isinstance(error, Unauthorized):
        text = f"{told_url(url)} answered HTTP {response.status}"
        raise unauthorized(text, has_token(response))
    raise error


# -- endpoint -------------------------------------------------------------------------------------


class Endpoint:
    """A sender of requests to one server, each until it is answered.

    Args:
        url: ``http://HOST:PORT``, with the path that the server is mounted at.
        settings: its access token, more headers, trusted authorities; bytes of an answer and
            seconds for a connection.

    Attributes:
        url: without a slash at its end.
        headers: of every request.

    Raises:
        ValueError: ``url`` is not an address.
    """

    def __init__(
        self,
        url: str,
        settings: ClientSettings,
    ) -> None:
        self.url = _http_url(url)
        self.headers = {**(settings.headers or {}), "Accept": MEDIA}
        if settings.token is not None:
            self.headers["Authorization"] = f"Bearer {settings.token}"
        self.max_message_size = settings.limits.max_message_size
        self._connect_timeout = settings.timeouts.connect
        self._ssl = settings.ssl
        self._trust: SSLContext | Literal[True] | None = None
        self._sockets: Sockets | None = None

    def move(self, url: str, token: str | None) -> None:
        """Send to another server from now on."""
        self.url = url
        self.headers.pop("Authorization", None)
        if token is not None:
            self.headers["Authorization"] = f"Bearer {token}"

    async def exchange(
        self,
        method: str,
        path: str,
        data: bytes | None,
        headers: dict[str, str],
        timeout: float | None,
        *,
        again: bool = True,
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """The response to a request, and its body.

        Args:
            method: ``GET`` or ``POST``.
            path: of the route, from the slash on.
            data: the body.
            headers: all of them.
            timeout: seconds that the server was given; it gets a few more.
            again: whether to send it again after a lost connection; not what must run once and
                has no number.

        Raises:
            ConnectFailed: no connection for the first attempt.
            ConnectionLost: the connection was lost, and those of all further attempts.
            DeadlineExceeded: the server did not keep its deadline.
            PayloadTooLarge: the answer is.
            ProtocolError: what answers does not speak HTTP.
        """
        import aiohttp

        client = await self._client()
        if self._trust is None:
            self._trust = trusted(self._ssl) or True
        limits = aiohttp.ClientTimeout(
            total=None if timeout is None or timeout == math.inf else timeout + BACKSTOP,
            sock_connect=self._connect_timeout,
        )
        lost: Exception | None = None
        for pause in _PAUSES if again else _PAUSES[:1]:
            if pause:
                await asyncio.sleep(pause)
            try:
                async with client.request(
                    method,
                    self.url + path,
                    data=data,
                    headers=headers,
                    timeout=limits,
                    ssl=self._trust,
                    allow_redirects=False,  # the session's secret is for this server alone
                ) as response:
                    return response, await self._read(response)
            except OpenEnvError:
                raise  # some are also OSError or TimeoutError
            except (aiohttp.ClientError, OSError) as exc:  # TimeoutError is an OSError
                self._check_lost(exc, lost is None, path, timeout)
                lost = exc
        assert lost is not None
        raise ConnectionLost(
            f"the connection to {told_url(self.url)} was lost: {reason_of(self.url, lost)}"
        ) from lost

    def _check_lost(self, exc: Exception, is_first: bool, path: str, timeout: float | None) -> None:
        """Return if an attempt merely lost its connection, so that another may do better.

        Raises:
            OpenEnvError: another attempt would be no use.
        """
        import aiohttp

        if isinstance(exc, aiohttp.ConnectionTimeoutError):
            if is_first:
                raise ConnectFailed(
                    f"{told_url(self.url)} did not answer within {self._connect_timeout:g} s"
                    " (Timeouts.connect)",
                    phase="connect",
                ) from None
        elif isinstance(exc, TimeoutError):
            raise DeadlineExceeded(
                "the server did not answer within the deadline it was given: it is"
                " overloaded or the network is stuck",
                field=path[1:],
                value=timeout,
            ) from None
        elif isinstance(exc, aiohttp.ClientConnectorError):
            if is_first:
                raise unreachable(self.url, exc) from exc
        elif isinstance(exc, aiohttp.InvalidURL):
            raise ConnectFailed(
                f"{told_url(self.url)} is not a valid address: {redacted(str(exc))}"
            ) from None
        elif not isinstance(
            exc, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError
        ):
            raise ProtocolError(
                f"{told_url(self.url)} does not speak HTTP: check host and port"
            ) from exc

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        limit = self.max_message_size
        parts: list[bytes] = []
        size = 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > limit:
                response.close()
                raise too_large(size, limit)
            parts.append(part)
        return b"".join(parts)

    async def _client(self) -> aiohttp.ClientSession:
        """The running loop's sockets."""
        sockets = self._sockets
        if sockets is None or sockets.loop is not asyncio.get_running_loop():
            await self.aclose()
            self._sockets = sockets = await Sockets.acquire(not is_here(self.url))
        return sockets.client

    def leave_sockets(self) -> None:
        """Take others for further requests; those there were are another process's."""
        self._sockets = None

    async def aclose(self) -> None:
        """Give the sockets back; a further request takes others. Idempotent."""
        sockets, self._sockets = self._sockets, None
        if sockets is not None:
            await sockets.release()


def _http_url(url: str) -> str:
    scheme, _, rest = checked_url(url).partition("://")
    scheme = {"ws": "http", "wss": "https"}.get(scheme, scheme)
    rest = rest.partition("?")[0].partition("#")[0]
    return f"{scheme}://{rest.rstrip('/').removesuffix('/ws')}"
