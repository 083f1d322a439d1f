"""HTTPEnvClient: one session of a served environment over plain HTTP.

For what cannot hold a WebSocket. The session's id and secret are made here and every request is
numbered, so a request whose connection was lost is sent again under its number and runs once.

Rules:

- ``open``, ``reset``, ``step``, ``state`` and ``close`` give an awaitable where an event loop
  runs in this thread, and block elsewhere. ``sync()`` always blocks.
- A session is the server's: it may be used from one event loop after another. Sockets are shared
  by all clients of a loop and close with the last of them, at the latest with the loop.
- The session's id and secret are made here, so that asking to open it again is the same request.
- Requests are numbered. After one whose fate is unknown, the next one first asks the server how
  far it got.
- A forked process leaves the session to its parent and opens one of its own: two processes must
  not count up one session's numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Mapping,
)
from math import inf
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast
from urllib.parse import quote

import msgspec

from openenv_async.client.arguments import (
    checked_episode_id,
    checked_options,
    checked_seed,
    checked_timeout,
    encoded,
    refuse_unknown,
)
from openenv_async.client.endpoint import (
    MEDIA,
    Endpoint,
    Opened,
    Rendered,
    ResultReply,
    State,
    read_reply,
    taken_number,
)
from openenv_async.client.loop_thread import background_loop, close_blocking, on_background_thread
from openenv_async.client.models import ModelHooks, WireModels, wire_models
from openenv_async.client.refusals import pause_for_turn
from openenv_async.client.settings import LIMITS, SETTINGS, TIMEOUTS, ClientSettings
from openenv_async.client.tasks import ListPage, ServedTasks, SyncServedTasks
from openenv_async.endpoints.addresses import checked_url
from openenv_async.endpoints.tls import Trust
from openenv_async.errors import (
    OpenEnvError,
    OperationUnsupported,
    QuotaReached,
    SessionBusy,
    SessionClosed,
    SessionLost,
    SessionNotFound,
)
from openenv_async.event_loop import is_in_loop
from openenv_async.protocol.codec import too_large
from openenv_async.telemetry.tracing import inject
from openenv_async.types import ActT, EpisodeInfo, Limits, ObsT, StateT, StepResult, Timeouts

if TYPE_CHECKING:
    from openenv_async.client.launch import OwnedContainer
    from openenv_async.client.sync import SyncEnvClient

__all__ = ["EitherResult", "EitherState", "EitherTasks", "HTTPEnvClient", "HTTPSession"]

T = TypeVar("T")

_SETTINGS: Final = tuple(name for name in SETTINGS if name not in ("share", "subprotocol", "local"))


class EitherResult(StepResult[ObsT], Generic[ObsT]):
    """The result, to type checkers, of a call that blocks or is awaited, whichever suits its place.

    Never made: a call gives a ``StepResult``, or a coroutine that does.
    """

    def __await__(self) -> Generator[Any, None, StepResult[ObsT]]:
        """Await the result."""
        raise NotImplementedError


class EitherState(Generic[StateT]):
    """A state, to type checkers, that was returned or is to be awaited.

    Never made: the call gives the state, or a coroutine that does. ``await`` it, tell its type
    with ``isinstance``, or take ``sync()``, whose ``state`` has just that type.
    """

    def __await__(self) -> Generator[Any, None, StateT]:
        """Await the state."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> object:
        raise AttributeError(name)

    def __eq__(self, other: object) -> bool:
        raise NotImplementedError

    __hash__ = None  # type: ignore[assignment]  # as for other classes with an __eq__


class EitherTasks(SyncServedTasks):
    """The tasks, to type checkers, of a call that blocks or is awaited.

    Never made: the call gives a ``SyncServedTasks``, or a coroutine that gives a ``ServedTasks``.
    """

    def __await__(self) -> Generator[Any, None, ServedTasks]:
        """Await the tasks."""
        raise NotImplementedError


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
        self._container: OwnedContainer | None = None
        self._session = self._fresh_session()

    def _fresh_session(self) -> HTTPSession[ActT, ObsT, StateT]:
        models = functools.partial(wire_models, self, "msgpack")
        return HTTPSession(self.base_url, self.settings, models, self._container)

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
        """Return a client with a container of its own, which its first call starts.

        Args:
            image: its name.
            port: where the server in the container listens.
            options: of ``DockerProvider``, and ``timeouts``, ``limits``, ``options`` and
                ``headers`` of the client.
        """
        from openenv_async.client.launch import docker_options

        container, own = docker_options({"image": image, **options}, port)
        client = cls("http://127.0.0.1", **own)
        client._container = container
        client._session = client._fresh_session()
        return client

    @classmethod
    def _from_docker(cls, image: str, port: int = 8000, **options: Any) -> Self:
        """Start a container, for subclasses whose own ``from_docker_image`` calls it."""
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
    def is_closed(self) -> bool:
        """Return whether ``close`` was called: such a client opens no session any more."""
        return self._session.is_closed

    @property
    def episode(self) -> EpisodeInfo | None:
        """The episode that the last reset began, with the steps taken in it."""
        return self._session.episode

    def open(self) -> Self:
        """Open the session now; idempotent. Return this client, or an awaitable of it."""

        async def opened() -> Self:
            await self._session.open()
            return self

        return cast(Self, _either(opened()))

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        timeout: float | None = None,
        reset_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> EitherResult[ObsT]:
        """Begin an episode; the arguments are those of ``EnvClient.reset``.

        Returns:
            A ``StepResult``; where an event loop runs in this thread, an awaitable of one.
        """
        call = self._session.reset(
            seed=seed,
            episode_id=episode_id,
            timeout=timeout,
            reset_options=reset_options,
            **options,
        )
        return cast("EitherResult[ObsT]", _either(call))

    def step(self, action: ActT, *, timeout: float | None = None) -> EitherResult[ObsT]:
        """Take one action; the arguments are those of ``EnvClient.step``.

        Returns:
            A ``StepResult``; where an event loop runs in this thread, an awaitable of one.
        """
        call = self._session.step(action, timeout=timeout)
        return cast("EitherResult[ObsT]", _either(call))

    def state(self, *, timeout: float | None = None) -> EitherState[StateT]:
        """Return the environment's state; where an event loop runs here, an awaitable of it."""
        return cast("EitherState[StateT]", _either(self._session.state(timeout=timeout)))

    def render(self, *, timeout: float | None = None) -> Any:
        """Return a picture, as ``EnvClient.render``; where an event loop runs, an awaitable."""
        return _either(self._session.render(timeout=timeout))

    def tasks(self) -> EitherTasks:
        """Return the environment's own tasks; see ``EnvClient.tasks``.

        Returns:
            A ``SyncServedTasks``; where an event loop runs in this thread, an awaitable of a
            ``ServedTasks``.
        """
        found = _either(self._session.tasks())
        made = SyncServedTasks(found) if isinstance(found, ServedTasks) else found
        return cast("EitherTasks", made)

    def close(self) -> Awaitable[None]:
        """Close the environment and the session, and the container if it is this client's own.

        Idempotent; never raises for a lost session. Awaited where an event loop runs in this
        thread; elsewhere all is closed when it returns.
        """
        closing = self._session.close()
        if sys.is_finalizing() or on_background_thread():
            closed = close_blocking(closing)  # by a __del__, which awaits nothing
        else:
            closed = _either(closing)
        return cast("Awaitable[None]", closed)

    def sync(self) -> SyncEnvClient[ActT, ObsT, StateT]:
        """A client that always blocks, typed, over the same session."""
        from openenv_async.client.sync import SyncEnvClient

        return SyncEnvClient.wrap(cast(Any, self._session))


def _either(call: Coroutine[Any, Any, T]) -> Any:
    """``call`` itself where an event loop runs in this thread, else its result."""
    return call if is_in_loop() else background_loop().run(call)


# -- the session, as coroutines -------------------------------------------------------------------

_LEAST: Final = 1e-6
"""Seconds of the shortest deadline that the header can carry; 0 there is none."""


class HTTPSession(Generic[ActT, ObsT, StateT]):
    """The session and its calls; ``HTTPEnvClient`` is its façade.

    Args:
        base_url: the server's address.
        settings: the client's.
        models: the codecs of the client, asked for when they are needed.
        container: the container that the server is in, if it is the client's own.
    """

    def __init__(
        self,
        base_url: str,
        settings: ClientSettings,
        models: Callable[[], WireModels],
        container: OwnedContainer | None,
    ) -> None:
        self.base_url = base_url
        self.settings = settings
        self.endpoint = Endpoint(base_url, settings)
        self.episode: EpisodeInfo | None = None
        self.session_id: str | None = None
        self._models = models
        self._timeouts = settings.timeouts
        self._limits = settings.limits
        self._container = container
        self._secret = ""
        self._unopened: tuple[str, str] | None = None
        self._seq = 0
        self._is_unsure = False
        self._is_busy = False
        self.is_closed = False
        self._declared: list[str] = []
        self._pid = os.getpid()

    # -- calls ------------------------------------------------------------------------------------

    async def open(self) -> None:
        with self._exclusive("open"):
            await self._ready()

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        timeout: float | None = None,
        reset_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> StepResult[ObsT]:
        seed, episode_id = checked_seed(seed), checked_episode_id(episode_id)
        seconds = self._timeouts.reset if timeout is None else checked_timeout(timeout, "reset")
        self._check_process()
        if timeout is not None or reset_options is not None:
            if reset_options is None:
                with self._exclusive("reset"):
                    await self._ready()  # which tells what the environment declares
            options = checked_options(options, reset_options, timeout, self._declared)
        wire = self._models()
        body: dict[str, Any] = {
            name: msgspec.Raw(encoded(value, wire.encode_any, f"option {name!r}"))
            for name, value in options.items()
        }
        body |= {"seed": seed, "episode_id": episode_id}
        with self._exclusive("reset"):
            had = self.session_id is not None
            try:
                reply = await self._numbered("reset", body, ResultReply, seconds)
            except (SessionLost, SessionClosed):
                if not had:
                    raise
                # A reset begins anew anyway: in a new session, unless the client was closed.
                reply = await self._numbered("reset", body, ResultReply, seconds)
        self.episode = EpisodeInfo(reply.episode_id, reply.seed)
        return self._result(wire, reply)

    async def step(self, action: ActT, *, timeout: float | None = None) -> StepResult[ObsT]:
        wire = self._models()
        body = {"action": msgspec.Raw(wire.encode_action(action))}
        seconds = self._timeouts.step if timeout is None else checked_timeout(timeout, "step")
        with self._exclusive("step"):
            reply = await self._numbered("step", body, ResultReply, seconds)
        if self.episode is not None:
            self.episode.step_count += 1
        return self._result(wire, reply)

    async def state(self, *, timeout: float | None = None) -> StateT:
        seconds = self._timeouts.state if timeout is None else checked_timeout(timeout, "state")
        with self._exclusive("state"):
            reply = await self._numbered("state", None, State, seconds)
        if reply.episode_id is not None:
            self.episode = EpisodeInfo(reply.episode_id, reply.seed or 0, reply.step_count)
        state = self._models().decode_state(memoryview(reply.state))
        if isinstance(state, dict):
            state.setdefault("episode_id", reply.episode_id)
            state.setdefault("step_count", reply.step_count)
        return cast(StateT, state)

    async def render(self, *, timeout: float | None = None) -> Any:
        seconds = self._timeouts.state if timeout is None else checked_timeout(timeout, "render")
        with self._exclusive("render"):
            reply = await self._numbered("render", None, Rendered, seconds)
        return self._models().decode_any(memoryview(reply.frame))

    def stream_step(
        self, action: ActT, *, timeout: float | None = None
    ) -> AsyncGenerator[StepResult[ObsT], None]:
        raise OperationUnsupported("HTTP cannot stream a step: use EnvClient")

    async def tasks(self) -> ServedTasks:
        return await ServedTasks.opened(self._listing)

    @contextlib.asynccontextmanager
    async def _listing(self) -> AsyncIterator[ListPage]:
        self._check_process()
        if self.is_closed:
            raise SessionClosed("this client was closed: make a new one")
        if self._container is not None:
            worker = await self._container.start()
            self.endpoint.move(worker.url, worker.token)
        decode = self._models().decode_any
        timeout = self._timeouts.open

        async def page(split: str | None, start: int, stop: int) -> Any:
            path = "/tasks"
            if split is not None:
                path += f"/{quote(split, safe='')}?start={start}&stop={stop}"
            headers = {**self.endpoint.headers}
            inject(headers)
            response, body = await self.endpoint.exchange("GET", path, None, headers, timeout)
            return decode(bytes(read_reply(self.endpoint.url, response, body, msgspec.Raw)))

        yield page

    async def close(self) -> None:
        self._check_process()
        self.is_closed = True
        try:
            if self.session_id is None and self._unopened is not None:
                self.session_id, self._secret = self._unopened  # it may be open all the same
            if self.session_id is not None:
                await self._numbered("close", {}, dict, self._timeouts.close)
        except OpenEnvError:
            pass  # it is gone, which was the wish
        finally:
            self._forget()
            await self.endpoint.aclose()
            if self._container is not None:
                await self._container.aclose()

    # -- inside -----------------------------------------------------------------------------------

    def _result(self, wire: WireModels, reply: ResultReply) -> StepResult[ObsT]:
        return wire.result(reply, memoryview(reply.observation), memoryview(reply.info))

    def _check_process(self) -> None:
        """Leave the session to the process that opened it, when this one was forked from that.

        The sockets are the parent's too: they are dropped here, not closed.
        """
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self.endpoint.leave_sockets()
            self._forget()
            self._unopened = None
            self._is_busy = False
            self.episode = None

    def _exclusive(self, what: str) -> _Exclusive:
        self._check_process()
        if self._is_busy:
            raise SessionBusy(
                f"{what}() while another call of this client is running: await one call before"
                " the next, or make another client",
                session_id=self.session_id,
            )
        return _Exclusive(self)

    def _forget(self) -> None:
        self.session_id = None
        self._seq = 0
        self._is_unsure = False

    async def _ready(self) -> None:
        """Open the session, or learn how far it got when that is unknown."""
        if self.is_closed and self.session_id is None:
            raise SessionClosed("this client was closed: make a new one")
        if self.session_id is not None and not self._is_unsure:
            return
        is_new = self.session_id is None
        if self._container is not None:
            worker = await self._container.start()
            self.endpoint.move(worker.url, worker.token)
        if is_new:
            name = self._unopened or (secrets.token_hex(16), secrets.token_hex(16))
            self.session_id, self._secret = name
            self._unopened = name
        body: dict[str, Any] = {"resume": not is_new}
        if is_new and self.settings.options:
            body["options"] = msgspec.Raw(self._models().encode_any(self.settings.options))
        try:
            reply = await self._exchange("POST", "/open", body, Opened, self._timeouts.open, None)
        except BaseException as exc:
            if isinstance(exc, OpenEnvError):
                exc.add_context(session_id=self.session_id, phase="open")
                self._unopened = None
            if is_new or isinstance(exc, SessionLost | SessionClosed | SessionNotFound):
                self._forget()
            raise
        self._unopened = None
        if is_new:
            self.episode = None
        self._seq = reply.seq
        self._declared = reply.reset_options
        self._is_unsure = False

    async def _numbered(
        self, what: str, body: dict[str, Any] | None, reply: type[T], timeout: float | None
    ) -> T:
        """One request of the session; one that a quota refuses goes again when its turn comes."""
        clock = asyncio.get_running_loop().time
        due = inf if timeout is None else clock() + timeout
        while True:
            try:
                return await self._sent(what, body, reply, timeout)
            except QuotaReached as exc:
                await asyncio.sleep(pause_for_turn(exc, due - clock()))
            timeout = None if timeout is None else max(due - clock(), _LEAST)

    async def _sent(
        self, what: str, body: dict[str, Any] | None, reply: type[T], timeout: float | None
    ) -> T:
        await self._ready()
        seq = self._seq + 1
        method = "GET" if body is None else "POST"
        try:
            return await self._exchange(method, f"/{what}", body, reply, timeout, seq)
        except OpenEnvError as exc:
            exc.add_context(session_id=self.session_id, request_id=seq)
            if isinstance(exc, SessionNotFound):
                lost = SessionLost(
                    "the session is gone: the server restarted, or it was idle for too long;"
                    " call reset() for a new one",
                    session_id=self.session_id,
                )
                self._forget()
                raise lost from None
            if isinstance(exc, SessionClosed | SessionLost):
                self._forget()
            raise

    async def _exchange(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        reply: type[T],
        timeout: float | None,
        seq: int | None,
    ) -> T:
        """One request and its reply; it is numbered, or names its session, and so may repeat.

        When the container of this client ended, its end is the error.
        """
        headers = {
            **self.endpoint.headers,
            "X-OpenEnv-Session": f"{self.session_id}.{self._secret}",
            "X-OpenEnv-Timeout": f"{max(timeout or 0.0, _LEAST) if timeout else 0:.6f}",
        }
        inject(headers)
        if seq is not None:
            headers["X-OpenEnv-Seq"] = str(seq)
        data = None
        if body is not None:
            headers["Content-Type"] = MEDIA
            data = msgspec.msgpack.encode(body)
            if len(data) > self._limits.max_message_size:
                raise too_large(len(data), self._limits.max_message_size)
        if seq is not None:
            self._is_unsure = True  # until the server has said that it took the number
        try:
            response, answer = await self.endpoint.exchange(method, path, data, headers, timeout)
            taken = taken_number(response)
            if taken is not None:
                self._seq, self._is_unsure = taken, False
            return read_reply(self.endpoint.url, response, answer, reply)
        except OpenEnvError as exc:
            if self._container is None:
                raise
            raise await self._container.explain(exc.add_context(phase=path[1:])) from None


class _Exclusive:
    """One call at a time."""

    def __init__(self, session: HTTPSession[Any, Any, Any]) -> None:
        self._session = session

    def __enter__(self) -> None:
        self._session._is_busy = True

    def __exit__(self, *exc: object) -> None:
        self._session._is_busy = False
