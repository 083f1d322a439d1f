"""``openenv-async list``: what is installed, built and running."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import (
    invoke,
)

pytest.importorskip("echo_env")


def test_list_does_without_a_docker_engine(tmp_path: Path) -> None:
    nowhere = f"unix://{tmp_path}/nothing.sock"
    result = invoke("list", DOCKER_HOST=nowhere)
    assert result.exit_code == 0
    assert "echo" in result.output
    assert "no Docker Engine" in result.output
    report = json.loads(invoke("list", "--json", DOCKER_HOST=nowhere).output)
    assert "echo" in [each["name"] for each in report["environments"]]
    assert report["images"] == report["workers"] == []
    assert "no Docker Engine" in report["docker"]


def test_list_with_nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("openenv_async.targets.listing.installed", dict)
    result = invoke("list", DOCKER_HOST=f"unix://{tmp_path}/nothing.sock")
    assert "No environment is installed" in result.output
