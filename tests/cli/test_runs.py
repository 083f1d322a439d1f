"""``openenv-async runs`` and ``export``: counts, files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openenv_async import OutcomeStatus
from openenv_async.rollouts import RunFolder, read_trajectories
from tests.cli.commands import invoke
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
