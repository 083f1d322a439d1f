"""Where a client's session is: opened by its first use, taken along, replaced when it is lost.

Rules:

- Callers that come at once wait for one opening.
- A session that was left behind by an event loop that has ended is resumed on the running one.
- A forked process leaves the session to its parent and opens one of its own.
- A session that was lost is replaced by the next reset, and by nothing else.
- A closed client opens nothing any more.
"""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio import get_running_loop
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

from openenv_async.client.arguments import refuse_unknown
from openenv_async.client.channel import Channel
from openenv_async.client.connection import ClientConnection
from openenv_async.client.models import ModelHooks, WireModels, wire_models
from openenv_async.client.pooling import SharedConnections, shared_connections
from openenv_async.client.settings import LIMITS, SETTINGS, TIMEOUTS, ClientSettings
from openenv_async.client.waits import on_wire
from openenv_async.client.websocket import dial
from openenv_async.endpoints.addresses import checked_url
from openenv_async.endpoints.tls import Trust
from openenv_async.errors import OpenEnvError, SessionBusy, SessionClosed, SessionLost
from openenv_async.protocol.frames import Close, Open
from openenv_async.telemetry.tracing import TRACING, inject
from openenv_async.types import ActT, EpisodeInfo, Limits, ObsT, StateT, Timeouts

if TYPE_CHECKING:
    from openenv_async.client.contained import Contained

__all__ = ["SessionHolder"]

_CLOSED: Final = "this client was closed: make a new one"


class SessionHolder(ModelHooks[ActT, ObsT, StateT]):
    """The session of one client; ``EnvClient``, which documents the arguments, calls on it."""

    _has_address: ClassVar[bool] = True
    """True where ``base_url`` is an address from the beginning."""

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
        )
        if self._has_address and type(self)._connect is SessionHolder._connect:
            checked_url(base_url)
        self.base_url = base_url
        self.settings = settings
        self.timeouts = settings.timeouts
        self.limits = settings.limits
        self._channel: Channel | None = None
        self._shared: SharedConnections | None = None
        self._opening: asyncio.Future[Channel] | None = None
        self._wire: WireModels | None = None
        self._episode: EpisodeInfo | None = None
        self._closed = False
        self._contained: Contained | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The settings: a pickled client opens a session of its own when it is used."""
        fresh = {"_channel": None, "_shared": None, "_opening": None, "_episode": None}
        return {**self.__dict__, **fresh, "_wire": None, "_closed": False}

    @property
    def session_id(self) -> str | None:
        """The id of the open session."""
        return None if self._channel is None else self._channel.id

    @property
    def episode(self) -> EpisodeInfo | None:
        """The episode that the last reset began, with the steps taken in it."""
        return self._episode

    @property
    def connection(self) -> ClientConnection | None:
        """The connection of the open session."""
        return None if self._channel is None else self._channel.connection

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
        if self._contained is not None:
            worker = await self._contained.start(self._lose)
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
        request = Open(
            channel.number,
            channel.id,
            channel.secret,
            resume,
            channel.acked,
            None if not options else wire.encode_any(options),
            on_wire(self.timeouts.open),
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
            *(limits, settings.share),
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
                request = Close(channel.number, channel.next_seq(), channel.acked, on_wire(timeout))
                await channel.call(request, timeout)
        except asyncio.CancelledError:
            raise
        except OpenEnvError:
            pass  # it is gone, which was the wish
        finally:
            channel.connection.forget(channel)
            await self._give_back(channel.connection)
