"""Names of environments and images: which are taken, and what the others are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from openenv_async.errors import TargetNotFound
from openenv_async.pool.sources import image_of, importable, installed_client
from openenv_async.spec import EnvironmentSpec
from tests.rollouts.environments import Counting

PATH = f"{Counting.__module__}:Counting"


def test_an_installed_environment_has_its_client() -> None:
    found = installed_client("echo")
    assert found is not None
    assert found.__name__ == "EchoEnv"
    with pytest.raises(TargetNotFound):
        installed_client("nothing-here")


@pytest.mark.parametrize("name", [PATH, "./folder", "CartPole-v1"])
def test_the_name_of_something_else_has_the_remedy(name: str) -> None:
    with pytest.raises(TargetNotFound, match=r"from_spec\(\) takes module:Class"):
        installed_client(name)


@pytest.mark.parametrize("name", ["http://host:1", "127.0.0.1:8000"])
def test_an_address_is_not_taken_for_a_spec(name: str) -> None:
    with pytest.raises(TargetNotFound) as caught:
        installed_client(name)
    assert "from_spec()" not in caught.value.message


def test_a_class_is_named_by_its_module() -> None:
    assert importable(Counting, None) == (PATH, None)
    assert importable(Counting, {"goal": 2}) == (PATH, {"goal": 2})
    assert importable("module:Class", None) == ("module:Class", None)
    assert importable(Path("folder"), {"a": 1}) == ("folder", {"a": 1})


def test_the_parameters_of_a_spec_are_kept_and_changed() -> None:
    spec = EnvironmentSpec(Counting, params={"goal": 2})
    assert importable(spec, None) == (PATH, {"goal": 2})
    assert importable(spec, {"goal": 3}) == (PATH, {"goal": 3})


def test_what_another_process_cannot_import_is_refused() -> None:
    class Local(Counting):
        pass

    class OfMain(Counting):
        __module__ = "__main__"
        __qualname__ = "OfMain"

    for made_by in (Local, OfMain, Counting(), lambda: Counting()):
        with pytest.raises(TargetNotFound, match="module of its own"):
            importable(made_by, None)  # type: ignore[arg-type]  # the point


def test_the_image_of_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert image_of("python:3.12") == "python:3.12"
    assert image_of("registry/team/image:1") == "registry/team/image:1"
    assert "echo" in image_of("echo")
    (tmp_path / "openenv.yaml").write_text("name: my_game\nversion: 0.1.0\n")
    assert "my_game" in image_of(str(tmp_path)).replace("-", "_")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "game.py").touch()
    with pytest.raises(TargetNotFound, match="openenv-async init"):
        image_of("pkg.game:Game")
    assert image_of("pkg.other:Game") == "pkg.other:Game"
