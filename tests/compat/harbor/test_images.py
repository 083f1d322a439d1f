"""Images of tasks: names mapped, and each built once."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openenv_async.compat.harbor.folders import read_task
from openenv_async.compat.harbor.images import LABEL, mapped_dockerfile, task_image
from openenv_async.providers.docker.build import BuildFailed
from openenv_async.providers.docker.sandbox import shared_sandboxes
from tests.compat.harbor.making import make_task
from tests.providers.engines import BASE, docker

IMAGES = {"python:3.11": BASE}


@pytest.mark.parametrize(
    ("line", "mapped"),
    [
        ("FROM python:3.11", "FROM local:1"),
        ("from  python:3.11 AS build", "from  local:1 AS build"),
        ("FROM --platform=linux/amd64 python:3.11", "FROM --platform=linux/amd64 local:1"),
        ("FROM ubuntu", "FROM mine:2"),
        ("FROM ubuntu:latest", "FROM mine:2"),
        ("FROM python:3.12", None),
        ("RUN echo FROM python:3.11", None),
        ("# FROM python:3.11", None),
    ],
)
def test_images_are_mapped_where_a_stage_begins(line: str, mapped: str | None) -> None:
    text = f"ARG X\n{line}\nRUN true\n"
    given = {"python:3.11": "local:1", "ubuntu": "mine:2"}
    made, used = mapped_dockerfile(text, given)
    assert made == (text if mapped is None else text.replace(line, mapped))
    assert len(used) == (mapped is not None)


@pytest.fixture
def built(tmp_path: Path) -> Iterator[Path]:
    """A folder whose task's images are removed after the test."""
    yield tmp_path
    label = f"label={LABEL}={tmp_path.name}"
    for image in docker("images", "--quiet", "--filter", label).split():
        with contextlib.suppress(subprocess.CalledProcessError):
            docker("rmi", "--force", image)


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
@pytest.mark.usefixtures("engine")
async def test_sessions_and_later_runs_share_one_build(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images: Any = importlib.import_module("openenv_async.compat.harbor.images")
    builds: list[str] = []
    build = images.build_context

    async def counted(context: object, name: str, **settings: object) -> object:
        builds.append(name)
        return await build(context, name, **settings)

    monkeypatch.setattr(images, "build_context", counted)
    task = read_task(make_task(built))
    async with shared_sandboxes() as owner:
        names = await asyncio.gather(*(task_image(owner, task, IMAGES) for _ in range(8)))
    assert len({*names}) == len(builds) == 1
    async with shared_sandboxes() as owner:
        assert await task_image(owner, task, IMAGES) == names[0]
    assert len(builds) == 1
    (built / "environment" / "more.txt").write_text("x")
    async with shared_sandboxes() as owner:
        other = await task_image(owner, task, IMAGES)
    assert builds == [names[0], other]


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
@pytest.mark.usefixtures("engine")
async def test_an_image_that_cannot_be_had_is_named_with_the_cure(tmp_path: Path) -> None:
    missing = "openenv-async-missing:none"
    built = make_task(tmp_path / "a", environment_Dockerfile=f"FROM {missing}\n")
    given = make_task(tmp_path / "b", task_toml=f'[environment]\ndocker_image = "{missing}"\n')
    async with shared_sandboxes() as owner:
        with pytest.raises(BuildFailed, match=r'images=\{"NAME": "IMAGE"\}'):
            await task_image(owner, read_task(built), {})
        assert await task_image(owner, read_task(given), {missing: BASE}) == BASE
