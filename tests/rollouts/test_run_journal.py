"""The files of a run, cut at any byte, on a disk that is full, with what cannot be written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from openenv_async import EpisodeInfo, Outcome, OutcomeStatus
from openenv_async.errors import InvalidAction, RunBroken, RunNotWritten
from openenv_async.rollouts import read_trajectories
from openenv_async.rollouts.run_folder import RunFolder
from tests.rollouts.run_folders import key_of, outcome, recorded, write


def test_a_segment_is_a_file_of_trajectories(tmp_path: Path) -> None:
    path = recorded(tmp_path / "run", 4)
    files = sorted(path.glob("outcomes-*.jsonl"))
    assert [each.index for file in files for each in read_trajectories(file)] == [0, 1, 2, 3]


@pytest.mark.parametrize("step", [13, pytest.param(1, marks=pytest.mark.heavy)])
def test_any_file_may_be_cut_at_any_byte(tmp_path: Path, step: int) -> None:
    whole = recorded(tmp_path / "whole", 6)
    names = [each.name for each in sorted(whole.iterdir()) if each.name != "lock"]
    assert names == [
        "attempts.jsonl",
        "manifest.json",
        "outcomes-000000.jsonl",
        "outcomes-000001.jsonl",
    ]
    cuts = 0
    for name in names:
        data = (whole / name).read_bytes()
        ends = [place for place, byte in enumerate(data) if byte == ord("\n")]
        near = {max(0, end + by) for end in ends for by in (-1, 0, 1)}
        for size in sorted(near | set(range(0, len(data), step))):
            cut = tmp_path / "cut"
            shutil.copytree(whole, cut)
            os.truncate(cut / name, size)
            _check_cut(cut, name, data[:size])
            shutil.rmtree(cut)
            cuts += 1
    assert cuts > 3000 / step


def _check_cut(path: Path, name: str, left: bytes) -> None:
    kept = {0, 1, 2, 3, 4, 5}
    if name == "manifest.json":
        if json_or_none(left) is None:
            with pytest.raises(RunBroken, match=r"manifest\.json cannot be read: .* export"):
                RunFolder.open(path)
            assert {each.index for each in RunFolder.view(path).outcomes()} == kept
            return
    elif name.startswith("outcomes"):
        whole = {json.loads(line)["index"] for line in left.split(b"\n") if json_or_none(line)}
        first = {0, 1, 2} if name == "outcomes-000000.jsonl" else {3, 4, 5}
        kept -= first - whole
    for _ in range(2):  # opened once more, it is as it was
        with RunFolder.open(path) as folder:
            indices = [each.index for each in folder.outcomes()]
            assert sorted(indices) == sorted(kept)
            for index in kept:
                assert folder.finished(key_of(index))
    with RunFolder.open(path) as folder:
        for index in {0, 1, 2, 3, 4, 5} - kept:
            assert not folder.finished(key_of(index))
            write(folder, outcome(index))
        assert sorted(each.index for each in folder.outcomes()) == [0, 1, 2, 3, 4, 5]


def json_or_none(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_a_broken_line_costs_its_own_episode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = recorded(tmp_path / "run", 4)
    segment = path / "outcomes-000000.jsonl"
    _, second = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"\0" * 40 + b"\n" + second)
    with RunFolder.open(path) as folder:
        assert sorted(each.index for each in folder.outcomes()) == [1, 2, 3]
    assert "line 1 of" in caplog.text


def test_a_full_disk_loses_nothing_that_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    with RunFolder.create(path) as folder:
        write(folder, outcome(0))
        real = os.write
        room = 100

        def full(file: int, data: Any) -> int:
            """A disk that takes the beginning of a line, and no more."""
            nonlocal room
            taken, room = min(room, len(data)), 0
            if not taken:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(file, bytes(data)[:taken])

        with monkeypatch.context() as patch:
            patch.setattr("openenv_async.rollouts.run_journal.os.write", full)
            with pytest.raises(RunNotWritten, match=r"No space left.*make room.*--resume"):
                write(folder, outcome(1))
        assert not folder.finished(key_of(1))
        write(folder, outcome(2))
        assert [each.index for each in folder.outcomes()] == [0, 2]
    with RunFolder.open(path) as folder:
        assert [each.index for each in folder.outcomes()] == [0, 2]


def test_an_outcome_whose_steps_cannot_be_written_is_kept_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = outcome(0)
    assert made.trajectory is not None
    made.trajectory.transitions[0].action = object()
    with RunFolder.create(tmp_path / "run") as folder:
        write(folder, made)
        kept = folder.outcome(key_of(0))
    assert kept is not None
    assert (kept.status, kept.episode_return, kept.steps) == ("completed", 0.0, 1)
    assert kept.trajectory is None
    assert kept.task is not None
    assert kept.task.id == "task-0"
    assert "is kept without its steps" in caplog.text


def test_outcomes_that_come_together_are_synced_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = 0
    syncing, go_on = threading.Event(), threading.Event()
    real = os.fdatasync

    def slow(file: int) -> None:
        nonlocal syncs
        syncs += 1
        syncing.set()
        assert go_on.wait(10)
        real(file)

    monkeypatch.setattr("openenv_async.rollouts.run_journal.os.fdatasync", slow)
    order: list[int] = []

    def told(index: int) -> Callable[[BaseException | None], None]:
        return lambda error: order.append(index)

    with RunFolder.create(tmp_path / "run") as folder:
        for index in range(100):
            folder.submit(key_of(index), outcome(index), told(index))
            if index == 0:
                assert syncing.wait(10)
        assert order == []  # nobody is told before it is on disk
        go_on.set()
    assert order == list(range(100))
    assert syncs == 2


def test_an_outcome_is_read_as_it_was(tmp_path: Path) -> None:
    made = outcome(
        7,
        status=OutcomeStatus.INVALID_ACTION,
        episode=EpisodeInfo("an-episode", 77, 1),
        duration=1.25,
        error=InvalidAction("there is no such move", legal="a, b", phase="step"),
        mistakes=3,
        unreadable=2,
        penalty=-0.5,
        started_at=1000.5,
        ended_at=1002.5,
        model_calls=4,
        model_tokens=321,
    )
    with RunFolder.create(tmp_path / "run") as folder:
        folder.begin(key_of(7))
        write(folder, made)
        read = folder.outcome(key_of(7))
    assert read is not None
    for field in fields(Outcome):
        was, now = getattr(made, field.name), getattr(read, field.name)
        match field.name:
            case "error":
                assert (type(now), now.message) == (type(was), was.message)
                assert (now.detail, now.phase) == ({"legal": "a, b"}, "step")
            case "task":
                assert (now.id, now.data, now.private) == (was.id, was.data, {})
            case _:
                assert now == was != field.default, field.name


@pytest.mark.parametrize("name", ["outcomes-000007.jsonl", "attempts.jsonl"])
def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path, name: str) -> None:
    path = recorded(tmp_path / "run", 3)
    (path / name).unlink(missing_ok=True)
    (path / name).mkdir()
    for read in (RunFolder.open, RunFolder.view):
        with pytest.raises(RunBroken, match=f"{name} cannot be opened: Is a directory; see to it"):
            read(path)
    (path / name).rmdir()
    with RunFolder.open(path) as folder:  # which nobody holds
        assert folder.status().finished == 3
