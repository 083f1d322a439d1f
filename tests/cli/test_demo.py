"""``openenv-async demo``: episodes of two environments, and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import (
    invoke,
    one_line,
    run,
)


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
