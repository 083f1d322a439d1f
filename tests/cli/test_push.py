"""``openenv-async push``: where to, and what a dry run says."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from click.testing import CliRunner

from openenv_async.building.scaffold import scaffold
from openenv_async.cli import main


def test_the_command_says_where_to() -> None:
    for arguments in ([], ["--registry", "a", "--space", "b/c"], ["--space", "b/c", "--tag", "1"]):
        result = CliRunner().invoke(main, ["push", ".", *arguments])
        assert result.exit_code == 2, result.output
    with contextlib.chdir(Path(__file__).parents[2] / "environments" / "echo"):
        result = CliRunner().invoke(main, ["push", "--registry", "ghcr.io/me", "--dry-run"])
    assert result.output == "would push ghcr.io/me/openenv-async-echo:latest\n"


def test_a_dry_run_writes_what_a_space_would_have(tmp_path: Path) -> None:
    scaffold("mine_env", into=tmp_path)
    stage = tmp_path / "staged"
    arguments = ["push", str(tmp_path / "mine_env"), "--space", "me/mine", "--dry-run"]
    done = CliRunner().invoke(main, [*arguments, "--stage", str(stage), "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["space"] == "me/mine"
    assert report["url"] is None
    assert "Dockerfile" in report["files"]
    assert (stage / "Dockerfile").is_file()
    plain = CliRunner().invoke(main, arguments)
    assert f"{len(report['files'])} files, nothing was pushed" in plain.output
