"""One run of load under faults."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from openenv_async.benchmarking import Load
from openenv_async.benchmarking.chaos.audit import ChaosReport
from openenv_async.benchmarking.chaos.faults import inject_faults
from openenv_async.benchmarking.chaos.playing import LoadSession, Run
from openenv_async.benchmarking.chaos.proxy import ChaosProxy
from openenv_async.benchmarking.load import action_schema, sessions
from openenv_async.types import Timeouts

__all__ = ["run_chaos"]


async def run_chaos(
    url: str,
    load: Load,
    *,
    target: str | None = None,
    token: str | None = None,
    pid: int | None = None,
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
        schema: of the actions; by default the server is asked.
        on_progress: called ten times a second with phase, share and steps so far.

    Raises:
        OpenEnvError: the sessions cannot be opened.
    """
    if schema is None:
        schema = await action_schema(url, token)
    run = Run(schema, load.seed)
    timeouts = Timeouts(open=60.0, reset=60.0, step=60.0, state=60.0)
    faults: Counter[str] = Counter()
    async with (
        ChaosProxy(url, load.seed) as proxy,
        sessions(proxy.url, load, "chaos", token=token, timeouts=timeouts) as clients,
    ):
        async with asyncio.TaskGroup() as group:
            for number, client in enumerate(clients):
                group.create_task(LoadSession(run, number, client).play())
            injecting = group.create_task(inject_faults(proxy, pid, faults))
            began = time.monotonic()
            while (passed := time.monotonic() - began) < load.seconds:
                if on_progress is not None:
                    on_progress("chaos", passed / load.seconds, run.latencies.count)
                await asyncio.sleep(min(0.1, load.seconds - passed))
            injecting.cancel()
            elapsed = time.monotonic() - began
            run.stopped.set()  # every session finishes and audits its episode
        run.audit.resumed = sum(c.connection.reconnects for c in clients if c.connection)
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
    )
