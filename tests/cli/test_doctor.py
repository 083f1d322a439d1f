"""``openenv-async doctor``: what this machine has, and the remedy of what it lacks."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from openenv_async.cli.doctor import findings
from tests.cli.commands import (
    PROGRAM,
    ROOT,
    invoke,
)


def test_doctor_tells_one_line_each() -> None:
    result = invoke("doctor")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert len(lines) == len(json.loads(invoke("doctor", "--json").output))
    text = result.output
    for name in ("Python", "Docker Engine", "file descriptors", "pids", "disk", "memory", "extra"):
        assert name in text


def test_doctor_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing.sock")
    monkeypatch.setattr("openenv_async.cli.doctor._is_there", lambda name: name != "httptools")
    monkeypatch.setattr("openenv_async.engine.resources.available_memory", lambda: 1000)
    by_name = {each.name: each for each in findings()}
    assert by_name["Docker Engine"].status == "warn"
    assert "DOCKER_HOST" in by_name["Docker Engine"].remedy
    assert by_name["extra fast"].found == "not installed: httptools"
    assert "openenv-async[fast]" in by_name["extra fast"].remedy
    assert by_name["memory"].status == "warn"
    assert by_name["Python"].remedy == ""


def test_doctor_fails_when_something_needed_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.cli.doctor._is_there", lambda name: name != "msgspec")
    result = invoke("doctor")
    assert result.exit_code == 1
    assert "missing: msgspec" in result.output


@pytest.mark.skipif(os.name != "posix", reason="limits of descriptors")
def test_doctor_sees_a_low_limit_of_descriptors() -> None:
    command = f"ulimit -n 256; exec {' '.join(PROGRAM)} doctor --json"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, timeout=60, check=True
    )
    [found] = [each for each in json.loads(done.stdout) if each["name"] == "file descriptors"]
    assert found["status"] == "warn"
    assert "256" in found["found"]
