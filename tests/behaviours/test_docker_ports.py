"""Docker assigns the port, on the loopback interface alone; names come from UUIDs."""

from __future__ import annotations

import asyncio
import json
import re
from urllib.parse import urlsplit

import pytest

from tests.providers.engines import BASE, SLEEP, docker, docker_tests, provider
from tests.providers.fixtures import engine as engine

pytestmark = docker_tests


async def wave(count: int) -> None:
    async with provider(BASE, command=SLEEP, memory="32m", max_starts=count) as containers:
        workers = await asyncio.gather(*(containers.start(timeout=240) for _ in range(count)))
        names = [worker.name for worker in workers]
        assert all(re.fullmatch(r"openenv-[0-9a-f]{32}", name) for name in names)
        told = {urlsplit(worker.published_url).port for worker in workers}
        assert len(told) == len(set(names)) == count
        read = await asyncio.to_thread(
            docker, "inspect", "--format", "{{json .NetworkSettings.Ports}}", *names
        )
        published = [json.loads(line)["8000/tcp"] for line in read.splitlines()]
        assert all(len(bindings) == 1 for bindings in published)
        assert {bindings[0]["HostIp"] for bindings in published} == {"127.0.0.1"}
        assert {int(bindings[0]["HostPort"]) for bindings in published} == told


async def test_starts_in_waves_without_a_conflict() -> None:
    for _ in range(2):
        await wave(12)


@pytest.mark.heavy
async def test_128_starts_in_a_wave() -> None:
    for _ in range(2):
        await wave(128)
