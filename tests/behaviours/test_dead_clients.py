"""Half-open peers: the lease and the write timeout free what a dead client holds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from openenv_async import HTTPEnvClient, Timeouts
from openenv_async.deadlines import Deadlines
from openenv_async.protocol.codec import MsgpackCodec
from openenv_async.protocol.frames import Frame, Hello, Open, Reset, Step
from openenv_async.testing import ManualClock
from tests.behaviours.environments import Blob, Ledger, clients, gather, served
from tests.chaos import ChaosProxy
from tests.helpers import token, until

CODEC = MsgpackCodec("client", 1 << 30)


async def raw_client(url: str) -> ClientConnection:
    return await connect(
        url.replace("http", "ws") + "/ws",
        subprotocols=[Subprotocol("openenv.v1.msgpack")],
        compression=None,
        ping_interval=None,
    )


def message(*frames: Frame) -> bytes:
    return CODEC.encode(frames)


async def test_black_holed_clients_are_gone_after_their_lease() -> None:
    times = Timeouts(lease=0.6)
    async with (
        served(Ledger, timeouts=times) as (url, engine),
        ChaosProxy(url) as proxy,
        clients(proxy.url, 16) as made,
    ):
        await gather(c.reset() for c in made)
        assert len(engine.sessions) == 16
        begun = time.monotonic()
        proxy.black_hole()
        await until(lambda: not engine.sessions, seconds=8)
        assert time.monotonic() - begun < 0.6 + 5
        assert engine.stats.cut == 1  # one connection carried them all
        assert engine.active == 0
        proxy.cut()


async def test_an_idle_client_keeps_its_lease() -> None:
    times = Timeouts(lease=0.3)
    async with served(Ledger, timeouts=times) as (url, engine), clients(url, 4) as made:
        await gather(c.reset() for c in made)
        started = asyncio.get_running_loop().time()
        # Several leases long: nothing but time can show that nothing happens.
        await until(lambda: asyncio.get_running_loop().time() - started > 1.2)
        assert len(engine.sessions) == 4
        assert engine.stats.cut == 0


async def test_a_client_that_never_reads_is_cut_at_the_write_timeout() -> None:
    times = Timeouts(write=0.5, resume=None)
    async with served(Blob, timeouts=times) as (url, engine):
        socket = await raw_client(url)
        socket.transport.pause_reading()
        await socket.send(message(Hello(1), Open(1, token(1), token(2)), Reset(1, 1)))
        action = msgspec.msgpack.encode({"size": 4 << 20})
        await until(lambda: engine.stats.opened == 1)
        begun = time.monotonic()
        for seq in range(2, 10):
            await socket.send(message(Step(1, seq, seq - 1, action)))
        await until(lambda: not engine.sessions, seconds=12)
        assert time.monotonic() - begun < 0.5 + 6
        assert engine.stats.cut == 1
        socket.transport.abort()


async def test_a_cut_reader_may_come_back_within_resume() -> None:
    """The write timeout frees the connection; the episode waits for its client as ever."""
    times = Timeouts(write=0.3, resume=1.0)
    async with served(Blob, timeouts=times) as (url, engine):
        socket = await raw_client(url)
        socket.transport.pause_reading()
        await socket.send(message(Hello(1), Open(1, token(1), token(2)), Reset(1, 1)))
        action = msgspec.msgpack.encode({"size": 4 << 20})
        for seq in range(2, 10):
            await socket.send(message(Step(1, seq, seq - 1, action)))
        await until(lambda: engine.stats.cut == 1, seconds=8)
        assert len(engine.sessions) == 1
        await until(lambda: not engine.sessions, seconds=3)
        assert engine.stats.abandoned == 1
        socket.transport.abort()


async def test_a_session_over_http_has_no_lease_and_ends_when_idle() -> None:
    """Nothing tells a caller who thinks from one who is gone."""
    clock = ManualClock()
    times = Timeouts(lease=10.0, idle=100.0)
    async with served(Ledger, timeouts=times) as (url, engine):
        engine._start()
        engine.clock = clock
        engine._deadlines = Deadlines(clock, clock.call_at)
        one = HTTPEnvClient[Any, Any, Any](url)
        await one.reset()
        clock.advance(95)
        assert (await one.step({"n": 1})).observation["count"] == 1
        clock.advance(95)
        assert len(engine.sessions) == 1
        assert engine.stats.cut == 0
        clock.advance(10)
        assert not engine.sessions
        assert engine.stats.expired == 1
        await one.close()


def _sockets() -> set[tuple[str, str]]:
    """The open ones, number and inode: those of an earlier test may still be closing."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add((name, os.readlink(f"/proc/self/fd/{name}")))
    return {(name, link) for name, link in found if link.startswith("socket:")}


async def test_a_cut_connection_gives_its_socket_back() -> None:
    times = Timeouts(write=0.3, resume=None)
    async with served(Blob, timeouts=times) as (url, engine):
        before = _sockets()
        socket = await raw_client(url)
        assert len(_sockets() - before) == 2
        socket.transport.pause_reading()
        await socket.send(message(Hello(1), Open(1, token(1), token(2)), Reset(1, 1)))
        action = msgspec.msgpack.encode({"size": 8 << 20})
        for seq in range(2, 10):
            await socket.send(message(Step(1, seq, seq - 1, action)))
        await until(lambda: engine.stats.cut == 1, seconds=8)
        try:
            # The client has not moved: only its own end is left.
            await until(lambda: len(_sockets() - before) == 1, seconds=3)
        finally:
            socket.transport.abort()
            await until(lambda: _sockets() <= before)


async def test_many_abrupt_kills_leave_nothing() -> None:
    times = Timeouts(resume=0.3)
    async with served(Ledger, timeouts=times) as (url, engine):
        number = 0
        for _ in range(6):
            sockets = await gather(raw_client(url) for _ in range(50))
            for socket in sockets:
                frames: list[Any] = [Hello(1)]
                for channel in (1, 2):
                    number += 1
                    frames += [Open(channel, token(number), token(number)), Reset(channel, 1)]
                await socket.send(message(*frames))
            await until(lambda: engine.stats.opened == number)  # noqa: B023 - awaited here
            for socket in sockets:
                socket.transport.abort()
        await until(lambda: not engine.sessions, seconds=5)
        assert engine.stats.opened == 600
        assert engine.stats.closed == 600
        assert engine.stats.abandoned == 600


_HOLDER = """
import asyncio, sys
from openenv_async import GenericEnvClient

async def main():
    clients = [GenericEnvClient(sys.argv[1]) for _ in range(8)]
    await asyncio.gather(*(c.reset() for c in clients))
    print("ready", flush=True)
    while True:
        await asyncio.gather(*(c.step({"n": 1}) for c in clients))
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


async def test_a_stopped_client_process_is_found() -> None:
    times = Timeouts(lease=0.6)
    async with served(Ledger, timeouts=times) as (url, engine):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _HOLDER, url, stdout=asyncio.subprocess.PIPE, cwd=Path.cwd()
        )
        try:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
            assert len(engine.sessions) == 8
            process.send_signal(signal.SIGSTOP)
            await until(lambda: not engine.sessions, seconds=0.6 + 5)
        finally:
            process.kill()
            await process.wait()
            process._transport.close()  # type: ignore[attr-defined]  # else it warns later
