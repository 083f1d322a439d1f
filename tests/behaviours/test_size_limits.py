"""Sizes are exchanged, checked by the sender, and an error of one call only."""

from __future__ import annotations

import asyncio
import resource
import struct
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from openenv_async import (
    EngineOptions,
    GenericEnvClient,
    HTTPEnvClient,
    Limits,
    connect,
    serve,
)
from openenv_async.errors import PayloadTooLarge
from openenv_async.providers.local_server import LocalServer
from openenv_async.testing import ConformanceEnvironment

LIMIT = 1 << 20
OVER = int(1.1 * LIMIT)
SMALL = EngineOptions(limits=Limits(max_message_size=LIMIT))


async def too_large_both_ways(env: Any, other: Any) -> None:
    """1.1 times the limit up and down: typed, and both sessions go on."""
    await env.reset()
    await other.reset()
    for turn, action in enumerate(
        (
            {"command": "echo", "text": "x" * OVER},
            {"command": "blob", "count": OVER},
        )
    ):
        error: Any
        fine: Any
        error, fine = await asyncio.gather(
            env.step(action), other.step({"command": "echo"}), return_exceptions=True
        )
        assert isinstance(error, PayloadTooLarge), error
        assert error.detail["limit"] == LIMIT
        assert error.detail["size"] > LIMIT
        assert fine.observation["steps"] == turn + 1
        result = await env.step({"command": "echo", "text": "again"})
        assert result.observation["text"] == "again"


@pytest.mark.parametrize("subprotocol", ["openenv.v1.msgpack", "openenv.v1.json"])
async def test_the_servers_limit_over_a_websocket(subprotocol: str) -> None:
    async with serve(ConformanceEnvironment, options=SMALL) as url:
        made = [GenericEnvClient(url, subprotocol=subprotocol) for _ in range(2)]
        async with made[0] as env, made[1] as other:
            assert env.connection is not None
            assert env.connection.server["max_message_size"] == LIMIT
            await too_large_both_ways(env, other)


async def test_the_clients_limit_over_a_websocket() -> None:
    limits = Limits(max_message_size=LIMIT)
    async with (
        serve(ConformanceEnvironment) as url,
        GenericEnvClient(url, limits=limits) as env,
        GenericEnvClient(url, limits=limits) as other,
    ):
        await too_large_both_ways(env, other)


async def test_over_http() -> None:
    limits = Limits(max_message_size=LIMIT)
    async with (
        serve(ConformanceEnvironment, options=SMALL) as url,
        HTTPEnvClient[Any, Any, Any](url, limits=limits) as env,
        HTTPEnvClient[Any, Any, Any](url, limits=limits) as other,
    ):
        await too_large_both_ways(env, other)


async def test_in_process() -> None:
    async with connect(ConformanceEnvironment, options=SMALL) as env:
        await env.reset()
        with pytest.raises(PayloadTooLarge):
            await env.step(_action("echo", text="x" * OVER))
        with pytest.raises(PayloadTooLarge):
            await env.step(_action("blob", count=OVER))
        assert (await env.step(_action("echo"))).observation.steps == 2


def _action(command: str, **fields: Any) -> Any:
    from openenv_async.testing import ConformanceAction

    return ConformanceAction(command, **fields)


async def test_what_fits_is_not_refused() -> None:
    async with serve(ConformanceEnvironment, options=SMALL) as url, GenericEnvClient(url) as env:
        await env.reset()
        text = "x" * (LIMIT - 4096)
        assert (await env.step({"command": "echo", "text": text})).observation["text"] == text


def resident(pid: int) -> int:
    """Bytes of memory that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_a_peer_that_announces_ten_gigabytes_costs_nothing() -> None:
    target = "openenv_async.testing:ConformanceEnvironment"
    async with LocalServer(target) as server, GenericEnvClient(server.url) as env:
        await env.reset()
        before = resident(server.pid)
        where = urlsplit(server.url)
        for opcode in (0x82, 0x81):
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            writer.write(
                b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                b"Sec-WebSocket-Protocol: openenv.v1.msgpack\r\n\r\n"
            )
            assert b"101" in await reader.readline()
            writer.write(bytes([opcode, 0xFF]) + struct.pack(">Q", 10 * 2**30) + bytes(4))
            writer.write(bytes(1000))
            await writer.drain()
            async with asyncio.timeout(10):
                await reader.read()  # up to the end: the server closes
            writer.close()
            await writer.wait_closed()
        assert resident(server.pid) - before < 1 << 20
        assert (await env.step({"command": "echo"})).observation["steps"] == 1
