"""Peers that send nonsense, say nothing, or do not read: the rest of the server does not notice."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.typing import Subprotocol

from openenv_async import EngineOptions, EnvClient, Limits, Timeouts, serve
from openenv_async.protocol.frames import PROTOCOL_VERSION
from tests.helpers import Counter

NATIVE = [Subprotocol("openenv.v1.msgpack")]


def ws(url: str) -> str:
    return url.replace("http", "ws") + "/ws"


async def listen(socket: Any, said: list[Any]) -> None:
    """Keep the frames that come, until the connection ends."""
    while True:
        said += msgspec.msgpack.decode(await socket.recv())


async def test_a_connection_of_nonsense_is_closed_with_a_reason() -> None:
    options = EngineOptions(limits=Limits(max_bad_frames=10))
    async with serve(Counter, options=options) as url, EnvClient[Any, Any, Any](url) as env:
        await env.reset()
        async with connect(ws(url), subprotocols=NATIVE) as socket:
            hello = [[0, PROTOCOL_VERSION, None]]
            await socket.send(msgspec.msgpack.encode(hello + [[99]] * 5000))
            said: list[Any] = []
            with pytest.raises(ConnectionClosedError) as caught:
                await listen(socket, said)
        assert len(said) == 1 + 11 + 1
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1008
        assert "max_bad_frames" in caught.value.rcvd.reason
        assert (await env.step({"nonce": 1})).observation["count"] == 1


async def test_a_socket_that_never_says_hello_is_cut() -> None:
    options = EngineOptions(timeouts=Timeouts(connect=0.2))
    async with (
        serve(Counter, options=options) as url,
        connect(ws(url), subprotocols=NATIVE) as socket,
        asyncio.timeout(5),
    ):
        with pytest.raises(ConnectionClosed):
            await socket.recv()


async def test_an_upstream_peer_that_answers_no_ping_loses_its_session() -> None:
    """A client that is silent and alive keeps it: its library answers pings."""
    options = EngineOptions(timeouts=Timeouts(lease=0.6))
    async with serve(Counter, options=options) as url, connect(ws(url)) as alive:
        await alive.send('{"type": "reset", "data": {}}')
        await alive.recv()
        reader, writer = await asyncio.open_connection(*url.split("//")[1].split(":"))
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
        )
        async with asyncio.timeout(5):
            while await reader.read(4096):
                pass  # what it is pinged with; it does not answer
        writer.close()
        await alive.send('{"type": "step", "data": {"nonce": 1}}')
        assert '"count":1' in await alive.recv()
