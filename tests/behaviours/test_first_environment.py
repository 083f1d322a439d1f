"""The CLI proves things: init, tests, validate, serve, bench, all green without an edit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openenv_async.building.scaffold import TEMPLATES
from tests.checks.validation.broken import BROKEN
from tests.checks.validation.test_folder import BROKEN as BROKEN_FOLDERS
from tests.cli.commands import PROGRAM


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.mark.parametrize("template", TEMPLATES)
def test_init_test_validate_serve_bench(tmp_path: Path, template: str) -> None:
    if template == "gymnasium":
        pytest.importorskip("gymnasium")
    name = f"r50_{template}_env"
    run(*PROGRAM, "init", name, "--template", template, cwd=tmp_path)
    folder = tmp_path / name
    quiet = ("-q", "-p", "no:cacheprovider", "-p", "no:asyncio")
    tests = run(sys.executable, "-m", "pytest", *quiet, cwd=folder)
    assert " passed" in tests.stdout
    assert "failed" not in tests.stdout
    report = json.loads(run(*PROGRAM, "validate", "--json", cwd=folder).stdout)
    assert [each["name"] for each in report if each["result"] == "fail"] == []
    assert sum(each["result"] == "pass" for each in report) >= 20
    if template == "minimal":
        served = _served(folder)
        assert served["bench"]["steps"] > 0
        assert served["environment"] == name


def _served(folder: Path) -> dict[str, Any]:
    """Serve the folder and measure the server."""
    with subprocess.Popen(
        [*PROGRAM, "serve", ".", "--port", "0", "--json", "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
    ) as server:
        try:
            assert server.stdout is not None
            about: dict[str, Any] = json.loads(server.stdout.readline())
            short = ("--seconds", "0.5", "--warmup", "0.1", "--sessions", "8", "--json")
            about["bench"] = json.loads(
                run(*PROGRAM, "bench", about["url"], *short, cwd=folder).stdout
            )
        finally:
            assert server.stdin is not None
            server.stdin.close()
            assert server.wait(30) == 0
    return about


def test_more_than_ten_broken_environments_are_caught_by_name() -> None:
    """Each is caught in tests/checks/validation; here only that there are so many kinds."""
    assert len(set(BROKEN.values()) | {name for name, _, _ in BROKEN_FOLDERS}) >= 10
