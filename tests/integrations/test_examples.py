"""The examples of Stable-Baselines3 run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(folder: Path, script: str, arguments: list[str]) -> str:
    """Return what a script printed; it ended well."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=290,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "says"),
    [
        ("sb3_cartpole.py", ["--smoke"], "served: 512 steps"),
        ("sb3_atari.py", ["--smoke"], "pong: 64 steps"),
        ("sb3_tic_tac_toe.py", ["--smoke"], "MaskablePPO: 1024 steps"),
        ("sb3_tic_tac_toe.py", ["--smoke", "--unmasked"], "PPO: 1024 steps"),
    ],
)
def test_it_runs(tmp_path: Path, script: str, arguments: list[str], says: str) -> None:
    told = run(tmp_path, script, arguments)
    assert says in told
    if script == "sb3_tic_tac_toe.py":
        refused = [int(number) for number in re.findall(r"(\d+) moves refused", told)]
        assert (refused[0] > 0) == ("--unmasked" in arguments), told
    if script == "sb3_cartpole.py":
        (plot,) = tmp_path.iterdir()
        assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.heavy
@pytest.mark.parametrize("unmasked", [False, True])
def test_tic_tac_toe_is_learnt(tmp_path: Path, unmasked: bool) -> None:
    told = run(tmp_path, "sb3_tic_tac_toe.py", ["--unmasked"] if unmasked else [])
    games = int(re.findall(r"(\d+) games", told)[0])
    share = float(re.findall(r"([\d.]+)% not lost", told)[0])
    trained, evaluated = (int(number) for number in re.findall(r"(\d+) moves refused", told))
    assert games >= 500
    if unmasked:  # it runs to its end, and its mistakes are counted
        assert "PPO: 60416 steps" in told
        assert trained > 100
    else:
        assert share >= 90.0, told
        assert trained == evaluated == 0
