"""A process alone with its loopback."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from tests.agents.alone import run_alone


async def look_around(say: str) -> dict[str, Any]:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
    return {
        "said": say,
        "interfaces": [name for _, name in socket.if_nameindex()],
        "process": os.getpid(),
    }


async def fail() -> None:
    raise RuntimeError("something of its own")


async def hang() -> None:
    await asyncio.Event().wait()


def test_there_is_loopback_and_nothing_else() -> None:
    found = run_alone("tests.agents.test_alone:look_around", say="hello", seconds=60)
    assert found["said"] == "hello"
    assert found["interfaces"] == ["lo"]
    assert found["process"] == 1  # and so all others there end with it


def test_an_exception_is_told() -> None:
    with pytest.raises(AssertionError, match="something of its own"):
        run_alone("tests.agents.test_alone:fail", seconds=60)


def test_it_ends_when_its_time_is_up() -> None:
    with pytest.raises(TimeoutError, match=r"took over 1.5 s"):
        run_alone("tests.agents.test_alone:hang", seconds=1.5)
