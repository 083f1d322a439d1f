"""One HTTP server as its clients reach it: address, headers, trust, sockets.

Rules:

- A request whose connection was lost is sent again: callers number or name what must run once.
- ``ConnectFailed`` means that nothing was sent. After a first attempt that may have arrived, it
  is ``ConnectionLost``.
- Proxies of the environment variables are for other hosts than this one.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Final, Literal

from openenv_async.client.http_replies import MEDIA
from openenv_async.client.refusals import reason_of, unreachable
from openenv_async.client.settings import ClientSettings
from openenv_async.client.sockets import Sockets
from openenv_async.client.waits import BACKSTOP
from openenv_async.endpoints.addresses import checked_url, is_here
from openenv_async.endpoints.tls import trusted
from openenv_async.errors import (
    ConnectFailed,
    ConnectionLost,
    DeadlineExceeded,
    OpenEnvError,
    ProtocolError,
)
from openenv_async.protocol.codec import too_large

if TYPE_CHECKING:
    from ssl import SSLContext

    import aiohttp

__all__ = ["Endpoint"]

_PAUSES: Final = (0.0, 0.1, 0.5, 1.0)
"""Seconds before each further attempt of a request whose connection was lost."""


class Endpoint:
    """Sends requests to one server until they are answered.

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
    ) -> tuple[aiohttp.ClientResponse, bytes]:
        """The response to a request, and its body.

        Args:
            method: ``GET`` or ``POST``.
            path: of the route, from the slash on.
            data: the body.
            headers: all of them.
            timeout: seconds that the server was given; it gets a few more.

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
        for pause in _PAUSES:
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
            f"the connection to {self.url} was lost: {reason_of(self.url, lost)}"
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
                    f"{self.url} did not answer within {self._connect_timeout:g} s"
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
            raise ConnectFailed(f"{self.url} is no address: {exc}") from None
        elif not isinstance(
            exc, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError
        ):
            raise ProtocolError(f"{self.url} does not speak HTTP: check host and port") from exc

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
