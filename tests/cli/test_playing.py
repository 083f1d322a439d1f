"""Failures of a rollout on the command line: how they are told, and what is saved of the others."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import aiohttp
from rich.console import Console

from openenv_async import OutcomeStatus, StepResult
from openenv_async.cli.playing import play
from openenv_async.cli.progress import progress_bar
from openenv_async.providers.local_server import LocalServer
from openenv_async.rollouts import read_trajectories
from tests.cli.commands import run

WORLDS = "tests.cli.failing_worlds"


async def test_the_failures_of_a_served_environment_are_in_a_table_and_its_log() -> None:
    async with LocalServer(f"{WORLDS}:OneInTen") as server:
        arguments = ("rollout", server.url, "--episodes", "40", "--seed", "0")
        plain = await asyncio.to_thread(run, *arguments)
        report = await asyncio.to_thread(run, *arguments, "--json")
        async with aiohttp.ClientSession() as http, http.get(f"{server.url}/metrics") as answer:
            metrics = await answer.text()
        log = server.log_tail
    assert plain.returncode == report.returncode == 0
    [row] = [line for line in plain.stdout.splitlines() if "environment_raised" in line]
    assert [cell.strip() for cell in row.split("│")[1:4]] == ["4", "3", "env_error"]
    assert "cannot go on with 3" in " ".join(plain.stdout.replace("│", " ").split())
    [failure] = json.loads(report.stdout)["failures"]
    assert failure | {"reason": ""} == {
        "status": "env_error", "code": "environment_raised", "reason": "", "count": 4,
        "first_episode": 3, "log_tail": None, "seed": 3, "task_id": None,
        "command": f"openenv-async rollout {server.url} --episodes 40 --seed 0 --only 3",
    }  # fmt: skip
    assert failure["reason"].endswith("RuntimeError: cannot go on with 3")
    # Two runs of four failures: each traceback once, each counted by its code.
    assert log.count("    raise RuntimeError(f") >= 1
    [count] = [
        line.rpartition(" ")[2]
        for line in metrics.splitlines()
        if line.startswith("openenv_") and 'code="environment_raised"' in line
    ]
    assert float(count) == 8.0


def test_what_an_environment_prints_is_shown_after_a_rollout() -> None:
    done = run("rollout", f"{WORLDS}:OneInTen", "--episodes", "4", "--seed", "0")
    assert done.returncode == 0, done.stderr
    assert "playing 3" in done.stderr
    assert "RuntimeError: cannot go on with 3" in done.stderr
    report = run("rollout", f"{WORLDS}:OneInTen", "--episodes", "3", "--seed", "0", "--json")
    [output] = json.loads(report.stdout)["output"].values()
    assert "playing 2" in output
    assert report.stderr == ""
    assert "…" not in output
    done = run("rollout", f"{WORLDS}:OneInTen", "--episodes", "40", "--seed", "0")
    assert "the last lines of process-1:\n…\n" in done.stderr


def test_an_environment_that_prints_without_end_does_not_stand_still() -> None:
    done = run(
        "rollout", f"{WORLDS}:Chatty", "--episodes", "3", "--seed", "0", "--concurrency", "1"
    )
    assert done.returncode == 0, done.stderr
    assert "the last of 2" in done.stderr


def test_a_random_policy_that_is_refused_ends_no_run(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    done = run("rollout", "tests.cli.refusing:Refusing", "--episodes", "30", "--seed", "0",
               "--out", str(out))  # fmt: skip
    assert "Traceback" not in done.stderr
    read = {t.index: t.status for t in read_trajectories(out)}
    assert set(read) == set(range(30))
    assert set(read.values()) == {OutcomeStatus.POLICY_ERROR, OutcomeStatus.COMPLETED}
    assert done.returncode == 0, done.stderr
    assert "invalid_action" in done.stdout
    never = run("rollout", "tests.cli.refusing:RefusingAll", "--episodes", "5", "--out", str(out))
    assert never.returncode == 1
    assert len(list(read_trajectories(out))) == 5
    assert "no episode is usable" in never.stderr


async def test_an_episode_that_cannot_be_written_is_counted_and_costs_no_other(
    tmp_path: Path,
) -> None:
    class Odd:
        """A client in this process, whose second episode shows what no file has a form for."""

        made = 0

        async def reset(self, seed: int) -> StepResult[Any]:
            return StepResult(object() if seed == 1 else {"n": seed})

        async def step(self, action: Any) -> StepResult[Any]:
            return StepResult({}, 1.0, terminated=True)

    for suffix in ("jsonl", "parquet"):
        out = tmp_path / f"a.{suffix}"
        with progress_bar() as bar:
            summary = await play(
                lambda: Odd(),
                lambda seen: 1,
                episodes=4,
                seeds=0,
                concurrency=2,
                out=out,
                bar=bar,
                title="",
            )
        assert sorted(t.index for t in read_trajectories(out)) == [0, 2, 3]
        assert (summary.episodes, summary.unwritten) == (4, 1)
        assert "episode 1 cannot be written" in str(summary.unwritten_reason)
        shown = io.StringIO()
        Console(file=shown, width=100).print(summary.table())
        assert "not written" in shown.getvalue()


def test_a_rollout_that_could_not_write_fails(tmp_path: Path) -> None:
    """The disk is full from the first byte on: Linux has such a one."""
    full = tmp_path / "full.jsonl"
    full.symlink_to("/dev/full")
    done = run("rollout", f"{WORLDS}:OneInTen", "--episodes", "3", "--seed", "0",
               "--out", str(full))  # fmt: skip
    assert done.returncode == 1
    assert "3 of 3 episodes could not be written" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_a_file_that_cannot_be_finished_costs_no_episode_and_no_summary(tmp_path: Path) -> None:
    """A Parquet file is joined of its parts at the end, and then the disk may be full."""
    (tmp_path / "a.parquet.unfinished" / "in the way").mkdir(parents=True)
    out = tmp_path / "a.parquet"
    done = run("rollout", f"{WORLDS}:OneInTen", "--episodes", "3", "--seed", "0", "--out", str(out))
    assert done.returncode == 1
    assert "completed" in done.stdout
    assert "a.parquet could not be finished: " in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert sorted(each.index for each in read_trajectories(out)) == [0, 1, 2]


def test_a_file_that_cannot_be_made_is_refused_before_anything_is_played() -> None:
    for name in ("/proc/nowhere/a.parquet", "/proc/nowhere/a.jsonl"):
        done = run("rollout", f"{WORLDS}:OneInTen", "--episodes", "3", "--out", name)
        assert done.returncode == 1
        assert f"error: {name} cannot be written: " in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr


def test_a_seed_that_no_reset_takes_is_refused_before_anything_is_played() -> None:
    for seed in (2**63, 2**63 - 1, 2**64):
        done = run("rollout", f"{WORLDS}:OneInTen", "--episodes", "3", "--seed", str(seed))
        assert done.returncode == 2
        assert "--seed" in done.stderr
        assert "playing" not in done.stderr
