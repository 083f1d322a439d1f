"""The WebSocket of a client: its address, the handshake's failures, whole and broken messages."""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import logging
import socket as sockets
import ssl
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
from websockets.asyncio.client import ClientConnection as WebSocketConnection
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from openenv_async.client.settings import ClientSettings
from openenv_async.client.websocket import (
    WebSocketTransport,
    _find_dead_hosts,
    _Socket,
    dial,
    websocket_url,
)
from openenv_async.errors import (
    ConnectFailed,
    InvalidOption,
    OpenEnvError,
    ProtocolError,
    ServerBusy,
    Unauthorized,
)
from openenv_async.protocol.codec import encode_map, frame_codec
from openenv_async.protocol.frames import PROTOCOL_VERSION, GoingAway, Welcome
from openenv_async.types import Limits, Timeouts
from tests.helpers import until


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://a:1", "ws://a:1/ws"),
        ("https://a", "wss://a/ws"),
        ("ws://a/ws", "ws://a/ws"),
        ("wss://a/ws/", "wss://a/ws"),
        ("http://a/mount/", "ws://a/mount/ws"),
        ("http://a/?x=1", "ws://a/ws?x=1"),
    ],
)
def test_the_address_of_the_socket(url: str, address: str) -> None:
    assert websocket_url(url) == address


class Peer:
    """A server that does what it is told once it has read the hello."""

    def __init__(self, format: str = "msgpack") -> None:
        self.name = f"openenv.v1.{format}"
        self.codec = frame_codec(self.name, "server", 1 << 20)
        self.headers: Any = None
        self.hello: Any = None
        self.socket: ServerConnection | None = None
        self.closed = asyncio.Event()
        self.received: list[Any] = []

    @property
    def welcome(self) -> Any:
        """The answer to a hello, as a message."""
        told = encode_map({"server": "peer"}, self.codec.format)
        return self.message(Welcome(PROTOCOL_VERSION, "epoch", told))

    def message(self, *frames: Any) -> Any:
        data = self.codec.encode(frames)
        return data.decode() if self.codec.text else data

    async def talk(self, socket: ServerConnection) -> None:
        self.socket = socket
        assert socket.request is not None
        self.headers = socket.request.headers
        self.hello = self.codec.decode(await socket.recv())[0]
        await socket.send(self.welcome)
        try:
            async for message in socket:
                self.received.extend(self.codec.decode(message))
        finally:
            self.closed.set()

    @contextlib.asynccontextmanager
    async def listening(self, **options: Any) -> AsyncIterator[str]:
        names: Any = [self.name]
        async with serve(self.talk, "127.0.0.1", 0, subprotocols=names, **options) as server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_hello_and_what_goes_with_it(format: str) -> None:
    peer = Peer(format)
    settings = ClientSettings(
        token="secret", headers={"X-Key": "1"}, subprotocol=peer.name, limits=Limits(chunk_size=99)
    )
    async with peer.listening() as url:
        connection = await dial(url, settings)
        assert connection.server["server"] == "peer"
        assert connection.epoch == "epoch"
        assert connection.format == format
        assert peer.headers["Authorization"] == "Bearer secret"
        assert peer.headers["X-Key"] == "1"
        assert peer.headers["Sec-WebSocket-Protocol"] == peer.name
        assert connection.limits.chunk_size == 99
        await connection.aclose()
        await peer.closed.wait()


async def test_settings_given_by_themselves_as_once_still_count() -> None:
    peer = Peer()
    async with peer.listening() as url:
        with pytest.warns(
            DeprecationWarning, match=r"dial\(token=\) is now .*ClientSettings"
        ) as told:
            connection = await dial(url, token="secret", limits=Limits(chunk_size=99))
        assert told[0].filename == __file__
        assert peer.headers["Authorization"] == "Bearer secret"
        assert connection.limits.chunk_size == 99
        await connection.aclose()


async def test_both_formats_are_offered_and_no_token_is_invented() -> None:
    peer = Peer("json")
    async with peer.listening() as url:
        connection = await dial(url)
        assert peer.headers["Sec-WebSocket-Protocol"] == "openenv.v1.msgpack, openenv.v1.json"
        assert "Authorization" not in peer.headers
        await connection.aclose()


@pytest.mark.parametrize("format", ["msgpack", "json"])
@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("filler", [0, 200, 70_000])
async def test_a_message_arrives_in_however_many_pieces(
    format: str, parts: int, filler: int
) -> None:
    peer = Peer(format)
    reason = "soon " + "x" * filler
    async with peer.listening() as url:
        connection = await dial(url)
        assert peer.socket is not None
        message = peer.message(GoingAway(reason, 1.0))
        if parts == 1:
            await peer.socket.send(message)
        else:
            third = len(message) // 3
            pieces = [message[:third], message[third:]]
            if parts == 3:
                pieces[1:] = [message[third : 2 * third], message[2 * third :]]
            await peer.socket.send(pieces)
        await until(lambda: connection.going_away is not None)
        assert connection.going_away is not None
        assert connection.going_away.reason == reason
        await connection.aclose()


async def test_pings_are_answered_between_messages() -> None:
    peer = Peer()
    async with peer.listening() as url:
        connection = await dial(url)
        assert peer.socket is not None
        await asyncio.wait_for(await peer.socket.ping(), 5)
        await connection.aclose()


async def test_a_socket_that_was_lost_is_told_and_written_to_no_more() -> None:
    peer = Peer()
    async with peer.listening() as url:
        connection = await dial(url)
        transport: Any = connection._transport
        assert isinstance(transport, WebSocketTransport)
        assert peer.socket is not None
        peer.socket.transport.abort()
        await until(lambda: not connection.up)
        transport.send(b"late", False)
        await connection.aclose()


@pytest.mark.parametrize("leaving", [True, False])
async def test_a_close_is_said_unless_the_client_does_not_leave(leaving: bool) -> None:
    peer = Peer()
    async with peer.listening() as url:
        connection = await dial(url)
        transport: Any = connection._transport
        await transport.aclose(leaving)
        await asyncio.wait_for(peer.closed.wait(), 5)
        assert peer.socket is not None
        assert (peer.socket.close_code == 1000) is leaving
        await connection.aclose()


async def test_congestion_follows_the_socket() -> None:
    peer = Peer()
    async with peer.listening() as url:
        connection = await dial(url)
        transport: Any = connection._transport
        states = [transport.congested]
        transport._socket.pause_writing()
        states.append(transport.congested)
        draining = asyncio.ensure_future(transport.drained())
        await asyncio.sleep(0)
        assert not draining.done()
        transport._socket.resume_writing()
        states.append(transport.congested)
        assert states == [False, True, False]
        await asyncio.wait_for(draining, 5)
        await connection.aclose()


async def test_tcp_finds_hosts_that_are_gone() -> None:
    peer = Peer()
    async with peer.listening() as url:
        connection = await dial(url)
        transport: Any = connection._transport
        raw = transport._socket.transport.get_extra_info("socket")
        assert raw.getsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE) == 1
        found = {
            name: raw.getsockopt(sockets.IPPROTO_TCP, getattr(sockets, name))
            for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
        }
        assert list(found.values()) == [30, 10, 3, 60_000]
        await connection.aclose()


async def test_a_message_larger_than_the_limit_ends_the_connection() -> None:
    peer = Peer()
    async with peer.listening() as url:
        connection = await dial(url, ClientSettings(limits=Limits(max_message_size=2000)))
        assert peer.socket is not None
        await peer.socket.send(b"x" * 2001)
        await until(lambda: not connection.up)
        assert connection.going_away is None
        await connection.aclose()


async def test_text_on_a_binary_connection_is_refused() -> None:
    peer = Peer()
    async with peer.listening() as url:
        connection = await dial(url)
        assert peer.socket is not None
        await peer.socket.send("text")
        await until(lambda: connection.error is not None)
        assert isinstance(connection.error, ProtocolError)
        assert "text message" in connection.error.message
        await connection.aclose()


def answering(status: int, body: bytes = b"", **headers: str) -> Callable[..., Any]:
    def process(socket: ServerConnection, request: Any) -> Any:
        response = socket.respond(http.HTTPStatus(status), body.decode())
        for name, value in headers.items():
            response.headers[name] = value
        return response

    return process


@pytest.mark.parametrize(
    ("status", "error", "token", "kind", "part"),
    [
        (401, None, None, Unauthorized, "none was given"),
        (401, None, "t", Unauthorized, "check the token"),
        (401, "unauthorized", "t", Unauthorized, "check the token"),
        (403, "unauthorized", None, Unauthorized, "none was given"),
        (503, "server_busy", None, ServerBusy, "full"),
        (503, None, None, ConnectFailed, "not reachable, or not up yet"),
        (404, None, None, ConnectFailed, "at /ws"),
        (401, "invalid_option", None, InvalidOption, "full"),
    ],
)
async def test_a_refused_handshake_has_its_error(
    status: int, error: str | None, token: str | None, kind: type[OpenEnvError], part: str
) -> None:
    body = b"" if error is None else json.dumps({"error": {"code": error, "message": "full"}})
    text = body if isinstance(body, bytes) else body.encode()
    async with Peer().listening(process_request=answering(status, text)) as url:
        with pytest.raises(OpenEnvError, match=part) as caught:
            await dial(url, ClientSettings(token=token))
    assert type(caught.value) is kind
    if error not in (None, "unauthorized"):
        assert caught.value.phase == "connect"


async def test_a_redirection_is_not_followed() -> None:
    peer = Peer()
    async with peer.listening() as there:
        process = answering(302, Location=there + "/ws")
        async with Peer().listening(process_request=process) as url:
            with pytest.raises(ConnectFailed, match="a redirection to"):
                await dial(url)
    assert peer.socket is None


async def test_a_server_that_does_not_answer_is_given_up_in_time() -> None:
    done = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(ConnectFailed, match=r"within 0.2 s \(Timeouts.connect\)") as caught:
        await dial(url, ClientSettings(timeouts=Timeouts(connect=0.2)))
    assert caught.value.detail["timed_out"] is True
    assert caught.value.phase == "connect"
    done.set()
    server.close()
    await server.wait_closed()
    with pytest.raises(ConnectFailed, match="nothing listens at"):
        await dial(url)


async def test_a_server_of_another_dialect_is_upstreams_unless_one_was_asked_for() -> None:
    closed: list[int | None] = []

    async def talk(socket: ServerConnection) -> None:
        await socket.wait_closed()
        closed.append(socket.close_code)

    async with serve(talk, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for subprotocol in (None, "upstream"):
            connection = await dial(url, ClientSettings(subprotocol=subprotocol))
            assert connection.upstream
            await connection.aclose()
        with pytest.raises(ConnectFailed, match=r"does not speak openenv\.v1\.json"):
            await dial(url, ClientSettings(subprotocol="openenv.v1.json"))
        await until(lambda: len(closed) == 3)
        assert closed[-1] == 1000


async def test_tls_is_spoken_with_the_trust_that_was_given() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    peer = Peer()
    async with peer.listening(ssl=context) as url:
        secure = url.replace("http://", "https://")
        connection = await dial(secure, ClientSettings(ssl=trust))
        assert connection.up
        await connection.aclose()
        with pytest.raises(ConnectFailed, match="its certificate is not trusted"):
            await dial(secure)


# -- the socket by itself -------------------------------------------------------------------------


def bare(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[Any]]:
    """A socket without a connection, and what it leaves to the library."""
    left: list[Any] = []
    for name in ("process_event", "pause_writing", "resume_writing", "connection_lost"):
        monkeypatch.setattr(
            WebSocketConnection, name, lambda _self, *args, name=name: left.append((name, *args))
        )
    made: Any = _Socket.__new__(_Socket)
    made.protocol = SimpleNamespace(state=State.OPEN)
    return made, left


@pytest.mark.parametrize("text", [True, False])
def test_messages_that_the_library_cuts_are_put_together(
    monkeypatch: pytest.MonkeyPatch, text: bool
) -> None:
    socket, left = bare(monkeypatch)
    got: list[Any] = []
    socket.on_message = got.append
    kind = Opcode.TEXT if text else Opcode.BINARY
    ping = Frame(Opcode.PING, b"p")
    socket.process_event(Frame(kind, b"one"))
    socket.process_event(Frame(kind, b"t", fin=False))
    socket.process_event(Frame(Opcode.CONT, b"w", fin=False))
    socket.process_event(ping)  # may come between
    assert len(got) == 1
    socket.process_event(Frame(Opcode.CONT, b"o"))
    socket.process_event(Frame(kind, b"thr", fin=False))
    socket.process_event(Frame(Opcode.CONT, b"ee"))
    socket.process_event("no frame")
    expected: list[Any] = [b"one", b"two", b"three"]
    assert got == ([each.decode() for each in expected] if text else expected)
    assert left == [("process_event", ping), ("process_event", "no frame")]


def test_a_socket_that_nobody_listens_to_is_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    socket, left = bare(monkeypatch)
    frame = Frame(Opcode.BINARY, b"x")
    socket.process_event(frame)
    socket.pause_writing()
    socket.resume_writing()
    socket.connection_lost(None)
    socket.deliver(b"x", False)
    names = ["process_event", "pause_writing", "resume_writing", "connection_lost"]
    assert [name for name, *_ in left] == names


def test_a_message_is_handed_over_while_the_socket_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    socket, _ = bare(monkeypatch)
    got: list[Any] = []
    socket.on_message = got.append
    socket.deliver(b"a", False)
    socket.deliver(memoryview("é".encode()), True)
    socket.protocol.state = State.CLOSING
    socket.deliver(b"b", False)
    assert got == [b"a", "é"]


def test_the_library_hears_first_of_what_the_owner_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    socket, left = bare(monkeypatch)
    socket.on_congestion = lambda is_on: left.append(is_on)
    socket.on_lost = lambda: left.append("lost")
    socket.pause_writing()
    socket.resume_writing()
    socket.connection_lost(None)
    names = [
        ("pause_writing",),
        True,
        ("resume_writing",),
        False,
        ("connection_lost", None),
        "lost",
    ]
    assert left == names


def test_sockets_of_other_kinds_are_not_asked_to_find_dead_hosts() -> None:
    class Raw:
        asked = 0

        def setsockopt(self, *option: Any) -> None:
            self.asked += 1
            raise OSError("not TCP")

    raw = Raw()
    for found in (None, raw):
        transport: Any = SimpleNamespace(get_extra_info={"socket": found}.get)
        _find_dead_hosts(transport)
    assert raw.asked == 1


async def test_no_frame_and_no_token_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    peer = Peer()
    async with peer.listening() as url:
        connection = await dial(url, ClientSettings(token="very-secret"))
        await connection.aclose()
    assert peer.headers["Authorization"] == "Bearer very-secret"
    told = [record for record in caplog.records if record.name == "websockets.client"]
    assert not any("very-secret" in record.getMessage() for record in told)
    assert not any("BINARY" in record.getMessage() for record in told)


class Dialled(Exception):
    """Raised instead of dialling."""


@pytest.mark.parametrize(
    ("url", "proxy", "tls"),
    [
        ("http://127.0.0.1:1", None, False),
        ("http://example.com", True, False),
        ("https://example.com", True, True),
    ],
)
async def test_the_handshake_as_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, url: str, proxy: Any, tls: bool
) -> None:
    asked: list[Any] = []

    def connect(address: str, **options: Any) -> Any:
        asked.append((address, options))
        raise Dialled

    monkeypatch.setattr("openenv_async.client.websocket._Connect", connect)
    trust = ssl.create_default_context()
    headers = {"X-Key": "1"}
    limits = Limits(max_message_size=5000)
    settings = ClientSettings(token="t", headers=headers, limits=limits, ssl=trust)
    for subprotocol in (None, "openenv.v1.json", "upstream"):
        with pytest.raises(Dialled):
            await dial(url, settings.replace(subprotocol=subprotocol))
    offered = [options.pop("subprotocols") for _, options in asked]
    assert offered == [["openenv.v1.msgpack", "openenv.v1.json"], ["openenv.v1.json"], None]
    assert all("openenv-local" not in each["additional_headers"] for _, each in asked[1:])
    address, options = asked[0]
    assert address == websocket_url(url)
    assert options.pop("ssl", None) is (trust if tls else None)
    assert options == {
        "compression": None,
        "additional_headers": {
            "X-Key": "1",
            "Authorization": "Bearer t",
            **({} if tls else {"openenv-local": "1"}),
        },
        "max_size": 5000,
        "ping_interval": None,
        "open_timeout": None,
        "close_timeout": 2.0,
        "proxy": proxy,
        "create_connection": _Socket,
    }
    assert settings.headers == headers == {"X-Key": "1"}
