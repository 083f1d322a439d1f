"""Spaces: what is staged, what is uploaded, and that it builds."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from openenv_async.building import PushFailed, SpaceOptions, build_image, stage_space, upload_space
from openenv_async.building.scaffold import scaffold
from openenv_async.cli import main
from openenv_async.errors import InvalidOption
from tests.building.hub import Hub
from tests.providers.engines import docker, docker_tests

BASED = SpaceOptions("me/my-env", base_image="ghcr.io/me/base:1")
"""Options with a published base, so that no wheel has to be made."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scaffold("my_env", into=tmp_path)
    return tmp_path / "my_env"


def test_files_dockerfile_and_settings_are_staged(folder: Path, tmp_path: Path) -> None:
    (folder / ".env").write_text("SECRET=1")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("x")
    (folder / "build").mkdir()
    (folder / "build" / "x").write_text("taken out by .dockerignore")
    (folder / "link.py").symlink_to("models.py")
    staged = tmp_path / "staged"
    files = stage_space(folder, staged, BASED)
    assert files == sorted(
        p.relative_to(staged).as_posix() for p in staged.rglob("*") if p.is_file()
    )
    assert {"Dockerfile", "README.md", "openenv.yaml", "models.py", "link.py"} <= set(files)
    assert {"server/my_environment.py", "pyproject.toml", ".dockerignore"} <= set(files)
    assert not [path for path in files if path.startswith((".env", ".git/", "build/"))]
    assert not (staged / "link.py").is_symlink()
    assert "ARG BASE=ghcr.io/me/base:1" in (staged / "Dockerfile").read_text()
    head, _, text = (staged / "README.md").read_text()[4:].partition("---\n")
    settings = yaml.safe_load(head)
    assert (settings["sdk"], settings["app_port"]) == ("docker", 8000)
    assert settings["title"] == "My Env"
    assert "openenv" in settings["tags"]
    assert text.lstrip("\n") == (folder / "README.md").read_text()


def test_a_dockerfile_that_names_its_own_base_needs_nothing_of_ours(
    folder: Path, tmp_path: Path
) -> None:
    own = "ARG BASE_IMAGE=x:1\nFROM ${BASE_IMAGE}\nCMD uvicorn server.app:app\n"
    (folder / "server/Dockerfile").write_text(own)
    files = stage_space(folder, tmp_path / "staged", SpaceOptions("me/my-env"))
    assert (tmp_path / "staged/Dockerfile").read_text() == own
    assert not [path for path in files if path.endswith(".whl")]


def test_what_cannot_be_staged_is_refused(folder: Path, tmp_path: Path) -> None:
    for space in ("plain", "a/b/c", "/x", "x/"):
        with pytest.raises(InvalidOption, match="OWNER/NAME"):
            stage_space(folder, tmp_path / "staged", SpaceOptions(space))
    with pytest.raises(InvalidOption, match="has files already"):
        stage_space(folder, folder, BASED)
    with pytest.raises(InvalidOption, match="NO_SUCH_VARIABLE is not set"):
        stage_space(folder, tmp_path / "staged", SpaceOptions("a/b", secrets=("NO_SUCH_VARIABLE",)))
    assert not (tmp_path / "staged").exists()
    (folder / "out").symlink_to("/etc/hostname")
    with pytest.raises(InvalidOption, match="out is a link out of the folder"):
        stage_space(folder, tmp_path / "staged", BASED)


def test_a_space_is_made_and_filled(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    monkeypatch.setenv("OPENENV_TOKEN", "t" * 32)
    options = SpaceOptions(
        "me/my-env", private=True, base_image="base:1", secrets=("OPENENV_TOKEN",)
    )
    staged = tmp_path / "staged"
    files = stage_space(folder, staged, options)
    with Hub("hf_good").running() as hub:
        address = upload_space(staged, options, endpoint=hub.url)
        assert address == f"{hub.url}/spaces/me/x/commit/1"
        assert hub.created[0]["name"] == "my-env"
        assert hub.created[0]["organization"] == "me"
        assert (hub.created[0]["type"], hub.created[0]["sdk"]) == ("space", "docker")
        assert hub.secrets == {"OPENENV_TOKEN": "t" * 32}
        assert hub.files == {path: (staged / path).read_bytes() for path in files}
        assert hub.commits == 1
        monkeypatch.setenv("HF_TOKEN", "hf_bad")
        with pytest.raises(PushFailed, match="hf auth login"):
            upload_space(staged, options, endpoint=hub.url)
        gone = hub.url
    with pytest.raises(PushFailed, match="the Hub does not answer") as caught:
        upload_space(staged, options, endpoint=gone)
    assert caught.value.retryable


def test_a_missing_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(PushFailed, match=r"pip install 'openenv-async\[hub\]'"):
        upload_space(folder, BASED)


def test_a_dry_run_shows_the_files_and_keeps_the_folder(folder: Path, tmp_path: Path) -> None:
    staged = tmp_path / "kept"
    command = ["push", str(folder), "--space", "me/my-env", "--base-image", "b:1", "--dry-run"]
    result = CliRunner().invoke(main, [*command, "--stage", str(staged)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "Dockerfile" in lines
    assert lines[-1] == f"{len(lines) - 1} files, nothing was pushed"
    assert all((staged / line).is_file() for line in lines[:-1])
    result = CliRunner().invoke(main, [*command, "--json"])
    assert json.loads(result.stdout)["files"] == lines[:-1]


@pytest.mark.heavy
class TestWithEngine:
    pytestmark = docker_tests

    async def test_the_staged_folder_builds_and_serves(self, folder: Path, tmp_path: Path) -> None:
        """Show 4 of "The command line", with nothing but a Python image as its base."""
        staged = tmp_path / "staged"
        stage_space(folder, staged, SpaceOptions("me/my-env"))
        tag = f"openenv-async-test-{uuid.uuid4().hex[:12]}:latest"
        python = docker("images", "--quiet", "openenv-async-debian:bookworm")
        arguments = {"PYTHON_IMAGE": "openenv-async-debian:bookworm"} if python else {}
        (staged / "openenv.yaml").write_text(
            (staged / "openenv.yaml").read_text().replace("server/Dockerfile", "Dockerfile")
        )
        try:
            await build_image(staged, tag=tag, build_args=arguments)
            shown = docker("run", "--rm", "--user", "1000:1000", tag, "openenv-async", "info", "my")
            assert "my" in shown
        finally:
            docker("rmi", "--force", tag)
