"""EnvClient: one session of a served environment, as async calls.

Rules:

- Callers that come at once wait for one opening.
- A session that was left behind by an event loop that has ended is resumed on the running one.
- A forked process leaves the session to its parent and opens one of its own.
- A session that was lost is replaced by the next reset, and by nothing else.
- A closed client opens nothing any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio import Future, get_running_loop
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Hashable, Mapping
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NoReturn, Self, Unpack

from msgspec.structs import replace

from openenv_async.client.arguments import (
    checked_episode_id,
    checked_options,
    checked_seed,
    checked_timeout,
    encoded,
    refuse_unknown,
)
from openenv_async.client.channel import BACKSTOP, CREDIT, Channel, StreamedStep
from openenv_async.client.connection import ClientConnection
from openenv_async.client.models import ModelHooks, WireModels, wire_models
from openenv_async.client.pooling import SharedConnections, shared_connections
from openenv_async.client.refusals import pause_for_turn
from openenv_async.client.settings import LIMITS, SETTINGS, TIMEOUTS, ClientKeywords, ClientSettings
from openenv_async.client.sharing import SharedSession
from openenv_async.client.tasks import ListPage, ServedTasks
from openenv_async.client.tools import given_by_upstream, listed_tools
from openenv_async.client.websocket import dial
from openenv_async.endpoints.addresses import checked_url
from openenv_async.endpoints.tls import Trust
from openenv_async.errors import (
    InvalidOption,
    OpenEnvError,
    OperationUnsupported,
    QuotaReached,
    SessionBusy,
    SessionClosed,
    SessionLost,
)
from openenv_async.models import PayloadCodec
from openenv_async.protocol.frames import (
    Begun,
    Close,
    Observation,
    Open,
    Reset,
    State,
    StateIs,
    Step,
)
from openenv_async.telemetry.tracing import TRACING, inject
from openenv_async.types import (
    ActT,
    EpisodeInfo,
    Limits,
    ObsT,
    PlainValue,
    StateT,
    StepResult,
    Timeouts,
    Tool,
)

if TYPE_CHECKING:
    from openenv_async.client.launch import OwnedContainer
    from openenv_async.client.sync import SyncEnvClient

__all__ = ["EnvClient", "GenericEnvClient"]
_CLOSED: Final = "this client was closed: make a new one"
_LEAST: Final = 1e-3
"""Seconds of the deadline of a request that is sent again at the last moment; 0 is none."""


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
        local: whether to use a Unix socket where the server is on this machine and offers one.

    Raises:
        ConnectFailed, Unauthorized, ServerBusy, EnvironmentStartFailed: by what opens it.
    """

    _has_address: ClassVar[bool] = True
    """True where ``base_url`` is an address from the beginning."""
    renders: bool = False
    """True for sessions that draw: from now on they are opened with the options that this takes."""

    def __init__(
        self,
        base_url: str,
        *,
        token: str | None = None,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        options: Mapping[str, Any] | None = None,
        share: bool | str = True,
        subprotocol: str | None = None,
        headers: Mapping[str, str] | None = None,
        ssl: Trust = None,
        local: bool = True,
        **unknown: Any,
    ) -> None:
        if unknown:
            refuse_unknown(type(self).__name__, unknown, SETTINGS)
        settings = ClientSettings(
            token=token,
            timeouts=TIMEOUTS if timeouts is None else timeouts,
            limits=LIMITS if limits is None else limits,
            options=options,
            share=share,
            subprotocol=subprotocol,
            headers=headers,
            ssl=ssl,
            local=local,
        )
        if self._has_address and type(self)._connect is EnvClient._connect:
            checked_url(base_url)
        self.base_url = base_url
        self.settings = settings
        self.timeouts = settings.timeouts
        self.limits = settings.limits
        self._channel: Channel | None = None
        self._shared: SharedConnections | None = None
        self._opening: asyncio.Future[Channel] | None = None
        self._wire: WireModels | None = None
        self._tools: dict[str, Tool] | None = None
        self._episode: EpisodeInfo | None = None
        self._closed = False
        self._container: OwnedContainer | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The settings: a pickled client opens a session of its own when it is used."""
        fresh = {"_channel": None, "_shared": None, "_opening": None, "_episode": None}
        return {**self.__dict__, **fresh, "_wire": None, "_tools": None, "_closed": False}

    @property
    def session_id(self) -> str | None:
        """The id of the open session."""
        return None if self._channel is None else self._channel.id

    @property
    def is_closed(self) -> bool:
        """Return whether ``close`` was called: such a client opens no session any more."""
        return self._closed

    @property
    def episode(self) -> EpisodeInfo | None:
        """The episode that the last reset began, with the steps taken in it."""
        return self._episode

    @property
    def connection(self) -> ClientConnection | None:
        """The connection of the open session."""
        return None if self._channel is None else self._channel.connection

    # -- construction -----------------------------------------------------------------------------

    @classmethod
    def from_url(cls, url: str, **options: Unpack[ClientKeywords]) -> Self:
        """The same as calling the class."""
        return cls(url, **options)

    @classmethod
    def with_settings(cls, url: str, settings: ClientSettings) -> Self:
        """Return a client of the server at ``url`` with another client's settings."""
        return cls(url, **settings.arguments())

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
        from openenv_async.client.launch import docker_options

        container, own = docker_options({"image": image, **options}, port)
        client = cls("http://127.0.0.1", **own)
        client._container = container
        return client

    @classmethod
    def _from_docker(cls, image: str, port: int = 8000, **options: Any) -> Self:
        """Start a container, for subclasses whose own ``from_docker_image`` calls it."""
        return EnvClient.from_docker_image.__func__(cls, image, port, **options)  # type: ignore[attr-defined, no-any-return]  # a bound class method has it

    def __await__(self) -> Generator[Any, None, Self]:
        """Open it: ``env = await MyEnv.from_docker_image(…)``."""
        return self.open().__await__()

    # -- life -------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    def __enter__(self) -> NoReturn:
        name = type(self).__name__
        raise TypeError(
            f"{name} is an async client: write `async with {name}(…) as env`, or take the blocking"
            f" one: `with {name}(…).sync() as env`"
        )

    def __exit__(self, *exc: object) -> None:
        """Make ``with`` reach ``__enter__``, which tells what to write."""

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
            if self._container is not None:
                await self._container.aclose()

    def sync(self) -> SyncEnvClient[ActT, ObsT, StateT]:
        """A blocking client with the same settings and types, for code without a loop."""
        from openenv_async.client.sync import SyncEnvClient

        return SyncEnvClient.wrap(self)

    # -- calls ------------------------------------------------------------------------------------

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        timeout: float | None = None,
        reset_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> StepResult[ObsT]:
        """Begin an episode.

        Args:
            seed: what the environment draws from; a random one is drawn and reported when
                ``None``. See ``episode.seed``.
            episode_id: a name for the episode; one is made when ``None``.
            timeout: seconds, instead of ``timeouts.reset``; ``math.inf`` for no deadline.
            reset_options: options as a map, for those whose names are also arguments of this
                call, such as ``{"timeout": 3.0}``.
            options: what the environment's own ``reset`` declares.

        Raises:
            InvalidOption: an argument is of the wrong type, an option is unknown, or the
                environment has an option ``timeout`` and it is ambiguous whose is meant.
            InvalidModel: an option cannot be sent.
        """
        if seed is not None:
            seed = checked_seed(seed)
        if episode_id is not None:
            episode_id = checked_episode_id(episode_id)
        seconds = self.timeouts.reset if timeout is None else checked_timeout(timeout, "reset")
        channel = self._channel
        if channel is None or channel.error is not None or self._is_elsewhere(channel):
            channel = await self._reopened()
        if timeout is not None or reset_options is not None:
            declared = channel.connection.server.get("reset_options") or ()
            options = checked_options(options, reset_options, timeout, declared)
        wire = self._wire
        assert wire is not None
        payload = encoded(options, wire.encode_any, "options") if options else None
        request = Reset(
            channel.number,
            self._next(channel, "reset"),
            channel.acked,
            payload,
            seed,
            episode_id,
            seconds or 0.0,
        )
        reply = await self._call(channel, request, seconds)
        assert isinstance(reply, Begun)
        self._episode = EpisodeInfo(reply.episode_id, reply.seed)
        return self._result(reply)

    async def step(self, action: ActT, *, timeout: float | None = None) -> StepResult[ObsT]:
        """Take one action.

        Args:
            action: of the client's action type.
            timeout: seconds, instead of ``timeouts.step``; ``math.inf`` for no deadline.

        Raises:
            InvalidModel, InvalidOption: the action or the timeout cannot be sent.
            InvalidAction, EpisodeNotStarted, EpisodeEnded, SessionBusy: the call was wrong.
            EnvironmentRaised, EnvironmentDied, DeadlineExceeded: the environment failed.
            ConnectionLost, SessionLost: the connection did.
            QuotaReached: the token's turn comes after the deadline. If it comes before, this waits
                and sends the step again, which was not executed.
        """
        future: asyncio.Future[Observation] = Future()  # of the running loop, which it has to find
        channel = self._channel
        if channel is None or channel.connection.loop is not future.get_loop():
            channel = await self._ready()
        wire = self._wire
        assert wire is not None
        payload = wire.encode_action(action)
        seconds = self.timeouts.step if timeout is None else checked_timeout(timeout, "step")
        if channel.future is not None:
            raise self._busy("step")
        channel.step(payload, future, seconds)
        seq = channel.seq
        try:
            reply = await future
        except asyncio.CancelledError:
            channel.cancel(seq)
            raise
        except QuotaReached as exc:
            request = Step(channel.number, seq, channel.acked, payload)
            reply = await self._again(channel, request, exc)
        except OpenEnvError as exc:
            if self._container is None:
                raise
            raise await self._container.explain(exc) from None
        channel.steps += 1
        episode = self._episode
        if episode is not None:
            episode.step_count += 1
        info = reply.info
        # WireModels.result, written out: a call less for each step.
        observation = wire.decode_observation(reply.payload)
        if wire.fill is not None:
            wire.fill(observation, reply.reward, reply.terminated or reply.truncated)
        return StepResult(
            observation,
            reply.reward,
            reply.terminated,
            reply.truncated,
            {} if info is None else wire.decode_any(info),
        )

    async def state(self, *, timeout: float | None = None) -> StateT:
        """The environment's state. ``episode`` has the engine's own facts afterwards.

        A state that is a dict also carries ``episode_id`` and ``step_count``.
        """
        seconds = self.timeouts.state if timeout is None else checked_timeout(timeout, "state")
        channel = await self._ready()
        request = State(channel.number, self._next(channel, "state"), channel.acked, seconds or 0.0)
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

    async def render(self, *, timeout: float | None = None) -> Any:
        """Return a picture of what is: an array uint8 [height, width, channels], or a text.

        A Gymnasium environment draws if its session has a render mode: ``options={"render_mode":
        "rgb_array"}``, or ``renders = True`` before it is opened, which takes what fits.

        Args:
            timeout: seconds, instead of ``timeouts.state``; ``math.inf`` for no deadline.

        Raises:
            OperationUnsupported: the environment or its server renders nothing.
            InvalidObservation: what it rendered is neither a picture nor a text.
            OpenEnvError: as ``state``.
        """
        seconds = self.timeouts.state if timeout is None else checked_timeout(timeout, "render")
        channel = await self._ready()
        told = channel.connection.server
        if "render" not in (told.get("capabilities") or ()):
            name = told.get("environment") or "the environment"
            raise OperationUnsupported(
                f"{name} at {channel.connection.where} has no render(), or its server is too old"
            )
        number = self._next(channel, "render")
        request = State(channel.number, number, channel.acked, seconds or 0.0, True)
        reply = await self._call(channel, request, seconds)
        assert isinstance(reply, StateIs)
        assert self._wire is not None
        return self._wire.decode_any(reply.payload)

    async def share(self) -> SharedSession[ObsT]:
        """Lend the session to agents: give them an address at which they play it over MCP.

        They take steps and see what these give, without the rewards. The client begins the
        episodes, and reads from the shared session what the steps gave; its own calls are refused
        as busy while a step of an agent runs. Asked again, it gives the same address.

        Raises:
            OperationUnsupported: the session has no address, such as one in process.
            OpenEnvError: the server cannot share it.
        """
        channel = await self._ready()
        if not self.base_url.startswith(("http", "ws")):
            raise OperationUnsupported("a session in process has no address: serve() gives it one")
        name = f"{channel.id}.{channel.secret}"
        models = wire_models(self, "msgpack")
        return await SharedSession[ObsT](self.base_url, self.settings, name, models).open()

    async def tasks(self) -> ServedTasks:
        """Return the environment's own tasks, as far as they are public.

        It opens no session, so that a server without room for one lists them too.

        Raises:
            OperationUnsupported: the environment declares no tasks.
            ConnectFailed, Unauthorized: by what connects.
        """
        return await ServedTasks.opened(self._listing)

    async def list_tools(self) -> list[Tool]:
        """Return the tools that agents may call: those declared, else those made of the action.

        Raises:
            OperationUnsupported: the server lists none.
        """
        channel = await self._ready()
        wire = self._wire
        assert wire is not None
        if channel.connection.upstream:
            asked = wire.encode_any({"type": "list_tools"})
            reply = await self._stepped(channel, asked, self.timeouts.step)
            told = wire.decode_any(reply.payload)[0]
        else:
            told = wire.decode_any(await channel.connection.list_tools(self.timeouts.open))
        self._tools = {tool.name: tool for tool in listed_tools(told, self.base_url)}
        return [*self._tools.values()]

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        /,
        *,
        timeout: float | None = None,
        **more: Any,
    ) -> StepResult[Any]:
        """Take the step that a call of a tool is.

        Args:
            name: of the tool.
            arguments: of the call, as a map, for those whose names are also arguments here.
            timeout: seconds, instead of ``timeouts.step``; ``math.inf`` for no deadline.
            more: further arguments of the call.

        Returns:
            The result of the step; its observation is plain, what the tool gives. A call that an
            upstream server says has failed gives all of what it says, with its ``error``.

        Raises:
            InvalidOption: there is no such tool.
            UnreadableReply: these are not its arguments.
            OpenEnvError: as ``step``.
        """
        seconds = self.timeouts.step if timeout is None else checked_timeout(timeout, "call_tool")
        if self._tools is None:
            await self.list_tools()
        assert self._tools is not None
        tool = self._tools.get(name)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            raise InvalidOption(f"there is no tool {name!r:.80}: there are {known}", option="name")
        action = tool.action({**(arguments or {}), **more})
        channel = await self._ready()
        wire = self._wire
        assert wire is not None
        payload = encoded(action, wire.encode_any, "arguments")
        reply = await self._stepped(channel, payload, seconds)
        channel.steps += 1
        if self._episode is not None:
            self._episode.step_count += 1
        seen = wire.decode_any(reply.payload)
        if channel.connection.upstream:
            seen = given_by_upstream(seen[0])
        info = {} if reply.info is None else wire.decode_any(reply.info)
        return StepResult(tool.told(seen), reply.reward, reply.terminated, reply.truncated, info)

    async def _stepped(
        self, channel: Channel, payload: bytes, seconds: float | None
    ) -> Observation:
        """Take a step whose action is encoded already."""
        seq = self._next(channel, "step")
        request = Step(channel.number, seq, channel.acked, payload, seconds or 0.0)
        reply = await self._call(channel, request, seconds)
        assert isinstance(reply, Observation)
        return reply

    @contextlib.asynccontextmanager
    async def _listing(self) -> AsyncIterator[ListPage]:
        """A connection to ask for tasks on: that of the session, or one for as long as it takes."""
        if self._closed:
            raise SessionClosed(_CLOSED)
        if self._container is not None:
            worker = await self._container.start(self._lose)
            self._move(worker.url, worker.token)
        channel = self._channel
        if channel is not None and channel.error is None and not self._is_elsewhere(channel):
            yield self._pages(channel.connection)
            return
        shared = shared_connections() if self.settings.share else None
        if shared is None:
            connection = await self._connect()
        else:
            connection = await shared.acquire(self._key(), self._connect)
        try:
            yield self._pages(connection)
        finally:
            if shared is None:
                await connection.aclose()
            else:
                await shared.release(connection)

    def _pages(self, connection: ClientConnection) -> ListPage:
        decode = PayloadCodec[Any](Any, connection.format).decode

        async def page(split: str | None, start: int, stop: int) -> Any:
            return decode(await connection.list_tasks(split, start, stop, self.timeouts.open))

        return page

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
        seconds = self.timeouts.step if timeout is None else checked_timeout(timeout, "step")
        credit = min(CREDIT, channel.connection.server.get("max_credit", CREDIT))
        seq = self._next(channel, "step")
        request = Step(channel.number, seq, channel.acked, payload, seconds or 0.0, credit)
        stream = StreamedStep(channel, request, seconds)
        try:
            while (partial := await stream.next()) is not None:
                decode = wire.decode_observation if partial.whole else wire.decode_any
                yield StepResult(decode(partial.payload))
            reply = await self._outcome(channel, seq, stream.reply)
            channel.steps += 1
            if self._episode is not None:
                self._episode.step_count += 1
            yield self._result(reply)
        finally:
            stream.close()

    # -- the session ------------------------------------------------------------------------------

    def _is_elsewhere(self, channel: Channel) -> bool:
        """Return whether the channel belongs to an event loop other than the running one.

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
        """The open channel; opens it first if need be."""
        if self._channel is not None and not self._is_elsewhere(self._channel):
            return self._channel
        left_behind = self._channel  # none when it was another process's
        if self._closed:
            raise SessionClosed(_CLOSED)
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
        """Open a session, or resume the one that ``left_behind`` had."""
        if self._container is not None:
            worker = await self._container.start(self._lose)
            self._move(worker.url, worker.token)
        connection = await self._acquire()
        channel: Channel | None = None
        try:
            channel = connection.channel(left_behind)
            request = self._opening_of(channel, left_behind is not None)
            await channel.call(request, self.timeouts.open)
            if left_behind is not None:
                for frame in channel.resumption()[1:]:
                    connection.outbox.send(frame)
            if self._closed:
                raise SessionClosed(_CLOSED)  # meanwhile, with nobody left to close this session
        except BaseException:
            if channel is not None:
                channel.close_soon()
            await self._give_back(connection)
            raise
        self._channel = channel
        if left_behind is None:
            self._episode = None
        return channel

    def _move(self, url: str, token: str | None, share: bool | str | None = None) -> None:
        """Open sessions at another server from now on, ``share`` said anew unless ``None``."""
        settings = self.settings
        share = settings.share if share is None else share
        self.base_url = url
        if token != settings.token or share != settings.share:
            self.settings = settings.replace(token=token, share=share)

    def _opening_of(self, channel: Channel, resume: bool = False) -> Open:
        """The request that opens the session of ``channel``, in the caller's trace."""
        wire, options = self._use(channel.connection), self.settings.options
        rendering = channel.connection.server.get("render") if self.renders else None
        if rendering and rendering["options"]:
            options = {**rendering["options"], **(options or {})}
        request = Open(
            channel.number,
            channel.id,
            channel.secret,
            resume,
            channel.acked,
            None if not options else wire.encode_any(options),
            self.timeouts.open or 0.0,
        )
        if TRACING in sys.modules:  # not in the trace of who made the connection
            trace = dict(self.settings.headers or {})
            inject(trace)
            request.traceparent = trace.get("traceparent")
            request.tracestate = trace.get("tracestate")
        return request

    def _use(self, connection: ClientConnection) -> WireModels:
        wire, format, upstream = self._wire, connection.format, connection.upstream
        if wire is None or wire.format != format or wire.upstream != upstream:
            wire = self._wire = wire_models(self, format, upstream)
        return wire

    def _lose(self, error: OpenEnvError) -> None:
        """The container of this client ended."""
        if self._channel is not None:
            self._channel.lose(error)

    async def _acquire(self) -> ClientConnection:
        if not self.settings.share:
            self._shared = None
            return await self._connect()
        shared = shared_connections()
        connection = await shared.acquire(self._key(), self._connect)
        self._shared = shared
        return connection

    async def _give_back(self, connection: ClientConnection) -> None:
        shared, self._shared = self._shared, None
        if shared is None:
            await connection.aclose()
        else:
            await shared.release(connection)

    async def _connect(self) -> ClientConnection:
        """A new connection; overridden where there is no socket."""
        return await dial(self.base_url, self.settings)

    def _key(self) -> Hashable:
        """Clients with equal ones may share a connection."""
        settings = self.settings
        headers = tuple(sorted(settings.headers.items())) if settings.headers else None
        limits = None if self.limits is LIMITS else self.limits  # a hash saved, mostly
        return (
            *(self.base_url, settings.token, settings.subprotocol, headers, settings.ssl),
            *(limits, settings.share, settings.local),
        )

    async def _close_session(self) -> None:
        """Close the environment; whatever is lost already needs no closing."""
        if self._channel is not None and self._is_elsewhere(self._channel):
            self._channel = None  # its loop is gone, and its connection with it
        channel, self._channel = self._channel, None
        if channel is None:
            return
        try:
            if channel.error is None and channel.connection.up:
                timeout = self.timeouts.close
                request = Close(channel.number, channel.next_seq(), channel.acked, timeout or 0.0)
                await channel.call(request, timeout)
        except asyncio.CancelledError:
            raise
        except OpenEnvError:
            pass  # it is gone, which was the wish
        finally:
            channel.connection.forget(channel)
            await self._give_back(channel.connection)

    # -- inside -----------------------------------------------------------------------------------

    async def _call(
        self, channel: Channel, request: Reset | State | Step, timeout: float | None
    ) -> Any:
        try:
            return await self._outcome(channel, request.seq, channel.call(request, timeout))
        except QuotaReached as exc:
            return await self._again(channel, request, exc)

    async def _again(
        self, channel: Channel, request: Reset | State | Step, refused: QuotaReached
    ) -> Any:
        """Return the reply to a request that a quota refused, sent again when its turn comes.

        A request that a quota refuses was not executed, and the refusal is its answer: it is
        sent as another request, with the next number.

        Raises:
            QuotaReached: the turn comes after the deadline of the call.
        """
        clock, due = channel.connection.loop.time, channel.due - BACKSTOP
        while True:
            if channel.future is not None:
                raise refused  # another call began meanwhile
            await channel.pause(pause_for_turn(refused, due - clock()))
            left = None if due == inf else max(due - clock(), _LEAST)
            seq = channel.next_seq()
            request = replace(request, seq=seq, ack=channel.acked, timeout=left or 0.0)
            try:
                return await self._outcome(channel, seq, channel.call(request, left))
            except QuotaReached as exc:
                refused = exc

    async def _outcome(self, channel: Channel, seq: int, future: asyncio.Future[Any]) -> Any:
        """The reply to request ``seq``; ``step`` has the same in itself."""
        try:
            return await future
        except asyncio.CancelledError:
            channel.cancel(seq)
            raise
        except OpenEnvError as exc:
            if self._container is None:
                raise
            raise await self._container.explain(exc) from None

    def _result(self, reply: Begun | Observation) -> StepResult[ObsT]:
        assert self._wire is not None
        return self._wire.result(reply, reply.payload, reply.info)

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


class GenericEnvClient(EnvClient[PlainValue, PlainValue, PlainValue]):
    """A client of any environment, for callers without its model classes.

    Takes and gives plain values: where the environment has a model, a dict of its fields; where
    it has a number, text, a list or an array, just that.
    """
