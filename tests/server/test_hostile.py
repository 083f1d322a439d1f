"""Peers that send nonsense, say nothing, or do not read: the rest of the server does not notice."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import msgspec
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.typing import Subprotocol

from openenv_async import EngineOptions, EnvClient, Environment, Limits, Timeouts, create_app, serve
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


class Blob(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Observations of any size."""

    isolation = "inline"

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return {"blob": "x" * action.get("size", 0)}


SIZE = 4_000_000
MOST = 24 * 2**20 // SIZE
"""Observations that may be made for a peer that reads none."""


@pytest.mark.parametrize("sessions", [1, 16])
@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_little_is_made_for_a_peer_that_does_not_read(format: str, sessions: int) -> None:
    """Its steps run as far as their replies may wait; it has all of them, once, when it reads."""
    text = format == "json"
    encode: Any = json.dumps if text else msgspec.msgpack.encode
    decode: Any = json.loads if text else msgspec.msgpack.decode
    action: Any = {"size": SIZE}
    app = create_app(Blob)
    engine = app.state.openenv.engine
    async with (
        serve(app) as url,
        connect(
            ws(url),
            subprotocols=[Subprotocol(f"openenv.v1.{format}")],
            compression=None,
            max_size=None,
            max_queue=1,
        ) as socket,
        EnvClient[Any, Any, Any](url) as env,
    ):
        channels = range(1, sessions + 1)
        opens: list[Any] = [[1, n, f"{n:032x}", f"{n + 500:032x}"] for n in channels]
        resets: list[Any] = [[2, n, 1] for n in channels]
        await socket.send(encode([[0, 1, None], *opens, *resets]))
        replies: list[Any] = []
        while len(replies) < 1 + 2 * sessions:
            replies += decode(await socket.recv())
        socket.transport.pause_reading()
        before = engine.stats.steps
        payload = action if text else msgspec.msgpack.encode(action)
        for seq in range(2, 2 + 32 // sessions):
            await socket.send(encode([[3, n, seq, seq - 1, payload] for n in channels]))
        await env.reset()
        for _ in range(50):
            await env.step({})
        made = engine.stats.steps - before - 50
        assert 0 < made <= MOST
        connections = app.state.openenv._sockets
        assert max(each.connection.unsent for each in connections) <= MOST * SIZE
        socket.transport.resume_reading()
        done: list[Any] = []
        while len(done) < 32:
            done += [frame[:3] for frame in decode(await socket.recv()) if frame[0] == 36]
        rounds = range(2, 2 + 32 // sessions)
        assert sorted(done) == [[36, n, seq] for n in channels for seq in rounds]


async def test_little_is_made_for_an_upstream_peer_that_does_not_read() -> None:
    app = create_app(Blob)
    engine = app.state.openenv.engine
    async with (
        serve(app) as url,
        connect(ws(url), compression=None, max_size=None, max_queue=1) as socket,
    ):
        await socket.send('{"type": "reset", "data": {}}')
        await socket.recv()
        socket.transport.pause_reading()
        for _ in range(32):
            await socket.send(json.dumps({"type": "step", "data": {"size": SIZE}}))
        async with EnvClient[Any, Any, Any](url) as env:
            await env.reset()
            for _ in range(50):
                await env.step({})
        assert engine.stats.steps - 50 <= MOST
        socket.transport.resume_reading()
        for _ in range(32):
            assert len(await socket.recv()) > SIZE


async def test_an_upstream_peer_that_sends_nonsense_is_told_and_closed() -> None:
    options = EngineOptions(limits=Limits(max_bad_frames=3, max_containers=100))
    async with serve(Blob, options=options) as url, connect(ws(url)) as socket:
        await socket.send(json.dumps({"type": "step", "data": {"size": [{}] * 100}}))
        assert "max_containers" in str(await socket.recv())
        for _ in range(3):
            await socket.send("nonsense")
        said = [str(await socket.recv()) for _ in range(4)]
        assert "max_bad_frames" in said[-1]
        with pytest.raises(ConnectionClosed):
            await socket.recv()


@pytest.mark.parametrize("media", ["application/json", "application/msgpack"])
async def test_containers_of_a_body_are_bounded(media: str) -> None:
    options = EngineOptions(limits=Limits(max_containers=100))
    transport = httpx.ASGITransport(create_app(Blob, options=options))
    encode = msgspec.json.encode if media.endswith("/json") else msgspec.msgpack.encode
    headers = {"Content-Type": media, "Accept": "application/json"}
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        await http.post("/reset")
        for count, status in ((90, 200), (110, 413)):
            body = encode({"action": {"x": [{}] * count}})
            reply = await http.post("/step", content=body, headers=headers)
            assert reply.status_code == status, reply.text
        assert "max_containers" in reply.text


async def test_an_http_peer_that_does_not_read_is_cut() -> None:
    """Its reply, and its connection, were kept for ever."""
    options = EngineOptions(timeouts=Timeouts(write=0.5))
    app = create_app(Blob, options=options)
    body = json.dumps({"action": {"size": 8 * SIZE}}).encode()
    async with serve(app, options=options) as url:
        reader, writer = await asyncio.open_connection(*url.split("//")[1].split(":"), limit=1024)
        head = b"POST /%s HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n%s"
        writer.write(head % (b"reset", b"", 2, b"{}"))
        async with asyncio.timeout(10):
            answer = await reader.readuntil(b"}")
            [session] = [
                line + b"\r\n" for line in answer.split(b"\r\n") if b"x-openenv-session" in line
            ]
            writer.write(head % (b"step", session, len(body), body))
            await reader.readuntil(b"content-length")
            await asyncio.sleep(1.0)  # longer than Timeouts.write
            got = 0
            with pytest.raises(ConnectionError):
                got = await drained(reader)
        assert got < 8 * SIZE
        writer.close()
        async with EnvClient[Any, Any, Any](url) as env:
            await env.reset()


async def drained(reader: asyncio.StreamReader) -> int:
    got = 0
    while part := await reader.read(1 << 20):
        got += len(part)
    raise ConnectionError(f"ended after {got} bytes") if got < 8 * SIZE else AssertionError(got)


HEAD = b"POST /reset HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "replies"),
    [
        (b"", 0),
        (b"GET /health HTTP/1.1\r\nHost: loc", 0),
        (HEAD % 1000 + b"{", 0),
        (HEAD % 2 + b"{}" + b"GET /heal", 1),
        (HEAD % 2 + b"{}" + HEAD % 1000, 1),
    ],
    ids=["nothing", "half a head", "half a body", "half a second head", "half a second body"],
)
async def test_an_http_peer_that_sends_no_whole_request_is_cut(sent: bytes, replies: int) -> None:
    options = EngineOptions(timeouts=Timeouts(connect=0.3))
    async with serve(Blob, options=options) as url:
        reader, writer = await asyncio.open_connection(*url.split("//")[1].split(":"))
        writer.write(sent)
        async with asyncio.timeout(10):
            try:
                answer = await reader.read(-1)
            except ConnectionError:
                answer = b""
        writer.close()
        assert answer.count(b"HTTP/1.1 200") == replies


async def test_an_http_peer_that_waits_for_a_reply_is_not_cut() -> None:
    class Slow(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
        async def reset(self) -> dict[str, Any]:
            await asyncio.sleep(1.2)
            return {}

        async def step(self, action: dict[str, Any]) -> dict[str, Any]:
            return {}

    options = EngineOptions(timeouts=Timeouts(connect=0.5))
    async with serve(Slow, options=options) as url:
        reader, writer = await asyncio.open_connection(*url.split("//")[1].split(":"))
        async with asyncio.timeout(10):
            for _ in range(2):
                writer.write(HEAD % 20)
                for byte in b"{" + b" " * 18 + b"}":  # slowly, but on and on
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0.05)
                assert b"200 OK" in await reader.readuntil(b"\r\n")
                await reader.readuntil(b"}")
                await asyncio.sleep(1)  # between requests
        writer.close()


async def test_https_spoken_to_an_http_port_is_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serve(Blob) as url:
        reader, writer = await asyncio.open_connection(*url.split("//")[1].split(":"))
        writer.write(bytes.fromhex("16030100c8010000c40303") + bytes(200))
        assert b"speaks http, not https" in await reader.read()
        writer.close()
    assert "https" in caplog.text
    assert "ssl_certfile" in caplog.text


async def test_an_http_peer_that_reads_slowly_is_not_cut() -> None:
    options = EngineOptions(timeouts=Timeouts(write=0.5))
    app = create_app(Blob, options=options)
    body = json.dumps({"action": {"size": 10 * SIZE}}).encode()
    async with serve(app, options=options) as url:
        host, port = url.split("//")[1].split(":")
        reader, writer = await asyncio.open_connection(host, port, limit=1024)
        head = b"POST /%s HTTP/1.1\r\nHost: localhost\r\n%sContent-Length: %d\r\n\r\n%s"
        writer.write(head % (b"reset", b"", 2, b"{}"))
        answer = await reader.readuntil(b"}")
        [session] = [
            line + b"\r\n" for line in answer.split(b"\r\n") if b"x-openenv-session" in line
        ]
        writer.write(head % (b"step", session + b"Connection: close\r\n", len(body), body))
        got = 0
        while part := await reader.read(SIZE):
            got += len(part)
            if SIZE < got < 9 * SIZE:
                await asyncio.sleep(0.02)  # longer than Timeouts.write in all
        assert got > 10 * SIZE
        writer.close()
