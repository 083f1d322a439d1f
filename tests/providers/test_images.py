"""The images of all environments: built on Dockerfile.base, and an episode played in each.

They take minutes to build where nothing is cached: ``make test-heavy``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from openenv_async import GenericEnvClient, Timeouts
from openenv_async.rollouts import RandomPolicy, fetch_schema, rollout
from openenv_async.types import OutcomeStatus
from tests.providers.engines import ROOT, docker_tests

pytestmark = [*docker_tests, pytest.mark.heavy]

NAMES = sorted(path.parent.name for path in Path(ROOT, "environments").glob("*/Dockerfile"))
# 64 sessions' worth of pids and memory is the default; Chromium wants more of both.
LIMITS: dict[str, dict[str, Any]] = {"browsergym": {"memory": "2g", "pids": 512, "cpus": 2.0}}


def build(*names: str) -> None:
    command = [sys.executable, str(ROOT / ".ci/images"), *names]
    built = subprocess.run(command, capture_output=True, text=True, timeout=1200)
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]


def test_all_nine_have_one() -> None:
    assert len(NAMES) == 9


@pytest.mark.parametrize("name", NAMES)
async def test_it_builds_and_plays(name: str) -> None:
    # repl stands on the image of coding.
    build(*(["coding", "repl"] if name == "repl" else [name]))
    client = GenericEnvClient.from_docker_image(
        f"openenv-async-{name}:latest",
        timeouts=Timeouts(open=120.0, reset=120.0),
        **LIMITS.get(name, {}),
    )
    async with client as env:
        schema = await fetch_schema(env.base_url, token=env.settings.token)
        outcome = await rollout(env, RandomPolicy(schema["action"], 0), max_steps=5, seed=1)
        assert outcome.status in (OutcomeStatus.COMPLETED, OutcomeStatus.TRUNCATED), outcome.error
        assert outcome.steps
