"""The in-process transport: a client and an engine in one loop, with codecs but no socket."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from openenv_async.client.connection import ClientConnection
from openenv_async.client.env import EnvClient
from openenv_async.engine import Engine, ServerConnection
from openenv_async.protocol.codec import frame_codec
from openenv_async.renamed import renamed_attributes
from openenv_async.targets.classes import typed_client
from openenv_async.types import Limits, Timeouts

__all__ = [
    "MemoryTransport",
    "client_of_engine",
    "dial_memory",
]


class MemoryTransport:
    """A transport between a ``ClientConnection`` and a ``ServerConnection`` of one loop."""

    name = "memory"
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


__getattr__ = renamed_attributes(
    __name__,
    {name: f"openenv_async.targets.served.{name}" for name in ("connect", "connect_in_process")},
)
