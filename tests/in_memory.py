"""Servers and workers of one loop without sockets, for tests that permute its turns."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from openenv_async import EngineOptions, EnvClient
from openenv_async.client.connection import ClientConnection
from openenv_async.client.settings import ClientSettings
from openenv_async.engine import Engine
from openenv_async.errors import ConnectFailed, WorkerStartFailed
from openenv_async.providers.base import Provider, Worker, WorkerExit
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.in_process import MemoryTransport
from tests.helpers import Counter

__all__ = ["MemoryClient", "MemoryProvider", "MemoryServer", "MemoryWorker", "dial"]

_servers: dict[str, MemoryServer] = {}
_ports = itertools.count(1)


class MemoryServer:
    """An engine with an address in this process.

    Args:
        env: the environment.
        options: of the engine.

    Attributes:
        url: where ``MemoryClient`` finds it.
        reachable: false: it cannot be dialled.
        dials: how often it was.
        latency: seconds that dialling takes.
    """

    def __init__(self, env: Any = Counter, options: EngineOptions | None = None) -> None:
        self.engine = Engine(EnvironmentSpec(env), options or EngineOptions())
        self.url = f"http://memory:{next(_ports)}"
        self.reachable = True
        self.dials = 0
        self.latency = 0.01
        self.transports: list[MemoryTransport] = []
        _servers[self.url] = self

    @property
    def open_transports(self) -> int:
        """Transports that nobody closed."""
        return sum(not transport._closed for transport in self.transports)

    def cut(self) -> None:
        """The network fails: both ends of every connection learn that it is gone."""
        for transport in self.transports:
            if not transport._closed:
                transport._server.lost()
                transport._cut()

    async def transport(self, connection: ClientConnection) -> MemoryTransport:
        """A transport to this server, after a while."""
        self.dials += 1
        await asyncio.sleep(self.latency)
        if not self.reachable or self.url not in _servers:
            raise ConnectFailed(f"nothing listens at {self.url}", phase="connect")
        transport = MemoryTransport(self.engine, "openenv.v1.msgpack", connection)
        self.transports.append(transport)
        return transport

    async def aclose(self) -> None:
        _servers.pop(self.url, None)
        for transport in self.transports:
            if not transport._closed:
                transport._cut()
        await self.engine.aclose()


async def dial(url: str, settings: ClientSettings) -> ClientConnection:
    """Connect as the WebSocket client's ``dial`` does."""
    server = _servers.get(url)
    if server is None:
        raise ConnectFailed(f"nothing listens at {url}", phase="connect")
    connection = ClientConnection(url, settings.limits, settings.timeouts, server.transport)
    await connection.start()
    return connection


class MemoryClient(EnvClient[Any, Any, Any]):
    """A client of a ``MemoryServer``."""

    async def _connect(self) -> ClientConnection:
        return await dial(self.base_url, self.settings)


class MemoryWorker(Worker):
    """A ``MemoryServer`` as a worker."""

    def __init__(self, name: str, server: MemoryServer) -> None:
        super().__init__(name, server.url)
        self.server = server
        self.closed = 0

    def die(self) -> None:
        """End by itself."""
        if not self.exited.done():
            self.exited.set_result(WorkerExit("exited with code 1", exit_code=1))

    async def aclose(self) -> None:
        self.closed += 1
        await self.server.aclose()


class MemoryProvider(Provider):
    """A provider of workers in this process.

    Attributes:
        started: all of them.
        failures: starts that are to fail.
        start_seconds: seconds that a start takes.
        asked: when starts were asked for, by the loop's clock.
    """

    name = "memory"

    def __init__(self, env: Any = Counter, options: EngineOptions | None = None) -> None:
        self.env = env
        self.options = options
        self.started: list[MemoryWorker] = []
        self.failures = 0
        self.start_seconds = 0.1
        self.asked: list[float] = []
        self.closed = 0
        self._numbers = itertools.count(1)

    async def start(self, *, timeout: float | None = None) -> MemoryWorker:
        self.asked.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.start_seconds)
        if self.failures:
            self.failures -= 1
            raise WorkerStartFailed("no such image", phase="open")
        worker = MemoryWorker(f"memory-{next(self._numbers)}", MemoryServer(self.env, self.options))
        self.started.append(worker)
        return worker

    @property
    def sessions(self) -> int:
        """Sessions that all of them hold now."""
        return sum(len(worker.server.engine.sessions) for worker in self.started)

    async def aclose(self) -> None:
        self.closed += 1
        assert all(worker.closed == 1 for worker in self.started)
        assert all(worker.server.open_transports == 0 for worker in self.started)
