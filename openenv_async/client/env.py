"""EnvClient: one session of a served environment, as async calls."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
from asyncio import get_running_loop
from collections import deque
from collections.abc import AsyncGenerator, Generator, Hashable
from typing import TYPE_CHECKING, Any, Final, Generic, Self

from openenv_async.client.connection import Channel, Connection
from openenv_async.client.models import ModelHooks, WireModels, wire_models
from openenv_async.client.pooling import SharedConnections, shared_connections
from openenv_async.client.tls import Trust
from openenv_async.client.websocket import dial
from openenv_async.errors import OpenEnvError, SessionBusy, SessionClosed, SessionLost
from openenv_async.models import Format
from openenv_async.protocol.frames import (
    Begun,
    Close,
    Observation,
    Open,
    Partial,
    Reset,
    State,
    StateIs,
    Step,
)
from openenv_async.tokens import check_token
from openenv_async.tracing import TRACING, inject
from openenv_async.types import ActT, EpisodeInfo, Limits, ObsT, StateT, StepResult, Timeouts

if TYPE_CHECKING:
    from openenv_async.client.contained import Contained
    from openenv_async.client.sync import SyncEnvClient

__all__ = ["EnvClient", "GenericEnvClient"]

_TIMEOUTS: Final = Timeouts()
_LIMITS: Final = Limits()
_CREDIT: Final = 64
"""Partial observations that the server may send ahead of the consumer."""


class EnvClient(ModelHooks[ActT, ObsT, StateT], Generic[ActT, ObsT, StateT]):
    """One session of a served environment.

    Typed by its parameters: ``class MyEnv(EnvClient[MyAction, MyObservation, MyState])``.
    Open it with ``async with``, or let the first call open it and ``close`` it yourself.
    Clients of one address in one event loop share a connection unless ``share=False``.

    Args:
        base_url: ``http://HOST:PORT`` of the server (https, ws and wss too).
        token: the server's access token.
        timeouts: deadlines; those of reset, step, state and close are sent with each request.
        limits: sizes this side accepts.
        options: constructor options of the environment, where it opens any to clients.
        share: whether to share a connection with other clients of this address and loop; with a
            string only with those that give the same.
        subprotocol: ``openenv.v1.msgpack``, ``openenv.v1.json`` or ``upstream`` (the JSON
            dialect of upstream OpenEnv servers); by default the first that the server speaks.
        headers: more headers of the connection request.
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
        options: dict[str, Any] | None = None,
        share: bool | str = True,
        subprotocol: str | None = None,
        headers: dict[str, str] | None = None,
        ssl: Trust = None,
    ) -> None:
        self.base_url = base_url
        self.timeouts = timeouts or _TIMEOUTS
        self.limits = limits or _LIMITS
        self._token = None if token is None else check_token(token)
        self._options = options
        self._share = share
        self._subprotocol = subprotocol
        self._headers = headers
        self._ssl = ssl
        self._channel: Channel | None = None
        self._shared: SharedConnections | None = None
        self._opening: asyncio.Future[Channel] | None = None
        self._wire: WireModels | None = None
        self._episode: EpisodeInfo | None = None
        self._closed = False
        self._contained: Contained | None = None

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """The same as calling the class."""
        return cls(url, **options)

    @classmethod
    def from_docker_image(cls, image: str, port: int = 8000, **options: Any) -> Self:
        """A client with a container of its own, removed when the client is closed.

        The container is started when the client opens: ``await`` it, use it in ``async with``,
        or call it. For code without a loop: ``from_docker_image(…).sync()``.

        Args:
            image: its name.
            port: where the server in the container listens.
            options: of ``DockerProvider``, and ``timeouts``, ``limits``, ``options``,
                ``subprotocol`` and ``headers`` of the client.

        Raises:
            TypeError: an option is unknown.
            WorkerStartFailed, ProviderError, DeadlineExceeded: by what opens it.
            WorkerDied: by any call, when the container ended; with its last lines.
        """
        from openenv_async.client.contained import docker_options

        contained, own = docker_options({"image": image, **options}, port)
        client = cls("http://127.0.0.1", **own)
        client._contained = contained
        return client

    @classmethod
    def _from_docker(cls, image: str, port: int = 8000, **options: Any) -> Self:
        """For subclasses whose own ``from_docker_image`` calls it."""
        return EnvClient.from_docker_image.__func__(cls, image, port, **options)  # type: ignore[attr-defined, no-any-return]  # a bound class method has it

    def __await__(self) -> Generator[Any, None, Self]:
        """Open it: ``env = await MyEnv.from_docker_image(…)``."""
        return self.open().__await__()

    def __getstate__(self) -> dict[str, Any]:
        """The settings: a pickled client opens a session of its own when it is used."""
        fresh = {"_channel": None, "_shared": None, "_opening": None, "_episode": None}
        return {**self.__dict__, **fresh, "_wire": None, "_closed": False}

    # -- life ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def open(self) -> Self:
        """Connect and open the session now; idempotent."""
        await self._ready()
        return self

    async def close(self) -> None:
        """Close the environment and the session, and the container if it is this client's own.

        Idempotent; never raises for a lost session.
        """
        self._closed = True
        try:
            await self._close_session()
        finally:
            if self._contained is not None:
                await self._contained.aclose()

    async def _close_session(self) -> None:
        if self._channel is not None and self._is_elsewhere(self._channel):
            self._channel = None  # its loop is gone, and its connection with it
        channel, self._channel = self._channel, None
        if channel is None:
            return
        try:
            if channel.error is None and channel.connection.up:
                timeout = self.timeouts.close
                request = Close(
                    channel.number, channel.next_seq(), channel.acked, _on_wire(timeout)
                )
                await channel.call(request, timeout)
        except asyncio.CancelledError:
            raise
        except OpenEnvError:
            pass  # it is gone, which was the wish
        finally:
            channel.connection.forget(channel)
            await self._give_back(channel.connection)

    @property
    def session_id(self) -> str | None:
        """The id of the open session."""
        return None if self._channel is None else self._channel.id

    @property
    def episode(self) -> EpisodeInfo | None:
        """The episode that the last reset began, with the steps taken in it."""
        return self._episode

    @property
    def connection(self) -> Connection | None:
        """The connection of the open session."""
        return None if self._channel is None else self._channel.connection

    def sync(self) -> SyncEnvClient[ActT, ObsT, StateT]:
        """A blocking client with the same settings and types, for code without a loop."""
        from openenv_async.client.sync import SyncEnvClient

        return SyncEnvClient.wrap(self)

    # -- calls --------------------------------------------------------------------------------

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> StepResult[ObsT]:
        """Begin an episode.

        Args:
            seed: what the environment draws from; a random one is drawn and reported when
                ``None``. See ``episode.seed``.
            episode_id: a name for the episode; one is made when ``None``.
            timeout: seconds, instead of ``timeouts.reset``.
            options: what the environment's own ``reset`` declares.
        """
        channel = self._channel
        if channel is None or channel.error is not None or self._is_elsewhere(channel):
            channel = await self._reopened()
        wire = self._wire
        assert wire is not None
        seconds = self.timeouts.reset if timeout is None else timeout
        request = Reset(
            channel.number,
            self._next(channel, "reset"),
            channel.acked,
            wire.encode_any(options) if options else None,
            seed,
            episode_id,
            _on_wire(seconds),
        )
        reply = await self._call(channel, request, seconds)
        assert isinstance(reply, Begun)
        self._episode = EpisodeInfo(reply.episode_id, reply.seed)
        return self._result(reply)

    async def step(self, action: ActT, *, timeout: float | None = None) -> StepResult[ObsT]:
        """Take one action.

        Args:
            action: of the client's action type.
            timeout: seconds, instead of ``timeouts.step``.

        Raises:
            InvalidAction, EpisodeNotStarted, EpisodeEnded, SessionBusy: the call was wrong.
            EnvironmentRaised, EnvironmentDied, DeadlineExceeded: the environment failed.
            ConnectionLost, SessionLost: the connection did.
        """
        channel = self._channel
        if channel is None or channel.connection.loop is not get_running_loop():
            channel = await self._ready()
        wire = self._wire
        assert wire is not None
        payload = wire.encode_action(action)
        seconds = self.timeouts.step if timeout is None else timeout
        if channel.future is not None:
            raise self._busy("step")
        channel.seq = seq = channel.seq + 1
        future = channel.call(
            Step(channel.number, seq, channel.acked, payload, _on_wire(seconds)), seconds
        )
        try:
            reply = await future
        except asyncio.CancelledError:
            channel.cancel(seq)
            raise
        except OpenEnvError as exc:
            if self._contained is None:
                raise
            raise await self._contained.explain(exc) from None
        channel.steps += 1
        if self._episode is not None:
            self._episode.step_count += 1
        info = reply.info
        return StepResult(
            wire.decode_observation(reply.payload),
            reply.reward,
            reply.terminated,
            reply.truncated,
            {} if info is None else wire.decode_any(info),
        )

    async def state(self, *, timeout: float | None = None) -> StateT:
        """The environment's state. ``episode`` has the engine's own facts afterwards.

        A state that is a dict also carries ``episode_id`` and ``step_count``.
        """
        channel = await self._ready()
        seconds = self.timeouts.state if timeout is None else timeout
        request = State(
            channel.number, self._next(channel, "state"), channel.acked, _on_wire(seconds)
        )
        reply = await self._call(channel, request, seconds)
        assert isinstance(reply, StateIs)
        assert self._wire is not None
        if reply.episode_id is not None:
            self._episode = EpisodeInfo(reply.episode_id, reply.seed or 0, reply.step_count)
        state = self._wire.decode_state(reply.payload)
        if isinstance(state, dict):
            state.setdefault("episode_id", reply.episode_id)
            state.setdefault("step_count", reply.step_count)
        return state  # type: ignore[no-any-return]  # decoded as StateT

    def stream_step(
        self, action: ActT, *, timeout: float | None = None
    ) -> AsyncGenerator[StepResult[ObsT], None]:
        """Take one action and yield what the environment shows while it works on it.

        Every item but the last is partial: no reward, not done. The last is what ``step`` would
        have returned. An environment that does not stream yields just that one. Leaving the
        loop cancels the step; close the iterator (``contextlib.aclosing``) to do so at once.
        """
        return self._ws_step(action, timeout=timeout)

    async def _ws_step(
        self, action: ActT, *, timeout: float | None = None
    ) -> AsyncGenerator[StepResult[ObsT], None]:
        channel = await self._ready()
        wire = self._wire
        assert wire is not None
        payload = wire.encode_action(action)
        seconds = self.timeouts.step if timeout is None else timeout
        seq = self._next(channel, "step")
        arrived: deque[Partial] = deque()
        wake = asyncio.Event()

        expected = 0

        def sink(partial: Partial) -> None:
            nonlocal expected
            if partial.index == expected:  # others come twice, after a reconnect
                expected += 1
                arrived.append(partial)
                wake.set()

        channel.sink = sink
        credit = min(_CREDIT, channel.connection.server.get("max_credit", _CREDIT))
        request = Step(channel.number, seq, channel.acked, payload, _on_wire(seconds), credit)
        future = channel.call(request, seconds)
        future.add_done_callback(lambda _: wake.set())
        used = 0
        try:
            while True:
                while arrived:
                    partial = arrived.popleft()
                    used += 1
                    decode = wire.decode_observation if partial.whole else wire.decode_any
                    yield StepResult(decode(partial.payload))
                    if used * 2 >= credit:
                        channel.grant(seq, used)
                        used = 0
                if future.done():
                    break
                wake.clear()
                await wake.wait()
            if self._episode is not None:
                self._episode.step_count += 1
            yield self._result(future.result())
        finally:
            if channel.sink is sink:
                channel.sink = None
            if not future.done():
                future.cancel()
                channel.cancel(seq)

    # -- inside -------------------------------------------------------------------------------

    async def _call(self, channel: Channel, request: Reset | State, timeout: float | None) -> Any:
        future = channel.call(request, timeout)
        try:
            return await future
        except asyncio.CancelledError:
            channel.cancel(request.seq)
            raise
        except OpenEnvError as exc:
            if self._contained is None:
                raise
            raise await self._contained.explain(exc) from None

    def _result(self, reply: Begun | Observation) -> StepResult[ObsT]:
        wire = self._wire
        assert wire is not None
        return StepResult(
            wire.decode_observation(reply.payload),
            reply.reward,
            reply.terminated,
            reply.truncated,
            {} if reply.info is None else wire.decode_any(reply.info),
        )

    def _next(self, channel: Channel, what: str) -> int:
        if channel.future is not None:
            raise self._busy(what)
        return channel.next_seq()

    def _busy(self, what: str) -> OpenEnvError:
        return SessionBusy(
            f"{what}() while another call of this client is running: await one call before the"
            " next, or open another client",
            session_id=self.session_id,
        )

    def _is_elsewhere(self, channel: Channel) -> bool:
        """Whether the channel belongs to an event loop other than the running one.

        Raises:
            SessionBusy: that loop is running, in another thread.
        """
        home = channel.connection.loop
        if home is get_running_loop():
            return False
        if channel.connection.pid != os.getpid():
            self._channel = None  # forked: the session is the parent's, this client needs its own
            return True
        if home.is_running():
            raise SessionBusy(
                "this client is in use on another running event loop: make one client per loop,"
                " or use SyncEnvClient, which any thread may call",
                session_id=channel.id,
            )
        return True

    async def _reopened(self) -> Channel:
        """A channel for a reset: a session that was lost is replaced by a new one."""
        channel = self._channel
        if channel is not None and channel.error is not None:
            self._channel = None
            if channel.connection.loop is get_running_loop():
                channel.connection.forget(channel)
                await self._give_back(channel.connection)
        try:
            return await self._ready()
        except SessionLost:
            self._channel = None  # it could not be taken along to this loop
            return await self._ready()

    async def _ready(self) -> Channel:
        """The open channel; opens it first if need be. Concurrent callers wait for one open.

        A session that was left behind by a loop that has ended is resumed on this one.
        """
        if self._channel is not None and not self._is_elsewhere(self._channel):
            return self._channel
        left_behind = self._channel  # none when it was another process's
        if self._closed:
            raise SessionClosed("this client was closed: make a new one")
        loop = get_running_loop()
        while (opening := self._opening) is not None and opening.get_loop() is loop:
            try:
                return await asyncio.shield(opening)
            except asyncio.CancelledError:
                if not opening.cancelled():
                    raise  # it is this caller who was cancelled; the one who opens goes on
        self._opening = opening = loop.create_future()
        try:
            made = await self._open(left_behind)
        except BaseException as exc:
            if isinstance(exc, OpenEnvError):
                opening.set_exception(exc)
                opening.exception()  # it may be that nobody else waits
            else:
                opening.cancel()
            raise
        else:
            opening.set_result(made)
            return made
        finally:
            self._opening = None

    async def _open(self, left_behind: Channel | None) -> Channel:
        if self._contained is not None:
            worker = await self._contained.start(self._lose)
            self.base_url, self._token = worker.url, worker.token
        connection = await self._acquire()
        channel: Channel | None = None
        try:
            if left_behind is None:
                token = secrets.token_hex(32)
                channel = connection.channel(token[:32], token[32:])
            else:
                channel = connection.channel(left_behind.id, left_behind.secret)
                channel.seq, channel.acked = left_behind.seq, left_behind.acked
                channel.steps = left_behind.steps
                channel.sent.update(left_behind.sent)
            wire = self._use(connection.format)
            options = None if not self._options else wire.encode_any(self._options)
            request = Open(
                channel.number,
                channel.id,
                channel.secret,
                left_behind is not None,
                channel.acked,
                options,
                _on_wire(self.timeouts.open),
            )
            if TRACING in sys.modules:  # the caller's trace, not that of who made the connection
                trace = dict(self._headers or {})
                inject(trace)
                request.traceparent = trace.get("traceparent")
                request.tracestate = trace.get("tracestate")
            await channel.call(request, self.timeouts.open)
            if left_behind is not None:
                for frame in channel.resumption()[1:]:
                    connection.send(frame)
        except BaseException:
            if channel is not None:
                channel.close_soon()
            await self._give_back(connection)
            raise
        self._channel = channel
        if left_behind is None:
            self._episode = None
        return channel

    def _use(self, format: Format) -> WireModels:
        wire = self._wire
        if wire is None or wire.format != format:
            wire = self._wire = wire_models(self, format)
        return wire

    def _lose(self, error: OpenEnvError) -> None:
        """The container of this client ended."""
        channel = self._channel
        if channel is not None:
            channel.fail(error)
            channel.connection.forget(channel)  # what the dying server still says is no news
            channel.error = error

    async def _acquire(self) -> Connection:
        if not self._share:
            self._shared = None
            return await self._connect()
        shared = shared_connections()
        connection = await shared.acquire(self._key(), self._connect)
        self._shared = shared
        return connection

    async def _give_back(self, connection: Connection) -> None:
        shared, self._shared = self._shared, None
        if shared is None:
            await connection.aclose()
        else:
            await shared.release(connection)

    async def _connect(self) -> Connection:
        """A new connection; overridden where there is no socket."""
        return await dial(
            self.base_url,
            token=self._token,
            subprotocol=self._subprotocol,
            headers=self._headers,
            ssl=self._ssl,
            limits=self.limits,
            timeouts=self.timeouts,
        )

    def _key(self) -> Hashable:
        headers = tuple(sorted(self._headers.items())) if self._headers else None
        limits = None if self.limits is _LIMITS else self.limits  # a hash saved, mostly
        return (
            *(self.base_url, self._token, self._subprotocol, headers, self._ssl),
            *(limits, self._share),
        )


class GenericEnvClient(EnvClient[Any, Any, Any]):
    """A client of any environment, for who has not its model classes.

    Takes and gives plain values: where the environment has a model, a dict of its fields; where
    it has a number, text, a list or an array, just that.
    """


def _on_wire(timeout: float | None) -> float:
    """Seconds as a frame carries them: 0 for no deadline."""
    return 0.0 if timeout is None else timeout
