"""TRL's own trainers with the adapters, on tiny models; each adapter by itself: ``trl/``.

One pool for TRL's environments: ``tests/behaviours/test_trl_factory.py``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integrations.serving import served
from tests.integrations.trl_worlds import Talk

pytestmark = pytest.mark.xdist_group("trl")  # what they share is made once
ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]


def test_a_light_import() -> None:
    code = "import openenv_async.integrations.trl, sys; print(*{'trl', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Row:
    """What TRL's own trainer made of it, on tiny models; once for all tests."""
    if importlib.util.find_spec("trl") is None and not os.environ.get("CI"):
        pytest.skip("needs the extra trl")
    script = Path(__file__).with_name("trl_steps.py")
    with served(Talk) as url:
        done = subprocess.run(
            [sys.executable, str(script), url, str(tmp_path_factory.mktemp("trl"))],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", ["trl_grpo.py", "trl_environment_factory.py"])
def test_the_examples_run(steps: Row, name: str) -> None:
    assert steps[name]["steps"] == 2
    assert len(steps[name]["rewards"]) == 2


@pytest.mark.parametrize("functions", ["with", "beside"])
def test_the_baseline_is_the_survivors(steps: Row, functions: str) -> None:
    seen = steps["baseline"][functions]
    rewards = [row["reward"] for row in seen]
    assert rewards.count(None) == 2
    survivors = [row for row in seen if row["reward"] is not None]
    mean = sum(row["reward"] for row in survivors) / len(survivors)
    spread = (sum((row["reward"] - mean) ** 2 for row in survivors) / (len(survivors) - 1)) ** 0.5
    for row in seen:
        wanted = 0.0 if row["reward"] is None else (row["reward"] - mean) / (spread + 1e-4)
        assert row["advantage"] == pytest.approx(wanted, abs=1e-3)
    assert len({row["advantage"] for row in survivors}) > 1


def test_a_batch_that_failed_as_a_whole_moves_nothing(steps: Row) -> None:
    wanted = {"advantages": [0.0] * 4, "finite": True, "moved": False}
    assert steps["baseline"]["all failed"] == wanted


@pytest.mark.parametrize(
    ("functions", "rows"),
    [
        ("environments", [1]),
        ("environments, other first", [1]),
        ("rollout_func", [1]),
        ("scored", [1]),
        ("scored last", [1]),
        ("scored later", [1]),
        ("infinite", [2]),
        ("nothing failed", []),
    ],
)
def test_a_failed_episode_is_left_out_of_every_reward_function(
    steps: Row, functions: str, rows: list[int]
) -> None:
    assert steps["masked"][functions] == rows


def test_the_log_probabilities_are_the_models(steps: Row) -> None:
    assert steps["baseline"]["logprobs gap"] < 1e-3
