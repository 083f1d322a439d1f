"""The private part of a task is in no byte that a server sends, in no record and in no log."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from openenv_async import EnvClient, HTTPEnvClient, SyncEnvClient
from openenv_async.errors import OpenEnvError
from openenv_async.providers.local_server import LocalServer
from openenv_async.rollouts import collect, open_writer, read_trajectories
from tests.quiz import MARKER

TARGETS = ["Quiz", "InlineQuiz", "AsyncQuiz", "ProcessQuiz"]


class Tap:
    """A relay in front of a server, which keeps every byte that the server sends."""

    def __init__(self, url: str) -> None:
        self._port = int(url.rpartition(":")[2])
        self.url = ""
        self.sent = bytearray()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)

        async def carry(source: asyncio.StreamReader, target: Any, keeps: bool) -> None:
            while data := await source.read(65536):
                if keeps:
                    self.sent += data
                target.write(data)
                await target.drain()
            target.close()

        await asyncio.gather(
            carry(reader, back, False), carry(there, writer, True), return_exceptions=True
        )

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[Tap]:
        server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        async with server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self


def first(observation: Any) -> Any:
    """A policy."""
    return {"text": "a guess"}


async def play(env: Any) -> None:
    """List, play, and ask for what is refused."""
    tasks = await env.tasks()
    for split in await tasks.splits():
        await tasks.range(split)
    for options in (
        {"task_id": "train-7"},
        {"split": "test", "index": 3},
        {"task_id": "nope"},
        {"task_id": "train-7", "answer": "mine"},
        {"task_id": "train-7", "hints": "many"},
        {"split": "test", "index": 99},
    ):
        with contextlib.suppress(OpenEnvError):
            await env.reset(**options)
            await env.state()
            await env.step({"text": "a guess"})
            await env.step({"text": 1})
    await env.close()


@pytest.mark.parametrize("name", TARGETS)
async def test_no_byte_has_it(name: str, tmp_path: Path) -> None:
    files = [tmp_path / "runs.jsonl", tmp_path / "runs.parquet"]
    async with (
        LocalServer(f"tests.quiz:{name}", arguments=["--debug"]) as server,
        Tap(server.url).listening() as tap,
    ):
        for format in ("msgpack", "json"):
            await play(EnvClient(tap.url, subprotocol=f"openenv.v1.{format}"))
        await play(HTTPEnvClient(tap.url))
        upstream = EnvClient[Any, Any, Any](tap.url, subprotocol="upstream")
        await upstream.reset(split="test", index=3)
        assert (await upstream.step({"text": f"{MARKER}3"})).reward == 1.0  # and yet it was there
        await upstream.close()
        async with aiohttp.ClientSession() as http:
            for path in ("/", "/tasks", "/tasks/test", "/metadata", "/schema", "/openapi.json"):
                await (await http.get(tap.url + path)).read()
            for call in ("tasks", "task", "task_range", "num_tasks"):
                body = {"split": "test", "index": 2, "start": 0, "stop": 9}
                await (await http.post(f"{tap.url}/{name}/{call}", json=body)).read()
            await (await http.get(tap.url + "/stats")).read()
        for file in files:
            with open_writer(file) as writer:
                async for outcome in collect(tap.url, first, tasks="test", concurrency=4):
                    assert outcome.steps == 1
                    assert outcome.task is not None
                    writer.write(outcome)
        await asyncio.to_thread(blocking, tap.url)
        log = server.log_tail
    assert len(tap.sent) > 400_000
    assert b"train 2499?" in tap.sent  # what is public was seen
    assert b"the task 'train-7'" in tap.sent
    assert MARKER.encode() not in tap.sent
    assert MARKER not in log
    for file in files:
        assert MARKER.encode() not in file.read_bytes()
        records = list(read_trajectories(file))  # the bytes of one are compressed
        assert {record.task_id for record in records} == {f"test-{n}" for n in range(20)}
        assert MARKER not in repr(records)


def blocking(url: str) -> None:
    """List with a blocking client."""
    with SyncEnvClient(url) as env:
        assert env.tasks().get("test", 1).private == {}
