"""The database: four public-domain tables, read-only, with bounds on time, rows and sizes.

Rules:

- One file for a process, made once from the CSV files of vega-datasets; every session has a
  connection of its own to it, opened as immutable, so that readers never wait for each other.
- An authorizer lets reading through and nothing else: no PRAGMA, no ATTACH, no writing.
- A statement that runs longer than its time is interrupted; what it read so far is not shown.
"""

from __future__ import annotations

import atexit
import csv
import functools
import importlib.util
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sqlite_questions_env.models import Table

__all__ = ["TABLES", "Database", "Rows", "database_file", "render"]

TABLES: Final[dict[Table, tuple[str, dict[str, str]]]] = {
    "airports": (
        "airports.csv",
        {
            "iata": "TEXT",
            "name": "TEXT",
            "city": "TEXT",
            "state": "TEXT",
            "country": "TEXT",
            "latitude": "REAL",
            "longitude": "REAL",
        },
    ),
    "seattle_weather": (
        "seattle-weather.csv",
        {
            "date": "TEXT",
            "precipitation": "REAL",
            "temp_max": "REAL",
            "temp_min": "REAL",
            "wind": "REAL",
            "weather": "TEXT",
        },
    ),
    "iowa_electricity": (
        "iowa-electricity.csv",
        {"year": "INTEGER", "source": "TEXT", "net_generation": "INTEGER"},
    ),
    "us_employment": (
        "us-employment.csv",
        {
            "month": "TEXT",
            "nonfarm": "REAL",
            "construction": "REAL",
            "manufacturing": "REAL",
            "retail_trade": "REAL",
            "information": "REAL",
            "financial_activities": "REAL",
            "leisure_and_hospitality": "REAL",
            "government": "REAL",
        },
    ),
}
"""Name of each table: its file, and its columns with their types."""

_MAX_TEXT: Final = 100_000
"""Characters of one value, and of what a function makes."""
_MAX_CELL: Final = 200
"""Characters of a value that are shown."""
_STEPS: Final = 2_000
"""Instructions of SQLite's machine between two looks at the clock."""
_READING: Final = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE})
_NOT_CALLED: Final = frozenset(
    {"load_extension", "readfile", "writefile", "edit", "fts3_tokenizer"}
)

Rows = tuple[list[str], list[tuple[Any, ...]], int]
"""Names of the columns, the rows that are shown, and how many there are."""


def _folder() -> Path:
    """The data of vega-datasets, found without running its code."""
    found = importlib.util.find_spec("vega_datasets")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError("vega-datasets is not installed: pip install vega-datasets==0.9.0")
    return Path(found.submodule_search_locations[0], "_data")


def _read(table: Table) -> Iterator[tuple[Any, ...]]:
    name, columns = TABLES[table]
    kinds: dict[str, Any] = {"TEXT": str, "REAL": float, "INTEGER": int}
    with (_folder() / name).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if table == "seattle_weather":
                row["date"] = row["date"].replace("/", "-")
            if table == "iowa_electricity":
                row["year"] = row["year"][:4]
            yield tuple(
                kinds[kind](row[column]) if row[column] != "" else None
                for column, kind in columns.items()
            )


@functools.cache
def database_file() -> Path:
    """The database of this process, removed at its end."""
    folder = tempfile.mkdtemp(prefix="sqlite-questions-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder, "tables.db")
    with sqlite3.connect(path) as connection:
        for table, (_, columns) in TABLES.items():
            names = ", ".join(f"{name} {kind}" for name, kind in columns.items())
            places = ", ".join("?" * len(columns))
            connection.execute(f"CREATE TABLE {table} ({names})")
            connection.executemany(f"INSERT INTO {table} VALUES ({places})", _read(table))
    connection.close()
    return path


class Database:
    """A read-only connection. Any thread may use it, one at a time.

    Args:
        max_rows: rows of a query that are shown.
        max_seconds: that one query may take.
    """

    def __init__(self, max_rows: int = 20, max_seconds: float = 1.0) -> None:
        self._max_rows = max_rows
        self._max_seconds = max_seconds
        self._ends = 0.0
        self._connection = sqlite3.connect(
            f"file:{database_file()}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_TEXT)
        self._connection.set_authorizer(_allow)
        self._connection.set_progress_handler(self._is_late, _STEPS)

    def _is_late(self) -> bool:
        return time.monotonic() > self._ends

    def query(self, sql: str) -> Rows:
        """Run one statement that reads.

        Raises:
            ValueError: it fails, is not allowed, or takes too long; the message is for its author.
        """
        self._ends = time.monotonic() + self._max_seconds
        try:
            cursor = self._connection.execute(sql)
            if cursor.description is None:
                raise ValueError("the statement gives no rows: write a SELECT")
            names = [column[0] for column in cursor.description]
            shown = cursor.fetchmany(self._max_rows)
            count = len(shown) + sum(1 for _ in cursor)
        except (sqlite3.Warning, sqlite3.Error, UnicodeError, OverflowError) as exc:
            raise ValueError(self._told(str(exc))) from None
        return names, shown, count

    def _told(self, said: str) -> str:
        """The reason of a failure, in words for the author of the statement."""
        if said == "interrupted":
            return f"the statement took more than {self._max_seconds:g} s: ask for less"
        if said == "not authorized" or "prohibited" in said:
            return "only SELECT statements are allowed"
        return said

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _allow(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    if action in _READING:
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION and second not in _NOT_CALLED:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


def render(rows: Rows) -> str:
    """A result as text: a line a row, values between bars."""
    names, shown, count = rows
    lines = [" | ".join(names), *(" | ".join(map(_cell, row)) for row in shown)]
    if count > len(shown):
        lines.append(f"({count - len(shown)} more rows)")
    elif not shown:
        lines.append("(no rows)")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = "NULL" if value is None else str(value)
    return text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]}…"
