"""Requests to an engine over real sockets: where a response ends, and which connection is kept."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openenv_async.gateway.engine_http import (
    DirectHTTP,
    ForeignHTTP,
    RequestFailed,
    Response,
    http_to,
)
from tests.helpers import until

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Scripted:
    """A server that answers the requests in turn with the parts that it was given for each.

    Attributes:
        requests: what came, by connection.
        left: connections that its clients ended.
    """

    def __init__(self, *answers: list[bytes | asyncio.Event]) -> None:
        self.answers = list(answers)
        self.requests: list[list[bytes]] = []
        self.left = 0
        self.url = ""
        self.is_left = asyncio.Event()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mine: list[bytes] = []
        self.requests.append(mine)
        with contextlib.suppress(ConnectionError), contextlib.closing(writer):
            while True:
                try:
                    head = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError:
                    break
                size = 0
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        size = int(line.partition(b":")[2])
                mine.append(head + await reader.readexactly(size))
                for part in self.answers.pop(0):
                    if isinstance(part, asyncio.Event):
                        await part.wait()
                    elif part:
                        writer.write(part)
                        await writer.drain()
                    else:  # the end of the connection
                        return
        self.left += 1
        self.is_left.set()


@contextlib.asynccontextmanager
async def talking(*answers: list[bytes | asyncio.Event]) -> AsyncIterator[tuple[Any, DirectHTTP]]:
    scripted = Scripted(*answers)
    server = await asyncio.start_server(scripted.talk, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    http = DirectHTTP(scripted.url, {}, connect=5.0)
    try:
        yield scripted, http
    finally:
        await http.aclose()
        server.close()
        await server.wait_closed()


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


async def asked(http: DirectHTTP, url: str, data: bytes | None = b"{}") -> Response:
    return await http.request(f"{url}/v1/chat/completions", {"X-Session-ID": "s"}, data, soon())


async def body_of(response: Response) -> bytes:
    parts = []
    try:
        while data := await response.read(soon()):
            parts.append(data)
        assert response.is_at_end
    finally:
        response.close()
    return b"".join(parts)


async def test_a_request_is_written_as_http() -> None:
    async with talking([HELLO], [HELLO]) as (scripted, http):
        await body_of(await asked(http, scripted.url, b'{"a":1}'))
        await body_of(await asked(http, scripted.url, None))
    [[post, get]] = scripted.requests
    head, _, body = post.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"POST /v1/chat/completions HTTP/1.1"
    assert f"\r\nHost: {scripted.url.removeprefix('http://')}\r\n".encode() in head
    assert b"\r\nX-Session-ID: s\r\n" in head
    assert head.endswith(b"\r\nContent-Length: 7")
    assert body == b'{"a":1}'
    assert get.startswith(b"GET /v1/chat/completions HTTP/1.1\r\n")
    assert b"Content-Length" not in get


@pytest.mark.parametrize(
    ("answer", "body", "is_kept"),
    [
        (HELLO, b"hello", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO, b"hello", True),
        (b"HTTP/1.1 103\r\nContent-Length: 9\r\n\r\n" + HELLO, b"hello", True),
        (CHUNKED + b"2\r\nhe\r\n03;a=b\r\nllo\r\n0\r\n\r\n", b"hello", True),
        (CHUNKED + b"A \r\n0123456789\r\n0\r\nDigest: a\r\n\r\n", b"0123456789", True),
        (HELLO.replace(b"Con", b"Connection: Close\r\nCon"), b"hello", False),
        (HELLO.replace(b"1.1", b"1.0"), b"hello", False),
        (HELLO.replace(b"1.1 200 OK", b"1.0 200 OK\r\nConnection: keep-alive"), b"hello", True),
        (HELLO + b"more", b"hello", False),
    ],
)
@pytest.mark.parametrize("is_split", [False, True])
async def test_a_response_ends_where_its_head_says(
    answer: bytes, body: bytes, is_kept: bool, is_split: bool
) -> None:
    parts: list[Any] = [bytes([each]) for each in answer] if is_split else [answer]
    if is_split:  # each byte comes alone
        pauses = [asyncio.Event() for _ in parts]
        parts = [each for pair in zip(parts, pauses, strict=True) for each in pair]
    async with talking(parts, [HELLO]) as (scripted, http):
        if is_split:
            loop = asyncio.get_running_loop()

            def go(at: int) -> None:
                pauses[at].set()
                if at + 1 < len(pauses):
                    loop.call_later(0.0, go, at + 1)

            loop.call_soon(go, 0)
        assert await body_of(await asked(http, scripted.url)) == body
        if is_split and b"more" in answer:
            return  # what follows may come after the next request
        assert await body_of(await asked(http, scripted.url)) == b"hello"
        assert len(scripted.requests) == (1 if is_kept else 2)


async def test_a_body_of_unknown_length_ends_with_its_connection() -> None:
    async with talking([b"HTTP/1.1 200 OK\r\nX: 1\r\nx: 2\r\n\r\nhel", b"lo", b""]) as (
        scripted,
        http,
    ):
        response = await asked(http, scripted.url)
        assert response.headers == {"X": "1, 2"}
        assert await body_of(response) == b"hello"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "it begins with b'SSH-2.0'"),
        (b"HTTP/2 200 OK\r\n\r\n", "it begins with b'HTTP/2 200 OK'"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "it begins with"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "changes to another protocol"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "b'no colon' is not a header"),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n folded: c\r\n\r\n", "is not a header"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "its length is '-1'"),
        (HELLO.replace(b"Con", b"Content-Length: 6\r\nCon"), "its length is '6, 5'"),
        (HELLO.replace(b"Con", b"Content-Encoding: gzip\r\nCon"), "the coding 'gzip'"),
        (CHUNKED.replace(b"chunked", b"gzip, chunked"), "its transfer coding is 'gzip, chunked'"),
        (CHUNKED + b"0x5\r\nhello\r\n", "b'0x5' is not the size of a chunk"),
        (CHUNKED + b"2\r\nhello\r\n", "a chunk is longer than it says"),
        (CHUNKED + b"1" * 5000, "a line of a chunk has more than 4096 bytes"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000, "its head has more than 65536 bytes"),
    ],
)
async def test_what_is_not_http_is_an_error(answer: bytes, why: str) -> None:
    async with talking([answer]) as (scripted, http):
        with pytest.raises(RequestFailed, match="does not speak HTTP") as told:
            await body_of(await asked(http, scripted.url))
        assert why in str(told.value)
        await scripted.is_left.wait()
        assert not http.open


async def test_a_request_that_an_idle_connection_lost_is_sent_again_once() -> None:
    async with talking([HELLO], [b""], [HELLO], [HELLO], [b""], [b""]) as (scripted, http):
        for _ in range(3):
            assert await body_of(await asked(http, scripted.url)) == b"hello"
        assert [len(each) for each in scripted.requests] == [2, 2]
        with pytest.raises(RequestFailed, match="closed the connection"):
            await asked(http, scripted.url)
        assert [len(each) for each in scripted.requests] == [2, 3, 1]


async def test_a_request_is_not_sent_again_once_an_answer_has_begun() -> None:
    for begun, why in ((b"HTTP/1.1 2", "closed the connection"), (HELLO[:-2], "cut its answer")):
        async with talking([HELLO], [begun, b""]) as (scripted, http):
            await body_of(await asked(http, scripted.url))
            with pytest.raises(RequestFailed, match=why):
                await body_of(await asked(http, scripted.url))
            assert [len(each) for each in scripted.requests] == [2]


async def test_an_idle_connection_that_the_engine_closed_is_not_used() -> None:
    closing = asyncio.Event()
    async with talking([HELLO, closing, b""], [HELLO]) as (scripted, http):
        await body_of(await asked(http, scripted.url))
        assert len(http.idle) == 1
        closing.set()
        await until(lambda: not http.open)
        await body_of(await asked(http, scripted.url))
        assert [len(each) for each in scripted.requests] == [1, 1]


async def test_idle_connections_end_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.gateway.engine_http._IDLE", 0.05)
    async with talking([HELLO]) as (scripted, http):
        await body_of(await asked(http, scripted.url))
        assert len(http.idle) == 1
        await scripted.is_left.wait()
        assert not http.idle
        assert not http.open


async def test_deadlines_hold_for_the_head_and_for_each_read() -> None:
    never = asyncio.Event()
    async with talking([HELLO[:-3], never], [never]) as (scripted, http):
        response = await asked(http, scripted.url)
        assert await response.read(soon()) == b"he"
        with pytest.raises(TimeoutError):
            await response.read(soon(0.05))
        response.close()
        with pytest.raises(TimeoutError):
            await http.request(f"{scripted.url}/", {}, b"", soon(0.05))
        assert not http.idle  # one amid a response is not used again
        never.set()


async def test_a_later_deadline_holds_where_the_timer_is_early() -> None:
    slow = asyncio.Event()
    async with talking([HELLO[:-3], slow, HELLO[-3:]]) as (scripted, http):
        response = await http.request(f"{scripted.url}/", {}, b"", soon(0.05))
        assert await response.read(soon(0.05)) == b"he"
        asyncio.get_running_loop().call_later(0.2, slow.set)
        assert await response.read(soon()) == b"llo"


async def test_a_response_that_is_closed_or_cancelled_ends_its_connection() -> None:
    never = asyncio.Event()
    async with talking([HELLO[:-3], never], [never]) as (scripted, http):
        response = await asked(http, scripted.url)
        response.close()
        response.close()
        task = asyncio.create_task(asked(http, scripted.url))
        await until(lambda: len(scripted.requests) == 2)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await until(lambda: not http.open)
        never.set()


async def test_no_more_is_read_than_its_reader_takes() -> None:
    size = 32 * 2**20
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size
    async with talking([head, b"x" * size]) as (scripted, http):
        response: Any = await asked(http, scripted.url)
        [connection] = http.open
        await until(lambda: connection._is_paused)
        assert response.waiting < 2**20
        assert await body_of(response) == b"x" * size
        assert connection in http.idle


async def test_a_header_holds_no_other_one() -> None:
    async with talking() as (scripted, http):
        for headers in ({"X": "a\r\nY: b"}, {"X: a\r\nY": "b"}):
            with pytest.raises(ValueError, match="header"):
                await http.request(f"{scripted.url}/", headers, b"", soon())
        with pytest.raises(ValueError, match="does not begin with"):
            await http.request("http://127.0.0.1:1/", {}, b"", soon())


async def test_a_connection_that_is_not_taken_is_told() -> None:
    http = DirectHTTP("http://127.0.0.1:9", {}, connect=5.0)
    with pytest.raises(RequestFailed, match="cannot be reached"):
        await http.request("http://127.0.0.1:9/", {}, b"", soon())


async def test_closing_ends_every_connection() -> None:
    never = asyncio.Event()
    async with talking([HELLO], [never]) as (scripted, http):
        await body_of(await asked(http, scripted.url))
        running = asyncio.create_task(asked(http, scripted.url))
        await until(lambda: sum(map(len, scripted.requests)) == 2)
        await http.aclose()
        await http.aclose()
        assert not http.open
        with pytest.raises(RequestFailed):
            await running
        never.set()


async def test_a_connection_that_is_made_as_all_are_closed_is_closed_too() -> None:
    async with talking([HELLO]) as (scripted, http):
        asking = asyncio.create_task(asked(http, scripted.url))
        await asyncio.sleep(0)  # it connects
        assert not http.open
        await http.aclose()
        with pytest.raises(RequestFailed, match="closed the connection"):
            await asking
        await until(lambda: not http.open)


async def test_tls_and_proxies_are_left_to_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert isinstance(await http_to("http://engine.test/v1", {}, 5.0), DirectHTTP)
    secure = await http_to("https://127.0.0.1:9/v1", {}, 5.0)
    assert isinstance(secure, ForeignHTTP)
    with pytest.raises(RequestFailed, match="cannot be reached"):
        await secure.request("https://127.0.0.1:9/v1/models", {}, None, soon())
    await secure.aclose()
    script: list[list[bytes | asyncio.Event]]
    script = [[HELLO], [HELLO[:-3], b""], [asyncio.Event()], [b""]]
    async with talking(*script) as (proxy, _):
        monkeypatch.setenv("http_proxy", proxy.url)
        assert isinstance(await http_to("http://127.0.0.1:9/v1", {}, 5.0), DirectHTTP)
        http = await http_to("http://engine.test/v1", {"X-Mine": "1"}, 5.0)
        assert isinstance(http, ForeignHTTP)
        url = "http://engine.test/v1/chat/completions"
        assert await body_of(await http.request(url, {"X-More": "2"}, b"{}", soon())) == b"hello"
        with pytest.raises(RequestFailed, match="cut its answer"):
            await body_of(await http.request(url, {}, b"{}", soon()))
        with pytest.raises(TimeoutError):
            await http.request(url, {}, b"{}", soon(0.2))
        with pytest.raises(RequestFailed, match="closed the connection"):
            await http.request(url, {}, b"{}", soon())  # over a connection that was made for it
        assert [len(each) for each in proxy.requests] == [2, 1, 1]
        await http.aclose()
    [first, *_] = proxy.requests[0]
    assert first.startswith(b"POST http://engine.test/v1/chat/completions HTTP/1.1\r\n")
    assert b"X-Mine: 1\r\n" in first
    assert b"X-More: 2\r\n" in first
