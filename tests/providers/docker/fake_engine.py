"""A Docker Engine in memory, for the parts that decide what becomes of containers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.docker.attachment import Attachment
from openenv_async.providers.docker.calls import Breaker, NoSuchContainer
from openenv_async.providers.docker.client import DockerClient
from openenv_async.providers.docker.watch import Watch

__all__ = ["FakeEngine", "FakeWatch", "attached"]


class FakeEngine:
    """The methods of ``DockerClient`` that the tests' parts call.

    Attributes:
        listed: answers of ``containers``.
        states: of containers by name, for ``inspect``.
        removed: names in order.
        created, started, networks: containers with their bodies, names, networks with names.
        ports: of every container, for ``inspect``.
        answered: ``create`` waits for it, once the container is there.
        failure: raised by every call while it is set.
        held: removals wait for it.
        ended: ids that ``deaths`` yields.
    """

    url = "unix:///fake.sock"

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self.states: dict[str, dict[str, Any]] = {}
        self.removed: list[str] = []
        self.failure: Exception | None = None
        self.held = asyncio.Event()
        self.held.set()
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.looked = 0
        self.created: list[tuple[str, dict[str, Any]]] = []
        self.started: list[str] = []
        self.networks: list[tuple[str, str]] = []
        self.ports: dict[str, Any] = {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "4321"}]}
        self.answered = asyncio.Event()
        self.answered.set()
        self.closed = 0
        self.breaker = Breaker()

    def client(self) -> DockerClient:
        return cast(DockerClient, self)

    def _check(self) -> None:
        if self.failure is not None:
            raise self.failure

    async def containers(self, label: str) -> list[dict[str, Any]]:
        self.looked += 1
        self._check()
        return self.listed

    async def inspect(self, name: str) -> dict[str, Any]:
        self._check()
        if name not in self.states:
            raise NoSuchContainer(name)
        return {"State": self.states[name], "NetworkSettings": {"Ports": self.ports}}

    async def image(self, name: str) -> dict[str, Any]:
        self._check()
        return {"Id": "image", "Config": {"User": "app"}}

    async def create(
        self,
        name: str,
        body: dict[str, Any],
        *,
        platform: str | None,
        timeout: float,
        wanted: Callable[[], bool],
    ) -> str:
        self._check()
        self.created.append((name, body))
        await self.answered.wait()
        return f"id-{len(self.created)}"

    async def connect_network(self, network: str, name: str, *, timeout: float) -> None:
        self._check()
        self.networks.append((network, name))

    async def start(self, name: str, *, timeout: float) -> None:
        self._check()
        self.started.append(name)
        self.states.setdefault(name, {"Running": True})

    async def shares_networks(self) -> bool:
        return False

    async def log_tail(self, name: str, *, lines: int, timeout: float) -> str:
        self._check()
        return "the log"

    async def remove(self, name: str, *, timeout: float) -> None:
        await self.held.wait()
        self._check()
        self.removed.append(name)

    async def deaths(self, label: str) -> AsyncIterator[str]:
        while True:
            yield await self.ended.get()

    async def aclose(self) -> None:
        self.closed += 1


class FakeWatch:
    """A watch that looks at nothing."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.suspected = 0
        self.closed = 0

    def drop(self, id: str) -> None:
        self.ids.discard(id)

    def suspect(self) -> None:
        self.suspected += 1

    async def aclose(self) -> None:
        self.closed += 1


@contextlib.asynccontextmanager
async def attached(
    provider: DockerProvider | None,
    engine: FakeEngine,
    gone: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Attachment]:
    """An attachment to the Engine, which the provider has where there is one."""
    at = Attachment(engine.client(), cast(Watch, FakeWatch()), gone, 2)
    if provider is not None:
        provider._attached = at
    try:
        yield at
    finally:
        if provider is not None:
            provider._attached = None
        engine.failure = None
        engine.held.set()
        await at.aclose()
