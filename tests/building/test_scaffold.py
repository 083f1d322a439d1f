"""One template makes the Dockerfile of every environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openenv_async.building.scaffold import dockerfile, scaffold
from tests.dockerfiles import PARAMETERS, paths, rendered

NAMES = [path.parent.name for path in paths()]


def test_every_environment_has_one() -> None:
    projects = {path.parent.name for path in paths()[0].parent.parent.glob("*/pyproject.toml")}
    assert set(NAMES) == projects
    assert set(PARAMETERS) < projects


@pytest.mark.parametrize("path", paths(), ids=NAMES)
def test_it_is_the_template_with_its_parameters(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == rendered(path.parent.name), (
        "`python -m tests.dockerfiles` writes them"
    )


def test_an_environment_from_init_has_the_same(tmp_path: Path) -> None:
    scaffold("maze_env", into=tmp_path)
    made = (tmp_path / "maze_env" / "server" / "Dockerfile").read_text(encoding="utf-8")
    assert made == dockerfile("maze")


def test_the_parameters_are_where_they_belong() -> None:
    text = dockerfile(
        "maze",
        serve_arguments=("--param", 'id="a"'),
        base_argument="SANDBOX",
        base_image="other:1",
        base_comment="On another.",
        system_packages=("git", "make"),
        packages_comment="To build.",
    )
    lines = text.splitlines()
    assert lines[:2] == ["# On another.", "ARG SANDBOX=other:1"]
    assert [line for line in lines if line.startswith("FROM")] == [
        "FROM ${SANDBOX} AS build",
        "FROM ${SANDBOX}",
    ]
    command = json.loads(lines[-1].removeprefix("CMD "))
    assert command == [
        *("openenv-async", "serve", "maze", "--param", 'id="a"'),
        *("--host", "0.0.0.0", "--port", "8000"),
    ]
    users = [line for line in lines[lines.index("FROM ${SANDBOX}") :] if line.startswith("USER")]
    assert users == ["USER root", "USER 10001:10001"]
    assert lines[lines.index("# To build.") + 1].startswith("RUN apt-get update")
    assert "        git make \\" in lines


def test_without_parameters_nothing_is_left_open() -> None:
    text = dockerfile("maze")
    assert "{{" not in text
    assert "apt-get" not in text
    assert text.count("USER") == 1, "the base's user serves"
