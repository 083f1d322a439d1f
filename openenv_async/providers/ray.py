"""RayProvider: one server on each node of a Ray cluster that runs already.

An actor per node starts the server there and watches it; that is all it does. Sessions go
straight from the pool to the server over WebSocket. The actors are this process's: they, and the
servers with them, end with it, however it goes; a server also ends with its actor or its node.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import DeadlineExceeded, ProviderError, WorkerStartFailed
from openenv_async.providers.base import Provider, Worker, WorkerExit
from openenv_async.providers.process import ProcessProvider, ProcessWorker

__all__ = ["RayProvider", "RayWorker"]

log = logging.getLogger("openenv_async.providers.ray")
T = TypeVar("T")

_numbers = itertools.count(1)
_START_TIMEOUT: Final = 60.0
_STOP_TIMEOUT: Final = 20.0
_DOUBT: Final = 20.0
"""Seconds for which a node whose actor was lost gets no new one."""


class _NodeServer:
    """The actor: one server on its node."""

    def __init__(self, host: str, target: str, params: dict[str, Any], settings: dict[str, Any]):
        arguments = [f"--host={host}", *settings.pop("arguments")]
        self._provider = ProcessProvider(target, params, arguments=arguments, **settings)
        self._worker: ProcessWorker | None = None

    async def start(self, timeout: float) -> tuple[str, str | None]:
        """Start the server; its address and token."""
        self._worker = await self._provider.start(timeout=timeout)
        return self._worker.url, self._worker.token

    async def wait(self) -> WorkerExit:
        """Return when the server has ended."""
        assert self._worker is not None
        return await asyncio.shield(self._worker.exited)

    async def log_tail(self) -> str:
        """The last lines of the server."""
        return "" if self._worker is None else await self._worker.log_tail()

    async def stop(self) -> None:
        """End the server."""
        await self._provider.aclose()


class RayWorker(Worker):
    """A server on a node.

    Attributes:
        node_id: of the node, as Ray has it.
    """

    def __init__(
        self, provider: RayProvider, node_id: str, actor: Any, url: str, token: str | None
    ) -> None:
        super().__init__(f"ray-{next(_numbers)} ({url})", url, token=token)
        self.node_id = node_id
        self._provider = provider
        self._actor = actor
        self._watching = asyncio.create_task(self._watch(), name="openenv-ray-watch")

    async def _watch(self) -> None:
        try:
            ended: WorkerExit = await self._actor.wait.remote()
        except self._provider.ray.exceptions.RayError as exc:
            self._provider._doubt(self.node_id)
            ended = WorkerExit(f"its Ray actor or node is gone: {_first_line(exc)}")
        if not self.exited.done():
            self.exited.set_result(ended)

    async def log_tail(self) -> str:
        """The last lines the server wrote; empty when its node is gone."""
        try:
            tail: str = await self._actor.log_tail.remote()
        except self._provider.ray.exceptions.RayError:
            return ""
        return tail

    async def aclose(self) -> None:
        """End the server and its actor."""
        self._watching.cancel()
        await self._provider._end(self.node_id, self._actor)


class RayProvider(Provider):
    """A provider of one server per node, on nodes that have none yet.

    It joins the cluster that this process is connected to, or connects to ``address``. A cluster
    that it connected to it leaves again when it is closed.

    Args:
        target: as for ``openenv-async serve``; every node must be able to import it.
        params: constructor arguments of the environment; values that JSON can say.
        address: of the cluster; by default the one of ``RAY_ADDRESS``, or of this machine.
        num_cpus: that each server reserves on its node; nodes with fewer free are not used.
        resources: further ones that it reserves, such as ``{"env-node": 1}``.
        max_sessions: environments that one server may hold; ``None``: the server's default.
        arguments: more arguments of ``openenv-async serve``.
        namespace: of Ray, if it connects itself.

    Raises:
        ModuleNotFoundError: Ray is not installed; the message names the extra.
    """

    name = "ray"

    def __init__(
        self,
        target: str,
        params: Mapping[str, Any] | None = None,
        *,
        address: str | None = None,
        num_cpus: float = 1.0,
        resources: Mapping[str, float] | None = None,
        max_sessions: int | None = None,
        arguments: Sequence[str] = (),
        namespace: str | None = None,
    ) -> None:
        self.ray = _import_ray()
        self.target = target
        self.params = dict(params or {})
        self._address = address
        self._num_cpus = num_cpus
        self._resources = dict(resources or {})
        self._settings = {"max_sessions": max_sessions, "arguments": list(arguments)}
        self._namespace = namespace
        self._forget_all()

    def _forget_all(self) -> None:
        self._actors: dict[str, Any] = {}
        self._doubted_until: dict[str, float] = {}
        self._connected_here = False
        self._connecting: asyncio.Task[None] | None = None
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The settings."""
        runtime = ("ray", "_actors", "_doubted_until", "_connected_here", "_connecting", "_thread")
        return {name: value for name, value in self.__dict__.items() if name not in runtime}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.ray = _import_ray()
        self._forget_all()

    async def _call(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call what blocks, in the provider's own thread."""
        if self._thread is None:
            self._thread = concurrent.futures.ThreadPoolExecutor(1, "openenv-ray")
        call = functools.partial(function, *args, **options)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _connect(self) -> None:
        if self.ray.is_initialized():
            return
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._init(), name="openenv-ray-connect")
            self._connecting.add_done_callback(self._connected)
        await asyncio.shield(self._connecting)

    def _connected(self, task: asyncio.Task[None]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # its callers were told

    async def _init(self) -> None:
        try:
            await self._call(
                self.ray.init,
                address=self._address or "auto",
                namespace=self._namespace,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
        except (ConnectionError, RuntimeError, OSError) as exc:
            raise ProviderError(
                f"no Ray cluster is reached: {exc}; start one (`ray start --head`), or give its"
                " address"
            ) from exc
        self._connected_here = True

    def _doubt(self, node_id: str) -> None:
        """Its actor is gone, perhaps with the node: Ray takes a while to say so."""
        self._doubted_until[node_id] = time.monotonic() + _DOUBT

    async def _free_nodes(self) -> list[dict[str, Any]]:
        """Nodes that live, have what a server needs, and have none."""
        await self._connect()
        nodes: list[dict[str, Any]] = await self._call(self.ray.nodes)
        now = time.monotonic()
        needed = {"CPU": self._num_cpus, **self._resources}
        return [
            node
            for node in nodes
            if node["Alive"]
            and node["NodeID"] not in self._actors
            and self._doubted_until.get(node["NodeID"], now) <= now
            and all(node["Resources"].get(name, 0) >= count for name, count in needed.items())
        ]

    async def room(self) -> int | None:
        """Return the number of nodes that have no server."""
        return len(await self._free_nodes())

    async def start(self, *, timeout: float | None = None) -> RayWorker:
        """Start a server on a node that has none."""
        timeout = _START_TIMEOUT if timeout is None else timeout
        try:
            async with asyncio.timeout(timeout):
                return await self._start(timeout)
        except TimeoutError:
            raise DeadlineExceeded(
                f"no node of the Ray cluster started a server within {timeout:g} s: it may lack"
                f" the free resources ({self._num_cpus:g} CPU)",
                phase="open",
            ) from None

    async def _start(self, timeout: float) -> RayWorker:
        nodes = await self._free_nodes()
        # Others may have taken it while this one looked.
        node = next((node for node in nodes if node["NodeID"] not in self._actors), None)
        if node is None:
            raise ProviderError("every node of the Ray cluster that may have a server has one")
        node_id, host = node["NodeID"], node["NodeManagerAddress"]
        self._actors[node_id] = None
        try:
            actor = self._actors[node_id] = await self._call(self._make, node_id, host)
            url, token = await actor.start.remote(timeout)
        except BaseException as exc:
            await self._end(node_id, self._actors[node_id])
            if isinstance(exc, self.ray.exceptions.RayTaskError):
                cause = getattr(exc, "cause", exc)
                raise WorkerStartFailed(
                    f"the node {host} started no server: {cause}",
                    phase="open",
                    log_tail=getattr(cause, "log_tail", None),
                ) from exc
            if isinstance(exc, self.ray.exceptions.RayError):
                self._doubt(node_id)
                raise WorkerStartFailed(
                    f"the node {host} was lost while its server started: {_first_line(exc)}",
                    phase="open",
                ) from exc
            raise
        return RayWorker(self, node_id, actor, url, token)

    def _make(self, node_id: str, host: str) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        make = self.ray.remote(_NodeServer).options(
            num_cpus=self._num_cpus,
            resources=self._resources or None,
            max_restarts=0,
            max_concurrency=8,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        )
        return make.remote(host, self.target, self.params, self._settings)

    async def _end(self, node_id: str, actor: Any) -> None:
        """End a server and its actor; goes on when the caller is cancelled, and then is."""
        if actor is None or self._actors.get(node_id) is not actor:
            if actor is None:
                self._actors.pop(node_id, None)
            return
        ending = asyncio.create_task(self._stop(node_id, actor), name="openenv-ray-end")
        await wait_uncancelled(ending)
        ending.result()

    async def _stop(self, node_id: str, actor: Any) -> None:
        errors = self.ray.exceptions.RayError
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await actor.stop.remote()
        except (errors, TimeoutError) as exc:
            why = _first_line(exc)
            log.info("the server on node %s did not stop by itself: %s", node_id, why)
        try:
            await self._call(self.ray.kill, actor)
        except (errors, ValueError, RuntimeError) as exc:
            log.info("the actor on node %s could not be killed: %s", node_id, exc)
        if self._actors.get(node_id) is actor:
            del self._actors[node_id]

    async def aclose(self) -> None:
        """End every server; leave the cluster if it was joined here."""
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        ends = [self._end(node_id, actor) for node_id, actor in self._actors.items()]
        await asyncio.gather(*ends)
        if self._connected_here and self.ray.is_initialized():
            self._connected_here = False
            await self._call(self.ray.shutdown)
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown(wait=False)


def _first_line(error: BaseException) -> str:
    """Ray's messages are long."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _import_ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            "a Ray cluster needs ray: pip install 'openenv-async[ray]'", name=exc.name
        ) from None
    return ray
