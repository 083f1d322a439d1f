"""``init``: names that will do, names that will not, and what is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from openenv_async.building.scaffold import TEMPLATES, check_name, scaffold
from openenv_async.cli import main
from openenv_async.errors import InvalidOption
from openenv_async.targets import manifest

SEED_STRUCTURE = {
    "__init__.py",
    "models.py",
    "client.py",
    "openenv.yaml",
    "pyproject.toml",
    "README.md",
    "server/__init__.py",
    "server/my_environment.py",
    "server/app.py",
    "server/Dockerfile",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_it_has_the_structure_that_the_seed_shows(tmp_path: Path, template: str) -> None:
    files = scaffold("my_env", template=template, into=tmp_path)
    written = {path.relative_to(tmp_path / "my_env").as_posix() for path in files}
    assert written >= SEED_STRUCTURE
    assert written >= {"tests/test_my.py", ".dockerignore", "py.typed"}
    for path in files:
        assert "{{" not in path.read_text(encoding="utf-8"), path
        compile_if_python(path)
    about = manifest.load(tmp_path / "my_env")
    assert about.name == "my_env"
    assert about.server.dockerfile == "server/Dockerfile"
    assert about.client is not None
    assert about.client.class_name == "MyEnv"
    assert about.models.action == "models.MyAction"


def compile_if_python(path: Path) -> None:
    if path.suffix == ".py":
        compile(path.read_text(encoding="utf-8"), str(path), "exec")


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("My-Env", "my_env"),
        ("my env", "my_env"),
        ("MyEnv", "my_env"),
        ("2048", "env_2048"),
        ("class", "class_env"),
        ("json", "json_env"),
        ("click", "click_env"),
        ("_hidden", "hidden"),
        ("ünï", "n"),
    ],
)
def test_a_name_that_will_not_do_is_answered_with_one_that_does(name: str, better: str) -> None:
    with pytest.raises(InvalidOption, match=rf"try {better}$"):
        check_name(name)
    check_name(better)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "my_env").mkdir()
    (tmp_path / "my_env" / "mine.txt").write_text("mine")
    result = CliRunner().invoke(main, ["init", "my_env", "--into", str(tmp_path)])
    assert result.exit_code == 2
    assert "exists already" in result.stderr
    assert [path.name for path in (tmp_path / "my_env").iterdir()] == ["mine.txt"]


def test_it_says_what_to_do_next(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["init", "shop_env", "--template=tools", f"--into={tmp_path}"]
    )
    assert result.exit_code == 0
    commands = [line.strip() for line in result.output.splitlines()[1:]]
    assert commands[0] == f"cd {tmp_path / 'shop_env'}"
    order = ["pip install -e", "pytest", "validate .", "play .", "build .", "serve ."]
    for word, command in zip(order, commands[1:], strict=True):
        assert word in command  # each in the folder, and what does not end comes last


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init", "My-Env"], "try my_env"),
        (["init", "my_env", "--template", "huge"], "'huge'"),
        (["init"], "Missing argument 'NAME'"),
    ],
)
def test_a_wrong_value_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []
