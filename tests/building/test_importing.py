"""``openenv-async import``: folders that are written, and what is refused before that."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from openenv_async.building import importing
from openenv_async.building.importing import Imported, import_environment
from openenv_async.checks.validation.run import validate
from openenv_async.cli import main
from openenv_async.compat.harbor.environment import HarborEnvironment
from openenv_async.errors import InvalidOption, InvalidTasks, TargetNotFound
from openenv_async.hosts.preset import preset
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets import manifest
from openenv_async.targets.discovery import find_target
from tests.compat.harbor.making import make_task
from tests.providers.engines import BASE

IMAGES = {"python:3.11": BASE}


def made(folder: Path, into: Path, **params: Any) -> Path:
    make_task(folder / "a")
    make_task(folder / "b")
    (folder / "a" / "__pycache__").mkdir()
    import_environment("harbor", str(folder), into, {"images": IMAGES, **params})
    return into


def test_the_folder_is_an_environment_with_its_arguments(tmp_path: Path) -> None:
    folder = made(tmp_path / "tasks", tmp_path / "shop_env", max_steps=7)
    about = manifest.load(folder)
    assert about.name == "shop_env"
    assert about.description.startswith("2 Harbor tasks")
    assert about.models.action == "models.ShopAction"
    for path in folder.rglob("*"):
        assert path.name != "__pycache__"
        if path.is_file():
            assert "{{" not in path.read_text("utf-8")
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    data = project["tool"]["setuptools"]["package-data"]["shop_env"]
    assert "tasks/**" in data
    spec = find_target(str(folder))
    assert spec.name == "shop_env"
    assert issubclass(spec.cls, HarborEnvironment)
    assert spec.tasks is not None
    assert [task.id for task in spec.tasks.page("all", 0, 9)] == ["a", "b"]
    env = spec.build()
    assert (env._max_steps, env._images) == (7, IMAGES)
    env = EnvironmentSpec(spec.cls, params={"max_steps": 9}).build()
    assert (env._max_steps, env._images) == (9, IMAGES)
    with pytest.raises(InvalidOption, match="colour"):
        find_target(str(folder), {"colour": "blue"})


@pytest.mark.parametrize(
    ("kind", "source", "params", "host", "said"),
    [
        ("ors", "http://127.0.0.1:9/a/b", {}, "OpenReward", "The environment b of"),
        ("ors", "http://127.0.0.1:9", {}, "OpenReward", "The first environment of"),
        ("verifiers", "sums:Hard", {"python": "py"}, "Verifiers", "The taskset sums:Hard of"),
    ],
)
def test_what_is_hosted_has_the_class_and_the_types_of_its_host(
    tmp_path: Path, kind: str, source: str, params: dict[str, Any], host: str, said: str
) -> None:
    import_environment(kind, source, tmp_path / "my_env", params)
    assert manifest.load(tmp_path / "my_env").description.startswith(said)
    server = (tmp_path / "my_env" / "server" / "my_environment.py").read_text("utf-8")
    home = f"openenv_async.hosts.{host.lower()}"
    assert f"from {home} import {host}Host\n" in server
    models = (tmp_path / "my_env" / "models.py").read_text("utf-8")
    for end in ("Action", "Observation", "State"):
        assert f"from {home} import {host}{end} as My{end}" in models


@pytest.mark.docker
@pytest.mark.xdist_group("docker")
async def test_the_folder_validates(tmp_path: Path, engine: None) -> None:
    folder = made(tmp_path / "tasks", tmp_path / "swap_env")
    tests = "#!/bin/sh\ntest -e /app/answer; echo $? > /logs/verifier/reward.txt\n"
    for task in ("a", "b"):
        (folder / "tasks" / task / "tests" / "test.sh").write_text(tests)
    checks = [
        *("files_are_there", "dockerfile_fits_the_manifest", "models_agree"),
        *("entry_point_resolves", "episodes_run_over_native_msgpack"),
    ]
    results = await validate(str(folder), names=checks)
    assert {each.name: each.status for each in results} == dict.fromkeys(
        [*checks, "the_server_starts"], "passed"
    )


@pytest.mark.parametrize(
    ("kind", "name", "params", "error", "said"),
    [
        ("other", "x_env", {}, InvalidOption, "there are harbor"),
        ("harbor", "json", {}, InvalidOption, "try json_env"),
        ("harbor", "tasks", {}, InvalidOption, "exists already"),
        ("harbor", "x_env", {"colour": 1}, InvalidOption, "colour"),
        ("harbor", "x_env", {"max_steps": 0}, InvalidOption, "max_steps"),
    ],
)
def test_what_will_not_do_is_told_and_nothing_is_written(
    tmp_path: Path, kind: str, name: str, params: dict[str, Any], error: Any, said: str
) -> None:
    make_task(tmp_path / "tasks" / "a")
    with pytest.raises(error, match=said):
        import_environment(kind, str(tmp_path / "tasks"), tmp_path / name, params)
    assert [path.name for path in tmp_path.iterdir()] == ["tasks"]


def test_sources_that_cannot_be_played_are_told(tmp_path: Path) -> None:
    with pytest.raises(TargetNotFound, match="no folder"):
        import_environment("harbor", str(tmp_path / "none"), tmp_path / "x_env")
    make_task(tmp_path / "tasks" / "a", task_toml="[environment]\ngpus = 1\n")
    with pytest.raises(InvalidTasks, match=r"environment\.gpus"):
        import_environment("harbor", str(tmp_path / "tasks"), tmp_path / "x_env")


def test_a_kind_is_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def counting(source: str, params: Mapping[str, Any]) -> Imported:
        harbor = "openenv_async.compat.harbor"
        models = [f"{harbor}.models:Harbor{end}" for end in ("Action", "Observation", "State")]
        return Imported(
            base=f"{harbor}.environment:HarborEnvironment",
            models=(models[0], models[1], models[2]),
            description='With "quotes"',
            about=f"From {source}.",
            params=params,
            extra="trl",
        )

    monkeypatch.setattr(importing, "KINDS", {"counting": counting})
    import_environment("counting", "here", tmp_path / "my_env", {"folder": r'a "b" \ c'})
    project = tomllib.loads((tmp_path / "my_env" / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["dependencies"] == ["openenv-async[trl]"]
    assert manifest.load(tmp_path / "my_env").description == 'With "quotes"'
    text = (tmp_path / "my_env" / "server" / "my_environment.py").read_text("utf-8")
    names: dict[str, Any] = {"__file__": str(tmp_path / "my_env" / "server" / "x.py")}
    exec(compile(text.partition("\nclass ")[0], "x", "exec"), names)
    assert names["ARGUMENTS"] == {"folder": r'a "b" \ c'}


def test_what_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_task(tmp_path / "tasks" / "a")
    (tmp_path / "file").write_text("")
    given = ["import", "harbor", str(tmp_path / "tasks"), "-o"]
    refused = CliRunner().invoke(main, [*given, str(tmp_path / "file" / "cave_env")])
    assert refused.exit_code == 2, refused.output
    assert "cannot be written" in refused.output

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    out = tmp_path / "cave_env"
    refused = CliRunner().invoke(main, [*given, str(out)])
    assert "No space left" in refused.output
    assert not out.exists()


def test_the_command_makes_the_folder_and_tells_mistakes(tmp_path: Path) -> None:
    make_task(tmp_path / "tasks" / "a")
    run = CliRunner().invoke
    out = tmp_path / "cave_env"
    given = ["import", "harbor", str(tmp_path / "tasks"), "-o", str(out)]
    done = run(main, [*given, "--param", f"images={json.dumps(IMAGES)}"])
    assert done.exit_code == 0, done.output
    assert f"openenv-async serve {out}" in done.output
    again = run(main, given)
    assert again.exit_code == 2
    assert "exists already" in again.output


def test_preset_arguments_are_those_of_the_constructor(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="colour"):
        preset(HarborEnvironment, colour="blue")
    made_class = preset(HarborEnvironment, folder=str(make_task(tmp_path / "a")))
    assert made_class.__name__ == "HarborEnvironment"
    assert EnvironmentSpec(made_class).types == EnvironmentSpec(HarborEnvironment).types
