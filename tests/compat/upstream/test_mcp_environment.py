"""Environments of tools: ours see what upstream's own see, with FastMCP's real server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.compare import ensure_upstream_python

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def played() -> dict[str, Any]:
    """Return the results of a play, with upstream's classes and with ours."""
    python = ensure_upstream_python(None)
    seen = {}
    for whose in ("theirs", "ours"):
        done = subprocess.run(
            [python, str(Path(__file__).with_name("mcp_play.py")), whose],
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        seen[whose] = json.loads(done.stdout)
    return seen


def test_ours_see_what_theirs_see(played: dict[str, Any]) -> None:
    assert played["ours"] == played["theirs"]


def test_the_play_saw_each_kind_of_result(played: dict[str, Any]) -> None:
    results = [each for each in played["ours"] if isinstance(each, dict)]
    errors = {each["error"]["error_type"] for each in results if each.get("error")}
    assert errors == {"tool_not_found", "invalid_args", "execution_error", "timeout"}
    values = [each["result"]["data"] for each in results if each.get("result")]
    assert set(values) == {3, 6, "A", "production 1", "production -1", "simulation 1"}
    assert "not refused" not in played["ours"]
