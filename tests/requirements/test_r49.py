"""R49: hostile frames on a real socket: always a ProtocolError, the process alive.

The same without a network, and with every mutation: ``tests/protocol/test_fuzz.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import random

import aiohttp
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from openenv_async import GenericEnvClient
from openenv_async.client.websocket import websocket_url
from openenv_async.conformance import NativeDoor
from openenv_async.localserver import LocalServer
from openenv_async.protocol.frames import Failed, State, StateIs

TARGET = "openenv_async.testing:ConformanceEnvironment"
LEVELS = (10, 100, 1000, 10_000, 100_000, 1_000_000)


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_nested_truncated_and_garbage(format: str) -> None:
    rng = random.Random(49)
    bracket = b"[" if format == "json" else b"\x91"
    async with LocalServer(TARGET) as server, GenericEnvClient(server.url) as witness:
        await witness.reset()
        door = NativeDoor(server.url, format)  # type: ignore[arg-type]  # one of the two
        async with door.wire() as wire:
            await wire.begin()
            valid = wire.payload([[3, 1, 2, 0, {"command": "echo"}]])
            messages = [bracket * levels for levels in LEVELS]
            messages += [valid[:end] for end in range(len(valid))]
            messages += [rng.randbytes(rng.randrange(1, 400)) for _ in range(100)]
            if format == "json":
                messages = [m.decode("latin-1").encode() for m in messages]
            for seq, message in enumerate(messages):
                wire.send_bytes(message)
                reply = await wire.receive()
                assert isinstance(reply, Failed), (message[:50], reply)
                assert reply.code == "protocol_error", (message[:50], reply)
                if seq % 20 == 0:
                    await witness.step({"command": "echo"})
            wire.send(State(1, 2))
            assert isinstance(await wire.receive(), StateIs)
        async with aiohttp.ClientSession() as http, http.get(server.url + "/health") as health:
            assert health.status == 200
        await witness.step({"command": "echo"})


async def test_text_that_is_not_utf8_and_frames_of_the_wrong_kind() -> None:
    async with LocalServer(TARGET) as server, GenericEnvClient(server.url) as witness:
        await witness.reset()
        for subprotocol, message in (
            ("openenv.v1.msgpack", "[]"),
            ("openenv.v1.json", b"\xff\xfe"),
            ("openenv.v1.json", b"[[0,1]]"),
        ):
            async with connect(
                websocket_url(server.url),
                subprotocols=[Subprotocol(subprotocol)],
                proxy=None,
            ) as socket:
                await socket.send(message)
                async with asyncio.timeout(10):
                    with contextlib.suppress(ConnectionClosed):  # which is fine as well
                        await socket.recv()
        await witness.step({"command": "echo"})


@pytest.mark.parametrize("path", ["/reset", "/step", "/open"])
async def test_hostile_http_bodies(path: str) -> None:
    async with LocalServer(TARGET) as server, aiohttp.ClientSession() as http:
        for media, bracket in (("application/json", b"["), ("application/msgpack", b"\x91")):
            for levels in LEVELS:
                for body in (bracket * levels, b'{"action":' + bracket * levels):
                    async with http.post(
                        server.url + path, data=body, headers={"Content-Type": media}
                    ) as response:
                        assert 400 <= response.status < 500, (response.status, levels)
        async with http.get(server.url + "/health") as health:
            assert health.status == 200
