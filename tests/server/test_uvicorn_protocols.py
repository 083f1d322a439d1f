"""Native sessions over plain ASGI, as any server offers it, over the direct and a local one."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from openenv_async import EngineOptions, EnvClient, GenericEnvClient, Limits, Timeouts, serve
from openenv_async.checks.conformance import CHECKS, NativeTransport, Suite
from openenv_async.engine import Engine
from openenv_async.server import create_app
from openenv_async.server.local import LocalListener, LocalSocket
from openenv_async.server.transport import AsgiTransport
from openenv_async.server.uvicorn_protocols import DirectWebSocket
from openenv_async.spec import EnvironmentSpec
from openenv_async.testing import ConformanceEnvironment
from tests.behaviours.environments import Blob
from tests.behaviours.test_large_payloads import LIMITS, SIZE, Camera, Want
from tests.helpers import until

KINDS: dict[str, Any] = {
    "asgi": AsgiTransport,
    "direct": DirectWebSocket,
    "local": LocalSocket,
}


@pytest.fixture(params=KINDS, autouse=True)
def lines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Uvicorn as it is, or what this package puts in its place; it was really used."""
    kind = KINDS[request.param]
    if request.param != "local":
        monkeypatch.setattr(LocalListener, "offer", lambda self, scope: None)
    if request.param == "asgi":
        monkeypatch.setattr("openenv_async.server.run.DirectWebSocket", WebSocketsSansIOProtocol)
    made: list[Any] = []
    begin = kind.attach

    def attach(self: Any, user: Any) -> None:
        made.append(self)
        begin(self, user)

    monkeypatch.setattr(kind, "attach", attach)
    yield
    assert made


@pytest.mark.parametrize("lines", ["asgi"], indirect=True)  # the suite itself has the other
@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_every_promise_holds(format: Any) -> None:
    options = EngineOptions(max_sessions=12)
    spec = EnvironmentSpec(ConformanceEnvironment)
    async with serve(ConformanceEnvironment, options=options) as url:
        transport = NativeTransport(url, format)
        suite = Suite(transport, own=True, schema=spec.schema)
        for check in CHECKS.values():
            if check.needs <= transport.features:
                result = await suite.run_one(check)
                assert result.status != "failed", f"{check}: {result.reason}"


# In shared memory a large reply is one short message.
@pytest.mark.parametrize("lines", ["asgi", "direct"], indirect=True)
async def test_others_step_while_large_replies_come() -> None:
    async with serve(Camera, options=EngineOptions(limits=LIMITS)) as url:
        clients = [EnvClient[Want, Any, dict[str, Any]](url) for _ in range(4)]
        await asyncio.gather(*(client.reset() for client in clients))
        large = asyncio.gather(*(client.step(Want(SIZE)) for client in clients[:3]))
        small = 0
        while not large.done():
            await clients[3].step(Want(1))
            small += 1
        for result in await large:
            assert np.array_equal(result.observation["pixels"], Camera.film)
        assert small > 10
        await asyncio.gather(*(client.close() for client in clients))


@contextlib.asynccontextmanager
async def unresponsive(url: str) -> AsyncIterator[Any]:
    """A peer that speaks JSON and reads nothing after its session is open."""
    async with connect(
        url.replace("http", "ws") + "/ws",
        subprotocols=[Subprotocol("openenv.v1.json")],
        compression=None,
        ping_interval=None,
        max_size=None,
    ) as socket:
        frames: list[Any] = [[0, 1], [1, 1, "0" * 32, "1" * 32], [2, 1, 1]]
        await socket.send(json.dumps(frames))
        replies: list[Any] = []
        while len(replies) < 3:
            replies += json.loads(await socket.recv())
        socket.transport.pause_reading()
        try:
            yield socket
        finally:
            socket.transport.abort()


@pytest.mark.parametrize("lines", ["asgi", "direct"], indirect=True)  # of JSON
async def test_a_peer_that_does_not_read_is_cut() -> None:
    options = EngineOptions(timeouts=Timeouts(write=0.2, resume=None))
    app = create_app(Blob, options=options)
    engine: Engine = app.state.openenv.engine
    async with serve(app, options=options) as url:
        with contextlib.suppress(ConnectionClosed):
            async with unresponsive(url) as socket:
                for seq in (2, 3):
                    await socket.send(json.dumps([[3, 1, seq, seq - 1, {"size": 32 << 20}]]))
                await until(lambda: engine.stats.cut == 1)
                await until(lambda: not engine.sessions and not engine.stats.connections)


@pytest.mark.parametrize("lines", ["asgi", "direct"], indirect=True)  # of JSON
async def test_of_a_peer_that_asks_and_does_not_read_little_is_taken() -> None:
    """Its requests wait in the socket, not in this server's memory."""
    options = EngineOptions(limits=Limits(), timeouts=Timeouts(write=1.0, resume=None))
    app = create_app(Blob, options=options)
    engine: Engine = app.state.openenv.engine
    bad = json.dumps([[3, 7, seq, 0, {}] for seq in range(1, 1001)])
    async with serve(app, options=options) as url:
        with contextlib.suppress(ConnectionClosed):
            async with unresponsive(url) as socket:
                sending = asyncio.create_task(_send(socket, bad, 2000))
                try:
                    await until(lambda: engine.stats.cut == 1)
                finally:
                    sending.cancel()  # plain ASGI cannot abort: what was sent would have to be read
                    await asyncio.wait([sending])
        assert engine.stats.bytes_in < len(bad) * 1000


async def _send(socket: Any, message: str, times: int) -> None:
    with contextlib.suppress(ConnectionClosed):
        for _ in range(times):
            await socket.send(message)


@pytest.mark.parametrize("lines", ["direct"], indirect=True)  # uvicorn's own logs a traceback
async def test_text_that_is_none_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with serve(Blob) as url, unresponsive(url) as socket:
        socket.transport.resume_reading()
        await socket.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1007
    assert not caplog.records


async def test_a_server_that_stops_says_so() -> None:
    async with serve(Blob) as url:
        client = await GenericEnvClient(url).open()
        await client.reset()
        connection = client.connection
    assert connection is not None
    assert connection.going_away is not None
    await client.close()
