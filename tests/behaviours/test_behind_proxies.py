"""Servers behind nginx and Caddy, below a prefix: every transport, tokens, draining."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest

from openenv_async import HTTPEnvClient
from openenv_async.building.deployment import write_deployment
from openenv_async.errors import GoingAway, Unauthorized
from openenv_async.pool import EnvPool
from openenv_async.rollouts import collect
from tests.behaviours.environments import client, served_process
from tests.building.test_deployment import program
from tests.helpers import until
from tests.server.mcp.agent import STATELESS, WITH_SESSIONS, Agent

EPISODES = 50
TOKEN = "sesame-0123456789"
PREFIX = "/envs/counted"
AUTHORIZATION = {"Authorization": f"Bearer {TOKEN}"}

NGINX = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/openenv.conf;
}}
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def proxy_command(kind: str, folder: Path, server: str, port: int) -> list[str]:
    """The command of a proxy with the files as they are deployed."""
    write_deployment(
        kind,
        folder,
        {"prefix": PREFIX, "listen": str(port), "port": server.rpartition(":")[2]},
    )
    if kind == "nginx":
        main = folder / "nginx.conf"
        main.write_text(NGINX.format(folder=folder))
        return [program("nginx"), "-e", "stderr", "-c", str(main)]
    caddyfile = folder / "Caddyfile"
    caddyfile.write_text("{\n\tadmin off\n}\n" + caddyfile.read_text())
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(caddyfile)]


@contextlib.asynccontextmanager
async def behind(kind: str, folder: Path, server: str) -> AsyncIterator[str]:
    """The address of a server behind a proxy that runs in a folder."""
    port = free_port()
    command = proxy_command(kind, folder, server, port)
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=log,
            stderr=log,
            env={"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin"},
        )
    try:

        def listens() -> bool:
            assert process.returncode is None, (folder / "log").read_text()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return True
            return False

        await until(listens, 10.0)
        yield f"http://127.0.0.1:{port}{PREFIX}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.wait(), 10)
        shutil.rmtree(folder)


async def ask(method: str, url: str, **settings: Any) -> tuple[int, Any]:
    settings.setdefault("headers", AUTHORIZATION)
    async with aiohttp.ClientSession() as http, http.request(method, url, **settings) as reply:
        is_json = reply.content_type == "application/json"
        return reply.status, await (reply.json() if is_json else reply.text())


async def episode_over_mcp(url: str, revision: str) -> int:
    """The steps of an episode that an agent plays."""
    async with httpx.AsyncClient(base_url=url, headers=AUTHORIZATION) as http:
        agent = Agent(http, revision)
        await agent.begin()
        await agent.call("reset")
        steps = 1
        while not (await agent.call("step", action={}))["structuredContent"]["done"]:
            steps += 1
        return steps


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
async def test_every_transport_and_a_drain(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENENV_TOKEN", TOKEN)
    arguments = ("--param", "seconds=0.001", "--param", "steps=4")
    async with (
        served_process("Counted", *arguments) as (server, _),
        behind(kind, tmp_path / kind, server) as url,
    ):
        # WebSocket
        async with EnvPool.from_url(url, token=TOKEN) as pool:
            stream = collect(pool, lambda _: {}, episodes=EPISODES, concurrency=16)
            outcomes = [outcome async for outcome in stream]
        assert [each.steps for each in outcomes if each.status.usable] == [4] * EPISODES
        # HTTP
        for _ in range(EPISODES // 10):
            async with HTTPEnvClient(url, token=TOKEN) as env:
                await env.reset()
                assert [(await env.step({})).done for _ in range(4)] == [False] * 3 + [True]
        # MCP
        for revision in (WITH_SESSIONS, STATELESS):
            assert await episode_over_mcp(url, revision) == 4
        # the prefix without its slash, pages, the token
        assert (await ask("GET", f"{url}/stats"))[1]["steps"] >= EPISODES * 4
        assert (await ask("GET", url))[0] == 200
        with pytest.raises(Unauthorized):
            await client(url, token="wrong").open()
        assert (await ask("GET", f"{url}/ready", headers={}))[0] == 200
        other = url.removesuffix(PREFIX)
        assert (await ask("GET", f"{other}/health", headers={}))[0] == 404
        # an episode that is under way when the server is drained ends
        async with client(url, token=TOKEN) as env, client(url, token=TOKEN) as late:
            await env.reset()
            assert (await ask("POST", f"{url}/drain", json={"seconds": 30}))[0] == 202
            assert (await ask("GET", f"{url}/ready", headers={}))[0] == 503
            with pytest.raises(GoingAway):
                await late.reset()
            assert [await env.step({}) for _ in range(4)][-1].done
        async with asyncio.timeout(10):
            about = (await ask("GET", f"{url}/drain"))[1]
            while not about["finished"]:
                about = (await ask("GET", f"{url}/drain"))[1]
        assert about["lost"] == 0
