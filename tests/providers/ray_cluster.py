"""300 rollouts on a Ray cluster of three nodes, one of which is removed; run as a script.

Prints a JSON object of what happened. Ray warns and leaves threads, so it has its own process.
"""

from __future__ import annotations

import asyncio
import collections
import json
import sys
import time
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has none
import ray
from ray._private.state import actors
from ray.cluster_utils import Cluster

from openenv_async import EnvPool
from openenv_async.providers.ray import RayProvider, RayWorker
from openenv_async.rollouts import Summary, Turn

EPISODES = 300
STEPS = 5
HEAD = {"num_cpus": 0, "include_dashboard": False}


def servers() -> list[int]:
    """The processes that serve, anywhere below this one's cluster."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        environ = process.info["environ"] or {}
        if environ.get("RAY_CLUSTER_TEST") == MARK and "serve" in (process.info["cmdline"] or []):
            found.append(process.pid)
    return found


async def play(cluster: Any, nodes: list[Any]) -> dict[str, Any]:
    provider = RayProvider("echo", num_cpus=1)
    pool = EnvPool(provider, min_workers=3, max_workers=3, sessions_per_worker=32)
    async with pool:
        started = {worker.url: worker for worker in pool.workers}
        by_worker: collections.Counter[str] = collections.Counter()
        removed: asyncio.Future[Any] | None = None
        victim = nodes[0]
        loop = asyncio.get_running_loop()

        async def policy(observation: Any, turn: Turn) -> dict[str, str]:
            await asyncio.sleep(0.05)
            return {"message": "hello"}

        summary = Summary()
        outcomes = []
        begun = time.perf_counter()
        stream = pool.collect(
            policy, EPISODES, concurrency=48, max_steps=STEPS, summary=summary
        )  # fmt: skip
        async for outcome in stream:
            outcomes.append(outcome)
            if not by_worker:
                by_worker.update(lease.worker.url for lease in pool._leases.values())
            if len(outcomes) == EPISODES // 4:
                removed = loop.run_in_executor(None, cluster.remove_node, victim, False)
        took = time.perf_counter() - begun
        assert removed is not None
        await removed
        async with asyncio.timeout(60):  # the pool learns of the death, also without playing
            while pool.statistics().workers_died == 0:  # noqa: ASYNC110 - from another process
                await asyncio.sleep(0.05)
        lost = [w for w in started.values() if w.exited.done()]
        # The pool goes on with what is left, and with a node that joins.
        after = [o async for o in pool.collect(policy, 20, max_steps=1)]
        cluster.add_node(num_cpus=1)
        async with asyncio.timeout(60):
            while len(pool.workers) < 3:  # noqa: ASYNC110 - from another process
                await asyncio.sleep(0.05)
        joined = [o async for o in pool.collect(policy, 20, max_steps=1)]
        statistics = pool.statistics()
        workers = [w for w in pool.workers if isinstance(w, RayWorker)]
    alive = [actor for actor in actors().values() if actor["State"] != "DEAD"]
    return {
        "outcomes": sorted(o.index for o in outcomes) == list(range(EPISODES)),
        "statuses": {str(k): v for k, v in summary.statuses.items()},
        "errors": {str(k): v for k, v in summary.errors.items()},
        "retried": summary.retried,
        "spread": dict(by_worker),
        "lost_workers": len(lost),
        "lost_sessions": by_worker[lost[0].url] if lost else 0,
        "after": [str(o.status) for o in after],
        "joined": [str(o.status) for o in joined],
        "nodes": len({worker.node_id for worker in workers}),
        "statistics": statistics.as_dict(),
        "actors_left": len(alive),
        "seconds": took,
    }


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    nodes = [cluster.add_node(wait=False, num_cpus=1) for _ in range(3)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        report = asyncio.run(play(cluster, nodes))
        report["ray_still_up"] = ray.is_initialized()
        report["servers_left"] = len(servers())
    finally:
        ray.shutdown()
        cluster.shutdown()  # type: ignore[no-untyped-call]  # it has no types
    sys.stdout.write(json.dumps(report) + "\n")


MARK = sys.argv[1]
if __name__ == "__main__":
    main()
