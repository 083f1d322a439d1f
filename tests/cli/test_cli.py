"""The command line, as users meet it: real processes, and click's runner for wrong values."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # it has none
import pytest
from click.testing import CliRunner, Result

from openenv_async import GenericEnvClient, serve
from openenv_async.cli import main
from openenv_async.rollouts import read_trajectories
from tests.helpers import default_interrupt
from tests.rollouts.environments import CannotStart, Counting

PROGRAM = (sys.executable, "-m", "openenv_async.cli")
COUNTING = "tests.rollouts.environments:Counting"
HANGING = "tests.rollouts.environments:Hanging"
ROOT = Path(__file__).parents[2]


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=60, **options
    )


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the program that is gone afterwards."""
    with subprocess.Popen(
        [*PROGRAM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=default_interrupt,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return list(psutil.Process(process.pid).children(recursive=True))


def one_line(text: str) -> str:
    [line] = text.splitlines()
    assert line.startswith("error: ")
    return line


# -- help and wrong values ----------------------------------------------------------------------


def test_help_is_quick() -> None:
    """In seconds of CPU: on an idle machine that is how long one waits."""
    best = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = run("--help")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert result.returncode == 0
    assert "rollout" in result.stdout
    assert best < 0.4


@pytest.mark.parametrize("command", ["serve", "rollout", "demo"])
def test_every_command_has_examples(command: str) -> None:
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"  openenv-async {command}" in result.output.partition("Examples:")[2]


def test_the_version() -> None:
    assert invoke("--version").output.startswith("openenv-async, version ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["xyzzy"], "No such command 'xyzzy'"),
        (["serve"], "Missing argument 'TARGET'"),
        (["serve", "echo", "--port", "high"], "--port"),
        (["serve", "echo", "--max-sessions", "0"], "--max-sessions"),
        (["serve", "echo", "--step-timeout", "-1"], "is not a number of seconds"),
        (["serve", "echo", "--step-timeout", "soon"], "is not a number of seconds"),
        (["serve", "echo", "--param", "size"], "'size' is not KEY=VALUE"),
        (["serve", "echo", "--param", "a b=1"], "not KEY=VALUE"),
        (["serve", "json:loads"], "TARGET"),
        (["rollout", "echo", "--episodes", "0"], "--episodes"),
        (["rollout", "echo", "--out", "file.txt"], "neither in .jsonl nor .parquet"),
        (["rollout", "echo", "--policy", "clever"], "write random or module:callable"),
        (["rollout", "http://127.0.0.1:1", "--param", "a=1"], "has its arguments already"),
        (["rollout", "no-such-thing"], "there is no environment 'no-such-thing'"),
    ],
)
def test_a_wrong_value_is_one_line_and_2(arguments: list[str], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    line = one_line(result.stderr)
    assert message in line
    assert "--help" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "no-such-thing"], "there is no environment 'no-such-thing'"),
        (["serve", "./nowhere"], "no folder"),
        (["serve", COUNTING, "--param", "color=1"], "color"),
        (
            ["serve", COUNTING, "--host", "192.0.2.1", "--insecure"],
            "cannot listen on 192.0.2.1:8000",
        ),
        (["rollout", "http://127.0.0.1:1"], "cannot read http://127.0.0.1:1/schema"),
    ],
)
def test_an_error_of_the_library_is_one_line_and_1(arguments: list[str], message: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 1
    assert message in one_line(result.stderr)


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("openenv_async.targets.discovery.find_target", broken)
    assert isinstance(invoke("serve", "echo").exception, ZeroDivisionError)


# -- serve --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_says_one_line_and_stops_at_a_signal(number: signal.Signals) -> None:
    with started("serve", COUNTING, "--port", "0", "--json", "--param", "goal=5") as process:
        assert process.stdout is not None
        about = json.loads(process.stdout.readline())
        assert about["pid"] == process.pid
        assert about["environment"] == "Counting"
        assert about["version"] == "1.0.0"
        async with GenericEnvClient(about["url"]) as env:
            await env.reset()
            assert not (await env.step({"amount": 4})).done
            process.send_signal(number)
            assert process.wait(20) == 0
        assert process.stdout.read() == ""
        assert process.stderr is not None
        assert process.stderr.read() == ""


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_serve_in_the_background_of_a_shell_ends_on_sigterm_alone() -> None:
    """SIGINT is ignored there from the start, and an interrupt is meant for others."""
    with subprocess.Popen(
        [*PROGRAM, "serve", COUNTING, "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=ignore_interrupts,
    ) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["pid"] == process.pid
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
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


def test_serve_names_the_address() -> None:
    with started("serve", COUNTING, "--port", "0", "--no-uvloop") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Counting 1.0.0 at http://127.0.0.1:")
        process.terminate()
        assert process.wait(20) == 0


async def test_settings_reach_the_server() -> None:
    with started(
        "serve", HANGING, "--port", "0", "--json", "--max-sessions", "3", "--step-timeout", "7",
        "--idle-timeout", "0",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        async with GenericEnvClient(url) as env:
            assert env.connection is not None
            server = env.connection.server
            assert server["max_sessions"] == 3
            assert server["timeouts"]["step"] == 7.0
            assert server["timeouts"]["idle"] is None


async def test_a_port_that_is_taken_is_one_line() -> None:
    async with serve(Counting) as url:
        result = run("serve", COUNTING, "--port", url.rpartition(":")[2])
    assert result.returncode == 1
    assert "cannot listen" in one_line(result.stderr)


# -- rollout ------------------------------------------------------------------------------------


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
        process = await _run_beside(
            "rollout", url, "--episodes", "5", "--policy", "my_policy:policy", cwd=tmp_path
        )
    assert process.returncode == 0, process.stderr
    for part in ("episodes", "15", "3.000 ± 0.000", "completed", "step latency p99"):
        assert part in process.stdout


async def test_a_rollout_without_a_usable_episode_fails() -> None:
    async with serve(CannotStart) as url:
        process = await _run_beside("rollout", url, "--episodes", "2")
    assert process.returncode == 1
    assert "no licence" in one_line(process.stderr)
    assert "env_error" in process.stdout


async def _run_beside(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the program while this loop serves."""
    import asyncio

    return await asyncio.to_thread(
        subprocess.run,
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


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


# -- demo ---------------------------------------------------------------------------------------


def test_the_demo(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_env")
    result = run("demo", "--out", str(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    for part in ("Blackjack-v1", "CartPole-v1", "2,000", "Done in", "trajectories are in"):
        assert part in result.stdout
    counts = {
        path.stem: len(path.read_bytes().splitlines()) for path in (tmp_path / "out").iterdir()
    }
    assert counts == {"Blackjack-v1": 2000, "CartPole-v1": 200}


def test_the_demo_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("openenv_async.targets.discovery.installed", dict)
    result = invoke("demo", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "no environment 'gymnasium'" in one_line(result.stderr)


def test_without_a_command_the_help_is_shown() -> None:
    result = run()
    assert result.returncode == 2
    assert result.stderr == run("--help").stdout
