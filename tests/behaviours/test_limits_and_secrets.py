"""Limits and secrets: what a container may use, and what nobody else may read."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess

import pytest

from openenv_async.client.launch import launch
from openenv_async.errors import WorkerStartFailed
from openenv_async.providers.docker import DockerProvider
from tests.providers.engines import BASE, SLEEP, docker, docker_tests, provider
from tests.providers.fixtures import engine as engine

pytestmark = docker_tests

SECRET = "correct-horse-battery-staple"


def within(name: str, *command: str) -> str:
    done = subprocess.run(
        ["docker", "exec", name, *command], capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr


async def test_limits_hold_in_the_container() -> None:
    async with provider(BASE, command=SLEEP, memory="64m", cpus=0.5, pids=40) as containers:
        name = (await containers.start()).name
        host = json.loads(docker("inspect", "--format", "{{json .HostConfig}}", name))
        assert host["Memory"] == host["MemorySwap"] == 64 * 2**20
        assert host["NanoCpus"] == 500_000_000
        assert host["PidsLimit"] == 40
        status = within(name, "cat", "/proc/self/status")
        assert "NoNewPrivs:\t1" in status
        assert "CapEff:\t0000000000000000" in status
        assert "CapBnd:\t0000000000000000" in status
        assert within(name, "id", "-u").strip() == "10001"
        assert "Read-only file system" in within(name, "touch", "/opt/x")
        assert within(name, "sh", "-c", "echo ok > /tmp/x && cat /tmp/x").strip() == "ok"
        forks = "import os\ntry:\n for _ in range(60): os.fork() or os._exit(__import__('time').sleep(3) or 0)\nexcept OSError as e: print('refused', e.errno)"  # noqa: E501
        assert "refused 11" in within(name, "python", "-c", forks)


async def test_an_image_of_somebody_else_does_not_run_as_root() -> None:
    async with provider(BASE, command=SLEEP, user=None) as containers:
        name = (await containers.start()).name
        assert within(name, "id", "-u").strip() != "0"


def test_an_unknown_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="privileged"):
        DockerProvider(BASE, privileged=True)


async def test_secrets_show_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    words = f"echo the key is $API_KEY; test $API_KEY = {SECRET} && exit 9"
    async with provider(
        BASE, command=["sh", "-c", words.replace(SECRET, "correct-horse-battery-staple")],
        secrets={"API_KEY": SECRET}
    ) as containers:  # fmt: skip
        with pytest.raises(WorkerStartFailed) as caught:
            await launch(containers, timeout=60)
        error = caught.value
        assert error.exit_code == 9, "the container had it"
        assert error.log_tail == "the key is ***"
        assert SECRET not in f"{error!r}{error.context()}{error.detail}{containers!r}"
    async with provider(BASE, command=SLEEP, secrets={"API_KEY": SECRET}) as containers:
        worker = await containers.start()
        assert worker.token is not None
        listed = await asyncio.to_thread(
            subprocess.run, ["ps", "-ewwo", "args"], capture_output=True, text=True, timeout=60
        )
        labels = docker("inspect", "--format", "{{json .Config.Labels}}", worker.name)
        shown = listed.stdout + labels + docker("ps", "-a", "--no-trunc") + repr(worker)
        for hidden in (SECRET, worker.token):
            assert hidden not in shown
            assert hidden not in caplog.text


async def test_every_container_has_a_token_of_its_own() -> None:
    async with provider(BASE, command=SLEEP) as containers:
        tokens = {(await containers.start()).token for _ in range(2)}
        assert len(tokens) == 2
        assert all(token is not None and len(token) >= 32 for token in tokens)
