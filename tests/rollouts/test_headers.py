"""Headers of files: made without secrets, joined, read from lines."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from openenv_async.rollouts.headers import headers_of_lines, joined_headers, make_header


def test_a_header_has_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--token", "hunter2", "--seed", "3"])
    made = make_header(
        environment={"name": "maze", "params": {"api_key": "hunter2", "url": "http://a:hunter2@h"}},
        count=np.int64(3),
    )
    assert made["command"] == ["x", "--token", "***", "--seed", "3"]
    assert made["environment"]["params"] == {"api_key": "***", "url": "http://***@h"}
    assert "hunter2" not in str(made)


def test_a_command_that_is_given_has_no_secret_either() -> None:
    made = make_header(command=["x", "--api-key", "hunter2", Path("a")])
    assert made["command"] == ["x", "--api-key", "***", "a"]
    assert make_header(command=None)["command"] is None


def test_the_versions_of_one_header_are_its_own() -> None:
    make_header()["versions"]["python"] = "changed"
    assert make_header()["versions"]["python"] != "changed"


def test_headers_are_joined_into_the_first() -> None:
    assert joined_headers([]) is None
    one, two, three = {"run": "1"}, {"run": "2"}, {"run": "3"}
    assert joined_headers([one]) == one
    both = joined_headers([one, two])
    assert both == {"run": "1", "appended": [two]}
    assert both is not None
    assert joined_headers([both, three]) == {"run": "1", "appended": [two, three]}
    assert one == {"run": "1"}


def test_only_whole_lines_that_begin_with_one_have_a_header(tmp_path: Path) -> None:
    path = tmp_path / "file.jsonl"
    path.write_text(
        '{"openenv_trajectories":{"run":"a"},"index":0}\n'
        '{"index":1,"openenv_trajectories":{"run":"b"}}\n'
        '{"openenv_trajectories":3}\n'
        '{"openenv_trajectories":{"run":"c"}}\n'
        '{"openenv_trajectories":{"run":"d"'
    )
    assert [header["run"] for header in headers_of_lines(path)] == ["a", "c"]
