"""Servers of the adapters' environments: one that runs, or one started for the adapter.

The server of a name is a process of its own. That of a class, factory or instance runs in this
process, beside the clients, since another one may not be able to import it; a copy of the adapter
in another process talks to it there.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final

from openenv_async.client.env import EnvClient, GenericEnvClient
from openenv_async.client.loop_thread import background_loop, close_blocking
from openenv_async.client.server_info import fetch_schema
from openenv_async.client.sync import SyncEnvClient
from openenv_async.providers.local_server import LocalServer
from openenv_async.server.run import serve
from openenv_async.types import Timeouts

__all__ = ["URL_SCHEMES", "ServedEnvironment", "Source"]

URL_SCHEMES: Final = ("http://", "https://", "ws://", "wss://")
"""What begins otherwise is the name of an environment."""

_EXIT_GRACE: Final = 5.0
"""Seconds that a server has to close when the process ends."""

Source = str | EnvClient[Any, Any, Any] | SyncEnvClient[Any, Any, Any] | Any
"""A URL, the name of an installed environment (or what else ``openenv-async serve`` takes, such
as ``CartPole-v1``), a client that is not used otherwise, whose settings are taken, or an
environment: an ``Environment`` or ``gymnasium.Env`` class, a factory or an instance."""


class ServedEnvironment:
    """A server for as long as an adapter uses it, and how to reach it.

    A pickled or forked copy talks to the same server, and does not end it.

    Args:
        source: see ``Source``.
        params: constructor arguments, for a name or a class.
        token: access token, for a URL.
        timeouts: of the client.
        arguments: more arguments of ``openenv-async serve``, for a name.
        options: session options of the client, beside its own.

    Raises:
        ValueError: ``params`` for a server that runs already.
        ServerError: the server of a name did not start.
        TypeError, InvalidOption: what was given is not an environment, or cannot be served.
    """

    def __init__(
        self,
        source: Source,
        *,
        params: Mapping[str, Any] | None = None,
        token: str | None = None,
        timeouts: Timeouts | None = None,
        arguments: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._server: LocalServer | _ServedHere | None = None
        self._pid = os.getpid()
        if isinstance(source, str) and not source.startswith(URL_SCHEMES):
            self._server = LocalServer(source, params, arguments=arguments)
            background_loop().run(self._server.__aenter__())
            source = self._server.url
        elif not isinstance(source, str | EnvClient | SyncEnvClient):
            token = secrets.token_urlsafe(16)  # nobody else's
            self._server = _ServedHere(source, params, token)
            source = self._server.url
        elif params:
            raise ValueError(
                "a running server has its arguments already: params= belongs to names and classes"
            )
        try:
            self.client = _client_of(source, token, timeouts, options)
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
        """The process of a server that was started for this; this one, for a class."""
        return None if self._server is None else self._server.pid

    def schema(self) -> dict[str, Any]:
        """The JSON Schemas of the server.

        Raises:
            ConnectFailed: it does not give them.
        """
        fetched = background_loop().run(fetch_schema(self.url, token=self.client.settings.token))
        return dict(fetched)

    def close(self) -> None:
        """End the server that was started for this; idempotent."""
        server, self._server = self._server, None
        if server is not None and self._pid == os.getpid():
            close_blocking(server.aclose())


class _ServedHere:
    """A server of an object, on the loop of the clients.

    Args:
        env: as for ``serve``.
        params: constructor arguments.
        token: that it asks for.
    """

    def __init__(self, env: Any, params: Mapping[str, Any] | None, token: str) -> None:
        self.pid = os.getpid()
        self._stop = asyncio.Event()
        listening: Future[str] = Future()
        loop = background_loop().loop
        self._held = asyncio.run_coroutine_threadsafe(
            self._hold(env, params, token, listening), loop
        )
        self.url = listening.result()
        atexit.register(self._at_exit)

    def _at_exit(self) -> None:
        """Close what nobody closed, while the loop still runs."""
        if self.pid == os.getpid():
            with contextlib.suppress(Exception):
                closing = asyncio.run_coroutine_threadsafe(self.aclose(), background_loop().loop)
                closing.result(_EXIT_GRACE)

    async def _hold(
        self, env: Any, params: Mapping[str, Any] | None, token: str, listening: Future[str]
    ) -> None:
        try:
            async with serve(env, params=params, token=token) as url:
                listening.set_result(url)
                await self._stop.wait()
        except BaseException as exc:
            if listening.done():
                raise
            listening.set_exception(exc)

    async def aclose(self) -> None:
        """Stop serving; the sessions that are open end with it."""
        atexit.unregister(self._at_exit)
        self._stop.set()
        await asyncio.wrap_future(self._held)


def _client_of(
    source: Source,
    token: str | None,
    timeouts: Timeouts | None,
    options: Mapping[str, Any] | None,
) -> EnvClient[Any, Any, Any]:
    if isinstance(source, str):
        return GenericEnvClient(source, token=token, timeouts=timeouts, options=dict(options or {}))
    given = source.client if isinstance(source, SyncEnvClient) else source
    settings = given.settings
    settings = settings.replace(
        token=token or settings.token,
        timeouts=timeouts or settings.timeouts,
        options={**(settings.options or {}), **(options or {})},
        share=True,
    )
    return GenericEnvClient.with_settings(given.base_url, settings)
