"""The transports of a server, each with a way to open sessions.

A transport's ``features`` say what it can express at all; a check that needs more is skipped there
with the reason. Errors are judged by class; a dialect that has only codes maps them.
"""

from __future__ import annotations

import contextlib
import secrets
import warnings
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Hashable
from typing import Any, Literal, Protocol

from openenv_async.checks.http_clients import McpSession, OneCallSession, RpcSession, UntypedError
from openenv_async.checks.raw_connection import RawConnection
from openenv_async.checks.upstream_client import UpstreamError, UpstreamSession
from openenv_async.client.connection import ClientConnection
from openenv_async.client.env import EnvClient
from openenv_async.client.http import HTTPEnvClient
from openenv_async.engine import Engine
from openenv_async.errors import OpenEnvError
from openenv_async.protocol.frames import Open
from openenv_async.renamed import renamed_attributes
from openenv_async.targets.in_process import dial_memory
from openenv_async.types import EpisodeInfo, Limits, StepResult

__all__ = [
    "Conversation",
    "HTTPTransport",
    "InProcessTransport",
    "McpTransport",
    "NativeTransport",
    "OneCallTransport",
    "Transport",
    "UpstreamRpcTransport",
    "UpstreamTransport",
    "network_transports",
]

_TRAINERS = frozenset({"reset", "held", "choice", "reward", "state", "kinds"})
_SHARED = _TRAINERS | frozenset(
    {"options", "session_options", "episode", "seed", "deadline", "exact", "limits", "busy"}
    | {"order", "ends"}
)
_NATIVE = _SHARED | {"cancel", "stream", "tasks"}


class Conversation(Protocol):
    """One session, as every client offers it."""

    @property
    def episode(self) -> EpisodeInfo | None: ...

    def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> Awaitable[StepResult[Any]]: ...

    def step(self, action: Any, *, timeout: float | None = None) -> Awaitable[StepResult[Any]]: ...

    def state(self) -> Awaitable[Any]: ...

    def close(self) -> Awaitable[None]: ...


class Transport(ABC):
    """One way into a server.

    Attributes:
        name: shown in results.
        features: of

            - ``reset``: an episode can be begun, and shows its first observation;
            - ``held``: the calls of a session are answered by one environment;
            - ``choice``: a reset can be given a seed, a task and options;
            - ``reward``, ``state``: they are told;
            - ``kinds``: an error says of which kind it is; elsewhere any error will do;
            - ``options``: unknown reset options are refused, not dropped;
            - ``session_options``: constructor options can be given;
            - ``episode``, ``seed``: episode id and seed are reported;
            - ``deadline``, ``cancel``, ``stream``: calls can have them;
            - ``exact``: arrays, NaN and infinity come back bit by bit;
            - ``limits``: the client's size limit can be set;
            - ``busy``: a second call can be made while one runs;
            - ``order``: a step outside an episode is refused, not the environment's to judge;
            - ``ends``: terminated and truncated are two things;
            - ``sessions``: sessions are found by id;
            - ``tasks``: the environment's tasks are listed;
            - ``frames``: raw frames can be sent.
    """

    name: str
    features: frozenset[str]

    @abstractmethod
    def session(
        self, *, options: dict[str, Any] | None = None, limits: Limits | None = None
    ) -> contextlib.AbstractAsyncContextManager[Any]:
        """Open a session, closed at the end; its failure to open is raised on entry."""

    def matches(self, error: BaseException, cls: type[OpenEnvError]) -> bool:
        """Return whether an error says what ``cls`` says, as far as this transport can."""
        return isinstance(error, cls)

    def sendable(self, action: Any) -> Any:
        """Return an action as this transport carries it: arrays as lists in plain JSON."""
        return action if "exact" in self.features else _plain(action)

    def raw_connection(self) -> contextlib.AbstractAsyncContextManager[RawConnection]:
        """Return a raw connection, for transports with the feature ``frames``."""
        raise NotImplementedError

    def wire(self) -> contextlib.AbstractAsyncContextManager[RawConnection]:
        """Return a raw connection: the old name of ``raw_connection``."""
        warnings.warn("wire() is now raw_connection()", DeprecationWarning, stacklevel=2)
        return self.raw_connection()

    async def use_unknown_session(self) -> None:
        """Use a session that does not exist, for transports with the feature ``sessions``."""
        raise NotImplementedError

    async def capacity(self) -> int | None:
        """Return the number of sessions that the server may hold; ``None`` where nothing tells."""
        return None


class _Client(EnvClient[Any, Any, Any]):
    """A client that knows no types."""


class NativeTransport(Transport):
    """``openenv.v1`` over a WebSocket.

    Args:
        url: of the server.
        format: of the messages.
        token: access token.
        local: whether sessions go over the server's Unix socket, in MessagePack; no check can send
            single frames then.
    """

    features = _NATIVE | {"frames", "sessions"}

    def __init__(
        self,
        url: str,
        format: Literal["msgpack", "json"] = "msgpack",
        token: str | None = None,
        local: bool = False,
    ) -> None:
        self.name = "native local" if local else f"native {format}"
        if local:
            self.features = NativeTransport.features - {"frames"}
        self.local = local
        self.url = url
        self.format = format
        self._subprotocol = f"openenv.v1.{format}"
        self._token = token

    @contextlib.asynccontextmanager
    async def session(
        self, *, options: dict[str, Any] | None = None, limits: Limits | None = None
    ) -> AsyncIterator[Conversation]:
        client = _Client(
            self.url,
            token=self._token,
            options=options,
            limits=limits,
            subprotocol=self._subprotocol,
            local=self.local,
        )
        async with client:
            yield client

    def raw_connection(self) -> contextlib.AbstractAsyncContextManager[RawConnection]:
        return RawConnection.connect(self.url, self._subprotocol, self._token)

    async def use_unknown_session(self) -> None:
        async with self.raw_connection() as connection:
            connection.send(Open(1, secrets.token_hex(16), secrets.token_hex(16), True))
            await connection.receive_ok()

    async def capacity(self) -> int | None:
        async with self.raw_connection() as connection:
            limit = connection.server.get("max_sessions")
            return limit if isinstance(limit, int) else None


class InProcessTransport(Transport):
    """An engine of this process; the frames and codecs are those of the native transport.

    Args:
        engine: what answers.
        format: of the messages.
    """

    features = _NATIVE

    def __init__(self, engine: Engine, format: Literal["msgpack", "json"] = "msgpack") -> None:
        self.name = f"in process {format}"
        self.engine = engine
        self._subprotocol = f"openenv.v1.{format}"

    @contextlib.asynccontextmanager
    async def session(
        self, *, options: dict[str, Any] | None = None, limits: Limits | None = None
    ) -> AsyncIterator[Conversation]:
        engine, subprotocol = self.engine, self._subprotocol

        class Memory(_Client):
            async def _connect(self) -> ClientConnection:
                return await dial_memory(engine, subprotocol, self.limits, self.timeouts)

            def _key(self) -> Hashable:
                return (id(engine), subprotocol, self.limits)

        async with Memory("memory:", options=options, limits=limits) as client:
            yield client

    async def capacity(self) -> int | None:
        return self.engine.max_sessions


class HTTPTransport(Transport):
    """Plain HTTP, one request a call.

    Args:
        url: of the server.
        token: access token.
    """

    name = "http"
    features = _SHARED | {"sessions", "tasks"}

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._token = token

    @contextlib.asynccontextmanager
    async def session(
        self, *, options: dict[str, Any] | None = None, limits: Limits | None = None
    ) -> AsyncIterator[Conversation]:
        client: HTTPEnvClient[Any, Any, Any] = HTTPEnvClient(
            self.url, token=self._token, options=options, limits=limits
        )
        async with client:
            yield client

    async def use_unknown_session(self) -> None:
        await _use_unknown_http_session(self.url, self._token)


async def _use_unknown_http_session(url: str, token: str | None) -> None:
    import aiohttp

    from openenv_async.endpoints.addresses import is_here
    from openenv_async.errors import error_from_wire

    headers = {"X-OpenEnv-Session": f"{secrets.token_hex(16)}.{secrets.token_hex(16)}"}
    headers["X-OpenEnv-Seq"] = "1"
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    async with (
        aiohttp.ClientSession(trust_env=not is_here(url)) as http,
        http.get(f"{url.rstrip('/')}/state", headers=headers) as response,
    ):
        body = await response.json(content_type=None)
    error = body.get("error", {})
    raise error_from_wire(error.get("code", ""), error.get("message", str(body)), False, None)


class UpstreamTransport(Transport):
    """Upstream OpenEnv's JSON dialect: a WebSocket without a subprotocol.

    Args:
        url: of the server.
        token: access token.
    """

    name = "upstream"
    features = _TRAINERS

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._token = token

    @contextlib.asynccontextmanager
    async def session(
        self, *, options: dict[str, Any] | None = None, limits: Limits | None = None
    ) -> AsyncIterator[Conversation]:
        session = await UpstreamSession.connect(self.url, self._token)
        try:
            yield session
        finally:
            await session.close()

    def matches(self, error: BaseException, cls: type[OpenEnvError]) -> bool:
        return isinstance(error, UpstreamError) and error.code == cls.upstream_code


class UpstreamRpcTransport(Transport):
    """Upstream's JSON-RPC, ``POST /mcp``: sessions, and tools called in them.

    Args:
        url: of the server.
        token: access token.
    """

    name = "upstream json-rpc"
    features = frozenset({"held", "sessions"})

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._token = token

    def session(
        self, *, options: dict[str, Any] | None = None, limits: Limits | None = None
    ) -> contextlib.AbstractAsyncContextManager[Any]:
        return RpcSession(self.url, self._token)

    def matches(self, error: BaseException, cls: type[OpenEnvError]) -> bool:
        return isinstance(error, UntypedError)

    async def use_unknown_session(self) -> None:
        async with RpcSession(self.url, self._token) as session:
            await session.use_unknown()


class McpTransport(Transport):
    """MCP as an agent speaks it, at ``/mcp``.

    Args:
        url: of the server.
        revision: of the protocol.
        token: access token.
    """

    features = frozenset({"reset", "held", "options", "order", "ends", "sessions"})

    def __init__(self, url: str, revision: str = "2026-07-28", token: str | None = None) -> None:
        self.name = f"mcp {revision}"
        self.url = url
        self._revision = revision
        self._token = token

    def session(
        self, *, options: dict[str, Any] | None = None, limits: Limits | None = None
    ) -> contextlib.AbstractAsyncContextManager[Any]:
        return McpSession(self.url, self._token, self._revision)

    def matches(self, error: BaseException, cls: type[OpenEnvError]) -> bool:
        return isinstance(error, UntypedError)

    async def use_unknown_session(self) -> None:
        async with McpSession(self.url, self._token, self._revision) as session:
            await session.use_unknown()


class OneCallTransport(Transport):
    """Upstream's HTTP without a session, where the server has it: an environment for each call.

    Args:
        url: of the server.
        token: access token.
    """

    name = "stateless http"
    features = _TRAINERS - {"held"}

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._token = token

    def session(
        self, *, options: dict[str, Any] | None = None, limits: Limits | None = None
    ) -> contextlib.AbstractAsyncContextManager[Any]:
        return OneCallSession(self.url, self._token)


def network_transports(url: str, token: str | None = None) -> tuple[Transport, ...]:
    """Return every transport of a server that has a network.

    Args:
        url: of the server.
        token: access token.
    """
    return (
        NativeTransport(url, "msgpack", token),
        NativeTransport(url, "json", token),
        HTTPTransport(url, token),
        UpstreamTransport(url, token),
        UpstreamRpcTransport(url, token),
        McpTransport(url, "2025-11-25", token),
        McpTransport(url, "2026-07-28", token),
        OneCallTransport(url, token),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


__getattr__ = renamed_attributes(
    __name__,
    {
        "Door": "Transport",
        "HTTPDoor": "HTTPTransport",
        "MemoryDoor": "InProcessTransport",
        "NativeDoor": "NativeTransport",
        "UpstreamDoor": "UpstreamTransport",
    },
)
