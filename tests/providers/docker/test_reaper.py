"""The reaper's renewing: a server that misbehaves harms its own container alone."""

from __future__ import annotations

import asyncio
import contextlib
import os

import pytest

from openenv_async.providers.docker.reaper import Reaper, identity

MEBIBYTE = b"x" * 2**20


class Servers:
    """A good one, and a bad one that answers with ``bad``, then for ever with ``more``."""

    def __init__(self, bad: bytes, more: bytes = b"") -> None:
        self.good_asked = asyncio.Semaphore(0)
        self.bad_left = asyncio.Semaphore(0)
        self.sent = 0
        self.asked: list[bytes] = []
        self._bad = bad
        self._more = more

    async def good(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n{}")
        writer.close()
        self.good_asked.release()

    async def bad(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            writer.write(self._bad)
            while self._more and self.sent < 256 * 2**20:
                writer.write(self._more)
                await writer.drain()
                self.sent += len(self._more)
        writer.close()
        self.bad_left.release()


@pytest.mark.parametrize(
    ("bad", "more"),
    [
        (b"\r\n\r\n", b""),  # no status
        (b"HTTP/1.0 200 OK\r\n", MEBIBYTE),  # a head, or a body, that does not end
        (b"HTTP/1.0 200 OK\r\n\r\n", MEBIBYTE),
        (b"", b""),
    ],
)
async def test_the_other_leases_are_renewed(bad: bytes, more: bytes) -> None:
    servers = Servers(bad, more)
    reaper = Reaper({"engine": "unix:///missing", "label": "x", "pid": os.getpid()})
    async with (
        await asyncio.start_server(servers.bad, "127.0.0.1", 0) as one,
        await asyncio.start_server(servers.good, "127.0.0.1", 0) as two,
    ):
        for number, server in enumerate((one, two)):
            host, port = server.sockets[0].getsockname()
            reaper.containers[str(number)] = {
                "token": f"t{number}",
                "host": host,
                "port": port,
                "every": 0.01,
            }
        renewing = asyncio.create_task(reaper.renew())
        try:
            async with asyncio.timeout(60):
                for _ in range(3):
                    await servers.good_asked.acquire()
                    await servers.bad_left.acquire()
        finally:
            renewing.cancel()
            await asyncio.wait([renewing])
    assert renewing.cancelled()
    assert b"Authorization: Bearer t1\r\n" in servers.asked[0]
    assert servers.sent < 64 * 2**20


def test_the_reaper_knows_a_process_from_a_later_one() -> None:
    assert identity(os.getpid()) == identity(os.getpid())
    assert identity(os.getpid()) is not None
    assert identity(2**22 + 7) is None
