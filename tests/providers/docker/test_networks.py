"""The way to a container: its own address on a bridge of this machine, else a published port."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from openenv_async import GenericEnvClient
from openenv_async.client.launch import launch
from openenv_async.errors import WorkerStartFailed
from openenv_async.providers.docker import DockerWorker
from openenv_async.providers.docker.client import DockerClient
from tests.providers.engines import (
    BASE,
    SLEEP,
    Proxy,
    docker,
    docker_tests,
    none_left,
    provider,
)

pytestmark = docker_tests


@contextlib.asynccontextmanager
async def network(*options: str) -> AsyncIterator[str]:
    """A network of this test's own."""
    name = f"openenv-test-{uuid.uuid4().hex[:12]}"
    await asyncio.to_thread(docker, "network", "create", *options, name)
    try:
        yield name
    finally:
        await asyncio.to_thread(docker, "network", "rm", name)


async def addresses(worker: DockerWorker) -> dict[str, str]:
    """The container's own, by network."""
    told = await asyncio.to_thread(
        docker, "inspect", "--format", "{{json .NetworkSettings.Networks}}", worker.name
    )
    return {name: each["IPAddress"] for name, each in json.loads(told).items()}


async def plays(worker: DockerWorker) -> None:
    for url in (worker.url, worker.published_url):
        async with GenericEnvClient(url, token=worker.token) as env:
            await env.reset()
            assert (await env.step({"message": "hi"})).observation["echo"] == "Echo: hi"


async def test_a_network_of_the_users_own() -> None:
    async with network() as name, provider(networks=(name,)) as containers:
        worker = await launch(containers)
        assert isinstance(worker, DockerWorker)
        assert worker.url == f"http://{(await addresses(worker))[name]}:8000"
        await plays(worker)
        await containers.aclose()


async def test_more_than_one_network() -> None:
    async with (
        network() as one,
        network() as two,
        provider(networks=(one, two)) as containers,
    ):
        worker = await launch(containers)
        assert isinstance(worker, DockerWorker)
        has = await addresses(worker)
        assert set(has) == {one, two}
        assert urlsplit(worker.url).hostname in has.values()
        await plays(worker)
        await containers.aclose()


@pytest.mark.parametrize("kind", ["none", "host"])
async def test_a_network_without_ports_of_its_own(kind: str) -> None:
    async with provider(BASE, command=SLEEP, networks=(kind,)) as containers:
        with pytest.raises(WorkerStartFailed, match="network of the kind host or none") as caught:
            await containers.start()
        assert not caught.value.retryable
        assert caught.value.container_id
        assert caught.value.__cause__ is None
        await none_left(seconds=0.0)


async def ways(proxy: Proxy, count: int = 2, **options: Any) -> set[bool]:
    """True if containers are gone to by their own addresses."""
    async with provider(BASE, command=SLEEP, engine=proxy.url, **options) as containers:
        workers = [await containers.start() for _ in range(count)]
        assert all(worker.published_url.startswith("http://127.0.0.1:") for worker in workers)
        found = {worker.url != worker.published_url for worker in workers}
        for worker in workers:
            if worker.url != worker.published_url:
                assert not ipaddress.ip_address(urlsplit(worker.url).hostname or "").is_loopback
    await none_left()
    return found


async def test_an_engine_of_this_machine_is_asked_once() -> None:
    async with Proxy().running() as proxy:
        assert await ways(proxy) == {True}
        assert proxy.seen.count("GET /info") == 1


@pytest.mark.parametrize(
    "about",
    [
        {"Name": "another-machine"},  # a virtual machine's, or we are in a container ourselves
        {"Name": None},
        {"SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"]},
    ],
)
async def test_an_engine_with_networks_of_its_own(about: dict[str, Any]) -> None:
    async with Proxy().running() as proxy:
        proxy.edits["/info"] = lambda info: {**info, **about}
        assert await ways(proxy) == {False}
        assert proxy.seen.count("GET /info") == 1


async def test_an_engine_that_does_not_say_is_no_failed_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Proxy().running() as proxy:
        proxy.choose = lambda method, path: "400" if path == "/info" else "pass"
        assert await ways(proxy) == {False}
        assert proxy.seen.count("GET /info") == 1
    assert caplog.text.count("are reached by their published ports") == 1


async def test_where_nobody_wants_it_the_engine_is_not_asked() -> None:
    async with Proxy().running() as proxy:
        assert await ways(proxy, 1, direct=False, local_folder=False) == {False}
        assert "GET /info" not in proxy.seen


async def test_an_engine_over_tcp_is_another_machine() -> None:
    engine = DockerClient("tcp://127.0.0.1:9", max_calls=1, redact=str)
    try:
        assert not await engine.shares_networks(timeout=0.0)
    finally:
        await engine.aclose()
