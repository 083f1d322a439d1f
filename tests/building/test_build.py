"""Building with a real Engine."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from openenv_async.building import BuildFailed, build_image, image_name
from openenv_async.building.build import find_dockerfile, upstream_arguments
from openenv_async.errors import ProviderError, TargetNotFound
from tests.providers.engines import BASE, docker, docker_tests

pytestmark = docker_tests

MANIFEST = "name: tiny_env\nserver: {dockerfile: server/Dockerfile}\n"


def tiny(folder: Path, *lines: str, base: str = BASE) -> Path:
    """An environment whose image takes a moment to build."""
    (folder / "server").mkdir(parents=True, exist_ok=True)
    (folder / "openenv.yaml").write_text(MANIFEST)
    text = "\n".join([f"ARG BASE={base}", "FROM ${BASE}", *lines, ""])
    (folder / "server" / "Dockerfile").write_text(text)
    return folder


@pytest.fixture
def tag() -> Iterator[str]:
    name = f"openenv-async-test-{uuid.uuid4().hex[:12]}:latest"
    yield name
    with contextlib.suppress(subprocess.CalledProcessError):
        docker("rmi", "--force", name)


async def test_an_image_is_built_and_its_output_streamed(tmp_path: Path, tag: str) -> None:
    (tmp_path / ".dockerignore").write_text("secret.txt\n")
    (tmp_path / "secret.txt").write_text("x")
    (tmp_path / "kept.txt").write_text("kept")
    tiny(tmp_path, "ARG WORD=none", "COPY . /data", "RUN echo said-$WORD && ls /data")
    lines: list[str] = []
    built = await build_image(
        tmp_path, tag=tag, build_args={"WORD": "hello"}, no_cache=True, on_line=lines.append
    )
    assert built.name == tag
    assert built.id == docker("inspect", "--format", "{{.Id}}", tag)
    assert built.size > 1_000_000
    assert "said-hello" in lines
    assert "kept.txt" in lines
    assert "secret.txt" not in lines
    assert sum(line.startswith("Step ") for line in lines) == 5


async def test_a_dockerfile_in_upstream_s_form_gets_what_it_asks_for(
    tmp_path: Path, tag: str
) -> None:
    ask = ("ARG BUILD_MODE=in-repo", "ARG ENV_NAME=none", "RUN echo is-$BUILD_MODE-$ENV_NAME")
    lines: list[str] = []
    await build_image(tiny(tmp_path, *ask), tag=tag, no_cache=True, on_line=lines.append)
    assert "is-standalone-tiny_env" in lines
    assert upstream_arguments("FROM x\nARG ENV_NAME=y\n", "tiny") == {"ENV_NAME": "tiny"}
    assert upstream_arguments("FROM x\n", "tiny") == {}


async def test_a_failing_step_is_named_with_its_last_lines(tmp_path: Path, tag: str) -> None:
    tiny(tmp_path, "RUN echo fine", "RUN echo first && echo the reason && exit 7")
    with pytest.raises(BuildFailed) as caught:
        await build_image(tmp_path, tag=tag)
    error = caught.value
    assert "failed in step 4 of 4 (RUN echo first && echo the reason" in error.message
    assert "returned a non-zero code: 7" in error.message
    assert "its last line: the reason" in error.message
    assert "\n" not in error.message
    assert error.log_tail is not None
    assert error.log_tail.splitlines() == ["first", "the reason"]
    assert not error.retryable
    assert docker("images", "--quiet", tag) == ""


async def test_a_base_that_is_missing_is_told_with_the_remedy(tmp_path: Path, tag: str) -> None:
    tiny(tmp_path, base="openenv-async-base:no-such-tag")
    with pytest.raises(BuildFailed, match="the base image is not there: build it with Dockerfile"):
        await build_image(tmp_path, tag=tag)


async def test_a_build_that_takes_too_long_or_is_cancelled_ends(tmp_path: Path, tag: str) -> None:
    mark = f"mark-{uuid.uuid4().hex}"
    tiny(tmp_path, f"RUN echo {mark} && sleep 600")
    with pytest.raises(BuildFailed, match="took longer than 3 s"):
        await build_image(tmp_path, tag=tag, no_cache=True, timeout=3)
    begun = asyncio.Event()

    def look(line: str) -> None:
        if line == mark:
            begun.set()

    task = asyncio.create_task(build_image(tmp_path, tag=tag, no_cache=True, on_line=look))
    async with asyncio.timeout(60):
        await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    until = asyncio.get_running_loop().time() + 60
    listing = ("ps", "--no-trunc", "--format", "{{.Command}}")
    while mark in await asyncio.to_thread(docker, *listing):  # the Engine says it to nobody
        assert asyncio.get_running_loop().time() < until
        await asyncio.sleep(0.1)


async def test_no_engine_is_told(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match=r"no Docker Engine answers at .*DOCKER_HOST"):
        await build_image(tiny(tmp_path), url=f"unix://{tmp_path}/none.sock")


async def test_what_is_no_environment_is_told(tmp_path: Path) -> None:
    with pytest.raises(TargetNotFound, match=r"has no openenv\.yaml"):
        await build_image(tmp_path)
    (tmp_path / "openenv.yaml").write_text(MANIFEST)
    with pytest.raises(TargetNotFound, match="has no server/Dockerfile"):
        await build_image(tmp_path)
    tiny(tmp_path)
    assert find_dockerfile(tmp_path) == "server/Dockerfile"
    assert image_name(tmp_path) == "openenv-async-tiny:latest"
    for wrong in ("UPPER:1", "a b", "x:1:2", "-x", "x/"):
        with pytest.raises(BuildFailed, match="not a valid image name"):
            await build_image(tmp_path, tag=wrong)
