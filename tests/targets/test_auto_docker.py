"""AutoEnv by image, and a new environment built into one: with a real Docker Engine."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from openenv_async import AutoEnv
from openenv_async.building import build_image
from openenv_async.building.scaffold import scaffold
from openenv_async.cli import main
from tests.modules import forget_modules
from tests.providers.engines import ECHO, docker, docker_tests
from tests.providers.fixtures import engine

__all__ = ["engine"]

pytest.importorskip("echo_env")
pytestmark = docker_tests


@pytest.fixture
def tag() -> Iterator[str]:
    name = f"openenv-async-test-{uuid.uuid4().hex[:12]}:latest"
    yield name
    docker("rmi", "--force", name)


def test_by_image_and_it_is_listed() -> None:
    with AutoEnv.from_env("echo", image=ECHO) as env:
        assert (env.provider, env.provider_reason) == ("docker", "as asked for")
        assert env.reset().observation.echo == "Ready"
        report = json.loads(CliRunner().invoke(main, ["list", "--json"]).output)
        assert report["docker"] is None
        assert ECHO in [image["name"] for image in report["images"]]
        assert ECHO in [worker["image"] for worker in report["workers"]]


async def test_a_new_environment_is_built_and_played(tmp_path: Path, tag: str) -> None:
    scaffold("shelf_env", into=tmp_path)
    folder = tmp_path / "shelf_env"
    await build_image(folder, tag=tag)
    with forget_modules():
        async with await AutoEnv.afrom_env(str(folder), image=tag) as env:
            assert env.provider == "docker"
            assert (await env.reset(seed=1)).observation.left == 7


def test_the_image_of_an_installed_environment_is_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dataclasses import replace

    from openenv_async.targets import auto, discovery

    entry = replace(discovery.find_entry("echo"), image=ECHO)
    monkeypatch.setattr(auto, "find_entry", lambda name: entry)
    with AutoEnv.from_env("echo") as env:
        assert (env.provider, env.provider_reason) == ("docker", f"the image {ECHO} is here")
        assert env.reset().observation.echo == "Ready"
