"""Where an adapter's environment is: a server that runs, or one started for it by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from openenv_async.client.env import EnvClient, GenericEnvClient
from openenv_async.client.loop_thread import background_loop, close_blocking
from openenv_async.client.sync import SyncEnvClient
from openenv_async.localserver import LocalServer
from openenv_async.rollouts.policies import fetch_schema
from openenv_async.types import Timeouts

__all__ = ["URL_SCHEMES", "ServedEnvironment", "Source"]

URL_SCHEMES: Final = ("http://", "https://", "ws://", "wss://")
"""What begins otherwise is the name of an environment."""

Source = str | EnvClient[Any, Any, Any] | SyncEnvClient[Any, Any, Any]
"""A URL, the name of an installed environment (or what else ``openenv-async serve`` takes), or a
client that is not used otherwise, whose settings are taken."""


class ServedEnvironment:
    """A server for as long as an adapter uses it, and how to reach it.

    A pickled or forked copy talks to the same server, and does not end it.

    Args:
        source: see ``Source``.
        params: constructor arguments, for a name.
        token: access token, for a URL.
        timeouts: of the client.
        arguments: more arguments of ``openenv-async serve``, for a name.

    Raises:
        ValueError: ``params`` for a server that runs already.
        ServerError: the server of a name did not start.
    """

    def __init__(
        self,
        source: Source,
        *,
        params: Mapping[str, Any] | None = None,
        token: str | None = None,
        timeouts: Timeouts | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self._server: LocalServer | None = None
        self._pid = os.getpid()
        if isinstance(source, str) and not source.startswith(URL_SCHEMES):
            self._server = LocalServer(source, params, arguments=arguments)
            background_loop().run(self._server.__aenter__())
            source = self._server.url
        elif params:
            raise ValueError("a running server has its arguments already: params= belongs to names")
        try:
            self.client = _client_of(source, token, timeouts)
        except BaseException:
            self.close()
            raise

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_server": None}

    @property
    def url(self) -> str:
        """The server's address."""
        return self.client.base_url

    @property
    def server_pid(self) -> int | None:
        """The process of a server that was started for this."""
        return None if self._server is None else self._server.pid

    def schema(self) -> dict[str, Any]:
        """The JSON Schemas of the server.

        Raises:
            ConnectFailed: it does not give them.
        """
        fetched = background_loop().run(fetch_schema(self.url, token=self.client._token))
        return dict(fetched)

    def close(self) -> None:
        """End the server that was started for this; idempotent."""
        server, self._server = self._server, None
        if server is not None and self._pid == os.getpid():
            close_blocking(server.aclose())


def _client_of(
    source: Source, token: str | None, timeouts: Timeouts | None
) -> EnvClient[Any, Any, Any]:
    if isinstance(source, str):
        return GenericEnvClient(source, token=token, timeouts=timeouts)
    given = source.client if isinstance(source, SyncEnvClient) else source
    return GenericEnvClient(
        given.base_url,
        token=token or given._token,
        timeouts=timeouts or given.timeouts,
        limits=given.limits,
        options=given._options,
        subprotocol=given._subprotocol,
        headers=given._headers,
        ssl=given._ssl,
    )
