"""Environments by name, by import path and by folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from openenv_async.errors import InvalidOption, TargetNotFound
from openenv_async.targets import discovery
from openenv_async.targets.discovery import (
    EnvironmentEntry,
    find_entry,
    find_target,
    import_object,
    installed,
    normal_name,
)

ENVIRONMENT = '''
from dataclasses import dataclass
from typing import Any
from openenv_async import Environment
{imports}

class MyEnvironment(Environment[Any, Any, Any]):
    """What it is."""

    def __init__(self, size: int = 1):
        self.size = size

    def reset(self):
        return {{"size": self.size}}

    def step(self, action):
        return {{"done": True}}
'''
MODELS = """
from dataclasses import dataclass

@dataclass
class MyAction:
    command: str

@dataclass
class MyObservation:
    result: str
"""
MANIFEST = """
name: {name}
version: "1.2.0"
description: My custom environment
server:
  port: 8000
  dockerfile: server/Dockerfile
client:
  module: client
  class: MyEnv
models:
  action: models.MyAction
  observation: models.MyObservation
dependencies:
  - numpy>=1.20
something_else: 1
"""


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    """Forget the modules that a test imports."""
    path, before = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def entry_points(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    made = {name: EntryPoint(name, value, discovery.GROUP) for name, value in points.items()}
    monkeypatch.setattr(discovery, "installed", lambda: made)


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["echo", "echo-env", "echo_env", "Echo_Env", "ECHO", "echo.env"])
def test_names_are_compared_generously(name: str) -> None:
    assert normal_name(name) == "echo"


def test_a_name_of_one_part_keeps_it() -> None:
    assert normal_name("env") == "env"
    assert normal_name("") == ""


def test_installed_environments(monkeypatch: pytest.MonkeyPatch, on_path: Path) -> None:
    (on_path / "mine.py").write_text(
        ENVIRONMENT.format(imports="from openenv_async.targets.discovery import EnvironmentEntry")
        + "\nENTRY = EnvironmentEntry('mine:MyEnvironment', action='builtins:dict')\nNOTHING = 3\n"
    )
    (on_path / "broken.py").write_text("import not_installed_anywhere")
    entry_points(
        monkeypatch,
        **{
            "my-env": "mine:ENTRY",
            "plain": "mine:MyEnvironment",
            "three": "mine:NOTHING",
            "broken": "broken:ENTRY",
        },
    )
    entry = find_entry("MY_ENV")
    assert entry.environment_class().__name__ == "MyEnvironment"
    assert entry.client_class() is None
    assert entry.action_class() is dict
    assert find_target("my", {"size": 3}).build().size == 3
    assert find_entry("plain") == EnvironmentEntry("mine:MyEnvironment")
    assert find_target("plain").name == "MyEnvironment"
    with pytest.raises(TargetNotFound, match="did you mean plain"):
        find_target("plane")
    with pytest.raises(TargetNotFound, match="did you mean plain"):
        find_entry("plane")
    with pytest.raises(TargetNotFound, match="installed are my, plain, three"):
        find_entry("xyzzy-thing")
    with pytest.raises(TargetNotFound, match="neither an EnvironmentEntry"):
        find_entry("three")
    with pytest.raises(TargetNotFound, match="installed but cannot be imported"):
        find_entry("broken")
    with pytest.raises(InvalidOption, match="color"):
        find_target("my", {"color": 1})


def test_nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    entry_points(monkeypatch)
    with pytest.raises(TargetNotFound, match="none is installed"):
        find_target("echo")


def test_what_is_installed_here_is_sorted() -> None:
    assert list(installed()) == sorted(installed())


def test_import_paths(on_path: Path) -> None:
    (on_path / "mine.py").write_text(ENVIRONMENT.format(imports=""))
    (on_path / "broken.py").write_text("import not_installed_anywhere")
    spec = find_target("mine:MyEnvironment", {"size": 2})
    assert spec.build().size == 2
    assert import_object("mine:MyEnvironment.reset").__name__ == "reset"
    for path, message in {
        "mine:MyEnvironmen": "did you mean MyEnvironment",
        "mine:Xyzzy": "'mine' has no 'Xyzzy'$",
        "no_such_module:X": "no module 'no_such_module'",
        "no_such.module:X": "no module",
        "mine:": "write module:Class",
        "broken:X": "it needs 'not_installed_anywhere'",
    }.items():
        with pytest.raises(TargetNotFound, match=message):
            find_target(path)


def folder(root: Path, *, package: bool, extra: str = "", **files: str) -> Path:
    root.mkdir()
    (root / "openenv.yaml").write_text(MANIFEST.format(name=root.name) + extra)
    (root / "models.py").write_text(MODELS)
    if package:
        (root / "__init__.py").touch()
    for name, text in files.items():
        path = root / f"{name.replace('__', '/').replace('/init', '/__init__')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize("package", [True, False])
def test_a_folder_in_openenvs_layout(tmp_path: Path, package: bool) -> None:
    imports = "from ..models import MyAction" if package else "from models import MyAction"
    root = folder(
        tmp_path / f"laid_env_{package}".lower(),
        package=package,
        server__init="",
        server__my_environment=ENVIRONMENT.format(imports=imports),
    )
    spec = find_target(str(root), {"size": 5})
    assert spec.build().size == 5
    assert spec.name == root.name
    assert spec.types["action"].__name__ == "MyAction"
    assert spec.types["observation"].__name__ == "MyObservation"


def test_a_manifest_may_name_the_environment(tmp_path: Path, monkeypatch: Any) -> None:
    two = ENVIRONMENT.format(imports="") + "\nclass Second(MyEnvironment):\n    name = 'second'\n"
    root = folder(tmp_path / "two_env", package=False, environment=two)
    with pytest.raises(TargetNotFound, match=r"several environments \(MyEnvironment, Second\)"):
        find_target(str(root))
    text = (root / "openenv.yaml").read_text()
    (root / "openenv.yaml").write_text(
        text.replace("port: 8000", "port: 8000\n  environment: environment:Second")
    )
    monkeypatch.chdir(tmp_path)
    assert find_target("two_env").name == "second"  # without a slash, since the folder has one
    assert find_target("./two_env").name == "second"


def test_folders_that_are_no_environments(tmp_path: Path) -> None:
    with pytest.raises(TargetNotFound, match="no folder"):
        find_target(str(tmp_path / "nothing"))
    with pytest.raises(TargetNotFound, match=r"has no openenv\.yaml"):
        find_target(str(tmp_path))
    root = folder(tmp_path / "empty_env", package=False)
    with pytest.raises(TargetNotFound, match="no environment class"):
        find_target(str(root))
