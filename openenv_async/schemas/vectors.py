"""JSON Schemas of the rows of a vector of environments, and of one row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["batch_schema", "row_schema", "rows_schema"]


def rows_schema(batch: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return the schema of ``VectorRows``.

    Args:
        batch: the schema of a batch of observations.
        size: rows.
    """

    def columns(dtype: str, count: int | None) -> dict[str, Any]:
        array = {"type": "array", "x-ndarray": {"dtype": dtype, "shape": [count]}}
        return {"anyOf": [array, {"type": "null"}], "default": None}

    return {
        "title": "VectorRows",
        "type": "object",
        "properties": {
            "observations": dict(batch),
            "rewards": columns("<f8", size),
            "terminated": columns("|b1", size),
            "truncated": columns("|b1", size),
            "given": columns("|b1", size),
            "env_id": columns("<i8", None),
        },
        "required": ["observations"],
    }


def batch_schema(row: Mapping[str, Any], size: int) -> dict[str, Any] | None:
    """Return the schema of a batch of rows that are arrays, integers or numbers; else ``None``.

    Args:
        row: the schema of one row.
        size: rows.
    """
    array = row.get("x-ndarray")
    if array is not None:
        if "shape" not in array:
            return None
        batch = {**array, "shape": [size, *array["shape"]]}
        for bound in ("low", "high"):
            if isinstance(batch.get(bound), list):
                batch[bound] = [batch[bound]] * size
    elif row.get("type") in ("integer", "number"):
        dtype = "<i8" if row["type"] == "integer" else "<f8"
        low, high = row.get("minimum"), row.get("maximum")
        batch = {"dtype": dtype, "shape": [size], "low": low, "high": high}
    else:
        return None
    return {"type": "array", "x-ndarray": batch}


def row_schema(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schema of one row, as far as that of a batch tells it; else an empty one.

    Bounds that differ from number to number are left out.
    """
    array = batch.get("x-ndarray")
    if array is None or not array.get("shape"):
        return {}
    row = {**array, "shape": array["shape"][1:]}
    for bound in ("low", "high"):
        if isinstance(row.get(bound), list):
            del row[bound]
    return {"type": "array", "x-ndarray": row}
