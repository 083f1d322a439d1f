"""Shutdown ends: SIGTERM, whatever the environments are doing, within the grace."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from openenv_async.errors import GoingAway, OpenEnvError
from tests.behaviours.environments import client, clients, gather, outcomes, served_process
from tests.helpers import until


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(part) for part in text.split()]


@pytest.mark.parametrize(
    ("target", "arguments", "action"),
    [
        ("Commanded", [], {"do": "sleep", "seconds": 60}),
        ("Commanded", ["--workers", "2"], {"do": "sleep", "seconds": 60}),
        ("CommandedProcess", ["--workers", "2"], {"do": "spin"}),
        ("Sleeper", [], {"seconds": 60}),
        ("Stubborn", [], {"seconds": 60}),
    ],
)
async def test_sigterm_with_blocking_steps(
    target: str, arguments: list[str], action: dict[str, Any]
) -> None:
    """100 sessions, 10 of them in a blocking step; every close has a second."""
    async with served_process(target, "--port", "0", "--close-timeout", "1", *arguments) as (
        url,
        process,
    ):
        made = [client(url) for _ in range(100)]
        await gather(c.reset() for c in made)
        workers = children(process.pid)
        stepping = [asyncio.ensure_future(c.step(action)) for c in made[:10]]
        if target != "CommandedProcess":
            await gather(c.step({}) for c in made[10:20])
        else:
            await asyncio.sleep(0)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(process.wait(), 10)
        took = time.monotonic() - begun
        assert code == 0
        assert took < 1 + 2 + 1  # the grace, 2 s, and 1 s for a busy machine
        results = await asyncio.wait_for(outcomes(stepping), 10)
        for result in results:
            assert isinstance(result, OpenEnvError)
            assert result.retryable, result
        for pid in workers:
            assert not _runs(pid)
        await outcomes(c.close() for c in made)


async def test_clients_are_told_and_may_go_elsewhere() -> None:
    async with served_process("Sleeper", "--port", "0") as (url, process), clients(url, 4) as made:
        await gather(c.reset() for c in made)
        connection = made[0].connection
        assert connection is not None
        process.send_signal(signal.SIGTERM)
        await until(lambda: connection.going_away is not None)
        assert await asyncio.wait_for(process.wait(), 5) == 0
        errors = await outcomes(c.step({}) for c in made)
        assert all(isinstance(error, GoingAway) and error.retryable for error in errors)


async def test_a_worker_outlives_no_server() -> None:
    """kill -9 of the server itself: its workers end too, even in a loop that never ends."""
    async with served_process("CommandedProcess", "--workers", "2") as (url, process):
        made = [client(url) for _ in range(2)]
        await gather(c.reset() for c in made)
        pids = children(process.pid)
        assert len(pids) == 2
        spinning = asyncio.ensure_future(made[0].step({"do": "spin"}))
        await asyncio.wait([spinning], timeout=0.2)
        process.kill()
        await process.wait()
        # Adopted by another process, which may take its time to reap: a zombie counts as ended.
        await until(lambda: not any(map(_runs, pids)), seconds=3)
        for one in made:
            one.connection._fail(GoingAway("it is gone"))  # type: ignore[union-attr]
        await outcomes([spinning])


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (OSError, ProcessLookupError):
        return False
