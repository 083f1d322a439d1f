"""``openenv-async rollout``: what it plays, on which servers, and what makes no sense."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has none
import pytest
from click.testing import CliRunner

from openenv_async import serve
from openenv_async.building.build import image_name
from openenv_async.cli import main
from openenv_async.errors import TargetNotFound
from openenv_async.pool.sources import image_of
from openenv_async.rollouts import read_trajectories
from openenv_async.targets.discovery import find_entry
from tests.cli.commands import (
    COUNTING,
    PROGRAM,
    ROOT,
    children,
    one_line,
    run,
    run_beside,
)
from tests.helpers import default_interrupt
from tests.rollouts.environments import CannotStart, Counting


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_rollout_of_a_target(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"file.{suffix}"
    result = run(
        "rollout", COUNTING, "--param", "goal=1000000", "--episodes", "20", "--seed", "3",
        "--max-steps", "4", "--concurrency", "8", "--out", str(out), "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["episodes"] == 20
    assert report["steps"] == 80
    assert report["outcomes"] == {"truncated": 20}
    assert report["file"] == str(out)
    trajectories = sorted(read_trajectories(out), key=lambda t: t.index)
    assert [t.seed for t in trajectories] == list(range(3, 23))
    assert [len(t.transitions) for t in trajectories] == [4] * 20
    assert result.stderr == ""


async def test_rollout_of_a_server_with_a_policy(tmp_path: Path) -> None:
    (tmp_path / "my_policy.py").write_text("def policy(observation):\n    return {'amount': 1}\n")
    async with serve(Counting) as url:
        process = await run_beside(
            "rollout", url, "--episodes", "5", "--policy", "my_policy:policy", cwd=tmp_path
        )
    assert process.returncode == 0, process.stderr
    for part in ("episodes", "15", "3.000 ± 0.000", "completed", "step latency p99"):
        assert part in process.stdout


async def test_a_rollout_without_a_usable_episode_fails() -> None:
    async with serve(CannotStart) as url:
        process = await run_beside("rollout", url, "--episodes", "2")
    assert process.returncode == 1
    assert "no licence" in one_line(process.stderr)
    assert "env_error" in process.stdout


HANGING_POLICY = """
import asyncio, sys

async def policy(observation):
    print("begun", flush=True)
    await asyncio.get_running_loop().create_future()
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_an_interrupted_rollout_leaves_nothing_behind(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "hanging_policy.py").write_text(HANGING_POLICY)
    with subprocess.Popen(
        [*PROGRAM, "rollout", COUNTING, "--policy", "hanging_policy:policy", "--episodes", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=default_interrupt,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            servers = children(process)
            assert servers
            process.send_signal(number)
            assert process.wait(30) == code
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
            _, alive = psutil.wait_procs(servers, timeout=20)
            assert not alive
        finally:
            process.kill()


def test_a_rollout_in_the_background_of_a_shell_ends_on_sigterm(tmp_path: Path) -> None:
    (tmp_path / "hanging_policy.py").write_text(HANGING_POLICY)
    with subprocess.Popen(
        [*PROGRAM, "rollout", COUNTING, "--policy", "hanging_policy:policy", "--episodes", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=ignore_interrupts,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            servers = children(process)
            assert servers
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) != 0
            _, alive = psutil.wait_procs(servers, timeout=20)
            assert not alive
        finally:
            process.kill()


# -- servers -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_several_workers_share_the_episodes() -> None:
    target = "tests.rollouts.environments:Counting"
    arguments = ["rollout", target, "--servers", "2", "--episodes", "20", "--json"]
    done = CliRunner().invoke(main, [*arguments, "--param", "goal=1", "--max-steps", "5"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["episodes"] == 20
    assert (report["workers"]["workers_started"], report["workers"]["sessions"]) == (2, 0)
    assert report["workers"]["seconds"]["used"] > 0


def test_the_table_tells_of_the_workers() -> None:
    done = CliRunner().invoke(
        main, ["rollout", "echo", "--workers", "2", "--episodes", "4", "--max-steps", "1"]
    )
    assert done.exit_code == 0, done.output
    assert "worker seconds used" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["echo", "--provider", "static"], "a URL is played at as it is"),
        (["http://127.0.0.1:1", "--provider", "process"], "a URL is played at as it is"),
        (["echo", "--provider", "docker", "--param", "a=1"], "has its arguments already"),
        (["echo", "--image", "x"], "only docker and kubernetes run images"),
        (["echo", "--servers", "0"], "--servers"),
    ],
)
def test_what_makes_no_sense_is_one_line(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["rollout", *arguments])
    assert done.exit_code == 2
    assert message in done.output
    assert "Traceback" not in done.output


def test_what_does_not_start_is_one_line() -> None:
    done = CliRunner().invoke(main, ["rollout", "nothing-here"])
    assert done.exit_code == 2
    assert "there is no environment 'nothing-here'" in done.output
    assert done.output.count("\n") == 1


def test_a_class_of_a_file_is_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert image_of("game:Guess") == "game:Guess"
    (tmp_path / "game.py").touch()
    with pytest.raises(TargetNotFound, match=r"containers run images: .* openenv-async build"):
        image_of("game:Guess")
    assert image_of("here:5000/game:Guess") == "here:5000/game:Guess"


def test_the_image_of_a_folder_is_what_build_makes(tmp_path: Path) -> None:
    (tmp_path / "openenv.yaml").write_text("name: my_env\n")
    assert image_of(str(tmp_path)) == image_name(tmp_path) == "openenv-async-my:latest"


def test_the_image_of_an_environment() -> None:
    assert image_of("echo") == (find_entry("echo").image or "openenv-async-echo:latest")
    assert image_of("registry/some-image:1") == "registry/some-image:1"
