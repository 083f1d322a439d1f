"""The inspection of modules: problems by check, for a folder, an installed name and a class."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from openenv_async.building.scaffold import scaffold
from openenv_async.checks.validation.inspection import look

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    name = (
        f"look{abs(hash(request.node.name)) % 10**6}_env"  # modules stay imported in this process
    )
    scaffold(name, into=tmp_path)
    return tmp_path / name


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_whole_folder_has_no_problem(folder: Path) -> None:
    assert look(str(folder), {}) == {
        "modules_import": [],
        "models_agree": [],
        "entry_point_resolves": [],
    }


def test_a_class_has_modules_only() -> None:
    assert look("tests.checks.validation.broken:Good", {}) == {"modules_import": []}


def test_an_installed_name_has_a_client_and_an_action() -> None:
    pytest.importorskip("echo_env")
    assert look("echo", {}) == {"modules_import": [], "models_agree": []}


def test_a_module_that_is_not_there_is_a_problem() -> None:
    [problem] = look("no_such_module:Class", {})["modules_import"]
    assert "no_such_module" in problem


def test_a_client_that_is_not_one_is_a_problem(folder: Path) -> None:
    text = (folder / "client.py").read_text()
    name = text.split("class ")[1].split("(")[0]
    (folder / "client.py").write_text(f"class {name}: ...\n")
    found = look(str(folder), {})
    assert any("is not an EnvClient" in problem for problem in found["models_agree"]), found


def test_an_entry_point_of_something_else_is_a_problem(folder: Path) -> None:
    path = folder / "__init__.py"
    path.write_text(path.read_text() + "\nENVIRONMENT = 5\n")
    [*problems] = look(str(folder), {})["entry_point_resolves"]
    assert any("is not an EnvironmentEntry" in problem for problem in problems), problems
    assert any("is the environment of the manifest" in problem for problem in problems)


def test_what_modules_print_is_not_a_finding(folder: Path) -> None:
    path = folder / "models.py"
    path.write_text("print('hello')\n" + path.read_text().replace("from __future__", "#", 1))
    done = subprocess.run(
        [sys.executable, "-m", "openenv_async.checks.validation.inspection", str(folder), "{}"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=True,
    )
    assert json.loads(done.stdout)["modules_import"] == []
    assert "hello" in done.stderr
