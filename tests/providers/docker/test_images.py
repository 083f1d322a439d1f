"""Images: pulled once per host, by a real registry."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
import tarfile
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from openenv_async.errors import OpenEnvError
from tests.providers.engines import ROOT, docker, docker_tests, provider

pytestmark = docker_tests

CONFIG = """
version: 0.1
log: {{accesslog: {{disabled: false}}, level: info}}
storage: {{filesystem: {{rootdirectory: {folder}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""

PULL = """
import asyncio, sys
from openenv_async.providers.docker.client import DockerClient
from openenv_async.providers.docker.images import ensure_image

async def main():
    engine = DockerClient(None, max_calls=4, redact=str)
    sys.stdin.readline()
    both = (ensure_image(engine, sys.argv[1], sys.argv[2], None) for _ in range(2))
    assert len({image["Id"] for image in await asyncio.gather(*both)}) == 1
    await engine.aclose()

asyncio.run(main())
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def registry(folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """A registry's address, and its log."""
    program = shutil.which("docker-registry")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("docker-registry is not installed")
        pytest.skip("docker-registry is not installed")
    port = free_port()
    config, log = folder / "config.yml", folder / "log"
    config.write_text(CONFIG.format(folder=folder / "images", port=port))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            program, "serve", str(config), stdout=output, stderr=output
        )
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        writer.close()
        yield f"127.0.0.1:{port}", log
    finally:
        process.kill()
        await process.wait()


def pulls(log: Path) -> int:
    """The number of requests for a manifest by its name."""
    return sum(
        '"HEAD /v2/' in line and "/manifests/latest HTTP" in line and '" 200 ' in line
        for line in log.read_text().splitlines()
    )


async def pull_at_once(image: str, policy: str) -> None:
    """Three processes want an image at the same moment, each twice."""
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PULL, image, policy), stdin=asyncio.subprocess.PIPE, cwd=ROOT
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
    codes = await asyncio.wait_for(asyncio.gather(*(p.wait() for p in processes)), 240)
    assert codes == [0, 0, 0]


async def test_one_pull_for_all_processes_of_a_host(tmp_path: Path) -> None:
    (tmp_path / "hello").write_text("hello")
    tar = tmp_path / "files.tar"
    with tarfile.open(tar, "w") as files:
        files.add(tmp_path / "hello", "hello")
    async with registry(tmp_path) as (address, log):
        image = f"{address}/openenv-test-{uuid.uuid4().hex[:8]}:latest"
        await asyncio.to_thread(docker, "import", str(tar), image)
        await asyncio.to_thread(docker, "push", image)
        await asyncio.to_thread(docker, "rmi", image)
        try:
            before = pulls(log)
            await pull_at_once(image, "missing")
            assert pulls(log) == before + 1
            await pull_at_once(image, "missing")
            assert pulls(log) == before + 1
            await pull_at_once(image, "never")
        finally:
            await asyncio.to_thread(docker, "rmi", "-f", image)


async def test_an_image_that_nobody_has(tmp_path: Path) -> None:
    async with (
        registry(tmp_path) as (address, _),
        provider(f"{address}/never-was:latest") as containers,
    ):
        with pytest.raises(OpenEnvError, match="never-was") as caught:
            await containers.start(timeout=60)
        assert not caught.value.retryable
