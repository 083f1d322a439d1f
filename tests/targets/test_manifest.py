"""Manifests of environments: both forms, their defaults, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from openenv_async.errors import TargetNotFound
from openenv_async.targets import manifest
from openenv_async.targets.manifest import ClientSection, Manifest

FULL = """
name: my_env
version: "1.2.0"
description: My custom environment
server:
  port: 8100
  dockerfile: server/Dockerfile
  environment: server.mine:Mine
client:
  module: client
  class: MyEnv
models:
  action: models.MyAction
  observation: models.MyObservation
dependencies:
  - numpy>=1.20
validation:
  params: {id: x}
  actions: [{code: "1"}]
  varying: [elapsed]
something_else: 1
"""


def loaded(folder: Path, text: str) -> Manifest:
    (folder / manifest.MANIFEST).write_text(text)
    return manifest.load(folder)


def test_every_section_is_read(tmp_path: Path) -> None:
    about = loaded(tmp_path, FULL)
    assert (about.name, about.version) == ("my_env", "1.2.0")
    assert about.description == "My custom environment"
    assert (about.server.port, about.server.dockerfile) == (8100, "server/Dockerfile")
    assert about.server.environment == "server.mine:Mine"
    assert about.client == ClientSection("client", "MyEnv")
    assert (about.models.action, about.models.observation) == (
        "models.MyAction",
        "models.MyObservation",
    )
    assert about.models.state is None
    assert about.dependencies == ("numpy>=1.20",)
    assert about.validation.params == {"id": "x"}
    assert about.validation.actions == ({"code": "1"},)
    assert about.validation.varying == ("elapsed",)
    assert about.serving_port == 8100


def test_a_name_is_enough(tmp_path: Path) -> None:
    about = loaded(tmp_path, "name: a.b-c_1")
    assert (about.version, about.description) == ("1.0.0", "")
    assert (about.server.port, about.server.dockerfile) == (8000, "Dockerfile")
    assert about.client is None
    assert loaded(tmp_path, "name: a\nclient: {}").client == ClientSection("client", None)


def test_upstreams_form(tmp_path: Path) -> None:
    about = loaded(tmp_path, "spec_version: 1\nname: a\napp: server.app:app\nport: 9000")
    assert (about.spec_version, about.app) == (1, "server.app:app")
    assert about.serving_port == 9000
    assert about.server.port == 8000


@pytest.mark.parametrize("port", [1, 65535])
def test_ports_at_the_bounds(tmp_path: Path, port: int) -> None:
    assert loaded(tmp_path, f"name: a\nport: {port}").serving_port == port


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: ' 1'", "is not a valid manifest.*name"),
        ("name: [1]", "is not a valid manifest.*name"),
        ("name: -a", "is not a valid manifest.*name"),
        ("name: a b", "is not a valid manifest.*name"),
        ("name: x\nserver: {port: high}", r"server\.port"),
        ("name: x\nport: 0", r"port"),
        ("name: x\nport: 65536", r"port"),
        ("", "is not a valid manifest"),
        ("a: b: c", "cannot be read"),
    ],
)
def test_manifests_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TargetNotFound, match=message):
        loaded(tmp_path, text)


def test_a_folder_without_one(tmp_path: Path) -> None:
    with pytest.raises(TargetNotFound, match=r"has no openenv\.yaml: it is not an environment"):
        manifest.load(tmp_path)
    (tmp_path / manifest.MANIFEST).mkdir()
    with pytest.raises(TargetNotFound, match="cannot be read"):
        manifest.load(tmp_path)
