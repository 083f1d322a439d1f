"""A client's local connection: taken where the server is on this machine, TCP everywhere else."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from openenv_async import ClientSettings, EnvClient, Environment, Timeouts, serve
from openenv_async.client.connection import ClientConnection
from openenv_async.client.local import LocalTransport, local_address
from openenv_async.client.websocket import WebSocketTransport, dial
from openenv_async.endpoints.local import SOCKET_NAME, LocalFolder
from openenv_async.errors import ConnectFailed
from openenv_async.protocol.local import (
    LocalOffer,
    ServerGreeting,
    end_body,
    write_greeting,
)
from openenv_async.protocol.records import Record, record, record_header
from openenv_async.server import create_app
from openenv_async.server.local import LocalListener
from tests.chaos import ChaosProxy
from tests.helpers import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are of Linux")

NAME, KEY = "0f" * 16, "a1" * 16


class Counting(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """An environment that counts its steps."""

    isolation = "inline"

    def __init__(self) -> None:
        self.count = 0

    def reset(self, seed: int | None = None) -> dict[str, Any]:
        self.count = 0
        return {"count": 0, "blob": b""}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.count += 1
        return {"count": self.count, "blob": bytes(action.get("size", 0))}


def transport_of(client: EnvClient[Any, Any, Any]) -> Any:
    assert client.connection is not None
    return client.connection._transport


@contextlib.asynccontextmanager
async def dialled(url: str, **settings: Any) -> AsyncIterator[ClientConnection]:
    connection = await dial(url, ClientSettings(**settings))
    try:
        yield connection
    finally:
        await connection.aclose()


async def test_a_server_on_this_machine_is_reached_without_tcp() -> None:
    app = create_app(Counting)
    stats = app.state.openenv.engine.stats
    async with serve(app) as url, EnvClient[Any, Any, Any](url) as env:
        await env.reset()
        assert isinstance(transport_of(env), LocalTransport)
        await until(lambda: stats.connections == 1)  # that over TCP is closed
        assert stats.local_connections == 1
        assert (await env.step({})).observation["count"] == 1


@pytest.mark.parametrize(
    "settings",
    [{"local": False}, {"subprotocol": "openenv.v1.json"}, {"subprotocol": "upstream"}],
)
async def test_who_does_not_want_it_or_speaks_otherwise_has_tcp(settings: dict[str, Any]) -> None:
    app = create_app(Counting)
    async with serve(app) as url, EnvClient[Any, Any, Any](url, **settings) as env:
        await env.reset()
        assert not isinstance(transport_of(env), LocalTransport)
        assert app.state.openenv.engine.stats.local_connections_opened == 0


async def test_a_forwarded_port_is_not_taken_for_the_server() -> None:
    async with serve(Counting) as url, ChaosProxy(url) as proxy, dialled(proxy.url) as connection:
        assert isinstance(connection._transport, WebSocketTransport)


async def test_the_token_and_headers_go_along() -> None:
    async with serve(Counting, token="right") as url, dialled(url, token="right") as connection:
        assert isinstance(connection._transport, LocalTransport)


async def test_large_payloads_go_both_ways() -> None:
    async with serve(Counting) as url, EnvClient[Any, Any, Any](url) as env:
        await env.reset()
        for size in (10, 70_000, 3_000_000):
            sent = {"size": size, "blob": os.urandom(size)}
            assert len((await env.step(sent)).observation["blob"]) == size


async def test_a_lost_local_connection_is_resumed_by_another() -> None:
    app = create_app(Counting)
    async with serve(app) as url, EnvClient[Any, Any, Any](url) as env:
        await env.reset()
        for count in range(1, 5):
            assert (await env.step({})).observation["count"] == count
            await transport_of(env).aclose(leaving=False)
            assert env.connection is not None
            await until(lambda: env.connection is not None and env.connection.up)
            assert isinstance(transport_of(env), LocalTransport)
        assert env.connection is not None
        assert env.connection.reconnects == 4
        assert (await env.step({})).observation["count"] == 5


async def test_a_session_goes_from_the_unix_socket_to_tcp_and_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = create_app(Counting)
    listener: LocalListener = app.state.openenv._local
    kinds = []
    async with serve(app) as url, EnvClient[Any, Any, Any](url) as env:
        name = listener.name
        await env.reset()
        for count in range(1, 6):
            assert (await env.step({})).observation["count"] == count
            kinds.append(type(transport_of(env)))
            monkeypatch.setattr(listener, "name", name if kinds[-1] is WebSocketTransport else "")
            await transport_of(env).aclose(leaving=False)
            await until(lambda: env.connection is not None and env.connection.up)
    assert kinds == [LocalTransport, WebSocketTransport] * 2 + [LocalTransport]


class Impostor:
    """A listener at the address that a server tells, which is not that server."""

    def __init__(self, answer: bytes) -> None:
        self.name = os.urandom(16).hex()
        self._answer = answer
        self._server: asyncio.Server

    async def __aenter__(self) -> Impostor:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(f"\0openenv-{self.name}")
        self._server = await asyncio.start_unix_server(self._talk, sock=listener)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(self._answer)
        writer.close()
        await writer.wait_closed()


def says(status: int) -> bytes:
    return record(Record.GREETING, write_greeting(ServerGreeting(status, b"not you")))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        record_header(Record.GREETING, 1 << 30),
        record(Record.GREETING, b"\xc1"),
        record(Record.GREETING, b""),
        record(Record.MESSAGE, b"\x90"),
        says(403),
        says(503),
        says(101)[:-1],
    ],
)
async def test_whatever_the_socket_answers_tcp_is_still_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    caplog.set_level(logging.INFO, "openenv_async.client")
    app = create_app(Counting)
    async with serve(app) as url, Impostor(answer) as impostor:
        monkeypatch.setattr(app.state.openenv._local, "name", impostor.name)
        async with dialled(url) as connection:
            assert isinstance(connection._transport, WebSocketTransport)
            (line,) = [each.getMessage() for each in caplog.records]
            assert "TCP is" in line


async def test_an_end_after_the_greeting_is_a_lost_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = create_app(Counting)
    ended = says(101) + record(Record.END, end_body(1001, "bye"))
    async with serve(app) as url, Impostor(ended) as impostor:
        monkeypatch.setattr(app.state.openenv._local, "name", impostor.name)
        try:
            async with dialled(url, timeouts=Timeouts(connect=5.0)) as connection:
                assert isinstance(connection._transport, WebSocketTransport)
        except ConnectFailed:
            pass  # as soon as it was greeted; a client's caller or its connection dials again


async def test_a_socket_that_does_not_answer_costs_the_connect_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app, name = create_app(Counting), os.urandom(16).hex()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as mute:
        mute.bind(f"\0openenv-{name}")
        mute.listen()
        async with serve(app) as url:
            monkeypatch.setattr(app.state.openenv._local, "name", name)
            async with dialled(url, timeouts=Timeouts(connect=0.3)) as connection:
                assert isinstance(connection._transport, WebSocketTransport)


def memories() -> int:
    """Descriptors of shared memory that this process has."""
    descriptors = Path("/proc/self/fd")
    links = []
    for descriptor in os.listdir(descriptors):
        with contextlib.suppress(OSError):  # that of the folder itself
            links.append(os.readlink(descriptors / descriptor))
    return sum(link.startswith("/memfd:openenv") for link in links)


async def test_a_client_cancelled_at_any_moment_of_its_opening_leaves_nothing() -> None:
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    app = create_app(Counting)
    stats = app.state.openenv.engine.stats
    moments = 0
    async with serve(app) as url:
        done = False
        while not done:
            moments += 1
            opening = asyncio.create_task(dial(url, ClientSettings()))
            for _ in range(moments):
                await asyncio.sleep(0)
            done = opening.done()
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await (await opening).aclose()
        await until(lambda: stats.connections == 0 and stats.local_connections == 0)
    assert moments > 5
    assert stats.local_connections_opened > 1
    assert not problems


async def test_a_closed_client_that_is_kept_lets_go_of_the_memory() -> None:
    gc.collect()
    before = memories()
    gc.disable()
    try:
        async with serve(Counting) as url:
            connection = await dial(url, ClientSettings())
            assert memories() == before + 2  # one at each end
            await connection.aclose()
            await until(lambda: memories() == before)
            assert connection.codec is not None
    finally:
        gc.enable()


async def test_a_full_queue_is_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio itself would take it for one."""
    app, name = create_app(Counting), os.urandom(16).hex()
    address = f"\0openenv-{name}"
    with contextlib.ExitStack() as sockets:
        busy = sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        busy.bind(address)
        busy.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
                sockets.enter_context(socket.socket(socket.AF_UNIX, kind)).connect(address)
        async with serve(app) as url:
            monkeypatch.setattr(app.state.openenv._local, "name", name)
            async with dialled(url) as connection:
                assert isinstance(connection._transport, WebSocketTransport)


async def test_a_missing_socket_is_a_line_for_debugging_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(Counting)
    async with serve(app) as url:
        monkeypatch.setattr(app.state.openenv._local, "name", NAME)
        caplog.set_level(logging.DEBUG, "openenv_async.client")
        async with dialled(url) as connection:
            assert isinstance(connection._transport, WebSocketTransport)
    (line,) = [each for each in caplog.records if each.name == "openenv_async.client"]
    assert line.levelno == logging.DEBUG


@pytest.mark.skipif(os.geteuid() != 0, reason="another user needs root")
@pytest.mark.parametrize(("user", "kind"), [(12_345, "WebSocketTransport"), (0, "LocalTransport")])
async def test_a_client_of_another_user_has_tcp(user: int, kind: str) -> None:
    app = create_app(Counting)
    async with serve(app) as url:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", _OTHER_USER, url, str(user)),
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
        out, _ = await child.communicate()
        assert out.decode().split() == [kind]


_OTHER_USER = """
import asyncio, os, sys
from openenv_async.client.websocket import dial
import openenv_async.client.upstream, encodings.idna
url, user = sys.argv[1], int(sys.argv[2])

async def main():
    os.setuid(user)
    connection = await dial(url)
    print(type(connection._transport).__name__)
    await connection.aclose()

asyncio.run(main())
"""


class Tcp:
    """A TCP socket that lies at these two addresses."""

    def __init__(self, mine: Any, peer: Any) -> None:
        self.getsockname: Callable[[], Any] = lambda: mine
        self.getpeername: Callable[[], Any] = lambda: peer


@pytest.mark.parametrize(
    ("mine", "peer", "seen_at", "is_local"),
    [
        (("127.0.0.1", 5), ("127.0.0.1", 80), ("127.0.0.1", 5), True),
        (("127.0.0.1", 5), ("127.0.0.2", 80), ("127.0.0.1", 5), True),
        (("::1", 5, 0, 0), ("::1", 80, 0, 0), ("::1", 5), True),
        (("10.0.0.7", 5), ("10.0.0.7", 80), ("10.0.0.7", 5), True),
        (("10.0.0.7", 5), ("10.0.0.8", 80), ("10.0.0.7", 5), False),
        (("127.0.0.1", 5), ("127.0.0.1", 80), ("127.0.0.1", 6), False),
        (("127.0.0.1", 5), ("127.0.0.1", 80), ("172.17.0.1", 5), False),
        (("fe80::1%eth0", 5, 0, 2), ("fe80::2%eth0", 80, 0, 2), ("fe80::1%eth0", 5), False),
        ("", "\0other", ("127.0.0.1", 5), False),
    ],
)
def test_only_a_direct_connection_within_this_machine_leads_to_a_socket(
    mine: Any, peer: Any, seen_at: tuple[str, int], is_local: bool
) -> None:
    offer = LocalOffer(NAME, KEY, seen_at)
    assert local_address(offer, Tcp(mine, peer)) == (f"\0openenv-{NAME}" if is_local else None)
    assert local_address(None, Tcp(mine, peer)) is None
    assert local_address(offer, None) is None


def test_a_container_is_known_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = LocalFolder(NAME, "owner")
    folder.tell(["127.0.0.1:4001", "[fd00::2]:8000"])
    offer = LocalOffer(NAME, KEY, ("172.17.0.1", 9))
    by_port = Tcp(("127.0.0.1", 5), ("127.0.0.1", 4001))
    assert local_address(offer, by_port) == str(folder.path / SOCKET_NAME)
    direct = Tcp(("fd00::1", 5, 0, 0), ("fd00::2", 8000, 0, 0))
    assert local_address(offer, direct) == str(folder.path / SOCKET_NAME)
    assert local_address(offer, Tcp(("127.0.0.1", 5), ("127.0.0.1", 4002))) is None
    folder.remove()
    assert local_address(offer, by_port) is None
