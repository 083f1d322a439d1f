"""A Space's README, Dockerfile and openenv-async."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from openenv_async.building import PushFailed
from openenv_async.building.space_files import own_requirement, space_dockerfile, space_readme
from openenv_async.errors import InvalidOption
from openenv_async.targets.manifest import Manifest, ServerSection


def test_a_readme_keeps_its_own_settings() -> None:
    about = Manifest("shop_env", description="Sells " * 30, server=ServerSection(port=9000))
    text = space_readme("---\ntitle: Mine\nsdk: gradio\nlicense: mit\n---\n# Text\n---\n", about)
    head, _, rest = text[4:].partition("---\n")
    settings = yaml.safe_load(head)
    assert (settings["title"], settings["license"]) == ("Mine", "mit")
    assert (settings["sdk"], settings["app_port"]) == ("docker", 9000)
    assert len(settings["short_description"]) == 60
    assert rest == "\n# Text\n---\n"


def test_dockerfiles_are_completed() -> None:
    ours = 'ARG BASE=x:1\nFROM ${BASE}\nCMD ["openenv-async", "serve", "my"]\n'
    made = space_dockerfile(ours, base_image=None, requirement="openenv-async==1", insecure=True)
    assert made.index("ARG BASE=openenv-base") < made.index("FROM ")
    assert "pip install --quiet --no-cache-dir openenv-async==1" in made
    assert 'CMD ["openenv-async", "serve", "my", "--insecure"]' in made
    assert made.count("ARG BASE") == 1
    own = "FROM python:3.12\nCMD uvicorn app:app\n"
    assert space_dockerfile(own, base_image=None, requirement="x", insecure=False) == own
    with pytest.raises(InvalidOption, match="put --insecure there"):
        space_dockerfile(own, base_image=None, requirement="x", insecure=True)


def test_openenv_async_itself_comes_along(tmp_path: Path) -> None:
    requirement = own_requirement(tmp_path)
    if requirement.startswith("./"):  # from a checkout
        assert (tmp_path / requirement).is_file()
    else:
        assert requirement.startswith("openenv-async==")


class Installed:
    """A distribution as it was installed from an index, or from a folder."""

    version = "1.2.3"

    def __init__(self, url: str | None) -> None:
        self.url = url

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.url is None else json.dumps({"url": self.url})


@pytest.mark.parametrize("url", [None, "https://index.test/openenv_async.whl", "file:///nothing"])
def test_from_an_index_it_is_the_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(url))
    assert own_requirement(tmp_path) == "openenv-async==1.2.3"


def test_a_wheel_that_cannot_be_made_is_told_with_the_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("[broken")
    installed = Installed(tmp_path.as_uri())
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: installed)
    with pytest.raises(PushFailed, match=f"no wheel of {tmp_path} could be made: .+") as caught:
        own_requirement(tmp_path)
    assert caught.value.log_tail


def test_a_wheel_that_takes_too_long_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    installed = Installed(tmp_path.as_uri())
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: installed)

    def late(command: list[str], timeout: float, **options: Any) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", late)
    with pytest.raises(PushFailed, match=f"no wheel of {tmp_path} in 300 s"):
        own_requirement(tmp_path)


def test_a_published_base_takes_the_place_of_ours() -> None:
    ours = "ARG BASE=x:1\nFROM ${BASE}\n"
    made = space_dockerfile(ours, base_image="ghcr.io/a:1", requirement=None, insecure=False)
    assert made == "ARG BASE=ghcr.io/a:1\nFROM ${BASE}\n"


def test_a_readme_without_settings_gets_them() -> None:
    text = space_readme("# Mine\n", Manifest("shop_env"))
    head, _, rest = text[4:].partition("---\n")
    settings = yaml.safe_load(head)
    assert settings["title"] == "Shop Env"
    assert settings["tags"] == ["openenv", "reinforcement-learning"]
    assert (settings["sdk"], settings["pinned"]) == ("docker", False)
    assert "short_description" not in settings
    assert rest == "\n# Mine\n"
