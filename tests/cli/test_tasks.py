"""``openenv-async rollout --tasks``: files and splits, groups, columns, and what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from openenv_async.cli import main
from openenv_async.rollouts import read_trajectories
from tests.cli.commands import COUNTING, one_line, run

ROWS = [{"id": f"t{number}", "goal": number} for number in range(1, 4)]


def tasks_file(path: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def report_of(*arguments: str) -> dict[str, Any]:
    result = run("rollout", COUNTING, *arguments, "--json")
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_a_group_of_episodes_for_each_task(tmp_path: Path) -> None:
    out = tmp_path / "runs.jsonl"
    report = report_of(
        "--tasks", tasks_file(tmp_path / "tasks.jsonl"), "--group-size", "2", "--seed", "5",
        "--max-steps", "50", "--out", str(out),
    )  # fmt: skip
    assert (report["episodes"], report["tasks"], report["groups"]) == (6, 3, 3)
    records = sorted(read_trajectories(out), key=lambda record: record.index)
    assert [(r.task_id, r.group, r.member, r.seed, r.task) for r in records] == [
        (f"t{group + 1}", group, member, 5 + group, {"goal": group + 1})
        for group in range(3)
        for member in range(2)
    ]


def test_columns_order_and_passes(tmp_path: Path) -> None:
    rows = [{**row, "level": 3, "target": row["goal"]} for row in ROWS]
    out = tmp_path / "runs.jsonl"
    report = report_of(
        "--tasks", tasks_file(tmp_path / "tasks.jsonl", rows), "--column", "target=goal",
        "--private", "target", "--shuffle", "1", "--epochs", "2", "--max-steps", "50",
        "--policy", "tests.rollouts.environments:one_by_one", "--out", str(out),
    )  # fmt: skip
    assert (report["episodes"], report["tasks"], report["groups"]) == (6, 3, 0)
    records = sorted(read_trajectories(out), key=lambda record: record.index)
    assert sorted(record.task_id or "" for record in records[:3]) == ["t1", "t2", "t3"]
    assert [(record.task, record.reset_options) for record in records] == [({}, None)] * 6
    for record in records:  # it ends at its goal, the sum of its rewards
        assert record.task_id is not None
        assert record.episode_return is not None
        assert record.episode_return >= int(record.task_id.removeprefix("t"))


def test_the_table_tells_tasks_and_groups(tmp_path: Path) -> None:
    result = run(
        "rollout", COUNTING, "--tasks", tasks_file(tmp_path / "t.jsonl"), "--group-size", "2",
        "--max-steps", "50",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["│", "tasks", "│", "3", "│"] in lines
    assert ["│", "groups", "│", "3", "│"] in lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--private", "a"), "--private: only tasks have it: give --tasks"),
        (("--column", "a"), "--column: only tasks have it: give --tasks"),
        (("--shuffle", "0"), "--shuffle: only tasks have it: give --tasks"),
        (("--group-size", "3"), "--episodes: 100 episodes do not make groups of 3"),
        (("--tasks", "no.jsonl"), "--tasks: the file of tasks 'no.jsonl' is not there"),
        (("--tasks", "a.csv"), "tasks are read from .jsonl and .parquet, not from 'a.csv'"),
        (("--tasks", ""), "--tasks: the name of a file or split of tasks is empty"),
        (("--tasks", "train", "--column", "a=x", "--column", "b=x"), "two columns are to be the"),
    ],
)
def test_options_that_do_not_fit(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(main, ["rollout", "echo", *arguments])
    assert result.exit_code == 2
    assert message in one_line(result.output)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": 1}, {"id": 1}], "line 1 of t.jsonl and line 2 of t.jsonl have the same id '1'"),
        ([{"id": 1, "level": 1}], "line 1 of t.jsonl has the column 'level', which is not an opt"),
        ([], "t.jsonl has no rows"),
    ],
)
def test_rows_that_do_not_fit(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    result = run("rollout", COUNTING, "--tasks", tasks_file(tmp_path / "t.jsonl", rows))
    assert result.returncode == 1
    assert message in one_line(result.stderr)
    assert "Traceback" not in result.stderr


def test_a_split_that_is_not_there() -> None:
    result = run("rollout", COUNTING, "--tasks", "train")
    assert result.returncode == 1
    assert "there is no file 'train', and no split of that name" in one_line(result.stderr)
