"""The examples of Stable-Baselines3 run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("sb3_cartpole.py", ["--smoke"], "served: 512 steps"),
        ("sb3_atari.py", ["--smoke"], "pong: 64 steps"),
    ],
)
def test_it_runs(tmp_path: Path, script: str, arguments: list[str], says: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
    if script == "sb3_cartpole.py":
        (plot,) = tmp_path.iterdir()
        assert plot.read_bytes().startswith(b"\x89PNG")
