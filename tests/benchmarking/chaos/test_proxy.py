"""A TCP proxy that does to a connection what networks do."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from openenv_async.benchmarking.chaos.proxy import ChaosProxy, Direction
from tests.helpers import until

HEAD = b"GET / HTTP/1.1\r\n\r\n"
UPGRADE = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"
Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def frame(opcode: int, body: bytes) -> bytes:
    """An unmasked WebSocket frame."""
    if len(body) < 126:
        return bytes([0x80 | opcode, len(body)]) + body
    if len(body) < 65536:
        return bytes([0x80 | opcode, 126]) + len(body).to_bytes(2, "big") + body
    return bytes([0x80 | opcode, 127]) + len(body).to_bytes(8, "big") + body


@contextlib.asynccontextmanager
async def proxied(greeting: bytes = b"") -> AsyncIterator[ChaosProxy]:
    """A proxy before a server that says a greeting and echoes all that it reads."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
            writer.write_eof()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, ChaosProxy(f"http://127.0.0.1:{port}/path", seed=1) as proxy:
        yield proxy


@contextlib.asynccontextmanager
async def through(proxy: ChaosProxy) -> AsyncIterator[Stream]:
    port = int(proxy.url.rpartition(":")[2].partition("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            yield reader, writer
    finally:
        writer.transport.abort()


async def ended(reader: asyncio.StreamReader) -> bytes:
    """All that still comes, until the end or a reset."""
    data = b""
    with contextlib.suppress(OSError):
        while part := await reader.read(65536):
            data += part
    return data


async def test_what_is_sent_arrives_both_ways() -> None:
    async with proxied() as proxy, through(proxy) as (reader, writer):
        assert proxy.url.endswith("/path")
        writer.write(HEAD)
        assert await reader.readexactly(len(HEAD)) == HEAD
        data = bytes(range(256)) * 1000
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        assert (proxy.connections, proxy.cuts) == (1, 0)
        assert proxy.messages["up"] >= 2
        writer.write_eof()
        assert await ended(reader) == b""


async def test_messages_of_a_websocket_are_counted_and_its_control_frames_not() -> None:
    async with proxied() as proxy, through(proxy) as (reader, writer):
        frames = [frame(1, b"a"), frame(9, b"ping"), frame(2, b"b" * 200), frame(2, b"c" * 70_000)]
        data = UPGRADE + b"".join(frames)
        writer.write(data)
        assert await reader.readexactly(len(data)) == data
        assert proxy.messages["up"] == 3
        assert proxy.swallowed == 0
        proxy.swallow_pings = True
        writer.write(frame(9, b"x") + frame(10, b"y") + frame(1, b"z"))
        assert await reader.readexactly(3) == frame(1, b"z")
        assert proxy.swallowed == 2


async def test_a_cut_resets_every_connection() -> None:
    async with proxied() as proxy, through(proxy) as one, through(proxy) as two:
        for reader, writer in (one, two):
            writer.write(HEAD)
            await reader.readexactly(len(HEAD))
        assert proxy.cut() == 2
        for reader, _ in (one, two):
            assert await ended(reader) == b""
        assert (proxy.cuts, proxy.cut()) == (2, 0)


async def test_during_an_outage_connections_are_reset_as_they_come() -> None:
    async with proxied() as proxy:
        with proxy.outage():
            async with through(proxy) as (reader, writer):
                assert await ended(reader) == b""
            assert proxy.connections == 0
        async with through(proxy) as (reader, writer):
            writer.write(HEAD)
            assert await reader.readexactly(len(HEAD)) == HEAD


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("direction", ["up", "down"])
async def test_the_nth_message_is_the_last(direction: Direction, forward: bool) -> None:
    async with proxied() as proxy, through(proxy) as (reader, writer):
        writer.write(UPGRADE)
        await reader.readexactly(len(UPGRADE))
        proxy.cut_after(direction, messages=2, forward=forward)
        for text in (b"1", b"2", b"3"):
            writer.write(frame(1, text))
            await asyncio.sleep(0)
        passed = frame(1, b"1") + (frame(1, b"2") if forward else b"")
        came = await ended(reader)
        if direction == "down":
            assert came == passed
        else:  # the reset takes with it what had not come back yet
            assert passed.startswith(came)
        assert proxy.messages[direction] == 2
        assert proxy.cuts == 1


async def test_a_cut_may_be_in_the_middle_of_a_message() -> None:
    async with proxied() as proxy, through(proxy) as (reader, writer):
        writer.write(UPGRADE)
        await reader.readexactly(len(UPGRADE))
        proxy.cut_after("down", size=10)
        writer.write(frame(1, b"abc") + frame(1, b"d" * 100))
        assert await ended(reader) == (frame(1, b"abc") + frame(1, b"d" * 100))[:10]


async def test_a_pause_holds_everything_and_loses_nothing() -> None:
    async with proxied() as proxy, through(proxy) as (reader, writer):
        with proxy.pause():
            writer.write(HEAD)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.readexactly(1), 0.05)
        assert await reader.readexactly(len(HEAD)) == HEAD


async def test_a_black_hole_takes_all_and_says_nothing() -> None:
    async with proxied() as proxy, through(proxy) as (reader, writer):
        writer.write(HEAD)
        await reader.readexactly(len(HEAD))
        proxy.black_hole()
        writer.write(b"lost")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        async with through(proxy) as (other, there):
            there.write(HEAD)
            assert await other.readexactly(len(HEAD)) == HEAD


async def test_half_closing_ends_one_direction() -> None:
    async with proxied() as proxy, through(proxy) as (reader, writer):
        writer.write(HEAD)
        await reader.readexactly(len(HEAD))
        proxy.half_close("down")
        assert await reader.read(1) == b""
        writer.write(b"still taken")
        await writer.drain()


async def test_every_message_is_cut_where_the_rate_says_so() -> None:
    async with proxied() as proxy:
        proxy.cut_rate = 1.0
        for _ in range(3):
            async with through(proxy) as (reader, writer):
                writer.write(HEAD)
                await ended(reader)
        assert proxy.cuts >= 3


async def test_pieces_small_slow_late_or_gathered_arrive_whole() -> None:
    settings: list[dict[str, object]] = [
        {"segment": 7},
        {"rate": 1e6},
        {"delay": (0.001, 0.002)},
        {"coalesce": 0.005},
    ]
    for changes in settings:
        async with proxied() as proxy, through(proxy) as (reader, writer):
            for name, value in changes.items():
                setattr(proxy, name, value)
            data = UPGRADE + frame(1, b"a" * 300) + frame(2, b"b")
            writer.write(data)
            assert await reader.readexactly(len(data)) == data, changes


async def test_the_last_message_before_a_cut_overtakes_none_that_was_gathered() -> None:
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(UPGRADE))
        got.set_result(await ended(reader))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    first, second = frame(2, b"first"), frame(2, b"second")
    async with server, ChaosProxy(url, seed=1) as proxy, through(proxy) as (_, writer):
        proxy.coalesce = 60.0
        writer.write(UPGRADE + first)
        await until(lambda: any(link._gathered["up"] for link in proxy.links))
        proxy.cut_after("up", messages=1)
        writer.write(second)
        assert await asyncio.wait_for(got, 20) == first + second


async def test_half_closing_while_something_is_gathered_is_the_end() -> None:
    async with proxied() as proxy, through(proxy) as (reader, writer):
        writer.write(UPGRADE)
        await reader.readexactly(len(UPGRADE))
        proxy.coalesce = 0.01
        writer.write(frame(2, b"late"))
        (link,) = proxy.links
        await until(lambda: link._gathered["up"])
        link.half_close("up")
        assert await ended(reader) == b""


async def test_a_server_that_is_not_there_is_a_reset() -> None:
    async with ChaosProxy("http://127.0.0.1:1") as proxy, through(proxy) as (reader, _):
        assert await ended(reader) == b""


async def test_leaving_ends_what_is_open() -> None:
    async with proxied() as proxy:
        port = int(proxy.url.rpartition(":")[2].partition("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD)
        await reader.readexactly(len(HEAD))
    assert await ended(reader) == b""
    writer.transport.abort()
