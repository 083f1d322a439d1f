"""``openenv-async deploy``: the files it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from openenv_async.building.deployment import KINDS
from openenv_async.cli import main


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_written_and_named(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["deploy", kind, "--set", "name=mine"])
    assert result.exit_code == 0, result.output
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert sorted(result.output.split()) == (written or [f"{kind}/Caddyfile"])


def test_wrong_values_are_refused(tmp_path: Path) -> None:
    for arguments in (["heroku"], ["nginx", "--set", "prefix"], ["nginx", "--set", "prefix=a"]):
        result = CliRunner().invoke(main, ["deploy", *arguments, "--out", str(tmp_path / "x")])
        assert result.exit_code == 2, result.output
        assert not (tmp_path / "x").exists()
