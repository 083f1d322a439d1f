"""A Ray cluster as the place of workers; the cluster runs in a process of its own."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import signal
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from openenv_async.cli import main
from openenv_async.providers.ray import RayProvider

ROOT = Path(__file__).parents[2]
EPISODES = 300


def require_ray() -> None:
    if importlib.util.find_spec("ray") is None:
        assert "CI" not in os.environ, "ray is not installed: pip install -e '.[dev]'"
        pytest.skip("needs ray")


async def run_script() -> dict[str, Any]:
    mark = uuid.uuid4().hex
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.providers.ray_cluster", mark),
        cwd=ROOT,
        env={**os.environ, "RAY_CLUSTER_TEST": mark, "RAY_DEDUP_LOGS": "0"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(240):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    assert process.returncode == 0, err.decode()[-4000:]
    report: dict[str, Any] = json.loads(out.decode().strip().splitlines()[-1])
    return report


async def test_300_rollouts_on_three_nodes_one_of_which_is_removed() -> None:
    """Shows 7."""
    require_ray()
    report = await run_script()
    assert report["outcomes"], "every episode gave exactly one outcome"
    assert len(report["spread"]) == 3, "one server a node, and all are played on"
    assert min(report["spread"].values()) >= 8
    # Only the sessions of the removed node fail; those that had not acted are played again.
    assert report["lost_workers"] == 1
    failed = report["statuses"].get("infra_error", 0)
    assert 0 < failed + report["retried"] <= report["lost_sessions"]
    assert report["statuses"]["truncated"] == EPISODES - failed
    assert set(report["statuses"]) <= {"truncated", "infra_error"}
    # The pool goes on, on two nodes and then on three again.
    assert report["after"] == ["truncated"] * 20
    assert report["joined"] == ["truncated"] * 20
    assert report["nodes"] == 3
    assert report["statistics"]["workers_died"] == 1
    # Nothing is left behind, and the cluster that was not the pool's still runs.
    assert (report["actors_left"], report["servers_left"]) == (0, 0)
    assert report["ray_still_up"]


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'openenv-async\[ray\]'"):
        RayProvider("echo")
    done = CliRunner().invoke(main, ["rollout", "echo", "--provider", "ray"])
    assert (done.exit_code, "openenv-async[ray]" in done.output) == (1, True)
