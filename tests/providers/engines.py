"""A real Docker Engine for tests, the images they start, and a proxy that makes it stumble."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest
from aiohttp import web

from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.docker.owner import RUN, this_owner

ROOT = Path(__file__).resolve().parent.parent.parent
ECHO = "echo-env:latest"
BASE = "openenv-async-base:latest"
SLEEP = ("sleep", "600")
"""A command for starts that need no server."""

docker_tests = [
    pytest.mark.docker,
    pytest.mark.xdist_group("docker"),
    pytest.mark.usefixtures("engine"),
]


def provider(image: str = ECHO, **options: Any) -> DockerProvider:
    """A provider with limits that let many run on a small machine."""
    return DockerProvider(image, **{"memory": "256m", "cpus": 1.0, "pids": 128, **options})


def docker(*arguments: str) -> str:
    """The output of the docker command."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout.strip()


@functools.cache
def why_no_engine() -> str | None:
    """The reason that there is no Engine to test with; ``None``: there is one, with the images."""
    if shutil.which("docker") is None:
        return "the docker command is not installed"
    asked = subprocess.run(["docker", "version"], capture_output=True, text=True, timeout=60)
    if asked.returncode:
        return f"no Docker Engine answers: {asked.stderr.strip()}"
    have = docker("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
    if not {ECHO, BASE} <= set(have):
        built = subprocess.run(
            [sys.executable, ROOT / ".ci" / "images", "echo"], capture_output=True, text=True
        )
        if built.returncode:
            return f"the images cannot be built: {built.stdout}{built.stderr}"
    return None


def require_engine() -> None:
    """Skip without an Engine; fail where the checks should have provided one."""
    why = why_no_engine()
    if why is None:
        return
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def ours(run: str | None = None) -> list[str]:
    """Names of the containers of a run, by default this process's."""
    label = f"label={RUN}={run or this_owner().run}"
    return docker("ps", "-a", "--filter", label, "--format", "{{.Names}}").split()


async def none_left(run: str | None = None, seconds: float = 5.0) -> None:
    """Wait until a run has no containers; fails after ``seconds``."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while left := await asyncio.to_thread(ours, run):
        assert loop.time() < until, f"left behind: {left}"
        await asyncio.sleep(0.1)


Fault = Literal["pass", "500", "400", "reset", "lose", "hang", "empty"]
"""The fate of a request: ``lose``: it is obeyed, and the answer lost; ``empty``: an event
stream that says nothing."""


class Proxy:
    """A proxy between a client and the Engine's socket.

    Attributes:
        choose: decides for each request, by its method and path without the version.
        edits: what is done to the JSON answers of a path.
        seen: the requests, in order.
        most: requests that were under way at once, streams aside.
    """

    def __init__(self) -> None:
        self.choose: Callable[[str, str], Fault] = lambda method, path: "pass"
        self.edits: dict[str, Callable[[Any], Any]] = {}
        self.seen: list[str] = []
        self.most = 0
        self._now = 0
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Proxy]:
        real = docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
        connector = aiohttp.UnixConnector(real.removeprefix("unix://"), limit=0)
        with tempfile.TemporaryDirectory(prefix="oe-") as folder:
            path = f"{folder}/e.sock"
            app = web.Application(client_max_size=2**24)
            app.router.add_route("*", "/{tail:.*}", self._serve)
            runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
            async with aiohttp.ClientSession(
                connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout()
            ) as self._client:
                await runner.setup()
                await web.UnixSite(runner, path).start()
                self.url = f"unix://{path}"
                try:
                    yield self
                finally:
                    await runner.cleanup()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        parts = request.path.split("/", 2)
        path = "/" + parts[2] if len(parts) > 2 and parts[1].startswith("v1") else request.path
        self.seen.append(f"{request.method} {path}")
        stream = path == "/events"
        self._now += not stream
        self.most = max(self.most, self._now)
        try:
            fault = self.choose(request.method, path)
            return await self._treat(request, fault, self.edits.get(path))
        finally:
            self._now -= not stream

    async def _treat(
        self, request: web.Request, fault: Fault, edit: Callable[[Any], Any] | None
    ) -> web.StreamResponse:
        assert request.transport is not None
        if fault in ("400", "500"):
            return web.json_response({"message": "an injected error"}, status=int(fault))
        if fault == "reset":
            request.transport.abort()
            return web.Response()
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "empty":
            silent = web.StreamResponse()
            await silent.prepare(request)
            await asyncio.Event().wait()
        body = await request.read()
        headers = {"Content-Type": request.headers.get("Content-Type", "application/json")}
        async with self._client.request(
            request.method,
            f"http://engine{request.raw_path}",
            data=body or None,
            headers=headers,
        ) as answer:
            if fault == "lose":
                await answer.read()
                request.transport.abort()
                return web.Response()
            if edit is not None:
                return web.json_response(edit(await answer.json()), status=answer.status)
            reply = web.StreamResponse(status=answer.status)
            reply.content_type = answer.content_type
            await reply.prepare(request)
            async for part in answer.content.iter_any():
                await reply.write(part)
            await reply.write_eof()
            return reply


def labels_of(name: str) -> dict[str, str]:
    return dict(json.loads(docker("inspect", "--format", "{{json .Config.Labels}}", name)))


@contextlib.asynccontextmanager
async def owner_process(
    script: str, arguments: Sequence[str] = ()
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that owns containers; killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        assert process.stdin is not None
        process.stdin.close()
