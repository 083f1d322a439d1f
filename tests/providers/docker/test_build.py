"""Building an archive with a real Engine."""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from openenv_async.errors import ProviderError
from openenv_async.providers.docker.build import BuildFailed, build_context
from openenv_async.providers.docker.context import context_tar
from tests.providers.engines import BASE, docker, docker_tests

pytestmark = docker_tests


@pytest.fixture
def tag() -> Iterator[str]:
    name = f"openenv-async-test-{uuid.uuid4().hex[:12]}:latest"
    yield name
    with contextlib.suppress(subprocess.CalledProcessError):
        docker("rmi", "--force", name)


async def test_an_archive_is_built_with_labels_and_arguments(tmp_path: Path, tag: str) -> None:
    (tmp_path / "note.txt").write_text("kept")
    dockerfile = b"ARG WORD\nFROM scratch\nARG WORD\nLABEL word=$WORD\nCOPY note.txt /\n"
    lines: list[str] = []
    with context_tar(tmp_path, "Mine", {"Mine": dockerfile}) as context:
        built = await build_context(
            context,
            tag,
            dockerfile="Mine",
            build_args={"WORD": "hello"},
            labels={"openenv_async.test": "yes"},
            on_line=lines.append,
        )
    shown = docker("inspect", "--format", "{{.Id}} {{json .Config.Labels}}", built.name)
    assert shown == f'{built.id} {{"openenv_async.test":"yes","word":"hello"}}'
    assert [line for line in lines if "COPY" in line]


@pytest.mark.parametrize(
    ("dockerfile", "said", "base_missing"),
    [
        (f"FROM {BASE}\nRUN echo the reason && exit 7\n", "the reason", False),
        ("FROM openenv-async-missing:none\n", "FROM openenv-async-missing:none", True),
    ],
)
async def test_a_build_that_fails_says_where(
    tmp_path: Path, tag: str, dockerfile: str, said: str, base_missing: bool
) -> None:
    with (
        context_tar(tmp_path, "Mine", {"Mine": dockerfile.encode()}) as context,
        pytest.raises(BuildFailed, match=said) as caught,
    ):
        await build_context(context, tag, dockerfile="Mine")
    assert caught.value.detail["base_missing"] is base_missing


async def test_a_build_has_a_deadline(tmp_path: Path, tag: str) -> None:
    dockerfile = f"FROM {BASE}\nRUN sleep 60\n".encode()
    with (
        context_tar(tmp_path, "Mine", {"Mine": dockerfile}) as context,
        pytest.raises(BuildFailed, match=r"longer than 0\.5 s"),
    ):
        await build_context(context, tag, dockerfile="Mine", no_cache=True, timeout=0.5)


async def test_no_engine_is_the_providers_error(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none.sock"
    with (
        context_tar(tmp_path, "Mine", {"Mine": b"FROM scratch\n"}) as context,
        pytest.raises(ProviderError, match=r"none\.sock"),
    ):
        await build_context(context, "a:b", dockerfile="Mine", url=url)
