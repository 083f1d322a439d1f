"""The pace of the collector: rarer with sessions, usual again where environments make cycles."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from openenv_async.engine.collector import PER_SESSION, CollectorPace, paced_collector


def test_the_pace_grows_with_the_sessions_and_shrinks_with_them() -> None:
    sessions = 1000
    pace = CollectorPace(lambda: sessions, 700)
    seen = [pace.decide(found=0) for _ in range(6)]
    assert seen == [1400, 2800, 5600, 8700, 8700, 8700]
    assert 700 + PER_SESSION * 1000 == 8700
    sessions = 10
    assert pace.decide(found=0) == 780
    sessions = 0
    assert pace.decide(found=0) == 700


def test_garbage_brings_the_usual_pace_back() -> None:
    pace = CollectorPace(lambda: 8192, 700)
    for _ in range(10):
        pace.decide(found=0)
    most = pace.threshold
    assert most == 700 + PER_SESSION * 8192
    assert pace.decide(found=most // 16) == most  # so few are not a reason
    assert pace.decide(found=most // 16 + 1) == most // 2
    for _ in range(10):
        pace.decide(found=100_000)
    assert pace.threshold == 700
    assert pace.decide(found=0) == 1400


@pytest.fixture
def thresholds() -> Iterator[tuple[int, int, int]]:
    """Python's thresholds, as they were at the beginning and must be at the end."""
    before, callbacks = gc.get_threshold(), list(gc.callbacks)
    yield before
    assert gc.get_threshold() == before
    assert gc.callbacks == callbacks


def test_a_collection_sets_the_thresholds_of_the_process(thresholds: Any) -> None:
    usual, middle, old = thresholds
    with paced_collector(lambda: 5000):
        assert gc.get_threshold() == thresholds
        for _ in range(10):
            gc.collect(0)
        assert gc.get_threshold() == (usual + PER_SESSION * 5000, middle, old)


def test_a_process_without_a_collector_keeps_it_so(thresholds: Any) -> None:
    gc.disable()
    try:
        with paced_collector(lambda: 5000):
            gc.collect(0)
            assert gc.get_threshold() == thresholds
    finally:
        gc.enable()


SERVING = """
    import asyncio, gc, json, os, signal, threading, time
    from typing import Any
    from openenv_async import EngineOptions, Environment, GenericEnvClient
    from openenv_async.server.run import run_server

    class Node:
        def __init__(self) -> None:
            self.me = self  # a cycle, as of a world and its parts
            self.load = bytearray(20_000)

    class Cyclic(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
        def __init__(self) -> None:
            self.me = self

        async def reset(self) -> dict[str, Any]:
            self.world = [Node() for _ in range(10)]
            return {}

        async def step(self, action: dict[str, Any]) -> dict[str, Any]:
            return {}

    def nodes() -> int:
        return sum(type(each) is Node for each in gc.get_objects())

    def resident() -> float:
        for line in open("/proc/self/status"):
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    async def drive(url: str) -> list[float]:
        seen = []
        for _ in range(16):
            clients = [GenericEnvClient(url) for _ in range(200)]
            for _ in range(5):
                await asyncio.gather(*(each.reset() for each in clients))
            await asyncio.gather(*(each.close() for each in clients))
            seen.append(resident())
        return seen

    def listening(url: str) -> None:
        def use() -> None:
            seen = asyncio.run(drive(url))
            left = nodes()
            threshold = gc.get_threshold()[0]
            for _ in range(100):  # the loop may be at the last closes still
                gc.collect()
                if nodes() <= 64 * 10:
                    break
                time.sleep(0.05)
            print(json.dumps([seen, left, nodes(), threshold]), flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
        threading.Thread(target=use).start()

    run_server(Cyclic, port=0, options=EngineOptions(max_sessions=1000), on_listening=listening)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_flat_over_resets_and_closes_that_leave_cycles() -> None:
    """Sixteen generations of 200 sessions: 16,000 worlds of 10 parts and 200 KB, 3 GB in all."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SERVING)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen, left, kept, threshold = json.loads(done.stdout)
    assert threshold > gc.get_threshold()[0]  # sessions lived when it was last looked at
    assert left < 160_000 / 4  # of the parts made, although all worlds are garbage by now
    assert kept <= 64 * 10  # of the last sessions, which the heap of deadlines may still hold
    assert max(seen[8:]) < 1.5 * max(seen[:8])
