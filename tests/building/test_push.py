"""Pushing to a real registry, pulled back and run."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openenv_async.building import (
    PushFailed,
    build_image,
    image_name,
    push_image,
    registry_name,
)
from openenv_async.building.push import split_tag
from openenv_async.client.env import EnvClient
from openenv_async.errors import ProviderError
from openenv_async.providers.docker import DockerProvider
from tests.building.registry import registry
from tests.building.test_build import MANIFEST, tiny
from tests.providers.engines import BASE, docker, docker_tests

pytestmark = docker_tests


@pytest.fixture
def tag() -> Iterator[str]:
    """A tag that no other test uses; images that carry it are removed at the end."""
    name = uuid.uuid4().hex[:12]
    yield name
    listed = docker("images", "--format", "{{.Repository}}:{{.Tag}}").splitlines()
    for image in listed:
        if image.endswith(f":{name}"):
            docker("rmi", "--force", image)


def tiny_push(folder: Path, address: str, tag: str) -> str:
    """Push an environment by the command, remove it here, pull it back: its name."""
    command = [sys.executable, "-m", "openenv_async.cli", "push", str(folder), "--json"]
    done = subprocess.run(
        [*command, "--registry", address, "--tag", tag], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    pushed = json.loads(done.stdout)
    name = f"{address}/{image_name(folder).removesuffix(':latest')}:{tag}"
    assert pushed["image"] == name
    assert ": Pushed" in done.stderr
    docker("rmi", "--force", name, image_name(folder))
    assert docker("images", "--quiet", name) == ""
    docker("pull", "--quiet", name)
    assert pushed["digest"].startswith("sha256:")
    assert pushed["digest"] in docker("inspect", "--format", "{{json .RepoDigests}}", name)
    return name


def test_an_image_goes_to_a_registry_and_back(tmp_path: Path, tag: str) -> None:
    folder = tiny(tmp_path / "env", "COPY content /content", 'CMD ["/none"]', base="scratch")
    (folder / "openenv.yaml").write_text(MANIFEST.replace("tiny", f"tiny-{tag}"))
    (folder / "content").write_text(tag)
    with registry(tmp_path) as address:
        container = docker("create", tiny_push(folder, address, tag))
        try:
            docker("cp", f"{container}:/content", str(tmp_path / "back"))
        finally:
            docker("rm", container)
    assert (tmp_path / "back").read_text() == tag


@pytest.mark.heavy
def test_an_environment_goes_to_a_registry_and_plays(tmp_path: Path, tag: str) -> None:
    """Show 4 of "The command line": built, pushed, removed here, pulled back, and it plays."""
    folder = tiny(tmp_path / "env", f"CMD {json.dumps(SERVE)}")
    (folder / "openenv.yaml").write_text(MANIFEST.replace("tiny", f"tiny-{tag}"))
    with registry(tmp_path) as address:
        asyncio.run(play(tiny_push(folder, address, tag)))


SERVE = ["openenv-async", "serve", "openenv_async.testing:BenchEnvironment", "--host", "0.0.0.0"]


async def play(image: str) -> None:
    provider = DockerProvider(image, memory="256m", cpus=1.0, pids=128, pull_policy="never")
    async with provider:
        worker = await provider.start(timeout=120)
        try:
            until = asyncio.get_running_loop().time() + 60
            while True:
                try:
                    env: EnvClient[Any, Any, Any]
                    async with EnvClient(worker.url, token=worker.token) as env:
                        assert (await env.reset(seed=1)).observation is not None
                        return
                except ConnectionError:
                    assert asyncio.get_running_loop().time() < until
                    await asyncio.sleep(0.2)
        finally:
            await worker.aclose()


async def test_what_is_not_there_or_not_answered_is_told(tmp_path: Path, tag: str) -> None:
    with pytest.raises(PushFailed, match="No such image"):
        await push_image(f"openenv-async-none:{tag}", f"localhost:1/none:{tag}")
    with pytest.raises(PushFailed, match=r"localhost:1/base:\w+ was not pushed: .*refused"):
        await push_image(BASE, f"localhost:1/base:{tag}")
    with pytest.raises(ProviderError, match="no Docker Engine answers"):
        await push_image(BASE, f"localhost:1/base:{tag}", url=f"unix://{tmp_path}/none.sock")


async def test_credentials_are_those_of_docker_login(
    tmp_path: Path, tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    folder = tiny(tmp_path / "env", "COPY openenv.yaml /", base="scratch")
    image = (await build_image(folder, tag=f"openenv-async-tiny:{tag}")).name
    with registry(tmp_path, HTPASSWD) as address:
        target = f"{address}/base:{tag}"
        with pytest.raises(PushFailed, match=f"docker login {address}"):
            await push_image(image, target)
        auth = base64.b64encode(b"tester:secret").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}}}))
        assert (await push_image(image, target)).startswith("sha256:")


HTPASSWD = "tester:$2b$04$e3Z7vXy1qpt1X2B3qaNofukSXl35VjQ6G4rXHHx/./EcgqwppBZVe\n"
"""The password "secret"."""


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a", ("a", "latest")),
        ("a:1", ("a", "1")),
        ("h:5000/a", ("h:5000/a", "latest")),
        ("h:5000/a:1", ("h:5000/a", "1")),
    ],
)
def test_names_are_split(name: str, parts: tuple[str, str]) -> None:
    assert split_tag(name) == parts


def test_names_in_a_registry() -> None:
    assert registry_name("openenv-async-x:latest", "h:5000") == "h:5000/openenv-async-x:latest"
    assert registry_name("a/x:1", "https://ghcr.io/me/", "2") == "ghcr.io/me/x:2"
