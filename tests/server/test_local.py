"""The Unix socket of a server: who may come in, what garbage does, and that nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from openenv_async import EngineOptions, EnvClient, Environment, Limits, Timeouts, serve
from openenv_async.client.local import open_local
from openenv_async.endpoints.local import (
    LOCAL_FOLDER_VARIABLE,
    SOCKET_NAME,
    LocalFolder,
    short_path,
)
from openenv_async.errors import OriginRefused, error_from_wire
from openenv_async.protocol.codec import frame_codec
from openenv_async.protocol.frames import Failed, Hello, Open, Opened, Reset, Step, Welcome
from openenv_async.protocol.local import (
    END_GOING_AWAY,
    END_POLICY,
    END_PROTOCOL,
    END_TOO_LONG,
    ClientGreeting,
    LocalOffer,
    ServerGreeting,
    abstract_address,
    read_end,
    read_greeting,
    write_greeting,
)
from openenv_async.protocol.records import Record, RecordCutter, record, record_header
from openenv_async.server import create_app
from openenv_async.server.local import LocalListener
from tests.behaviours.environments import Blob
from tests.helpers import pack, token, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are of Linux")

NAME = "0f" * 16
HELLO = Hello(1)
OPEN = Open(1, token(1), token(2))


class Counting(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """An environment that counts its steps."""

    isolation = "inline"

    def __init__(self) -> None:
        self.count = 0

    def reset(self, seed: int | None = None) -> dict[str, Any]:
        self.count = 0
        return {"count": 0}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.count += 1
        return {"count": self.count}


class UnixPeer:
    """A raw client of the Unix socket.

    Attributes:
        records: those that came and were not taken.
    """

    def __init__(self, address: str) -> None:
        self.raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self.raw.connect(address)
        except OSError:
            self.raw.close()
            raise
        self.codec = frame_codec("openenv.v1.msgpack", "client", 1 << 30)
        self.records: list[tuple[Record, bytes]] = []
        self._cutter = RecordCutter(
            lambda kind, body: self.records.append((kind, bytes(body))), 1 << 30
        )

    async def write(self, *records: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.raw, b"".join(records))

    async def next(self) -> tuple[Record, bytes] | None:
        """The next record; ``None`` when the server hung up."""
        while not self.records:
            try:
                data = await asyncio.get_running_loop().sock_recv(self.raw, 1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            assert self._cutter.feed(data)
        return self.records.pop(0)

    async def greet(self, key: str, **headers: str) -> ServerGreeting:
        await self.write(record(Record.GREETING, write_greeting(ClientGreeting(key, headers))))
        found = await self.next()
        assert found is not None
        assert found[0] is Record.GREETING
        greeting: ServerGreeting = read_greeting(found[1], of_client=False)
        return greeting

    async def send(self, *frames: Any) -> None:
        await self.write(record(Record.MESSAGE, self.codec.encode(frames)))

    async def frames(self, count: int) -> list[Any]:
        """The next frames, so many at least."""
        seen: list[Any] = []
        while len(seen) < count:
            found = await self.next()
            assert found is not None
            assert found[0] is Record.MESSAGE
            seen += self.codec.decode(found[1])
        return seen

    async def end(self) -> tuple[int, str]:
        """The code and reason that the server ends with; all before it is passed over."""
        while (found := await self.next()) is not None:
            if found[0] is Record.END:
                assert await self.next() is None
                return read_end(found[1])
        raise AssertionError("the server hung up without a word")


@contextlib.asynccontextmanager
async def listening(
    env: Any = Counting, options: EngineOptions | None = None, **settings: Any
) -> AsyncIterator[Any]:
    """The application of a server that listens, at ``state.openenv``."""
    app = create_app(env, options=options, **settings)
    async with serve(app, options=options) as url:
        app.state.url = url
        yield app


@contextlib.contextmanager
def peer_of(app: Any) -> Any:
    peer = UnixPeer(abstract_address(listener_of(app).name))
    with contextlib.closing(peer.raw):
        yield peer


def listener_of(app: Any) -> LocalListener:
    listener = app.state.openenv._local
    assert isinstance(listener, LocalListener)
    return listener


async def test_a_session_is_played_over_it_and_counted() -> None:
    async with listening() as app:
        stats = app.state.openenv.engine.stats
        with peer_of(app) as peer:
            assert await peer.greet(listener_of(app)._key) == ServerGreeting()
            await peer.send(HELLO, OPEN, Reset(1, 1), Step(1, 2, 1, pack({})))
            welcome, opened, _, _ = await peer.frames(4)
            assert (type(welcome), type(opened)) == (Welcome, Opened)
            assert (stats.connections, stats.local_connections) == (1, 1)
            assert stats.bytes_in > 0 < stats.bytes_out
        await until(lambda: stats.connections == 0)
        assert (stats.local_connections, stats.local_connections_opened) == (0, 1)


async def test_who_leaves_with_an_end_leaves_no_session_and_who_is_lost_does() -> None:
    async with listening() as app:
        engine = app.state.openenv.engine
        for goodbye, left in ((record(Record.END, b"\x03\xe8"), 0), (b"", 1)):
            with peer_of(app) as peer:
                await peer.greet(listener_of(app)._key)
                await peer.send(HELLO, OPEN)
                await peer.frames(2)
                await peer.write(goodbye)
            await until(lambda: engine.stats.connections == 0)
            await until(lambda left=left: len(engine.sessions) == left)  # type: ignore[misc]


async def test_the_token_is_asked_for_as_on_tcp() -> None:
    async with listening(token="right") as app:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            with peer_of(app) as peer:
                answer = await peer.greet(listener_of(app)._key, **headers)
                assert answer.status == 401
                problem = msgspec.json.decode(answer.body)["error"]
                assert problem["code"] == "unauthorized"
                assert "right" not in problem["message"]
                assert await peer.next() is None
        with peer_of(app) as peer:
            assert (
                await peer.greet(listener_of(app)._key, Authorization="Bearer right")
            ).status == 101


@pytest.mark.parametrize(
    "headers", [{"origin": "http://evil.example"}, {"host": "rebound.example:8000"}]
)
async def test_the_rules_of_origin_and_host_are_those_of_tcp(headers: dict[str, str]) -> None:
    async with listening() as app:
        with peer_of(app) as peer:
            answer = await peer.greet(listener_of(app)._key, **headers)
            problem = msgspec.json.decode(answer.body)["error"]
            error = error_from_wire(problem["code"], problem["message"], False, {})
            assert (answer.status, type(error)) == (403, OriginRefused)


@pytest.mark.parametrize("key", ["", "0" * 32, "é" * 16])
async def test_without_the_key_that_was_told_over_tcp_nobody_comes_in(key: str) -> None:
    async with listening() as app:
        with peer_of(app) as peer:
            answer = await peer.greet(key)
            assert answer.status == 403
            assert b"key" in answer.body
            assert await peer.next() is None
        assert app.state.openenv.engine.stats.connections_opened == 0


@pytest.mark.parametrize(
    ("records", "code"),
    [
        ([b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n"], END_PROTOCOL),
        ([record(Record.MESSAGE, b"\x90")], END_PROTOCOL),
        ([record(Record.NOTE, b"")], END_PROTOCOL),
        ([record_header(Record.GREETING, 1 << 20)], END_TOO_LONG),
    ],
)
async def test_what_is_no_greeting_ends_the_connection(records: list[bytes], code: int) -> None:
    async with listening() as app:
        with peer_of(app) as peer:
            await peer.write(*records)
            assert (await peer.end())[0] == code
        assert not listener_of(app).greeting


async def test_a_greeting_that_cannot_be_read_is_refused() -> None:
    async with listening() as app:
        with peer_of(app) as peer:
            await peer.write(record(Record.GREETING, b"\xc1"))
            found = await peer.next()
            assert found is not None
            assert read_greeting(found[1], of_client=False).status != 101
            assert await peer.next() is None


@pytest.mark.parametrize(
    ("records", "code"),
    [
        ([b"\x00" * 64], END_PROTOCOL),
        ([record(Record.GREETING, write_greeting(ClientGreeting("")))], END_PROTOCOL),
        ([record_header(Record.MESSAGE, 5000)], END_TOO_LONG),
        ([record(Record.MESSAGE, b"\xc1")] * 4, END_POLICY),
    ],
)
async def test_garbage_on_an_open_connection_ends_it_alone(records: list[bytes], code: int) -> None:
    limits = Limits(max_message_size=4096, max_bad_frames=3)
    async with listening(options=EngineOptions(limits=limits)) as app:
        with peer_of(app) as peer, peer_of(app) as neighbour:
            for each in (peer, neighbour):
                await each.greet(listener_of(app)._key)
                await each.send(HELLO)
                await each.frames(1)
            await peer.write(*records)
            assert (await peer.end())[0] == code
            await neighbour.send(OPEN)
            assert type((await neighbour.frames(1))[0]) is Opened


async def test_a_message_in_bits_is_one_message() -> None:
    async with listening() as app:
        with peer_of(app) as peer:
            await peer.greet(listener_of(app)._key)
            whole = record(Record.MESSAGE, peer.codec.encode([HELLO, OPEN]))
            for at in range(len(whole)):
                await peer.write(whole[at : at + 1])
            assert [type(each) for each in await peer.frames(2)] == [Welcome, Opened]


async def test_a_first_frame_that_is_no_hello_is_answered() -> None:
    async with listening() as app:
        with peer_of(app) as peer:
            await peer.greet(listener_of(app)._key)
            await peer.send(OPEN)
            (failed,) = await peer.frames(1)
            assert isinstance(failed, Failed)
            assert "Hello" in failed.message


async def test_a_silent_peer_is_cut() -> None:
    options = EngineOptions(timeouts=Timeouts(connect=0.5))
    async with listening(options=options) as app:
        with peer_of(app) as silent, peer_of(app) as greeted:
            await greeted.greet(listener_of(app)._key)
            assert await silent.next() is None
            assert await greeted.next() is None
            assert app.state.openenv.engine.stats.cut == 1


async def test_a_peer_that_does_not_read_is_cut_and_little_more_is_taken_of_it() -> None:
    options = EngineOptions(timeouts=Timeouts(write=0.2, resume=None))
    async with listening(Blob, options) as app:
        engine = app.state.openenv.engine
        with peer_of(app) as peer:
            await peer.greet(listener_of(app)._key)
            await peer.send(HELLO, OPEN, Reset(1, 1))
            await peer.frames(3)
            await peer.send(Step(1, 2, 1, pack({"size": 32 << 20})))
            much = record(Record.MESSAGE, peer.codec.encode([Step(7, 1, 0, bytes(60_000))] * 16))
            sending = asyncio.create_task(_write_all(peer, much, 1000))
            await until(lambda: engine.stats.cut == 1)
            await asyncio.wait([sending])
            await until(lambda: not engine.sessions and not engine.stats.connections)
        assert engine.stats.bytes_in < 200 * len(much)


async def _write_all(peer: UnixPeer, data: bytes, times: int) -> None:
    with contextlib.suppress(OSError):
        for _ in range(times):
            await peer.write(data)


async def test_a_server_that_stops_says_so_and_leaves_nobody_connected() -> None:
    app = create_app(Counting)
    async with serve(app):
        peer = UnixPeer(abstract_address(listener_of(app).name))
        silent = UnixPeer(abstract_address(listener_of(app).name))
        await peer.greet(listener_of(app)._key)
        await peer.send(HELLO)
        await peer.frames(1)
    with contextlib.closing(peer.raw), contextlib.closing(silent.raw):
        assert (await peer.end())[0] == END_GOING_AWAY
        assert await silent.next() is None
        with pytest.raises(ConnectionRefusedError):
            UnixPeer(abstract_address(listener_of(app).name or NAME))
    assert not listener_of(app).tasks


async def test_descriptors_come_with_the_greeting_and_are_closed_here() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"granted")
    app = create_app(Counting)
    websocket = listener_of(app).serve

    async def serve_with_grant(scope: Any, receive: Any, send: Any) -> None:
        local = scope["extensions"]["openenv.local"]
        assert list(local.wants) == ["pipe"]
        local.grant("pipe", {"size": 7}, [reading])
        await websocket(scope, receive, send)

    listener_of(app).serve = serve_with_grant
    async with serve(app) as url:
        client = EnvClient[Any, Any, Any](url, local=False)
        await client.reset()
        connection = client.connection
        assert connection is not None
        offer = LocalOffer(listener_of(app).name, listener_of(app)._key, ("127.0.0.1", 1))
        transport = await open_local(
            connection, abstract_address(offer.name), offer, {}, wants=("pipe",)
        )
        assert transport.grants == {"pipe": {"size": 7}}
        (descriptor,) = transport.descriptors
        assert os.read(descriptor, 100) == b"granted"
        assert not os.get_inheritable(descriptor)
        await transport.aclose()
        assert transport.descriptors == []
        with pytest.raises(BrokenPipeError):  # nobody can read it any more
            os.write(writing, b"more")
        await client.close()
    os.close(writing)


class TestFolder:
    """The socket that a provider gives to a server in a container."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalFolder]:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        folder = LocalFolder(NAME, "owner")
        monkeypatch.setenv(LOCAL_FOLDER_VARIABLE, str(folder.path))
        yield folder
        folder.remove()

    @staticmethod
    def giving(folder: LocalFolder) -> None:
        """Give the socket to the first that asks, as a provider does."""
        loop = asyncio.get_running_loop()

        def give() -> None:
            loop.remove_reader(folder.giver)
            assert folder.give()

        loop.add_reader(folder.giver, give)

    async def test_clients_come_in_by_it(self, folder: LocalFolder) -> None:
        self.giving(folder)
        async with listening(token="right") as app:
            assert listener_of(app).name == NAME
            with short_path(folder.path) as path:
                peer = UnixPeer(f"{path}/{SOCKET_NAME}")
            with contextlib.closing(peer.raw):
                right = {"Authorization": "Bearer right"}
                assert (await peer.greet(listener_of(app)._key, **right)).status == 101
        with short_path(folder.path) as path, pytest.raises(ConnectionRefusedError):
            UnixPeer(f"{path}/{SOCKET_NAME}")

    async def test_a_server_that_gets_none_serves_by_tcp_and_says_so_once(
        self, folder: LocalFolder, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder.remove()
        async with listening() as app:
            assert listener_of(app).name == ""
            (line,) = [each.getMessage() for each in caplog.records]
            assert "TCP is used" in line
            async with EnvClient[Any, Any, Any](app.state.url) as env:
                await env.reset()
            assert app.state.openenv.engine.stats.local_connections_opened == 0

    async def test_a_folder_of_another_name_is_not_used(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv(LOCAL_FOLDER_VARIABLE, "/missing/not-hex")
        async with listening() as app:
            assert listener_of(app).name == ""
        assert "32 hex digits" in caplog.text

    async def test_another_user_needs_the_token(self, folder: LocalFolder) -> None:
        root, me, other = (1, 0, 0), (1, os.geteuid(), 0), (1, 12_345, 0)
        for token_set, admitted in (("right", [True] * 3), (None, [True, True, False])):
            app = create_app(Counting, token=token_set)
            assert [listener_of(app).admits(each) for each in (root, me, other)] == admitted


async def test_an_abstract_socket_is_for_this_user_and_root() -> None:
    async with listening(token="right") as app:
        assert listener_of(app).admits((1, 0, 0))
        assert listener_of(app).admits((1, os.geteuid(), 0))
        assert not listener_of(app).admits((1, os.geteuid() + 12_345, 0))


async def test_a_server_may_do_without() -> None:
    app = create_app(Counting, local=False)
    async with serve(app) as url, EnvClient[Any, Any, Any](url) as env:
        await env.reset()
        assert app.state.openenv._local is None
        assert app.state.openenv.engine.stats.local_connections_opened == 0
