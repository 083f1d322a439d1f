"""The index of episodes: values, codes, and what a page is sent of it."""

from __future__ import annotations

import json
import math
import struct
from array import array
from typing import Any

from openenv_async.viewer.columns import COLUMNS, EpisodeColumns

TYPECODES = {"f64": "d", "f32": "f", "i32": "i", "u8": "B"}


def unpacked(octets: bytes) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Read the bytes as the page does."""
    size = struct.unpack_from("<I", octets)[0]
    header = json.loads(octets[4 : 4 + size])
    offset = 4 + size
    columns = {}
    for name, kind in header["columns"]:
        assert offset % 8 == 0
        column = array(TYPECODES[kind])
        length = header["rows"] * column.itemsize
        column.frombytes(octets[offset : offset + length])
        columns[name] = column.tolist()
        offset += -(-length // 8) * 8
    assert offset == len(octets)
    return header, columns


def test_a_row_is_read_back_with_its_texts() -> None:
    columns = EpisodeColumns()
    columns.append({"index": 3, "return": 0.5, "task": "sum-1", "status": "completed"})
    row = columns.row(0)
    assert (row["index"], row["return"], row["task"], row["status"]) == (
        3,
        0.5,
        "sum-1",
        "completed",
    )
    assert row["error"] is None
    assert row["steps"] is None
    assert row["duration"] is None


def test_values_of_other_kinds_are_unknown() -> None:
    columns = EpisodeColumns()
    columns.append(
        {"index": "no", "return": 10**400, "duration": 1e300, "steps": 1 << 40, "task": 7}
    )
    assert columns.row(0) == dict.fromkeys(COLUMNS) | {"task": "7"}


def test_a_page_is_sent_what_it_lacks() -> None:
    columns = EpisodeColumns()
    for number in range(3):
        columns.append({"index": number, "task": f"task-{number}", "return": number / 2})
    header, values = unpacked(columns.packed())
    assert (header["first"], header["rows"]) == (0, 3)
    assert header["tables"]["task"] == {"first": 0, "texts": ["task-0", "task-1", "task-2"]}
    assert values["return"] == [0.0, 0.5, 1.0]
    assert values["steps"] == [-1, -1, -1]
    assert all(map(math.isnan, values["duration"]))
    columns.append({"index": 3, "task": "task-3"})
    header, values = unpacked(columns.packed(header["epoch"], 3, {"task": 3}))
    assert (header["first"], header["rows"], values["index"]) == (3, 1, [3])
    assert header["tables"]["task"] == {"first": 3, "texts": ["task-3"]}


def test_after_a_change_everything_is_sent_again() -> None:
    columns = EpisodeColumns()
    columns.append({"index": 0, "status": "infra_error"})
    epoch = columns.epoch
    columns.replace(0, {"index": 0, "status": "completed"})
    header, _ = unpacked(columns.packed(epoch, 1, {"status": 1}))
    assert (header["first"], header["rows"]) == (0, 1)
    assert header["tables"]["status"] == {"first": 0, "texts": ["infra_error", "completed"]}
    columns.clear()
    assert len(columns) == 0
    assert columns.epoch > header["epoch"]


def test_a_table_that_is_full_takes_no_more() -> None:
    columns = EpisodeColumns()
    for number in range(300):
        columns.append({"status": f"status-{number}"})
    assert columns.row(254)["status"] == "status-254"
    assert columns.row(299)["status"] is None
