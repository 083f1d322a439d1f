"""``openenv-async runs`` and ``export``: counts, files, and what is refused."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path

import pytest

from openenv_async import OutcomeStatus
from openenv_async.rollouts import RunFolder, read_header, read_trajectories
from tests.cli.commands import COUNTING, invoke, run, started
from tests.rollouts.run_folders import outcome, recorded, write


def test_the_state_of_a_run_is_shown(tmp_path: Path) -> None:
    path = recorded(tmp_path / "run", 6)
    done = invoke("runs", str(path))
    assert done.exit_code == 0, done.output
    rows = [line.strip("│ ").split("│") for line in done.output.splitlines() if "│" in line]
    table = {name.strip(): value.strip() for name, value in (row for row in rows if len(row) == 2)}
    assert table["finished"] == "6 of 8"
    assert table["good"] == "6"
    assert table["completed"] == "6"
    assert table["attempts without a result"] == "1"
    assert "2 episodes are missing: " in done.output
    assert f"--out {path} --resume" in done.output
    report = json.loads(invoke("runs", str(path), "--json").output)
    assert (report["finished"], report["missing"], report["wanted"]) == (6, 2, 8)
    assert report["parts"]["tasks"]["facts"] == {"file": "tasks.jsonl"}


def test_a_long_fact_is_cut_and_a_forced_change_is_told(tmp_path: Path) -> None:
    tools = "".join(f"{{'name': 'tool-{number}'}}" for number in range(40))
    with RunFolder.create(tmp_path / "run") as folder:
        folder.bind(4, policy={"temperature": 1.0, "tools": tools})
        write(folder, outcome(0))
    with RunFolder.open(tmp_path / "run", force=True) as folder:
        folder.bind(4, policy={"temperature": 0.5, "tools": tools})
    done = invoke("runs", str(tmp_path / "run"))
    assert done.exit_code == 0, done.output
    assert "temperature=0.5" in done.output
    assert "tool-0" in done.output
    assert "tool-39" not in done.output
    [line] = [line for line in done.output.splitlines() if "changed by --force" in line]
    assert "policy, 20" in line


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_run_is_exported(tmp_path: Path, suffix: str) -> None:
    path = recorded(tmp_path / "run", 4)
    with RunFolder.open(path) as folder:
        run = folder.id
        write(folder, outcome(4, status=OutcomeStatus.TRUNCATED))
    out = tmp_path / f"run.{suffix}"
    done = invoke("export", str(path), str(out))
    assert (done.exit_code, done.output) == (0, f"5 outcomes of run {run} are in {out}\n")
    read = list(read_trajectories(out))
    assert [each.index for each in read] == [0, 1, 2, 3, 4]
    assert {each.run for each in read} == {run}
    assert read[3].task == {"question": "what is 1?"}
    done = invoke("export", str(path), str(out), "--only", "degraded")
    assert [each.status for each in read_trajectories(out)] == [OutcomeStatus.TRUNCATED]
    assert "openenv_run" not in out.read_bytes().decode(errors="replace")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_an_export_has_the_run_s_id_and_command(tmp_path: Path, suffix: str) -> None:
    command = ["openenv-async", "rollout", "echo", "--seed", "1"]
    with RunFolder.create(tmp_path / "run", command=command) as folder:
        write(folder, outcome(0, status=OutcomeStatus.TRUNCATED))
    out = tmp_path / f"run.{suffix}"
    assert invoke("export", str(folder.path), str(out)).exit_code == 0
    header = read_header(out)
    assert header is not None
    assert (header["run"], header["command"]) == (folder.id, command)
    told = "play it again: openenv-async rollout echo --seed 1 --only 0"
    assert told in invoke("why", str(out), "0").output


@pytest.mark.parametrize("name", ["outcomes-000000.jsonl", "attempts.jsonl", "new.parquet"])
def test_an_export_replaces_nothing_of_the_run(tmp_path: Path, name: str) -> None:
    path = recorded(tmp_path / "run", 4)
    (tmp_path / "link").symlink_to(path)
    before = {each.name: each.read_bytes() for each in path.iterdir()}
    for out in (path / name, tmp_path / "link" / name):
        done = invoke("export", str(path), str(out))
        assert done.exit_code == 2
        assert "the run's own folder" in done.output
    assert {each.name: each.read_bytes() for each in path.iterdir()} == before


def test_a_run_whose_manifest_is_broken_is_exported_too(tmp_path: Path) -> None:
    path = recorded(tmp_path / "run", 4)
    (path / "manifest.json").write_bytes(b"{")
    assert invoke("export", str(path), str(tmp_path / "a.jsonl")).exit_code == 0
    assert len(list(read_trajectories(tmp_path / "a.jsonl"))) == 4
    done = invoke("runs", str(path))
    assert done.exit_code == 0
    assert "its manifest cannot be read" in done.output


def test_a_place_without_a_run_is_told(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.touch()
    for name, message in ((file, "is a file"), (tmp_path / "none", "there is no run")):
        for command in (["runs", str(name)], ["export", str(name), str(tmp_path / "a.jsonl")]):
            done = invoke(*command)
            assert done.exit_code == 1
            assert message in done.output
    done = invoke("export", str(recorded(tmp_path / "run", 2)), str(tmp_path / "a.csv"))
    assert done.exit_code == 2
    assert not (tmp_path / "a.csv").exists()
    done = invoke("export", str(tmp_path / "run"), "/proc/nothing/a.jsonl")
    assert done.exit_code == 1
    assert "cannot be written" in done.output


# -- rollout --out FOLDER -------------------------------------------------------------------------

POLICY = "tests.rollouts.test_resuming:one"


def test_a_rollout_goes_on_where_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = ["rollout", COUNTING, "--policy", POLICY, "--out", str(path), "--quiet"]
    done = invoke(*command, "--episodes", "5", "--seed", "3")
    assert done.exit_code == 0, done.output
    assert "finished in all" in done.output
    assert "5 of 5" in done.output
    done = invoke(*command, "--episodes", "5", "--seed", "3")
    assert done.exit_code == 1
    assert "there is a run at" in done.output
    assert "--resume" in done.output
    done = invoke(*command, "--episodes", "7", "--seed", "3", "--resume", "--json")
    report = json.loads(done.stdout)
    assert (report["episodes"], report["run"]["finished"], report["run"]["missing"]) == (2, 7, 0)
    done = invoke(*command, "--episodes", "7", "--seed", "3", "--resume")
    assert done.exit_code == 0, done.output
    seeds = [each.episode.seed for each in RunFolder.view(path).outcomes() if each.episode]
    assert sorted(seeds) == [3, 4, 5, 6, 7, 8, 9]
    command_of = RunFolder.view(path).manifest["command"]
    assert command_of[0] == "openenv-async"


def test_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = ["rollout", COUNTING, "--policy", POLICY, "--out", str(path), "--quiet"]
    assert invoke(*command, "--episodes", "2").exit_code == 0
    done = invoke(*command, "--episodes", "2", "--max-steps", "2", "--resume")
    assert done.exit_code == 1
    assert "other settings: max_steps was None, is 2" in done.output
    done = invoke(*command, "--episodes", "2", "--param", "goal=2", "--resume")
    assert "other params: goal was None, is 2" in done.output
    done = invoke(*command, "--episodes", "4", "--max-steps", "2", "--resume", "--force")
    assert done.exit_code == 0, done.output
    assert RunFolder.view(path).status().finished == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "--out", "runs.jsonl"], "runs.jsonl is only a file"),
        (["--resume", "--out", "runs.parquet"], "`export` makes a file"),
        (["--resume"], "give --out FOLDER"),
        (["--force", "--out", "runs.jsonl"], "--force"),
        (["--retry-failed", "--out", "friday"], "it belongs to --resume"),
        (["--out", "runs.csv"], "a run's folder has no suffix"),
    ],
)
def test_options_of_runs_belong_to_runs(arguments: list[str], message: str) -> None:
    done = invoke("rollout", COUNTING, *arguments)
    assert done.exit_code == 2
    assert message in done.output
    assert not Path("friday").exists()


def test_resume_needs_a_run(tmp_path: Path) -> None:
    done = invoke("rollout", COUNTING, "--out", str(tmp_path / "none"), "--resume")
    assert done.exit_code == 1
    assert "there is no run at" in done.output


def test_what_is_lost_is_told_with_the_command_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "run"
    url = "http://127.0.0.1:9"
    done = run("rollout", url, "--policy", POLICY, "--episodes", "3", "--out", str(path))
    assert done.returncode == 1
    status = RunFolder.view(path).status()
    assert (status.finished, status.missing) == (0, 3)


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "run"
    command = ["rollout", COUNTING, "--policy", f"{__name__}:slow", "--out", str(path)]
    with started(*command, "--episodes", "400", "--concurrency", "2", "--quiet") as process:
        deadline = time.monotonic() + 30
        while not list(path.glob("outcomes-*.jsonl")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    status = RunFolder.view(path).status()
    assert 0 < status.finished < 400
    assert f"the run in {path} has {status.finished} of 400 outcomes; to go on: " in said
    again = said.partition("to go on: openenv-async ")[2].splitlines()[0].split()
    assert again[-1] == "--resume"
    again[again.index("400")] = str(status.finished + 3)
    done = run(*again)
    assert done.returncode == 0, done.stderr
    assert RunFolder.view(path).status().finished == status.finished + 3


async def slow(observation: object) -> dict[str, int]:
    await asyncio.sleep(0.02)
    return {"amount": 1}
