"""Folders: what is broken in manifest, layout or modules is caught by the named check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openenv_async.building.scaffold import scaffold
from openenv_async.checks.validation import CHECKS, validate
from openenv_async.errors import TargetNotFound
from openenv_async.targets import manifest

FOLDER = [name for name, check in CHECKS.items() if check.kind == "folder"]
UPSTREAM_MANIFEST = """
spec_version: 1
name: theirs_env
type: space
runtime: fastapi
app: server.app:app
port: 7860
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scaffold("mine_env", into=tmp_path)
    return tmp_path / "mine_env"


def replaced(folder: Path, name: str, old: str, new: str) -> None:
    path = folder / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: replaced(folder, name, old, new)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


BROKEN: list[tuple[str, Callable[[Path], Any], str]] = [
    ("manifest_is_valid", edit("openenv.yaml", "port: 8000", "port: 123456"), "$.server.port"),
    ("manifest_is_valid", edit("openenv.yaml", "port: 8000", "port: ["), "cannot be read"),
    ("manifest_is_valid", edit("openenv.yaml", "description:", "descriptionn:"), "description?"),
    (
        "manifest_is_valid",
        edit("openenv.yaml", "  dockerfile:", "  dockerfiles:"),
        "server.dockerfiles is not known: did you mean server.dockerfile?",
    ),
    ("files_are_there", remove("README.md"), "missing: README.md"),
    ("files_are_there", remove("server/Dockerfile"), "missing: server/Dockerfile"),
    ("dockerfile_fits_the_manifest", edit("openenv.yaml", "8000", "8001"), "exposes 8000"),
    ("dockerfile_fits_the_manifest", edit("server/Dockerfile", "\nCMD", "\n#"), "neither CMD"),
    ("modules_import", edit("client.py", "from openenv_async", "from nowhere"), "nowhere"),
    ("modules_import", edit("openenv.yaml", "class: MineEnv", "class: MinEnv"), "mean MineEnv"),
    (
        "modules_import",
        edit("models.py", "__all__", "import os\nos._exit(3)\n__all__"),
        "ended the process",
    ),
    (
        "models_agree",
        edit("openenv.yaml", "models.MineObservation", "models.MineState"),
        "observation: the environment says MineObservation, not MineState",
    ),
    (
        "models_agree",
        edit("client.py", "EnvClient[MineAction,", "EnvClient[MineState,"),
        "action: the client says MineState, not MineAction",
    ),
    (
        "entry_point_resolves",
        edit("pyproject.toml", ":ENVIRONMENT", ":ENVIRONMENTT"),
        "ENVIRONMENT",
    ),
    (
        "entry_point_resolves",
        edit("__init__.py", "mine_environment:MineEnvironment", "mine_environment:Mine"),
        "has no 'Mine'",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "breaks", "reason"), BROKEN, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(BROKEN)]
)
async def test_a_broken_folder_is_caught_by_its_check(
    folder: Path, name: str, breaks: Callable[[Path], Any], reason: str
) -> None:
    breaks(folder)
    results = {r.name: r for r in await validate(folder, names=FOLDER)}
    assert results[name].status == "failed", results
    assert reason in results[name].reason
    assert results[name].remedy


async def test_every_check_of_a_folder_catches_one() -> None:
    assert {name for name, _, _ in BROKEN} == set(FOLDER)


async def test_a_whole_folder_passes(folder: Path) -> None:
    results = await validate(folder, names=FOLDER)
    assert {result.status for result in results} == {"passed"}


async def test_a_folder_without_a_manifest_is_none(tmp_path: Path) -> None:
    with pytest.raises(TargetNotFound, match=r"no openenv\.yaml"):
        await validate(str(tmp_path))


def test_upstreams_manifest_is_read(tmp_path: Path) -> None:
    (tmp_path / "openenv.yaml").write_text(UPSTREAM_MANIFEST)
    about = manifest.load(tmp_path)
    assert (about.spec_version, about.app, about.serving_port) == (1, "server.app:app", 7860)


async def test_upstreams_manifest_is_valid(tmp_path: Path) -> None:
    (tmp_path / "openenv.yaml").write_text(UPSTREAM_MANIFEST)
    [result] = await validate(tmp_path, names=["manifest_is_valid"])
    assert result.status == "passed"


async def test_an_upstream_form_with_our_application_is_served(folder: Path) -> None:
    (folder / "openenv.yaml").write_text(UPSTREAM_MANIFEST.replace("7860", "8000"))
    results = await validate(folder, names=[*FOLDER, "episodes_run_over_native_msgpack"])
    assert [result for result in results if result.status == "failed"] == []
