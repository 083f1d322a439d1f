"""Podman through the Docker provider, and the pod of the deployment's manifest played by it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from openenv_async import GenericEnvClient
from openenv_async.building.deployment import deployment_files
from openenv_async.errors import GoingAway
from tests.providers.engines import ECHO, SLEEP, provider, require_engine

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]

IMAGE = f"localhost/{ECHO}"
SETTINGS = """\
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
"""Limits that a service without all rights may set, and nothing of systemd."""


class Podman:
    """Podman's command and its service."""

    def __init__(self, folder: Path) -> None:
        (folder / "containers.conf").write_text(SETTINGS)
        self.environ = {**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf")}
        self.socket = folder / "podman.sock"
        self.url = f"unix://{self.socket}"

    def __call__(self, *arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            ["podman", *arguments],
            env=self.environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    require_engine()
    if shutil.which("podman") is None:
        assert "CI" not in os.environ, "podman is not installed"
        pytest.skip("needs podman")
    podman = Podman(tmp_path_factory.mktemp("podman"))
    saved = subprocess.Popen(["docker", "save", ECHO], stdout=subprocess.PIPE)
    subprocess.run(
        ["podman", "load", "--quiet"],
        stdin=saved.stdout,
        env=podman.environ,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    assert saved.stdout is not None
    saved.stdout.close()
    assert saved.wait() == 0
    service = subprocess.Popen(
        ["podman", "system", "service", "--time=0", podman.url],
        env=podman.environ,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 20
        while not podman.socket.exists():
            assert service.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        yield podman
    finally:
        service.terminate()
        service.wait(20)


async def test_a_container_is_started_played_on_and_removed(podman: Podman) -> None:
    async with provider(IMAGE, engine=podman.url) as containers:
        worker = await containers.start()
        await _answers(worker.url)
        async with GenericEnvClient(worker.url, token=worker.token) as env:
            await env.reset()
            assert (await env.step({"message": "hi"})).observation["echo"] == "Echo: hi"
        assert "echo" in await worker.log_tail()
        name = worker.name
    assert name not in podman("ps", "--all", "--format", "{{.Names}}")


async def test_the_end_of_a_container_is_told(podman: Podman) -> None:
    async with provider(IMAGE, engine=podman.url, command=SLEEP) as containers:
        worker = await containers.start()
        await asyncio.to_thread(podman, "kill", worker.name)
        ended = await asyncio.wait_for(worker.exited, 20)
        assert (ended.reason, ended.exit_code) == ("its container was killed by SIGKILL", 137)


async def test_the_pod_of_the_manifest_serves_and_drains(podman: Podman, tmp_path: Path) -> None:
    name = f"openenv-test-{os.getpid()}"
    files = deployment_files(
        "kubernetes", {"name": name, "image": IMAGE, "replicas": "1", "drain": "20"}
    )
    token = yaml.safe_load(files["secret.yaml"])["stringData"]["token"]
    [deployment] = [
        each for each in yaml.safe_load_all(files[f"{name}.yaml"]) if each["kind"] == "Deployment"
    ]
    deployment["spec"]["template"]["spec"]["restartPolicy"] = "Never"  # to see it end
    port = _free_port()
    _server(deployment)["ports"][0]["hostPort"] = port
    manifest = tmp_path / "pod.yaml"
    manifest.write_text(yaml.safe_dump(deployment))
    secret = json.dumps({"token": base64.b64encode(token.encode()).decode()})
    server = f"{name}-pod-0-server"
    podman("secret", "create", name, "-", stdin=secret)
    try:
        podman("kube", "play", str(manifest))
        url = f"http://127.0.0.1:{port}"
        await _answers(url)
        async with (
            GenericEnvClient(url, token=token) as env,
            GenericEnvClient(url, token=token) as late,
        ):
            await env.reset()
            await asyncio.to_thread(podman, "kill", "--signal", "TERM", server)
            with pytest.raises(GoingAway):
                await _resets(late, 100)
            assert (await env.step({"message": "hi"})).observation["echo"] == "Echo: hi"
        code = await asyncio.to_thread(podman, "wait", server)
        assert code == "0"
    finally:
        podman("pod", "rm", "--force", f"{name}-pod-0")
        podman("secret", "rm", name)


async def _answers(url: str) -> None:
    """Wait for the server of a container that was just started."""
    async with asyncio.timeout(20), aiohttp.ClientSession() as http:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"{url}/health"):
                    return
            await asyncio.sleep(0.1)


async def _resets(env: GenericEnvClient, times: int) -> None:
    """Begin an episode ten times a second."""
    for _ in range(times):
        await env.reset()
        await asyncio.sleep(0.1)


def _server(deployment: dict[str, Any]) -> dict[str, Any]:
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
