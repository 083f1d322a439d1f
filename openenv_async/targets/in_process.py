"""The in-process door: a client and an engine in one loop, with the wire but without a socket."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator
from typing import Any, Literal

from openenv_async.client.arguments import refuse_unknown
from openenv_async.client.connection import ClientConnection
from openenv_async.client.env import EnvClient
from openenv_async.client.settings import SETTINGS
from openenv_async.engine import Engine, EngineOptions, ServerConnection
from openenv_async.errors import shown
from openenv_async.protocol.codec import frame_codec
from openenv_async.spec import EnvironmentSpec
from openenv_async.types import Limits, Timeouts

__all__ = ["MemoryTransport", "connect", "dial_memory"]


class MemoryTransport:
    """Carries messages between a ``ClientConnection`` and a ``ServerConnection`` of one loop."""

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


@contextlib.asynccontextmanager
async def connect(
    env: Any,
    *args: Any,
    client: type[EnvClient[Any, Any, Any]] | None = None,
    format: Literal["msgpack", "json"] = "msgpack",
    options: EngineOptions | None = None,
    **settings: Any,
) -> AsyncIterator[EnvClient[Any, Any, Any]]:
    """A client of an environment in this process.

    ``async with connect(MyEnvironment) as env:``

    The same frames, codecs and engine as over a socket, so what works here works there.

    Args:
        env, args: as for ``create_app``; ``env`` may also be an ``Engine``, to share it.
        client: the client class; by default one with the environment's own types.
        format: of the messages.
        options: capacity, deadlines, sizes.
        settings: for the client.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind; nothing was built then.
    """
    if format not in ("msgpack", "json"):
        raise ValueError(f"format must be 'msgpack' or 'json', got {shown(format)}")
    if options is not None and not isinstance(options, EngineOptions):
        raise TypeError(
            f"options must be an EngineOptions, got {shown(options)}: constructor arguments of the"
            " environment go with functools.partial(Environment, name=value)"
        )
    unknown = [name for name in settings if client is None and name not in SETTINGS]
    if "params" in unknown:
        raise TypeError(
            "connect takes no argument 'params': constructor arguments of the environment go with"
            " functools.partial(Environment, name=value)"
        )
    if unknown:
        refuse_unknown("connect", unknown, ("client", "format", "options", *SETTINGS))
    given: Any = EnvClient if client is None else client
    if not (inspect.isclass(given) and issubclass(given, EnvClient)):
        raise TypeError(f"client must be a class of EnvClient, got {shown(client)}")
    engine = env if isinstance(env, Engine) else Engine(EnvironmentSpec(env, *args), options)
    spec = engine.spec
    base = client or type(
        f"{spec.name}Client",
        (EnvClient,),
        {f"{kind}_type": spec.types[kind] for kind in ("action", "observation", "state")},
    )
    subprotocol = f"openenv.v1.{format}"

    class Memory(base):  # type: ignore[valid-type,misc]  # the class is a value here
        async def _connect(self) -> ClientConnection:
            return await dial_memory(engine, subprotocol, self.limits, self.timeouts)

        def _key(self) -> Any:
            return (engine, subprotocol)

    Memory.__name__ = base.__name__
    try:
        async with Memory("memory:", **settings) as opened:
            yield opened
    finally:
        if engine is not env:
            await engine.aclose()
