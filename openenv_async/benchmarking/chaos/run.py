"""One run of load under faults."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from openenv_async.benchmarking import Load
from openenv_async.benchmarking.chaos.audit import ChaosReport
from openenv_async.benchmarking.chaos.cuts import ConnectionCuts
from openenv_async.benchmarking.chaos.faults import inject_faults
from openenv_async.benchmarking.chaos.playing import LoadSession, Run
from openenv_async.benchmarking.chaos.proxy import ChaosProxy
from openenv_async.benchmarking.chaos.vectors import LoadVector
from openenv_async.benchmarking.load import action_schema, sessions, vectors
from openenv_async.client.connection import ClientConnection
from openenv_async.client.env import GenericEnvClient
from openenv_async.client.vector import VectorSessions
from openenv_async.errors import OperationUnsupported
from openenv_async.types import Timeouts

__all__ = ["run_chaos"]


async def run_chaos(
    url: str,
    load: Load,
    *,
    target: str | None = None,
    token: str | None = None,
    pid: int | None = None,
    vector: int | None = None,
    over: Literal["tcp", "unix"] = "tcp",
    schema: Any = None,
    on_progress: Callable[[str, float, int], None] | None = None,
) -> ChaosReport:
    """Play under faults for ``load.seconds``, then audit.

    Args:
        url: of the server.
        load: sessions, connections, seconds and the seed of actions and faults.
        target: what it serves, for the report.
        token: access token.
        pid: of the server when it runs on this machine: then its workers are killed and it is
            stopped for moments.
        vector: sessions that are stepped together, by a thread; ``None``: each is on its own.
        over: ``tcp``: through a proxy that breaks connections; ``unix``: over the Unix socket of a
            server of this machine, with large payloads in shared memory, cut at the clients.
        schema: of the actions; by default the server is asked.
        on_progress: called ten times a second with phase, share and steps so far.

    Raises:
        OpenEnvError: the sessions cannot be opened.
        OperationUnsupported: the server has no Unix socket for this process.
    """
    if schema is None:
        schema = await action_schema(url, token)
    run = Run(schema, load.seed)
    timeouts = Timeouts(open=60.0, reset=60.0, step=60.0, state=60.0)
    faults: Counter[str] = Counter()
    load = dataclasses.replace(load, local=over == "unix")
    clients: list[GenericEnvClient] = []
    opened: list[VectorSessions] = []

    def connections() -> list[ClientConnection | None]:
        alone = [client.connection for client in clients]
        return [*alone, *(each.connection for each in opened)]

    async with contextlib.AsyncExitStack() as stack:
        breaking: ChaosProxy | ConnectionCuts
        if over == "tcp":
            breaking = await stack.enter_async_context(ChaosProxy(url, load.seed))
            url_of_clients = breaking.url
        else:
            breaking, url_of_clients = ConnectionCuts(connections, load.seed), url
        playing: list[Callable[[], Coroutine[Any, Any, None]]]
        if vector is None:
            clients = await stack.enter_async_context(
                sessions(url_of_clients, load, "chaos", token=token, timeouts=timeouts)
            )
            playing = [LoadSession(run, n, client).play for n, client in enumerate(clients)]
        else:
            opened = await stack.enter_async_context(
                vectors(url_of_clients, load, vector, "chaos", token=token, timeouts=timeouts)
            )
            threads = stack.enter_context(ThreadPoolExecutor(len(opened), "chaos"))
            playing = [
                functools.partial(_in_thread, threads, LoadVector(run, n * vector, each).play)
                for n, each in enumerate(opened)
            ]
        transports = {each.transport for each in connections() if each is not None}
        if over == "unix" and transports != {"Unix socket"}:
            raise OperationUnsupported(
                f"{url} has no Unix socket for this process: it must run on this machine, without"
                " --no-local"
            )
        async with asyncio.TaskGroup() as group:
            for play in playing:
                group.create_task(play())
            injecting = group.create_task(inject_faults(breaking, pid, faults))
            began = time.monotonic()
            try:
                while (passed := time.monotonic() - began) < load.seconds:
                    if on_progress is not None:
                        on_progress("chaos", passed / load.seconds, run.latencies.count)
                    await asyncio.sleep(min(0.1, load.seconds - passed))
            finally:
                injecting.cancel()
                elapsed = time.monotonic() - began
                run.stopped.set()  # every session finishes and audits its episode
        if vector is None:
            run.audit.resumed = sum(c.connection.reconnects for c in clients if c.connection)
        else:
            run.audit.resumed = sum(each.reconnects * each.count for each in opened)
    latencies = run.latencies
    return ChaosReport(
        target=target or url,
        sessions=load.sessions,
        connections=load.connections,
        seconds=elapsed,
        steps_per_second=latencies.count / elapsed,
        latency_ms={
            "p50": latencies.quantile(0.5) * 1e3,
            "p99": latencies.quantile(0.99) * 1e3,
            "max": latencies.longest * 1e3,
        },
        faults=dict(faults),
        audit=run.audit,
        vector=vector,
        transport="Unix socket" if over == "unix" else "WebSocket",
    )


async def _in_thread(threads: ThreadPoolExecutor, play: Callable[[], None]) -> None:
    await asyncio.get_running_loop().run_in_executor(threads, play)
