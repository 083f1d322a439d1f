"""A program's pipes as a channel: bounded lines, ends that are told, replies by number."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from openenv_async.guard import own_guard
from openenv_async.hosts.mcp_client import ChannelClosed
from openenv_async.hosts.mcp_stdio import StdioChannel, _Lines

ECHO = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    if asked["method"] == "end":
        sys.exit(0)
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": {"asked": asked["method"]}}))
    sys.stdout.flush()
"""


@contextlib.asynccontextmanager
async def channel(code: str, limit: int = 1000) -> AsyncIterator[StdioChannel]:
    with ThreadPoolExecutor(1) as threads:
        made = StdioChannel(own_guard(), threads, limit)
        try:
            python = [sys.executable, "-I", "-S", "-c", code]
            await made.start(python, environ={}, folder=Path("/"))
            yield made
        finally:
            await made.aclose()
            await made.aclose()


def asking(method: str, number: int = 1) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": method}


async def test_a_request_has_its_reply() -> None:
    async with channel(ECHO) as open_channel:
        for number in (1, 2):
            reply = await open_channel.request(asking("hello", number), {})
            assert reply == {"jsonrpc": "2.0", "id": number, "result": {"asked": "hello"}}
        assert open_channel.exit_code is None
    assert open_channel.exit_code == 0


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import os; os._exit(5)", "it exited with code 5"),
        ("import os; os.kill(os.getpid(), 9)", "it was killed by SIGKILL"),
        ("raise ValueError('out of order')", "it exited with code 1: ValueError: out of order"),
        ("import os, time; os.close(1); time.sleep(60)", "it closed its output"),
    ],
)
async def test_an_end_is_told_to_the_request_that_waits(
    code: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openenv_async.hosts.mcp_stdio._CLOSE_GRACE", 0.3)
    async with channel(code) as open_channel:
        with pytest.raises(ChannelClosed) as caught:
            await open_channel.request(asking("hello"), {})
        assert str(caught.value) == told
        with pytest.raises(ChannelClosed):
            await open_channel.request(asking("again"), {})
        await open_channel.notify(asking("nobody hears it"))


async def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not a program")
    text.chmod(0o700)
    with ThreadPoolExecutor(1) as threads:
        made = StdioChannel(own_guard(), threads, 100)
        with pytest.raises(OSError, match="Exec format"):
            await made.start([str(text)], environ={}, folder=tmp_path)
        assert made.exit_code is None
        with pytest.raises(ChannelClosed):
            await made.request(asking("hello"), {})
        await made.aclose()


async def test_an_end_that_is_awaited_is_complete_though_the_waiter_is_cancelled() -> None:
    async with channel(ECHO) as open_channel:
        closing = asyncio.create_task(open_channel.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert open_channel.exit_code is not None


async def test_an_abandoned_request_is_settled_by_its_reply() -> None:
    async with channel(ECHO) as open_channel:
        cancelled = {"jsonrpc": "2.0", "method": "x", "id": 7, "params": {"requestId": 7}}
        await open_channel.abandon(cancelled)
        assert await open_channel.settled(10)
        assert await open_channel.settled(10)


async def test_programs_have_groups_of_their_own() -> None:
    async with channel(ECHO) as open_channel:
        assert open_channel._transport is not None
        pid = open_channel._transport.get_pid()
        assert os.getpgid(pid) == pid != os.getpgid(0)
        assert os.getsid(pid) == pid


def lines(limit: int, *parts: bytes, bounded: bool = True) -> tuple[list[bytes], int]:
    taken: list[bytes] = []
    refused: list[None] = []
    made = _Lines(taken.append, limit, (lambda: refused.append(None)) if bounded else None)
    for part in parts:
        made.feed(part)
    made.end()
    return taken, len(refused)


def test_lines_are_put_together_and_bounded() -> None:
    assert lines(5, b"a", b"b\nc", b"\n\n \nd") == ([b"ab", b"c", b"d"], 0)
    assert lines(5, b"12345\n123456\n1") == ([b"12345", b"1"], 1)
    assert lines(5, b"1234", b"56", b"7" * 100, b"\nab\n") == ([b"ab"], 1)
    assert lines(3, b"12345", b"678\nab\n", bounded=False) == ([b"678", b"ab"], 0)


FLOOD = """
import json, time
ping = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"})
for _ in range(20_000):
    print(ping)
print(json.dumps({"jsonrpc": "2.0", "id": 1, "result": {}}), flush=True)
time.sleep(60)
"""


async def test_answers_that_nobody_reads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.hosts.mcp_stdio._CLOSE_GRACE", 0.1)
    async with channel(FLOOD) as open_channel:
        open_channel.take = lambda asked: {"jsonrpc": "2.0", "id": 1, "result": {}}
        await open_channel.request(asking("hello"), {})
        assert open_channel._transport is not None
        stdin: Any = open_channel._transport.get_pipe_transport(0)
        assert 0 < stdin.get_write_buffer_size() < 2000
