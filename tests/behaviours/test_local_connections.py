"""Sessions over Unix sockets that are cut at random, and servers that are killed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from openenv_async import GenericEnvClient, Timeouts, serve
from openenv_async.client.local import LocalTransport
from openenv_async.errors import ConnectFailed, OpenEnvError
from openenv_async.server import create_app
from openenv_async.server.local import LocalListener
from tests.behaviours.environments import Ledger, LedgerAsync, LedgerThread, served_process
from tests.helpers import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are of Linux")

SESSIONS, STEPS = 16, 60


@pytest.mark.parametrize("env", [Ledger, LedgerThread, LedgerAsync])
async def test_no_step_is_lost_or_repeated_when_either_end_cuts(env: Any) -> None:
    """Every cut may fall between a request and its reply, whichever end it is on.

    Now and then the server offers no socket, so that sessions go on over TCP, and back.
    """
    app = create_app(env)
    listener: LocalListener = app.state.openenv._local
    engine = app.state.openenv.engine
    chosen = random.Random(7)
    kinds: set[str | None] = set()
    async with serve(app) as url:
        name = listener.name
        clients = [GenericEnvClient(url, share=f"{number % 4}") for number in range(SESSIONS)]

        async def play(number: int, client: GenericEnvClient) -> None:
            await client.reset()
            for step in range(1, STEPS + 1):
                result = await client.step({"n": number * 1000 + step})
                assert result.observation["count"] == step
                assert client.connection is not None
                kinds.add(client.connection.transport)

        async def cut() -> None:
            while True:
                await until(lambda: any(c.connection and c.connection.up for c in clients))
                before = engine.stats.steps
                connection = chosen.choice(clients).connection
                transport: Any = None if connection is None else connection._transport
                listener.name = name if chosen.random() < 0.7 else ""
                if transport is not None and chosen.random() < 0.5:
                    await transport.aclose(leaving=False)
                elif app.state.openenv._sockets:
                    chosen.choice([*app.state.openenv._sockets])._cut()
                await until(lambda before=before: engine.stats.steps >= before + 20)  # type: ignore[misc]

        cutting = asyncio.create_task(cut())
        try:
            await asyncio.gather(*(play(number, client) for number, client in enumerate(clients)))
        finally:
            cutting.cancel()
            await asyncio.wait([cutting])
        assert engine.stats.resumed > 0
        assert engine.stats.steps == SESSIONS * STEPS
        assert kinds == {"Unix socket", "WebSocket"}
        await asyncio.gather(*(client.close() for client in clients))


async def test_a_killed_server_leaves_no_socket_behind() -> None:
    async with served_process("Ledger") as (url, process):
        async with GenericEnvClient(url, timeouts=Timeouts(step=1.0)) as env:
            await env.reset()
            assert env.connection is not None
            assert isinstance(env.connection._transport, LocalTransport)
            (name,) = names_of(process.pid)
            assert name in unix_sockets().values()
            os.kill(process.pid, signal.SIGKILL)
            await until(lambda: env.connection is not None and not env.connection.up)
            await until(lambda: name not in unix_sockets().values())
            with pytest.raises(OpenEnvError):
                await env.step({"n": 1})
        with pytest.raises(ConnectFailed):
            await GenericEnvClient(url).reset()


def unix_sockets() -> dict[str, str]:
    """The names of this package's abstract sockets, by inode."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {line[6]: line[7] for line in lines if len(line) > 7 and line[7].startswith("@openenv-")}


def names_of(pid: int) -> set[str]:
    """The names of those that a process has."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()]
    inodes = {link.removeprefix("socket:[").rstrip("]") for link in links}
    return {name for inode, name in unix_sockets().items() if inode in inodes}
