"""Rows of files: read by number, and each error with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openenv_async.errors import InvalidTasks
from openenv_async.rollouts.rows import JsonLines, Parquet, Reader
from openenv_async.rollouts.tasks import TaskSet
from openenv_async.types import Task

ROWS = [{"id": f"t{number}", "q": "ü" * number} for number in range(200)]


def test_lines_are_read_by_number_blank_ones_left_out(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    path.write_text("\ufeff" + "\n\n".join(lines), encoding="utf-8")
    rows = JsonLines(path)
    rows.load()
    assert len(rows) == 200
    assert [rows.row(number) for number in (199, 0, 57)] == [ROWS[199], ROWS[0], ROWS[57]]
    assert rows.where(57) == "line 115 of tasks.jsonl"


def test_rows_of_parquet_are_read_by_number(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet  # type: ignore[import-untyped]  # it has none

    path = tmp_path / "tasks.parquet"
    parquet.write_table(pa.Table.from_pylist(ROWS), path)
    rows = Parquet(path)
    rows.load()
    assert [rows.row(number) for number in (199, 0, 64)] == [ROWS[199], ROWS[0], ROWS[64]]
    assert rows.where(64) == "row 64 of tasks.parquet"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"id": 1}\n{"id": 2', "line 2 of t.jsonl is not JSON: .*; the file may have been cut"),
        (b'{"id": 1}\nnonsense\n{"id": 2}\n', "line 2 of t.jsonl is not JSON: [^;]*$"),
        (b'{"id": 1}\n\xff\n', "line 2 of t.jsonl is not JSON"),
        (b'{"id": "\xff"}\n', "line 1 of t.jsonl is not JSON"),
        (b'{"id": NaN}\n', "line 1 of t.jsonl is not JSON"),
        (b"[" * 100_000 + b"\n", "line 1 of t.jsonl is not JSON"),
        (b'{"id": 1}\n[1]\n', "line 2 of t.jsonl is .* a row is a mapping"),
        (b'{"id": 1}\n\n{"id": 1}\n', "line 1 of t.jsonl and line 3 of t.jsonl have the same id"),
        (b"", "t.jsonl has no rows"),
        (b"\n \n", "t.jsonl has no rows"),
    ],
)
def test_lines_that_are_not_tasks(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(content)
    with pytest.raises(InvalidTasks, match=message):
        TaskSet(path).prepare()


def test_parquet_that_cannot_be_read(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    parquet.write_table(pa.Table.from_pylist(ROWS), path)
    whole = path.read_bytes()
    for content in (b"", b"nonsense" * 10, whole[: len(whole) // 2], whole[:-9]):
        path.write_bytes(content)
        with pytest.raises(InvalidTasks, match=r"t.parquet cannot be read: "):
            TaskSet(path).prepare()
    parquet.write_table(pa.Table.from_pylist([{"id": 1}]).slice(0, 0), path)
    with pytest.raises(InvalidTasks, match=r"t\.parquet has no rows"):
        TaskSet(path).prepare()


def test_of_a_table_with_ids_only_those_are_read_before_the_first_task(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"uid": n, "q": "x", "answer": "y"} for n in range(100)])
    read: list[Any] = []

    def note(batch: Any) -> Any:
        read.append({*batch})
        return batch

    tasks = TaskSet(rows.with_transform(note), id="uid", private=("answer",))
    tasks.prepare()
    assert [{*each} for each in read] == [{"uid"}, {"uid", "q", "answer"}]
    draw = tasks.draw()
    assert draw is not None
    assert draw.task == Task("0", {"q": "x"}, {"answer": "y"})
    for wrong, message in (
        (TaskSet(rows, private=("answr",)), "has no column 'answr'; it has uid, q, answer"),
        (TaskSet(rows, id="nr"), "row 0 of the Dataset has no column 'nr' for its id"),
        (TaskSet(rows, id="q"), "row 0 of the Dataset and row 1 of the Dataset have the same id"),
    ):
        with pytest.raises(InvalidTasks, match=message):
            wrong.prepare()


def test_a_file_that_goes_away_or_changes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"id": 1}\n{"id": 2}\n')
    tasks = TaskSet(path)
    tasks.prepare()
    path.write_text('{"id": 1}\n')
    assert tasks.draw() is not None
    with pytest.raises(InvalidTasks, match=r"line 2 of t\.jsonl is not JSON"):
        tasks.draw()
    path.unlink()
    with pytest.raises(InvalidTasks, match=r"t.jsonl cannot be read: No such file"):
        tasks.draw()


def test_rows_of_an_object_whose_items_raise() -> None:
    class Broken:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, number: int) -> Any:
            if number == 2:
                raise KeyError("lost")
            return {"id": number}

    with pytest.raises(InvalidTasks, match="row 2 of the Broken cannot be read: KeyError: 'lost'"):
        TaskSet(Broken()).prepare()  # type: ignore[arg-type]  # it has a length and items


def test_a_reader_tells_its_choice_of_columns() -> None:
    reader = Reader({"question": "prompt"}, ("answer",), "uid")
    assert reader.describe() == {
        "columns": {"question": "prompt"},
        "private": ["answer"],
        "id": "uid",
    }
    assert Reader(None, (), None).describe() == {}
    task = reader.task({"uid": "a", "question": "q", "answer": "x", "level": 2}, "row 0")
    assert task == Task("a", {"prompt": "q"}, {"answer": "x"})
