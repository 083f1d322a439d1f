"""Schemas of batches from those of rows, and of rows from those of batches."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.schemas.vectors import batch_schema, row_schema, rows_schema

INTEGER = {"type": "integer", "minimum": 0, "maximum": 3}


@pytest.mark.parametrize(
    ("row", "batch"),
    [
        (INTEGER, {"dtype": "<i8", "shape": [2], "low": 0, "high": 3}),
        ({"type": "number"}, {"dtype": "<f8", "shape": [2], "low": None, "high": None}),
        ({"x-ndarray": {"dtype": "<f4", "shape": [3]}}, {"dtype": "<f4", "shape": [2, 3]}),
        (
            {"x-ndarray": {"dtype": "<f4", "shape": [1], "low": [-2], "high": 2}},
            {"dtype": "<f4", "shape": [2, 1], "low": [[-2], [-2]], "high": 2},
        ),
    ],
)
def test_rows_that_are_arrays_or_numbers_are_a_batch(row: Any, batch: Any) -> None:
    assert batch_schema(row, 2) == {"type": "array", "x-ndarray": batch}


@pytest.mark.parametrize("row", [{}, {"type": "string"}, {"x-ndarray": {"dtype": "<f4"}}])
def test_other_rows_tell_nothing_of_a_batch(row: Any) -> None:
    assert batch_schema(row, 2) is None


def test_a_row_is_told_by_the_batch_as_far_as_it_goes() -> None:
    batch = {"x-ndarray": {"dtype": "<f4", "shape": [2, 3], "low": 0, "high": [[1] * 3] * 2}}
    assert row_schema(batch)["x-ndarray"] == {"dtype": "<f4", "shape": [3], "low": 0}
    unknown: list[Any] = [{}, {"x-ndarray": {"dtype": "<f4"}}, {"x-ndarray": {"shape": []}}]
    assert [row_schema(each) for each in unknown] == [{}] * 3


def test_the_columns_of_vector_rows_have_their_number() -> None:
    columns = rows_schema({"type": "array"}, 4)["properties"]
    assert columns.pop("observations") == {"type": "array"}
    shapes = {name: each["anyOf"][0]["x-ndarray"]["shape"] for name, each in columns.items()}
    assert shapes.pop("env_id") == [None]
    assert {*map(tuple, shapes.values())} == {(4,)}
