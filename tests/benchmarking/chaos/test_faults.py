"""The faults of a run: drawn, injected, counted, and over at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from openenv_async.benchmarking.chaos import faults as module
from openenv_async.benchmarking.chaos.cuts import ConnectionCuts
from openenv_async.benchmarking.chaos.faults import inject_faults
from openenv_async.benchmarking.chaos.proxy import ChaosProxy


class FakeProxy:
    """A proxy that notes what was done to it."""

    def __init__(self) -> None:
        self.random = random.Random(1)
        self.delay = (0.0, 0.0)
        self.cut_rate = 0.0
        self.seen: Counter[str] = Counter()
        self.now: set[str] = set()

    def cut(self) -> int:
        self.seen["cut"] += 1
        return 3

    @contextlib.contextmanager
    def _during(self, name: str) -> Iterator[None]:
        self.seen[name] += 1
        self.now.add(name)
        try:
            yield
        finally:
            self.now.discard(name)

    def outage(self) -> Any:
        return self._during("outage")

    def pause(self) -> Any:
        return self._during("pause")


async def run(
    proxy: Any, pid: int | None, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> Counter[str]:
    """Inject faults until so many waits have passed; waiting takes no time."""
    faults: Counter[str] = Counter()
    waits = 0

    async def sleep(seconds: float) -> None:
        nonlocal waits
        assert 0.05 <= seconds <= 1.0
        waits += 1
        if waits > rounds:
            raise asyncio.CancelledError
        if isinstance(proxy, ConnectionCuts):
            return
        proxy.seen["delayed"] += proxy.delay != (0.0, 0.0)
        proxy.seen["cutting"] += proxy.cut_rate > 0

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await inject_faults(cast(ChaosProxy, proxy), pid, faults)
    return faults


async def test_each_kind_is_injected_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = FakeProxy()
    faults = await run(proxy, None, 300, monkeypatch)
    assert faults["disconnects"] == 3 * proxy.seen["cut"] > 0
    assert faults["outages"] == proxy.seen["outage"] > 0
    assert faults["pauses"] == proxy.seen["pause"] > 0
    assert faults["delays"] >= proxy.seen["delayed"] > 0
    assert faults["cuts between messages"] >= proxy.seen["cutting"] > 0
    assert not {"server stops", "worker kills"} & set(faults)


@pytest.mark.parametrize("rounds", range(1, 40))
async def test_wherever_it_is_cancelled_nothing_goes_on(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = FakeProxy()
    await run(proxy, None, rounds, monkeypatch)
    assert (proxy.delay, proxy.cut_rate, proxy.now) == ((0.0, 0.0), 0.0, set())


async def test_connections_are_cut_where_no_proxy_stands_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Cuts(ConnectionCuts):
        def cut(self) -> int:
            return 2

    faults: Counter[str] = await run(Cuts(list), None, 20, monkeypatch)
    assert faults == {"disconnects": 40}


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_server_of_this_machine_is_stopped_for_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(["sleep", "600"])
    try:
        faults = asyncio.run(run(FakeProxy(), process.pid, 200, monkeypatch))
        assert faults["server stops"] > 0
        assert state_of(process.pid) != "T", "it goes on at the end"
        with module._stopped(process.pid):
            until = time.monotonic() + 10
            while state_of(process.pid) != "T":
                assert time.monotonic() < until
    finally:
        process.kill()
        process.wait()
    with module._stopped(process.pid):
        pass  # one that is gone is no error


def test_a_worker_is_one_of_its_children() -> None:
    script = "sleep 600 & sleep 600 & echo; wait"
    process = subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert module._kill_worker(process.pid, random.Random(1)) == 1
        assert process.poll() is None
    finally:
        os.killpg(process.pid, 9)
        process.communicate()
    assert module._kill_worker(process.pid, random.Random(1)) == 0
    childless = subprocess.Popen(["sleep", "600"])
    try:
        assert module._kill_worker(childless.pid, random.Random(1)) == 0
    finally:
        childless.kill()
        childless.wait()
