"""HTTPEnvClient: one session of a served environment over plain HTTP.

For what cannot hold a WebSocket. The session's id and secret are made here and every request is
numbered, so a request whose connection was lost is sent again under its number and runs once.

Rules:

- ``open``, ``reset``, ``step``, ``state`` and ``close`` give an awaitable where an event loop
  runs in this thread, and block elsewhere. ``sync()`` always blocks.
- A session is the server's: it may be used from one event loop after another. Sockets are shared
  by all clients of a loop and close with the last of them, at the latest with the loop.
- After a request whose fate is unknown, the next one first asks the server how far it got.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Coroutine, Generator, Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast

from openenv_async.client.arguments import refuse_unknown
from openenv_async.client.http_session import HTTPSession
from openenv_async.client.loop_thread import background_loop, close_blocking, on_background_thread
from openenv_async.client.models import ModelHooks, wire_models
from openenv_async.client.settings import LIMITS, SETTINGS, TIMEOUTS, ClientSettings
from openenv_async.endpoints.addresses import checked_url
from openenv_async.endpoints.tls import Trust
from openenv_async.types import ActT, EpisodeInfo, Limits, ObsT, StateT, Timeouts

if TYPE_CHECKING:
    from openenv_async.client.contained import Contained
    from openenv_async.client.sync import SyncEnvClient

__all__ = ["HTTPEnvClient"]

T = TypeVar("T")

_SETTINGS: Final = tuple(name for name in SETTINGS if name not in ("share", "subprotocol"))


class HTTPEnvClient(ModelHooks[ActT, ObsT, StateT], Generic[ActT, ObsT, StateT]):
    """One session of a served environment, over HTTP requests.

    Typed by its parameters as ``EnvClient`` is. Each call works both ways: awaited inside a
    running event loop, or plainly, where it blocks::

        env = MyEnv(base_url="http://localhost:8000")
        result = env.reset()
        result = env.step(MyAction(command="go"))
        env.close()

    Args:
        base_url: ``http://HOST:PORT`` of the server, with the path it is mounted at.
        token: the server's access token.
        timeouts: deadlines; those of reset, step, state and close are sent with each request.
        limits: sizes this side accepts.
        options: constructor options of the environment, where it opens any to clients.
        headers: more headers of every request.
        ssl: what to trust at https and wss: an ``ssl.SSLContext``, or the path of a file of
            certificates (PEM); by default what the system trusts.

    Raises:
        ConnectFailed, Unauthorized, ServerBusy, EnvironmentStartFailed: by what opens it.
    """

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        options: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        ssl: Trust = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            refuse_unknown(type(self).__name__, unknown, _SETTINGS)
        checked_url(base_url)
        self.base_url = base_url
        self.settings = ClientSettings(
            token=token,
            timeouts=TIMEOUTS if timeouts is None else timeouts,
            limits=LIMITS if limits is None else limits,
            options=options,
            headers=headers,
            ssl=ssl,
        )
        self._contained: Contained | None = None
        self._session = self._fresh_session()

    def _fresh_session(self) -> HTTPSession[ActT, ObsT, StateT]:
        models = functools.partial(wire_models, self, "msgpack")
        return HTTPSession(self.base_url, self.settings, models, self._contained)

    def __getstate__(self) -> dict[str, Any]:
        """The settings: a pickled client opens a session of its own when it is used."""
        return {key: value for key, value in self.__dict__.items() if key != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._session = self._fresh_session()

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """The same as calling the class."""
        return cls(url, **options)

    @classmethod
    def with_settings(cls, url: str, settings: ClientSettings) -> Self:
        """Return a client of the server at ``url`` with another client's settings.

        ``share`` and ``subprotocol`` are those of WebSockets, and not used here.
        """
        given = settings.arguments()
        return cls(url, **{name: given[name] for name in _SETTINGS if name in given})

    @classmethod
    def from_docker_image(cls, image: str, port: int = 8000, **options: Any) -> Self:
        """As ``EnvClient.from_docker_image``; the first call starts the container, awaited or not.

        Args:
            image: its name.
            port: where the server in the container listens.
            options: of ``DockerProvider``, and ``timeouts``, ``limits``, ``options`` and
                ``headers`` of the client.
        """
        from openenv_async.client.contained import docker_options

        contained, own = docker_options({"image": image, **options}, port)
        client = cls("http://127.0.0.1", **own)
        client._contained = contained
        client._session = client._fresh_session()
        return client

    @classmethod
    def _from_docker(cls, image: str, port: int = 8000, **options: Any) -> Self:
        """For subclasses whose own ``from_docker_image`` calls it."""
        return HTTPEnvClient.from_docker_image.__func__(cls, image, port, **options)  # type: ignore[attr-defined, no-any-return]  # a bound class method has it

    def __await__(self) -> Generator[Any, None, Self]:
        """Open it: ``env = await MyEnv.from_docker_image(…)``."""

        async def opened() -> Self:
            await self._session.open()
            return self

        return opened().__await__()

    async def __aenter__(self) -> Self:
        await self._session.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    def __enter__(self) -> Self:
        background_loop().run(self._session.open())
        return self

    def __exit__(self, *exc: object) -> None:
        close_blocking(self._session.close())

    @property
    def session_id(self) -> str | None:
        """The id of the open session."""
        return self._session.session_id

    @property
    def episode(self) -> EpisodeInfo | None:
        """The episode that the last reset began, with the steps taken in it."""
        return self._session.episode

    def open(self) -> Any:
        """Open the session now; idempotent. Gives (or resolves to) this client."""

        async def opened() -> Any:
            await self._session.open()
            return self

        return _either(opened())

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        timeout: float | None = None,
        reset_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """As ``EnvClient.reset``: a ``StepResult``, or an awaitable of one."""
        return _either(
            self._session.reset(
                seed=seed,
                episode_id=episode_id,
                timeout=timeout,
                reset_options=reset_options,
                **options,
            )
        )

    def step(self, action: ActT, *, timeout: float | None = None) -> Any:
        """As ``EnvClient.step``: a ``StepResult``, or an awaitable of one."""
        return _either(self._session.step(action, timeout=timeout))

    def state(self, *, timeout: float | None = None) -> Any:
        """As ``EnvClient.state``: the state, or an awaitable of it."""
        return _either(self._session.state(timeout=timeout))

    def close(self) -> Any:
        """As ``EnvClient.close``: ``None``, or an awaitable of it."""
        if sys.is_finalizing() or on_background_thread():
            return close_blocking(self._session.close())  # by a __del__, which awaits nothing
        return _either(self._session.close())

    def sync(self) -> SyncEnvClient[ActT, ObsT, StateT]:
        """A client that always blocks, typed, over the same session."""
        from openenv_async.client.sync import SyncEnvClient

        return SyncEnvClient.wrap(cast(Any, self._session))


def _either(call: Coroutine[Any, Any, T]) -> Any:
    """``call`` itself where an event loop runs in this thread, else its result."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return background_loop().run(call)
    return call
