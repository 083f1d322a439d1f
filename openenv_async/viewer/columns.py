"""The index of a source: one row for each episode, as typed columns and tables of texts.

The page gets it as bytes and filters it without another request. Layout of the bytes: a
little-endian uint32 with the length of a JSON header, the header, filled up with spaces to a
multiple of 8 bytes, and the columns one after the other, each filled up with zeros likewise. The
header has ``epoch``, ``first`` (the number of the first row that follows), ``rows`` (how many
follow), ``columns`` (name and type of each: ``f64``, ``f32``, ``i32``, ``u8``) and ``tables`` (for
each column of codes the texts that are new, and how many were there before).
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

__all__ = ["COLUMNS", "TABLES", "EpisodeColumns", "Facts"]

COLUMNS: Final[dict[str, str]] = {
    "return": "f64",
    "started_at": "f64",
    "ended_at": "f64",
    "duration": "f32",
    "queue": "f32",
    "policy": "f32",
    "model": "f32",
    "environment": "f32",
    "codec": "f32",
    "index": "i32",
    "task": "i32",
    "group": "i32",
    "member": "i32",
    "steps": "i32",
    "mistakes": "i32",
    "calls": "i32",
    "tokens": "i32",
    "attempts": "i32",
    "error_code": "i32",
    "error": "i32",
    "status": "u8",
    "result": "u8",
}
"""Names and types. Seconds and returns are NaN, and numbers -1, where nothing is known."""
TABLES: Final = ("task", "group", "error_code", "error", "status", "result")
"""Columns that hold places in a table of texts; -1 (255 in ``u8``) where there is none."""
_TYPECODES: Final = {"f64": "d", "f32": "f", "i32": "i", "u8": "B"}
_MOST_CODES: Final = {"u8": 255, "i32": (1 << 31) - 1}
_LONGEST: Final = 300
"""Characters of a text of a table that are kept."""
_INT32: Final = range(-(1 << 31), 1 << 31)

Facts = Mapping[str, Any]
"""The values of an episode's row, by the names of ``COLUMNS``; a missing one is unknown."""


class EpisodeColumns:
    """The columns of a source.

    Attributes:
        epoch: grows when a row changes, so that what was sent before is to be sent again.
        tables: the texts of each column of codes, by their places.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self.tables: dict[str, list[str]] = {name: [] for name in TABLES}
        self._codes: dict[str, dict[str, int]] = {name: {} for name in TABLES}
        self._columns: dict[str, array[Any]] = {
            name: array(_TYPECODES[kind]) for name, kind in COLUMNS.items()
        }

    def __len__(self) -> int:
        return len(self._columns["return"])

    def clear(self) -> None:
        """Forget all rows."""
        epoch = self.epoch
        self.__init__()  # type: ignore[misc]  # as it was when it was made
        self.epoch = epoch + 1

    def append(self, facts: Facts) -> None:
        """Add the row of an episode."""
        for name, kind in COLUMNS.items():
            self._columns[name].append(self._value(name, kind, facts.get(name)))

    def replace(self, row: int, facts: Facts) -> None:
        """Change the row of an episode that has another result now."""
        for name, kind in COLUMNS.items():
            self._columns[name][row] = self._value(name, kind, facts.get(name))
        self.epoch += 1

    def column(self, name: str) -> Sequence[Any]:
        """Return the values of a column: numbers, or places in its table."""
        return self._columns[name]

    def row(self, number: int) -> dict[str, Any]:
        """Return a row with its texts; what is unknown is ``None``."""
        found: dict[str, Any] = {}
        for name, kind in COLUMNS.items():
            value = self._columns[name][number]
            if name in TABLES:
                known = value >= 0 and value < len(self.tables[name])
                found[name] = self.tables[name][value] if known else None
            elif kind in ("f64", "f32"):
                found[name] = None if math.isnan(value) else value
            else:
                found[name] = None if value < 0 else value
        return found

    def packed(
        self, epoch: int = -1, first: int = 0, known: Mapping[str, int] | None = None
    ) -> bytes:
        """Return the rows that a page lacks, as bytes.

        Args:
            epoch: that the page has; of another one everything is sent.
            first: rows that it has.
            known: texts that it has of each table.
        """
        total = len(self)
        if epoch != self.epoch or not 0 <= first <= total:
            first, known = 0, {}
        known = known or {}
        tables = {
            name: {"first": known.get(name, 0), "texts": texts[known.get(name, 0) :]}
            for name, texts in self.tables.items()
        }
        header = msgspec.json.encode(
            {
                "epoch": self.epoch,
                "first": first,
                "rows": total - first,
                "columns": list(COLUMNS.items()),
                "tables": tables,
            }
        )
        header += b" " * (-(4 + len(header)) % 8)
        parts = [struct.pack("<I", len(header)), header]
        for column in self._columns.values():
            octets = _little_endian(column[first:])
            parts += [octets, bytes(-len(octets) % 8)]
        return b"".join(parts)

    def _value(self, name: str, kind: str, value: Any) -> Any:
        if name in self._codes:
            return self._code(name, kind, value)
        if kind in ("f64", "f32"):
            return _real(value, kind)
        whole = isinstance(value, int) and not isinstance(value, bool) and value in _INT32
        return value if whole else -1

    def _code(self, name: str, kind: str, value: Any) -> int:
        none = 255 if kind == "u8" else -1
        if value is None:
            return none
        text = str(value)[:_LONGEST]
        codes = self._codes[name]
        code = codes.get(text)
        if code is None:
            code = len(codes)
            if code >= _MOST_CODES[kind]:
                return none
            codes[text] = code
            self.tables[name].append(text)
        return code


def rows_of(columns: EpisodeColumns) -> Iterator[dict[str, Any]]:
    """Yield all rows with their texts."""
    return (columns.row(number) for number in range(len(columns)))


def _real(value: Any, kind: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        number = float(value)
        if kind == "f32":
            struct.pack("<f", number)
    except OverflowError:
        return math.nan
    return number


def _little_endian(column: array[Any]) -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()
