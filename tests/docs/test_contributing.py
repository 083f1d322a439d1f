"""The page for contributors names what there is."""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Iterator

import pytest

from tests.docs.pages import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
ROOMS = ("engine", "client", "server", "protocol", "checks", "building")
SPANS = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))


def named_paths() -> Iterator[str]:
    for span in SPANS:
        if re.fullmatch(r"[\w.]+(/[\w.]+)*/[\w.]*", span) and "NAME" not in span:
            yield span
    yield from re.findall(r"\]\(([\w/.]+)\)", TEXT)


@pytest.mark.parametrize("path", sorted(set(named_paths())))
def test_every_path_exists(path: str) -> None:
    at = ROOT / "openenv_async" / path if path.split("/")[0] in ROOMS else ROOT / path
    assert at.exists()


def test_paths_are_found() -> None:
    assert len(set(named_paths())) > 20


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z-]+)", TEXT))))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (tests\.[\w.]+)", TEXT))))
def test_every_tool_exists(module: str) -> None:
    path = ROOT / f"{module.replace('.', '/')}.py"
    assert 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")


CLASSES = {
    "Transport": "openenv_async.server.transport",
    "ServerConnection": "openenv_async.engine.connection",
    "ReplySink": "openenv_async.engine.interfaces",
    "HttpReplySink": "openenv_async.server.http_sessions",
    "UpstreamSocket": "openenv_async.server.upstream",
    "ClientFrame": "openenv_async.protocol.frames",
    "ServerFrame": "openenv_async.protocol.frames",
    "TRANSITIONS": "openenv_async.protocol.lifecycle",
    "Move": "openenv_async.protocol.lifecycle",
    "REMEDIES": "tests.docs.tables",
    "PARAMETERS": "tests.dockerfiles",
    "ManualClock": "openenv_async.testing",
    "check_environment": "openenv_async.testing",
    "step_in_workers": "openenv_async.testing",
    "served_application": "openenv_async.testing",
    "assert_examples_run": "openenv_async.testing",
    "renamed_attributes": "openenv_async.renamed",
}


@pytest.mark.parametrize(("name", "module"), CLASSES.items())
def test_every_object_exists(name: str, module: str) -> None:
    assert name in SPANS
    assert hasattr(importlib.import_module(module), name)


def test_the_pythons_of_the_metadata_are_those_that_are_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert versions == ["3.11", "3.12", "3.13"]
    assert project["requires-python"] == f">={versions[0]}"
