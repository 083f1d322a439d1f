"""Running a server in a loop and as a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from openenv_async import EngineOptions, GenericEnvClient, Timeouts, serve
from openenv_async.engine import Engine
from openenv_async.errors import OpenEnvError
from openenv_async.event_loop import loop_factory
from openenv_async.server import create_app
from openenv_async.server.run import listen, run_server
from openenv_async.spec import EnvironmentSpec
from tests.behaviours.environments import Blob
from tests.helpers import until
from tests.rollouts.environments import Counting, Hanging


async def test_a_spec_an_app_and_a_class_can_be_served() -> None:
    for env in (Counting, EnvironmentSpec(Counting), create_app(Counting)):
        async with serve(env) as url, GenericEnvClient(url) as client:
            assert (await client.reset(seed=3)).observation == {"total": 0, "seed": 3}


async def test_a_port_and_a_host_can_be_chosen() -> None:
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    listener.close()
    async with serve(Counting, host="localhost", port=port) as url:
        assert url == f"http://localhost:{port}"
        async with GenericEnvClient(url) as client:
            await client.reset()


async def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        listen("::1", 0).close()
    except OSError:
        pytest.skip("no IPv6 here")
    async with serve(Counting, host="::1") as url, GenericEnvClient(url) as client:
        assert url.startswith("http://[::1]:")
        await client.reset()


async def test_a_taken_port_is_an_error_and_leaves_nothing() -> None:
    async with serve(Counting) as url:
        with pytest.raises(OSError, match="in use"):
            async with serve(Counting, port=int(url.rpartition(":")[2])):
                pass


async def test_stopping_tells_the_clients_and_closes_the_environments() -> None:
    closed = Hanging.closed
    async with serve(Hanging) as url:
        client = await GenericEnvClient(url).open()
        await client.reset(seed=1)
        stuck = asyncio.create_task(client.step({"amount": 1}))
        connection = client.connection
        assert connection is not None
        await asyncio.sleep(0)
    assert connection.going_away is not None
    with pytest.raises(OpenEnvError):
        await stuck
    assert Hanging.closed == closed + 1
    await client.close()


async def test_stopping_ends_as_it_should_though_it_is_cancelled() -> None:
    closing, closed = asyncio.Event(), asyncio.Event()

    class Slow(Counting):
        async def close(self) -> None:
            closing.set()
            await closed.wait()

    app = create_app(Slow)
    engine: Engine = app.state.openenv.engine

    async def main() -> None:
        async with serve(app) as url:
            client = await GenericEnvClient(url).open()
            await client.reset()
            clients.append(client)

    clients: list[GenericEnvClient] = []
    serving = asyncio.create_task(main())
    await closing.wait()
    serving.cancel()
    await asyncio.sleep(0)
    assert not serving.done()
    closed.set()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not engine.sessions
    await clients[0].close()


def test_a_server_that_cannot_say_where_it_listens_ends_as_it_should() -> None:
    app = create_app(Counting)

    def listening(url: str) -> None:
        raise BrokenPipeError("nobody reads this")

    with pytest.raises(BrokenPipeError):
        run_server(app, port=0, on_listening=listening)
    assert app.state.openenv.engine.draining == "shutdown"


def test_a_server_of_its_own_stops_at_a_signal() -> None:
    urls: list[str] = []

    def listening(url: str) -> None:
        urls.append(url)
        threading.Timer(0, os.kill, (os.getpid(), signal.SIGTERM)).start()

    for uvloop in (False, None):
        run_server(Counting, port=0, on_listening=listening, uvloop=uvloop)
    assert len(urls) == 2


def test_a_server_ends_with_its_standard_input() -> None:
    reading, writing = os.pipe()
    saved = os.dup(0)
    os.dup2(reading, 0)
    try:
        run_server(
            Counting,
            port=0,
            until_stdin_closes=True,
            on_listening=lambda url: os.close(writing),
        )
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(reading)


@pytest.mark.parametrize("subprotocol", ["openenv.v1.json", None])
@pytest.mark.parametrize("uvloop", [False, True])
def test_a_peer_that_does_not_read_is_really_cut(subprotocol: str | None, uvloop: bool) -> None:
    """Closing would wait for ever until it has read what was written."""
    if uvloop:
        pytest.importorskip("uvloop")
    options = EngineOptions(timeouts=Timeouts(write=0.2, resume=None))
    app = create_app(Blob, options=options)
    engine: Engine = app.state.openenv.engine
    size = 32 << 20

    async def main() -> None:
        async with serve(app, options=options) as url:
            socket = await connect(
                url.replace("http", "ws") + "/ws",
                subprotocols=[Subprotocol(subprotocol)] if subprotocol else None,
                compression=None,
                ping_interval=None,
                max_size=None,
            )
            socket.transport.pause_reading()
            if subprotocol:
                frames: list[Any] = [[0, 1], [1, 1, "0" * 32, "1" * 32], [2, 1, 1]]
                frames += [[3, 1, seq, seq - 1, {"size": size}] for seq in (2, 3)]
                for frame in frames:
                    await socket.send(json.dumps([frame]))
            else:
                await socket.send(json.dumps({"type": "reset", "data": {}}))
                for _ in range(2):
                    await socket.send(json.dumps({"type": "step", "data": {"size": size}}))
            await until(lambda: engine.stats.cut == 1)
            await until(lambda: not engine.sessions and not engine.stats.connections)
            socket.transport.resume_reading()
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        assert len(await socket.recv()) < size, "it was not cut, it was closed"
            assert socket.close_code == 1006

    with asyncio.Runner(loop_factory=loop_factory(uvloop)) as runner:
        runner.run(main())


async def test_a_peer_that_reads_is_not_cut() -> None:
    options = EngineOptions(timeouts=Timeouts(write=0.2))
    app = create_app(Blob, options=options)
    async with serve(app, options=options) as url:
        for subprotocol in (None, "upstream"):
            async with GenericEnvClient(url, subprotocol=subprotocol) as client:
                await client.reset()
                for _ in range(10):
                    await client.step({"size": 1 << 20})
        assert app.state.openenv.engine.stats.cut == 0


def test_a_process_of_its_own_may_open_as_many_files_as_the_system_lets_it() -> None:
    import resource

    saved = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, saved[1]))

    def listening(url: str) -> None:
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (saved[1], saved[1])
        threading.Timer(0, os.kill, (os.getpid(), signal.SIGTERM)).start()

    try:
        run_server(Counting, port=0, on_listening=listening)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, saved)
