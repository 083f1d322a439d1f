"""Our clients against the real upstream server, as the package index has it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from openenv_async import EnvClient, GenericEnvClient, Timeouts
from openenv_async.errors import ConnectFailed, InvalidAction, ServerBusy

pytestmark = pytest.mark.xdist_group("upstream")


@dataclass
class EchoAction:
    message: str


@dataclass
class EchoObservation:
    message: str
    metadata: dict[str, Any]


@contextlib.asynccontextmanager
async def upstream_server(python: str, max_sessions: int) -> AsyncIterator[str]:
    """The benchmark's echo environment on upstream's own server."""
    command = ["-W", "ignore", "-m", "benchmarks.upstream_server", "--max-sessions"]
    process = await asyncio.create_subprocess_exec(
        python,
        *command,
        str(max_sessions),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60):
            yield json.loads(await process.stdout.readline())["url"]
    finally:
        process.kill()
        await process.communicate()


async def test_generic_client_plays(upstream_python: str) -> None:
    async with upstream_server(upstream_python, 4) as url, GenericEnvClient(url) as env:
        first = await env.reset(seed=3)
        assert first.observation["message"] == "ready"
        assert env.episode is not None
        assert env.episode.seed == 3
        result = await env.step({"message": "hi"})
        assert (result.observation["message"], result.reward, result.done) == ("hi", 1.0, False)
        with pytest.raises(InvalidAction):
            await env.step({"nope": 1})
        assert (await env.step({"message": "again"})).observation["message"] == "again"
        assert (await env.state())["step_count"] == 2


async def test_typed_clients_each_have_a_session(upstream_python: str) -> None:
    async with upstream_server(upstream_python, 4) as url:
        clients = [EnvClient[EchoAction, EchoObservation, dict[str, Any]](url) for _ in "ab"]
        await asyncio.gather(*(client.reset() for client in clients))
        results = await asyncio.gather(
            *(client.step(EchoAction(f"from {i}")) for i, client in enumerate(clients))
        )
        assert [result.observation.message for result in results] == ["from 0", "from 1"]
        await asyncio.gather(*(client.close() for client in clients))


async def test_full_server_is_server_busy(upstream_python: str) -> None:
    async with upstream_server(upstream_python, 1) as url, GenericEnvClient(url) as env:
        await env.reset()
        other = GenericEnvClient(url)
        with pytest.raises(ServerBusy):
            await other.reset()
        await other.close()
        assert (await env.step({"message": "still"})).observation["message"] == "still"


async def test_native_only_says_that_it_cannot(upstream_python: str) -> None:
    async with upstream_server(upstream_python, 1) as url:
        client = GenericEnvClient(url, subprotocol="openenv.v1.json", timeouts=Timeouts(connect=5))
        with pytest.raises(ConnectFailed, match=r"openenv\.v1\.json"):
            await client.reset()
