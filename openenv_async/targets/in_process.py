"""The in-process transport: a client and an engine in one loop, with codecs but no socket."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Mapping
from typing import Any, Literal

from openenv_async.client.arguments import refuse_unknown
from openenv_async.client.connection import ClientConnection
from openenv_async.client.env import EnvClient
from openenv_async.client.settings import SETTINGS
from openenv_async.engine import Engine, EngineOptions, ServerConnection
from openenv_async.errors import InvalidOption, shown
from openenv_async.protocol.codec import frame_codec
from openenv_async.targets.classes import typed_client
from openenv_async.targets.resolve import environment_spec
from openenv_async.types import Limits, Timeouts

__all__ = [
    "MemoryTransport",
    "client_of_engine",
    "connect",
    "connect_in_process",
    "dial_memory",
]


class MemoryTransport:
    """A transport between a ``ClientConnection`` and a ``ServerConnection`` of one loop."""

    congested = False

    def __init__(self, engine: Engine, subprotocol: str, client: ClientConnection) -> None:
        self.subprotocol = subprotocol
        codec = frame_codec(subprotocol, "server", engine.options.limits.max_message_size)
        self._client = client
        self._server = ServerConnection(engine, codec, self._wake, self._cut)
        self._loop = asyncio.get_running_loop()
        self._inbox: list[bytes] = []
        self._scheduled = False
        self._closed = False

    def send(self, message: bytes, text: bool) -> None:
        """Deliver to the engine in the next loop turn, as a socket would."""
        self._inbox.append(message)
        self._wake()

    def _wake(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._scheduled = False
        if self._closed:
            return
        inbox, self._inbox = self._inbox, []
        for message in inbox:
            self._server.receive(message)
        for message in self._server.take():
            self._client.receive(message)

    def _cut(self) -> None:
        self._closed = True
        self._loop.call_soon(self._client.lost, self)

    async def drained(self) -> None:
        """Memory is never full."""

    async def aclose(self, leaving: bool = True) -> None:
        """The engine learns that the connection is gone."""
        if not self._closed:
            self._pump()
            self._closed = True
            self._server.lost(left=leaving)


async def dial_memory(
    engine: Engine, subprotocol: str, limits: Limits, timeouts: Timeouts
) -> ClientConnection:
    """A connection to an engine in this loop."""

    async def redial(connection: ClientConnection) -> MemoryTransport:
        return MemoryTransport(engine, subprotocol, connection)

    where = f"{engine.spec.name} (in process)"
    connection = ClientConnection(where, limits, timeouts, redial)
    await connection.start()
    return connection


def client_of_engine(
    engine: Engine,
    client: type[EnvClient[Any, Any, Any]] | None = None,
    format: Literal["msgpack", "json"] = "msgpack",
    **settings: Any,
) -> EnvClient[Any, Any, Any]:
    """Return a client of an engine in this loop, which opens when it is used.

    Args:
        engine: holds the session.
        client: its class; by default one with the environment's own types.
        format: of the messages.
        settings: for the client.
    """
    base = client or typed_client(engine.spec)
    subprotocol = f"openenv.v1.{format}"

    class Memory(base):  # type: ignore[valid-type,misc]  # the class is a value here
        in_process = True

        async def _connect(self) -> ClientConnection:
            return await dial_memory(engine, subprotocol, self.limits, self.timeouts)

        def _key(self) -> Any:
            return (engine, subprotocol)

    Memory.__name__ = base.__name__
    return Memory("memory:", **settings)


@contextlib.asynccontextmanager
async def connect_in_process(
    env: Any,
    *args: Any,
    client: type[EnvClient[Any, Any, Any]] | None = None,
    format: Literal["msgpack", "json"] = "msgpack",
    options: EngineOptions | None = None,
    params: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[EnvClient[Any, Any, Any]]:
    """Open a client of an environment in this process and loop, without a socket.

    ``async with connect_in_process(MyEnvironment) as env:``

    The same frames, codecs and engine as over a socket, so what works here works there.
    ``connect`` is another name of it.

    Args:
        env: an environment (class, factory, instance or ``EnvironmentSpec``), an installed name,
            ``module:Class``, a folder or an id of Gymnasium; or an ``Engine``, to share it.
        args: action, observation and state type, as for ``create_app``.
        client: the client class; by default one with the environment's own types.
        format: of the messages.
        options: capacity, deadlines, sizes.
        params: constructor arguments of the environment.
        settings: for the client.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind; nothing was built then. One is
            ``WrongTarget``: a server, image or client has its environment elsewhere.
        TargetNotFound: there is no environment of this name.
    """
    if format not in ("msgpack", "json"):
        raise ValueError(f"format must be 'msgpack' or 'json', got {shown(format)}")
    if options is not None and not isinstance(options, EngineOptions):
        raise TypeError(
            f"options must be an EngineOptions, got {shown(options)}: constructor arguments of the"
            " environment are params={name: value}"
        )
    unknown = [name for name in settings if client is None and name not in SETTINGS]
    if unknown:
        known = ("client", "format", "options", "params", *SETTINGS)
        refuse_unknown("connect_in_process", unknown, known)
    given: Any = EnvClient if client is None else client
    if not (inspect.isclass(given) and issubclass(given, EnvClient)):
        raise TypeError(f"client must be a class of EnvClient, got {shown(client)}")
    if isinstance(env, Engine):
        if params:
            raise InvalidOption("an Engine has its environment's arguments: it takes no params")
        engine = env
    else:
        spec = environment_spec(env, *args, params=params, entry="connect_in_process")
        engine = Engine(spec, options)
    try:
        async with client_of_engine(engine, client, format, **settings) as opened:
            yield opened
    finally:
        if engine is not env:
            await engine.aclose()


connect = connect_in_process
