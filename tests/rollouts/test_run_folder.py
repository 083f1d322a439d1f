"""Run folders: nothing that was finished is lost or told twice, whatever was cut."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openenv_async import OutcomeStatus
from openenv_async.errors import (
    ConnectionLost,
    RunBroken,
    RunError,
    RunInUse,
    RunMismatch,
)
from openenv_async.rollouts.run_folder import RunFolder
from openenv_async.rollouts.run_journal import EpisodeKey
from openenv_async.types import Task
from tests.rollouts.run_folders import key_of, outcome, recorded, write


def test_what_is_written_is_there_when_the_folder_is_opened_again(tmp_path: Path) -> None:
    path = recorded(tmp_path / "run", 6)
    with RunFolder.open(path) as folder:
        found = list(folder.outcomes())
        assert [each.index for each in found] == [0, 1, 2, 3, 4, 5]
        for each in found:
            assert each.status is OutcomeStatus.COMPLETED
            assert each.episode_return == each.index / 2
            assert each.task is not None
            assert (each.task.id, each.group, each.member) == (
                f"task-{each.index // 2}",
                each.index // 2,
                each.index % 2,
            )
            assert each.trajectory is not None
            assert each.trajectory.run == folder.id
            assert each.trajectory.transitions[0].action == {"act": each.index}
            assert folder.finished(key_of(each.index))
        assert not folder.finished(key_of(6))
        status = folder.status()
    assert (status.finished, status.missing, status.lost_attempts) == (6, 2, 1)
    assert dict(status.results) == {"good": 6}
    assert '"answer"' not in "".join(each.read_text() for each in path.iterdir())


def test_the_three_kinds_of_result_are_told_apart(tmp_path: Path) -> None:
    lost = ConnectionLost("gone")
    with RunFolder.create(tmp_path / "run") as folder:
        write(folder, outcome(0))
        write(folder, outcome(1, status=OutcomeStatus.TRUNCATED))
        write(folder, outcome(2, status=OutcomeStatus.INVALID_ACTION, penalty=-1.0))
        write(folder, outcome(3, status=OutcomeStatus.INVALID_ACTION))
        write(folder, outcome(4, status=OutcomeStatus.ENV_ERROR, episode_return=None))
        write(folder, outcome(5, status=OutcomeStatus.CANCELLED, episode_return=None))
        write(folder, outcome(6, status=OutcomeStatus.INFRA_ERROR, error=lost))
        write(folder, outcome(6))
        assert dict(folder.status().results) == {"degraded": 3, "good": 1, "unusable": 2}
        assert not folder.finished(key_of(5))
        penalty = folder.outcome(key_of(2))
        assert penalty is not None
        assert penalty.penalty == -1.0
    with RunFolder.open(tmp_path / "run", retry_failed=True) as folder:
        again = [index for index in range(7) if not folder.finished(key_of(index))]
        assert again == [3, 4, 5]
        write(folder, outcome(4))
        assert folder.finished(key_of(4))
    with RunFolder.open(tmp_path / "run") as folder:
        indices = sorted(each.index for each in folder.outcomes())
        assert indices == [0, 1, 2, 3, 4, 6]
        replayed = folder.outcome(key_of(4))
        assert replayed is not None
        assert replayed.status is OutcomeStatus.COMPLETED
        assert replayed.attempts == 2


def test_an_episode_without_a_result_is_abandoned_in_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def lose(folder: RunFolder) -> None:
        error = ConnectionLost("gone")
        write(folder, outcome(0, status=OutcomeStatus.INFRA_ERROR, error=error))

    with RunFolder.create(tmp_path / "run", max_attempts=2) as folder:
        lose(folder)
    with RunFolder.open(tmp_path / "run") as folder:
        assert folder.is_last_attempt(key_of(0))
        assert not folder.finished(key_of(0))
        with caplog.at_level(logging.WARNING):
            lose(folder)
        assert "task task-0, member 0 is abandoned after 2 attempts" in caplog.text
        assert folder.finished(key_of(0))
        assert dict(folder.status().results) == {"abandoned": 1}
    with RunFolder.open(tmp_path / "run", retry_failed=True) as folder:
        assert not folder.finished(key_of(0))
        assert not folder.is_last_attempt(key_of(0))
        abandoned = folder.outcome(key_of(0))
        assert abandoned is not None
        assert isinstance(abandoned.error, ConnectionLost)
        assert abandoned.error.message == "gone"


def test_an_attempt_that_ended_with_the_process_does_not_count(tmp_path: Path) -> None:
    for number in range(5):
        opened = RunFolder.open if number else RunFolder.create
        with opened(tmp_path / "run") as folder:
            assert folder.begin(key_of(0)) == number + 1
            assert not folder.is_last_attempt(key_of(0))
    assert RunFolder.view(tmp_path / "run").status().cut_attempts == 5


# -- cut and broken files -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b'{"id": 3}', b'{"id": "x"}', b'{"id": "x", "openenv_run": 99}', b"\xff\xfe"],
)
def test_a_broken_manifest_is_told_and_the_outcomes_are_read(tmp_path: Path, text: bytes) -> None:
    path = recorded(tmp_path / "run", 4)
    (path / "manifest.json").write_bytes(text)
    with pytest.raises(RunBroken, match="openenv-async export"):
        RunFolder.open(path)
    assert len(list(RunFolder.view(path).outcomes())) == 4


def test_the_manifest_of_another_run_is_refused(tmp_path: Path) -> None:
    path, other = recorded(tmp_path / "run", 4), recorded(tmp_path / "other", 2)
    ours, theirs = RunFolder.view(path).id, RunFolder.view(other).id
    shutil.copy(other / "manifest.json", path / "manifest.json")
    with pytest.raises(RunBroken, match=f"belongs to run {ours}, .* to run {theirs}"):
        RunFolder.open(path)


# -- places where there is no run -----------------------------------------------------------------


def test_a_run_that_was_refused_before_it_played_stands_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with RunFolder.create(path) as folder:
        folder.bind(8, tasks={"digest": "with a typo"})  # and then a column was refused
    with RunFolder.create(path) as folder:
        folder.bind(8, tasks={"digest": "mended"})
        write(folder, outcome(0))
    with RunFolder.open(path) as folder, pytest.raises(RunMismatch, match="other tasks"):
        folder.bind(8, tasks={"digest": "with a typo"})
    with pytest.raises(RunError, match="there is a run at"):
        RunFolder.create(path)


def test_a_manifest_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (manifest := tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(RunError, match="there is a run at"):
        RunFolder.create(tmp_path)
    assert manifest.read_text() == "{}"


def test_a_folder_that_cannot_be_a_run_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("mine")
    run = recorded(tmp_path / "run", 2)
    for path, remedy in ((file, "is a file"), (mine, "thesis.tex"), (run, "go on with it")):
        with pytest.raises(RunError, match=remedy):
            RunFolder.create(path)
    with pytest.raises(RunError, match="is a file, and only a run can be gone on with"):
        RunFolder.open(file)
    with pytest.raises(RunError, match="there is no run at"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(RunError, match="neither a manifest nor outcomes"):
        RunFolder.view(mine)
    assert sorted(each.name for each in mine.iterdir()) == ["thesis.tex"]


def test_a_run_that_was_ended_before_it_began_begins(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / "lock").write_text("process 1 on elsewhere\n")
    (path / "manifest.json.unfinished").write_text("{")
    with RunFolder.open(path, max_attempts=7) as folder:
        assert folder.id
        assert folder.max_attempts == 7


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    path = recorded(tmp_path / "run", 2)
    script = (
        "import sys\n"
        "from openenv_async.rollouts.run_folder import RunFolder\n"
        "folder = RunFolder.open(sys.argv[1])\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(RunInUse, match=f"written by process {process.pid} on"):
            RunFolder.open(path)
        assert len(list(RunFolder.view(path).outcomes())) == 2
        process.kill()
        process.wait()
    with RunFolder.open(path) as folder:  # the lock of the dead process is taken over
        assert folder.finished(key_of(0))


# -- the same run ---------------------------------------------------------------------------------


def test_a_run_of_something_else_is_refused_with_both_digests(tmp_path: Path) -> None:
    settings = {"max_steps": 10, "timeout": None}
    with RunFolder.create(tmp_path / "run") as folder:
        folder.bind(wanted=4, settings=settings, tasks={"digest": "abc"}, policy={"a": 1})
    with RunFolder.open(tmp_path / "run") as folder:
        folder.bind(wanted=8, settings=settings, policy={"a": 1})
        assert folder.status().wanted == 8
        with pytest.raises(RunMismatch, match=r"max_steps was 10 \(int\), is 20") as caught:
            folder.bind(settings=settings | {"max_steps": 20})
        assert caught.value.detail["part"] == "settings"
        assert caught.value.detail["before"] in caught.value.message
        assert caught.value.detail["after"] in caught.value.message
        with pytest.raises(RunMismatch, match="other policies: a was 1"):
            folder.bind(policy={"a": 2})
    with RunFolder.open(tmp_path / "run", force=True) as folder:
        folder.bind(policy={"a": 2})
        with pytest.raises(RunMismatch, match="other tasks") as caught:
            folder.bind(tasks={"digest": "xyz"})
        assert "--force" not in caught.value.message
    with RunFolder.open(tmp_path / "run") as folder:
        folder.bind(policy={"a": 2})
        assert [change["part"] for change in folder.manifest["changes"]] == ["policy"]


def test_a_task_with_other_columns_under_the_id_of_a_finished_one_is_refused(
    tmp_path: Path,
) -> None:
    with RunFolder.open(recorded(tmp_path / "run", 2)) as folder:
        folder.check_task(key_of(0), Task("task-0", {"question": "what is 0?"}))
        folder.check_task(EpisodeKey("new"), Task("new", {"question": "?"}))
        with pytest.raises(RunMismatch, match="the columns of task 'task-0' are not those"):
            folder.check_task(key_of(0), Task("task-0", {"question": "what is 1?"}))


def test_secrets_do_not_get_into_the_manifest(tmp_path: Path) -> None:
    command = ["openenv-async", "rollout", "http://me:hunter22@host:8000", "--token", "hunter22"]
    with RunFolder.create(tmp_path / "run", command=command) as folder:
        folder.bind(policy={"url": "http://me:hunter22@model/v1", "model": "m"})
    with RunFolder.open(tmp_path / "run") as folder:
        folder.bind(policy={"url": "http://me:another33@model/v1", "model": "m"})
    assert "hunter22" not in (tmp_path / "run" / "manifest.json").read_text()
