"""Real containers that are reached by a Unix socket, as hardened as ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openenv_async import GenericEnvClient
from openenv_async.client.launch import launch
from openenv_async.endpoints.local import users_folder
from openenv_async.errors import DeadlineExceeded
from openenv_async.providers.docker import DockerProvider, DockerWorker
from tests.providers.engines import ROOT, docker, docker_tests, provider

pytestmark = docker_tests


@pytest.fixture(autouse=True)
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, which does not exist yet."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return users_folder()


def left(users: Path) -> list[str]:
    return sorted(path.name for path in users.iterdir()) if users.exists() else []


@pytest.fixture
def real() -> Callable[..., DockerProvider]:
    """A maker of providers whose containers run this tree's code, not their image's."""
    packages = "/opt/venv/lib/python3.11/site-packages"
    here = {str(ROOT / "openenv_async"): f"{packages}/openenv_async:ro"}
    return lambda **options: provider(volumes=here, **options)


async def carried_by(worker: DockerWorker, url: str) -> str | None:
    """Play a little and return the kind of the transport that it went by."""
    async with GenericEnvClient(url, token=worker.token) as env:
        await env.reset()
        assert (await env.step({"message": "hi"})).observation["echo"] == "Echo: hi"
        assert env.connection is not None
        return env.connection.transport


@pytest.mark.parametrize("options", [{}, {"read_only": True}, {"networks": ("bridge",)}])
async def test_a_real_container_is_reached_by_its_unix_socket(
    real: Callable[..., DockerProvider], users: Path, options: dict[str, Any]
) -> None:
    async with real(**options) as containers:
        worker, other = await asyncio.gather(launch(containers), launch(containers))
        assert isinstance(worker, DockerWorker)
        assert isinstance(other, DockerWorker)
        for url in (worker.url, worker.published_url):
            assert await carried_by(worker, url) == "Unix socket"
        # It sees its own folder alone, and cannot write there.
        name = worker.name.removeprefix("openenv-")
        inside = ["exec", worker.name, "sh", "-c"]
        assert await asyncio.to_thread(docker, *inside, "ls /run/openenv") == name
        tried = await asyncio.to_thread(docker, *inside, f"touch /run/openenv/{name}/x || echo no")
        assert tried == "no"
        assert await carried_by(other, other.url) == "Unix socket"
        await containers.aclose()
    assert left(users) == []


async def test_a_real_container_that_ends_loses_the_unix_socket_as_it_would_tcp(
    real: Callable[..., DockerProvider], users: Path
) -> None:
    async with real() as containers:
        worker = await launch(containers)
        assert isinstance(worker, DockerWorker)
        env = GenericEnvClient(worker.url, token=worker.token)
        await env.reset()
        await asyncio.to_thread(docker, "kill", worker.name)
        with pytest.raises((ConnectionError, DeadlineExceeded)):  # it dials until then
            await env.step({"message": "hi"}, timeout=1.0)
        await env.close()
        await containers.aclose()
    assert left(users) == []


async def test_a_provider_may_do_without(real: Callable[..., DockerProvider], users: Path) -> None:
    async with real(local_folder=False) as containers:
        worker = await launch(containers)
        assert isinstance(worker, DockerWorker)
        assert await carried_by(worker, worker.url) == "WebSocket"
        assert left(users) == []
        await containers.aclose()
