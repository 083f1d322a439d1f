"""Task folders: what is read of them, and what is refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from openenv_async.compat.harbor.folders import read_folder, read_task, without_canary
from openenv_async.errors import InvalidTasks, TargetNotFound
from tests.compat.harbor.making import make_task


def test_a_folder_of_tasks_is_read_by_name(tmp_path: Path) -> None:
    about = '[task]\nname = "org/b"\ndescription = "Second"\nkeywords = ["x"]\n'
    make_task(tmp_path / "b", task_toml=about)
    make_task(tmp_path / "a")
    (tmp_path / "notes").mkdir()
    first, second = read_folder(tmp_path)
    assert (first.id, second.id) == ("a", "b")
    assert first.public() == {"id": "a", "instruction": "Write yes to /app/answer.\n"}
    assert second.public() == {
        "id": "b",
        "instruction": "Write yes to /app/answer.\n",
        "name": "org/b",
        "description": "Second",
        "keywords": ["x"],
    }
    assert second.tests == (tmp_path / "b" / "tests").resolve()


def test_a_folder_that_is_a_task_is_one_task(tmp_path: Path) -> None:
    (task,) = read_folder(make_task(tmp_path / "only"))
    assert task.id == "only"
    assert (task.environment.name, task.solution.name) == ("environment", "solution")


def test_a_task_with_an_image_needs_no_dockerfile(tmp_path: Path) -> None:
    text = '[environment]\ndocker_image = "alpine:3"\n'
    make_task(tmp_path / "a", task_toml=text, environment_Dockerfile=None)
    assert read_task(tmp_path / "a").config.environment.docker_image == "alpine:3"


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_folder_without_tasks_is_not_found(tmp_path: Path, name: str) -> None:
    with pytest.raises(TargetNotFound, match=r"no folder|not a folder of Harbor tasks"):
        read_folder(tmp_path / name)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("tests_test_sh", "has no tests/test.sh"),
        ("environment_Dockerfile", "has no environment/Dockerfile, and no environment.docker_im"),
        ("instruction_md", "has no instruction.md"),
    ],
)
def test_a_missing_part_is_named(tmp_path: Path, missing: str, said: str) -> None:
    make_task(tmp_path / "a", **{missing: None})
    with pytest.raises(InvalidTasks, match=said):
        read_folder(tmp_path)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    make_task(tmp_path / "a", task_toml="[agent]\ntimeout_sec = []\n")
    with pytest.raises(InvalidTasks, match=r"a/task\.toml: agent\.timeout_sec: "):
        read_folder(tmp_path)
    (tmp_path / "a" / "task.toml").write_bytes(b"\xff")
    with pytest.raises(InvalidTasks, match=r"task\.toml cannot be read"):
        read_folder(tmp_path)


def test_tasks_that_cannot_be_played_are_named_or_left_out(tmp_path: Path) -> None:
    make_task(tmp_path / "a")
    make_task(tmp_path / "b", task_toml="[environment]\ngpus = 2\n", tests_test_sh=None)
    composed = make_task(tmp_path / "c")
    (composed / "environment" / "docker-compose.yaml").write_text("services: {}\n")
    (composed / "trajectory.json").write_text("{}")
    (composed / "tests" / ".harborignore").write_text("x\n")
    with pytest.raises(InvalidTasks) as caught:
        read_folder(tmp_path)
    for part in (
        "b: environment.gpus (",
        "c: environment/docker-compose.yaml (",
        "trajectory.json (",
        "tests/.harborignore (",
        "skip_unsupported=true",
    ):
        assert part in caught.value.message
    assert [task.id for task in read_folder(tmp_path, skip_unsupported=True)] == ["a"]
    with pytest.raises(InvalidTasks, match="no task that can be played"):
        read_folder(tmp_path / "b", skip_unsupported=True)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<!-- canary 1234 -->\n# CANARY\n\n\nDo it.\n", "Do it.\n"),
        ("\n\nDo it.", "Do it."),
        ("Do it.\n# canary\n", "Do it.\n# canary\n"),
        ("# Title\n", "# Title\n"),
        ("", ""),
    ],
)
def test_marks_of_a_benchmark_are_not_told_to_agents(text: str, left: str) -> None:
    assert without_canary(text) == left
