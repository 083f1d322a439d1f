"""A served environment whose step raises in one episode of ten, as its operator meets it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from openenv_async import Environment, GenericEnvClient
from openenv_async.errors import EnvironmentRaised

Dict = dict[str, Any]


class OneInTen(Environment[Dict, Dict, Dict]):
    """Fails in the second step of every tenth episode."""

    def reset(self, seed: int = 0) -> Dict:
        self.seed, self.count = seed, 0
        return {"count": 0}

    def step(self, action: Dict) -> Dict:
        self.count += 1
        if self.seed % 10 == 3 and self.count == 2:
            raise RuntimeError(f"of episode {self.seed}")
        return {"count": self.count, "reward": 1.0, "done": self.count == 3}


class ProcessOneInTen(OneInTen):
    isolation = "process"


def play(env: Any, seed: int) -> tuple[str, int, EnvironmentRaised | None]:
    """One episode: its id, the steps taken, and what ended it too early."""
    env.reset(seed=seed)
    for taken in range(1, 4):
        try:
            env.step({})
        except EnvironmentRaised as exc:
            return env.episode.episode_id, taken, exc
    return env.episode.episode_id, 3, None


@pytest.mark.parametrize("name", ["OneInTen", "ProcessOneInTen"])
def test_the_log_has_each_traceback_and_the_metrics_count_them(name: str) -> None:
    arguments = ("serve", f"{__name__}:{name}", "--port", "0", "--json", "--log-format", "json")
    with subprocess.Popen(
        [sys.executable, "-m", "openenv_async.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            url = json.loads(process.stdout.readline())["url"]
            failed: dict[str, str] = {}
            steps = 0
            with GenericEnvClient(url).sync() as env:
                for seed in range(30):
                    episode, taken, error = play(env, seed)
                    steps += taken
                    if error is not None:
                        assert "traceback" not in error.detail
                        failed[episode] = error.detail["text"]
            with urllib.request.urlopen(f"{url}/metrics") as answer:
                metrics = answer.read().decode()
            process.terminate()
            assert process.wait(20) == 0
            entries = [json.loads(line) for line in process.stderr.read().splitlines()]
        finally:
            process.kill()
    assert sorted(failed.values()) == ["of episode 13", "of episode 23", "of episode 3"]
    told = [entry for entry in entries if entry["logger"] == "openenv_async.environment"]
    assert {entry["episode_id"]: entry["exception"].splitlines()[-1] for entry in told} == {
        episode: f"RuntimeError: {text}" for episode, text in failed.items()
    }
    assert len(told) == 3
    for entry in told:
        assert (entry["level"], entry["env"]) == ("error", name)
        assert re.fullmatch("[0-9a-f]{32}", entry["session_id"])
        assert "in step" in entry["exception"]
    assert 'openenv_errors_total{code="environment_raised"} 3.0' in metrics
    assert f"openenv_steps_total {steps}.0" in metrics
