"""The version has one place: ``openenv_async/version.py``."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from openenv_async.cli import main
from openenv_async.version import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ENVIRONMENTS = sorted(ROOT.glob("environments/*/pyproject.toml"))


def test_it_is_a_version_of_three_numbers() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc|\.dev)\d+)?", __version__)


def test_the_project_reads_it_from_there() -> None:
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "openenv_async/version.py"


def test_the_distribution_has_it() -> None:
    assert importlib.metadata.version("openenv-async") == __version__


def test_the_command_line_tells_it() -> None:
    told = CliRunner().invoke(main, ["--version"])
    assert told.exit_code == 0
    assert told.output.split()[-1] == __version__


def test_no_other_module_says_a_version_of_its_own() -> None:
    own = re.compile(r"""__version__\s*=|["'/]""" + re.escape(__version__) + r"""["']""")
    found = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "openenv_async").rglob("*.py")
        if own.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["openenv_async/version.py"]


@pytest.mark.parametrize("project", ENVIRONMENTS, ids=lambda path: path.parent.name)
def test_an_environments_manifest_and_project_agree(project: Path) -> None:
    manifest = (project.parent / "openenv.yaml").read_text(encoding="utf-8")
    version = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"]
    assert f'version: "{version}"\n' in manifest


def test_the_changelog_begins_with_what_is_unreleased() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    released = [heading.split()[0].strip("[]") for heading in headings[1:]]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+\S*", version) for version in released)
