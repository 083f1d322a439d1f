"""Hostile frames on a real socket: always a ProtocolError, the process alive.

The decoder has a guard of its own against recursion, at some thousand levels. So that the tests
decide ours, which stands before it, they walk up to its exact limit at every transport.

The same without a network, and with every mutation: ``tests/protocol/test_fuzz.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from typing import Any, Literal

import aiohttp
import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from openenv_async import GenericEnvClient
from openenv_async.checks.conformance import NativeTransport
from openenv_async.checks.raw_connection import RawConnection
from openenv_async.client.websocket import websocket_url
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Failed,
    Hello,
    Observation,
    State,
    StateIs,
    Step,
    Welcome,
)
from openenv_async.providers.local_server import LocalServer
from openenv_async.types import MAX_DEPTH

TARGET = "openenv_async.testing:ConformanceEnvironment"
LEVELS = (10, 100, 1000, 10_000, 100_000, 1_000_000)
Format = Literal["msgpack", "json"]

BEYOND = "nested deeper than the limit of {} containers (MAX_DEPTH)"
"""What ours says, the decoder's guard does not."""
FRAMES = {"msgpack": 8, "json": 8 + MAX_DEPTH}
"""Levels of a message: in MessagePack payloads are bytes, in JSON they stand in it as they are."""
ENVELOPE = 2
"""Levels that a JSON body or an upstream message may have around an action."""


def action(levels: int) -> dict[str, Any]:
    """An action of that many containers in each other."""
    data: Any = 1
    for _ in range(levels - 1):
        data = [data]
    return {"command": "echo", "data": data}


def encoded(value: Any, format: str) -> bytes:
    """Without a limit of ours."""
    return msgspec.msgpack.encode(value) if format == "msgpack" else msgspec.json.encode(value)


def brackets(levels: int, format: str) -> bytes:
    """A whole value that is nothing but containers."""
    if format == "json":
        return b"[" * levels + b"]" * levels
    return b"\x91" * (levels - 1) + b"\x90"


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_the_limit_of_a_payload_is_exact(format: Format) -> None:
    async with (
        LocalServer(TARGET) as server,
        NativeTransport(server.url, format).raw_connection() as wire,
    ):
        await wire.begin()
        wire.send(Step(1, 2, 0, encoded(action(MAX_DEPTH), format)))
        taken = await wire.receive()
        assert isinstance(taken, Observation), taken
        assert wire.value(taken.payload)["data"] == action(MAX_DEPTH)["data"]
        wire.send(Step(1, 3, 0, encoded(action(MAX_DEPTH + 1), format)))
        refused = await wire.receive()
        assert isinstance(refused, Failed), refused
        assert refused.code == "invalid_action"
        assert BEYOND.format(MAX_DEPTH) in refused.message
        wire.send(Step(1, 4, 0, encoded(action(1), format)))  # nothing was run, nothing was lost
        again = await wire.receive()
        assert isinstance(again, Observation), again
        assert wire.value(again.payload)["steps"] == 2


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_the_limit_of_a_message_is_exact(format: Format) -> None:
    limit = FRAMES[format]
    async with (
        LocalServer(TARGET) as server,
        NativeTransport(server.url, format).raw_connection() as wire,
    ):
        for levels in (limit - 1, limit, limit + 1, *LEVELS):
            wire.send_bytes(brackets(levels, format))
            reply = await wire.receive()
            assert isinstance(reply, Failed), (levels, reply)
            assert reply.code == "protocol_error"
            beyond = levels > limit
            assert (BEYOND.format(limit) in reply.message) is beyond, (levels, reply.message)


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_the_limit_of_a_greeting_is_exact(format: Format) -> None:
    async with LocalServer(TARGET) as server:
        for levels in (8, 9, 70):
            greeting = encoded({"x": action(levels - 1)}, format)
            async with RawConnection.connect(
                server.url, f"openenv.v1.{format}", hello=False
            ) as wire:
                wire.send(Hello(PROTOCOL_VERSION, greeting))
                reply = await wire.receive()
            if levels == 8:
                assert isinstance(reply, Welcome), reply
            else:
                assert isinstance(reply, Failed), reply
                assert BEYOND.format(8) in reply.message


@pytest.mark.parametrize("format", ["plain", "json", "msgpack"])
async def test_the_limit_of_an_http_body_is_exact(format: str) -> None:
    """A body of MessagePack has no limit as a whole: its parts are cut out without decoding."""
    media = {"plain": "application/json", "json": "application/openenv+json"}
    headers = {"Content-Type": media.get(format, "application/msgpack")}
    async with LocalServer(TARGET) as server, aiohttp.ClientSession(server.url) as http:
        async with http.post("/reset", data=encoded({}, format), headers=headers) as response:
            headers["X-OpenEnv-Session"] = response.headers["X-OpenEnv-Session"]

        async def step(levels: int) -> tuple[int, str]:
            body = encoded({"action": action(levels)}, format)
            async with http.post("/step", data=body, headers=headers) as response:
                return response.status, (await response.read()).decode("latin-1")

        status, text = await step(MAX_DEPTH)
        assert status == 200, text
        for levels in (MAX_DEPTH + 1, MAX_DEPTH + 2, 500):
            whole = levels + 1 > MAX_DEPTH + ENVELOPE and format != "msgpack"
            status, text = await step(levels)
            assert status == 422, (levels, text)
            assert BEYOND.format(MAX_DEPTH + ENVELOPE * whole) in text, (levels, text)
        assert (await step(1))[0] == 200


async def test_the_limit_of_an_upstream_message_is_exact() -> None:
    async with (
        LocalServer(TARGET) as server,
        connect(websocket_url(server.url), proxy=None) as socket,
    ):

        async def ask(kind: str, data: dict[str, Any]) -> dict[str, Any]:
            await socket.send(encoded({"type": kind, "data": data}, "json").decode())
            async with asyncio.timeout(10):
                reply: dict[str, Any] = json.loads(await socket.recv())
            return reply

        await ask("reset", {})
        assert (await ask("step", action(MAX_DEPTH)))["type"] == "observation"
        for levels, limit in (
            (MAX_DEPTH + 1, MAX_DEPTH),
            (MAX_DEPTH + 2, MAX_DEPTH + ENVELOPE),
            (500, MAX_DEPTH + ENVELOPE),
        ):
            refused = await ask("step", action(levels))
            assert refused["type"] == "error"
            assert BEYOND.format(limit) in json.dumps(refused["data"]), (levels, refused)
        assert (await ask("step", action(1)))["type"] == "observation"


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_nested_truncated_and_garbage(format: Format) -> None:
    rng = random.Random(49)
    bracket = b"[" if format == "json" else b"\x91"
    async with LocalServer(TARGET) as server, GenericEnvClient(server.url) as witness:
        await witness.reset()
        async with NativeTransport(server.url, format).raw_connection() as wire:
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
