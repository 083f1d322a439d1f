"""EnvClient: one session of a served environment, as async calls."""

from __future__ import annotations

import asyncio
from asyncio import get_running_loop
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Self

from openenv_async.client.arguments import (
    checked_episode_id,
    checked_options,
    checked_seed,
    checked_timeout,
    encoded,
)
from openenv_async.client.channel import Channel
from openenv_async.client.session import SessionHolder
from openenv_async.client.settings import ClientSettings
from openenv_async.client.streaming import CREDIT, StreamedStep
from openenv_async.client.waits import on_wire
from openenv_async.errors import OpenEnvError, SessionBusy
from openenv_async.protocol.frames import Begun, Observation, Reset, State, StateIs, Step
from openenv_async.types import ActT, EpisodeInfo, ObsT, StateT, StepResult

if TYPE_CHECKING:
    from openenv_async.client.sync import SyncEnvClient

__all__ = ["EnvClient", "GenericEnvClient"]


class EnvClient(SessionHolder[ActT, ObsT, StateT], Generic[ActT, ObsT, StateT]):
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

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
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

    # -- life ---------------------------------------------------------------------------------

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
        """Only there so that ``with`` reaches ``__enter__``, which tells what to write."""

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
            on_wire(seconds),
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
        """
        channel = self._channel
        if channel is None or channel.connection.loop is not get_running_loop():
            channel = await self._ready()
        wire = self._wire
        assert wire is not None
        payload = wire.encode_action(action)
        seconds = self.timeouts.step if timeout is None else checked_timeout(timeout, "step")
        if channel.future is not None:
            raise self._busy("step")
        channel.seq = seq = channel.seq + 1
        request = Step(channel.number, seq, channel.acked, payload, on_wire(seconds))
        future: asyncio.Future[Observation] = channel.connection.loop.create_future()
        channel.post(request, future, seconds)
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
        seconds = self.timeouts.state if timeout is None else checked_timeout(timeout, "state")
        channel = await self._ready()
        request = State(
            channel.number, self._next(channel, "state"), channel.acked, on_wire(seconds)
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
        seconds = self.timeouts.step if timeout is None else checked_timeout(timeout, "step")
        credit = min(CREDIT, channel.connection.server.get("max_credit", CREDIT))
        seq = self._next(channel, "step")
        request = Step(channel.number, seq, channel.acked, payload, on_wire(seconds), credit)
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

    # -- inside -------------------------------------------------------------------------------

    async def _call(self, channel: Channel, request: Reset | State, timeout: float | None) -> Any:
        return await self._outcome(channel, request.seq, channel.call(request, timeout))

    async def _outcome(self, channel: Channel, seq: int, future: asyncio.Future[Any]) -> Any:
        """The reply to request ``seq``; ``step`` has the same in itself."""
        try:
            return await future
        except asyncio.CancelledError:
            channel.cancel(seq)
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


class GenericEnvClient(EnvClient[Any, Any, Any]):
    """A client of any environment, for who has not its model classes.

    Takes and gives plain values: where the environment has a model, a dict of its fields; where
    it has a number, text, a list or an array, just that.
    """
