"""Busy is not dead: a blocked loop and swallowed pings cost nothing."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from openenv_async import Timeouts
from tests.behaviours.environments import Ledger, clients, gather, served, served_process
from tests.chaos import ChaosProxy
from tests.helpers import until

_TRAINER = """
import asyncio, sys, time
from openenv_async import GenericEnvClient

async def main():
    clients = [GenericEnvClient(sys.argv[1]) for _ in range(16)]
    await asyncio.gather(*(c.reset() for c in clients))
    await asyncio.gather(*(c.step({"n": 0}) for c in clients))
    pending = [asyncio.ensure_future(c.step({"n": 1})) for c in clients[:8]]
    await asyncio.sleep(0)
    time.sleep(float(sys.argv[2]))  # generation
    results = await asyncio.gather(*pending)
    results += await asyncio.gather(*(c.step({"n": 1}) for c in clients[8:]))
    assert [r.observation["count"] for r in results] == [2] * 16
    assert all(c.connection.reconnects == 0 for c in clients)
    await asyncio.gather(*(c.close() for c in clients))
    print("fine")

asyncio.run(main())
"""


async def test_a_blocked_loop_loses_nothing() -> None:
    """The lease is 4 s; the loop of the client stands still for 2.5 s of it."""
    async with served(Ledger, timeouts=Timeouts(lease=4.0)) as (url, engine):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _TRAINER, url, "2.5", stdout=asyncio.subprocess.PIPE,
            cwd=Path.cwd(),
        )  # fmt: skip
        out, _ = await process.communicate()
        assert out.decode().strip() == "fine"
        assert process.returncode == 0
        assert engine.stats.cut == engine.stats.resumed == 0
        assert not engine.sessions


async def test_a_proxy_that_swallows_pings_harms_nobody() -> None:
    async with (
        served(Ledger, timeouts=Timeouts(lease=0.6)) as (url, engine),
        ChaosProxy(url) as proxy,
    ):
        proxy.swallow_pings = True
        async with clients(proxy.url, 8) as made:
            await gather(c.reset() for c in made)
            socket = made[0].connection._transport._socket  # type: ignore[union-attr]
            await socket.ping()  # what a library with keepalive pings would do
            await until(lambda: proxy.swallowed)
            begun = time.monotonic()
            await until(lambda: time.monotonic() - begun > 1.5)  # more than two leases
            assert len(engine.sessions) == 8
            results = await gather(c.step({"n": 1}) for c in made)
            assert [r.observation["count"] for r in results] == [1] * 8
            assert proxy.cuts == engine.stats.cut == 0
            # And a peer that is really dead is found, pings or not.
            proxy.black_hole()
            await until(lambda: not engine.sessions, seconds=0.6 + 5)
            proxy.cut()


async def test_a_blocked_server_loop_loses_nobody() -> None:
    """The server's loop stands still for longer than the lease: its own clock is not evidence."""
    async with (
        served_process("CommandedInline", "--lease-timeout", "0.5") as (url, _),
        clients(url, 4) as made,
    ):
        await gather(c.reset() for c in made)
        blocking = asyncio.ensure_future(made[0].step({"do": "spin", "seconds": 1.5}))
        await blocking
        results = await gather(c.step({}) for c in made)
        assert [r.observation["steps"] for r in results] == [2, 1, 1, 1]
