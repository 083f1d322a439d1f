"""The command that plays one episode of a rollout again: it is run."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from openenv_async.cli.again import play_again
from tests.cli.commands import PROGRAM, ROOT, run

WORLDS = "tests.cli.failing_worlds"


@pytest.mark.parametrize(
    ("arguments", "seed", "command"),
    [
        (["rollout", "echo", "--seed", "0"], 7, "rollout echo --seed 0 --only 3"),
        (["rollout", "echo"], 7, "rollout echo --episodes 1 --seed 7"),
        (["rollout", "echo", "--episodes=9"], 7, "rollout echo --episodes 1 --seed 7"),
        (["rollout", "echo"], None, "rollout echo --only 3"),
        (
            ["rollout", "echo", "--tasks", "a b.jsonl"], 7,
            "rollout echo --tasks 'a b.jsonl' --seed 4 --only 3",
        ),
        (
            ["rollout", "echo", "--tasks", "a.jsonl", "--group-size", "2"], 7,
            "rollout echo --tasks a.jsonl --group-size 2 --seed 6 --only 3",
        ),
        (
            ["rollout", "echo", "--episodes", "8", "--group-size=2"], 7,
            "rollout echo --episodes 8 --group-size=2 --seed 6 --only 3",
        ),
        (["rollout", "echo", "--tasks", "a"], 2, "rollout echo --tasks a --only 3"),
        (["rollout", "echo", "--tasks", "a"], None, "rollout echo --tasks a --only 3"),
        (
            ["rollout", "echo", "--seed=1", "--out", "f", "--json", "--quiet", "--only=9", "--logs",
             "--out=g", "--only", "8", "--resume"],
            None,
            "rollout echo --seed=1 --only 3",
        ),
        (
            ["rollout", "http://me:hunter22@host:1", "--seed", "1"], None,
            "rollout 'http://***@host:1' --seed 1 --only 3",
        ),
    ],
)  # fmt: skip
def test_a_command(arguments: list[str], seed: int | None, command: str) -> None:
    assert play_again(arguments, 3, seed) == f"openenv-async {command}"


def played_again(command: str) -> dict[str, Any]:
    program, *arguments = shlex.split(command)
    assert program == "openenv-async"
    done = subprocess.run(
        [*PROGRAM, *arguments, "--json"], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


@pytest.mark.parametrize("seed", [(), ("--seed", "40")])
def test_the_command_of_a_failure_fails_the_same_way(tmp_path: Path, seed: tuple[str, ...]) -> None:
    """The seeds are those of the run, or the one that the environment drew."""
    target = f"{WORLDS}:{'OneInTen' if seed else 'OneInThree'}"
    first = run("rollout", target, "--episodes", "12", *seed, "--json",
                "--out", str(tmp_path / "a.jsonl"))  # fmt: skip
    [failure] = json.loads(first.stdout)["failures"]
    assert str(tmp_path) not in failure["command"]
    again = played_again(failure["command"])
    assert again["episodes"] == 1
    [same] = again["failures"]
    assert (same["reason"], same["seed"]) == (failure["reason"], failure["seed"])
    if seed:
        assert same["first_episode"] == failure["first_episode"] == 3


def test_the_task_of_a_failure_is_played_again(tmp_path: Path) -> None:
    rows = tmp_path / "train.jsonl"
    rows.write_text("".join(json.dumps({"id": f"t{i}", "which": i}) + "\n" for i in range(10)))
    first = run("rollout", f"{WORLDS}:Tasked", "--tasks", str(rows), "--group-size", "2",
                "--concurrency", "1", "--json")  # fmt: skip
    assert first.returncode == 0, first.stderr
    [failure] = json.loads(first.stdout)["failures"]
    assert (failure["count"], failure["task_id"], failure["first_episode"]) == (2, "t6", 12)
    [same] = played_again(failure["command"])["failures"]
    assert (same["task_id"], same["count"], same["first_episode"]) == ("t6", 1, 12)


@pytest.mark.parametrize("with_tasks", [False, True])
def test_the_seed_of_a_failed_group_is_its_own_again(tmp_path: Path, with_tasks: bool) -> None:
    """The run had no seed: groups share one that was drawn."""
    rows = tmp_path / "train.jsonl"
    rows.write_text("".join(json.dumps({"id": f"t{i}"}) + "\n" for i in range(12)))
    of_tasks = ["--tasks", str(rows)] if with_tasks else ["--episodes", "24"]
    first = run("rollout", f"{WORLDS}:OneInThree", *of_tasks, "--group-size", "2", "--json")
    [failure] = json.loads(first.stdout)["failures"]
    [same] = played_again(failure["command"])["failures"]
    for name in ("seed", "first_episode", "task_id"):
        assert same[name] == failure[name]


def test_the_command_is_shown_below_the_failures() -> None:
    done = run("rollout", f"{WORLDS}:OneInTen", "--episodes", "10", "--seed", "0")
    assert (
        "play the first of each again:\n"
        f"  3: openenv-async rollout {WORLDS}:OneInTen --episodes 10 --seed 0 --only 3\n"
    ) in done.stdout


def test_an_episode_that_is_none_of_them_is_refused() -> None:
    done = run("rollout", f"{WORLDS}:OneInTen", "--episodes", "10", "--only", "10")
    assert done.returncode == 2
    assert "the episodes are numbered 0 to 9" in done.stderr


def test_a_record_has_the_traceback_of_a_server_that_was_started(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    assert run("rollout", f"{WORLDS}:OneInTen", "--episodes", "10", "--seed", "0",
               "--out", str(out)).returncode == 0  # fmt: skip
    story = run("why", str(out), "3").stdout
    assert 'raise RuntimeError(f"cannot go on with {self.seed}")' in story
    assert "--only 3" in story
    assert "worker           process-1" in story
    assert "playing 3" in story  # the end of its log
