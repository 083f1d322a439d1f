"""Data frames of daily prices: read, checked, and the same whatever their form.

Forms, by file or as plain data:

- long, as FinRL's: a row for every day and ticker, with columns ``date``, ``tic``, ``close`` and,
  if there are any, ``open``, ``high``, ``low``, ``volume`` and features of the user's own;
- wide: a row for every day, and a column of closing prices for every ticker;
- wide with several fields: two lines of heads, field and ticker, as yfinance writes them; as plain
  data a dict of fields, each a dict of tickers.

Every ticker has every day once, days ascend, prices are positive, ``low`` is the lowest and
``high`` the highest of a day, ``volume`` is not negative. A breach is refused with its place.
"""

from __future__ import annotations

import csv
import datetime
import functools
import gzip
import hashlib
import importlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from openenv_async.errors import InvalidOption

__all__ = ["BUNDLED", "MAX_SENT_CELLS", "PRICES", "Frame", "data_of", "read_frame", "sent_frame"]

BUNDLED: Final = Path(__file__).with_name("data") / "prices.csv.gz"
PRICES: Final = ("open", "high", "low", "close")
MAX_SENT_CELLS: Final = 200_000
"""Numbers in the frame of one reset: it is read on the loop that serves others too."""
_MAX_SENT_WORK: Final = 4_000_000
"""Days × tickers² of such a frame: what its turbulence takes, some tenths of a second."""
_KNOWN: Final = (*PRICES, "volume")
_DATE: Final = re.compile(r"(\d{4}-\d\d-\d\d)(?:[T ]00:00(?::00(?:\.0+)?)?(?:Z|[+-]00:?00)?)?")
_ROUNDING: Final = 1e-6
"""The part by which ``low`` may lie above a price: adjusted prices are rounded one by one."""

Column = NDArray[np.float64]
Raw = Mapping[Any, Sequence[Any]]


class Frame:
    """Daily numbers of some tickers. Equal content makes equal frames.

    Attributes:
        tickers: [n].
        dates: ISO, ascending, [days].
        columns: float64 [days, n] by name: ``close`` always; NaN where a feature has no number.
        digest: of all that, bytes.
    """

    __slots__ = ("columns", "dates", "digest", "tickers")

    def __init__(
        self, tickers: tuple[str, ...], dates: tuple[str, ...], columns: dict[str, Column]
    ) -> None:
        self.tickers = tickers
        self.dates = dates
        self.columns = columns
        made = hashlib.blake2b(repr((tickers, dates, list(columns))).encode(), digest_size=16)
        for column in columns.values():
            made.update(np.ascontiguousarray(column).tobytes())
        self.digest = made.digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frame) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def number(self, name: str, where: str) -> Column:
        """Return a column all of whose numbers are there: float64 [days, n].

        Raises:
            InvalidOption: one is missing or infinite; the message names the first.
        """
        column = self.columns[name]
        bad = np.argwhere(~np.isfinite(column))
        if bad.size:
            day, ticker = bad[0]
            raise InvalidOption(
                f"{name} of {self.tickers[ticker]} on {self.dates[day]} is missing or not a finite"
                f" number: fill it, or leave {name!r} out of {where}",
                option=where,
            )
        return column


@functools.lru_cache(maxsize=8)
def read_frame(path: str | None) -> Frame:
    """Return the frame of a file: CSV, plain or gzip, or Parquet. ``None``: the bundled prices.

    Raises:
        InvalidOption: there is no such file, or it breaks a rule.
    """
    where = Path(path) if path else BUNDLED
    try:
        raw = _parquet(where) if where.suffix == ".parquet" else _csv(where)
    except (OSError, UnicodeDecodeError, csv.Error, EOFError, ValueError) as exc:
        raise InvalidOption(f"{where} cannot be read as prices: {exc}", option="data_path") from exc
    return _Reader(str(where), "data_path").frame(raw)


def sent_frame(data: Any) -> Frame:
    """Return the frame of plain data.

    Args:
        data: columns (``frame.to_dict("list")``), rows (a list of objects), fields of tickers, or
            a pandas data frame.

    Raises:
        InvalidOption: it breaks a rule, has more than ``MAX_SENT_CELLS`` numbers, or so many
            tickers that others would wait for its turbulence.
    """
    reader = _Reader("data", "data")
    if not isinstance(data, Mapping | list | tuple):
        data = data_of(data)
    if isinstance(data, Mapping):
        raw: dict[Any, Any] = {}
        for name, column in data.items():
            if isinstance(column, Mapping):
                raw |= {(name, ticker): values for ticker, values in column.items()}
            else:
                raw[name] = column
        for name, column in raw.items():
            if isinstance(column, str | bytes) or not isinstance(column, Sequence | np.ndarray):
                reader.refuse(f"{_told(name)} is not a list of values")
        cells = sum(len(column) for column in raw.values())
    else:
        cells = sum(len(row) if isinstance(row, Mapping) else 1 for row in data)
        raw = {}
    if cells > MAX_SENT_CELLS:
        reader.refuse(
            f"it has {cells:,} values, and {MAX_SENT_CELLS:,} may be sent: give the server the"
            " file with data_path"
        )
    frame = reader.frame(raw if isinstance(data, Mapping) else _columns(data, reader))
    count, days = len(frame.tickers), len(frame.dates)
    if days * count**2 > _MAX_SENT_WORK:
        reader.refuse(
            f"{count} tickers over {days} days are more than a reset may bring (days × tickers² up"
            f" to {_MAX_SENT_WORK:,}): give the server the file with data_path"
        )
    return frame


def data_of(frame: Any) -> dict[Any, Any]:
    """Return a pandas data frame, long or wide, as plain data that can be sent.

    Columns of a long frame are lists, with its dates as text; a wide frame with two levels of
    columns becomes a dict of fields, each a dict of tickers.

    Raises:
        InvalidOption: it is not a data frame.
    """
    if not hasattr(frame, "columns") or not hasattr(frame, "reset_index"):
        raise InvalidOption(
            f"data is {type(frame).__name__}: give a pandas data frame, columns or rows",
            option="data",
        )
    if not any(str(_first(name)).lower() == "date" for name in frame.columns):
        frame = frame.reset_index(names="date")
    data: dict[Any, Any] = {}
    for name in frame.columns:
        values = [_plain(value) for value in frame[name].tolist()]
        if isinstance(name, tuple) and str(name[0]).lower() != "date":
            data.setdefault(name[0], {})[name[1]] = values
        else:
            data[_first(name)] = values
    return data


def _first(name: Any) -> Any:
    return name[0] if isinstance(name, tuple) else name


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime.date) else value


def _told(name: Any) -> str:
    return " ".join(map(str, name)) if isinstance(name, tuple) else str(name)


def _columns(rows: Sequence[Any], reader: _Reader) -> Raw:
    """Return rows, all with the keys of the first, as columns."""
    if not rows or not isinstance(rows[0], Mapping):
        reader.refuse("it must be columns or a list of rows, each an object")
    names = rows[0].keys()
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping) or row.keys() != names:
            reader.refuse(f"row {number} has not the fields of row 0: {', '.join(map(str, names))}")
    return {name: [row[name] for row in rows] for name in names}


def _csv(path: Path) -> Raw:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file) if row]
    if not rows:
        raise ValueError("it is empty")
    head: list[Any] = [name.strip() for name in rows[0]]
    body = rows[1:]
    if len(body) > 1 and body[0][0].strip().lower() == "ticker":  # yfinance: field, ticker
        pairs = zip(head, body[0], strict=False)
        head = ["date", *((field, ticker.strip()) for field, ticker in list(pairs)[1:])]
        body = body[1:]
        if body[0][0].strip().lower() == "date":  # the index's name on a line of its own
            body = body[1:]
    if len(set(head)) < len(head):
        twice = next(name for name in head if head.count(name) > 1)
        raise ValueError(f"the column {_told(twice)!r} is there twice")
    for number, row in enumerate(body, len(rows) - len(body) + 1):
        if len(row) != len(head):
            raise ValueError(f"line {number} has {len(row)} fields, the head {len(head)}")
    return {name: [row[at] for row in body] for at, name in enumerate(head)}


def _parquet(path: Path) -> Raw:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise InvalidOption(
            f"{path} is Parquet, which needs pyarrow: pip install pyarrow, or give CSV",
            option="data_path",
        ) from None
    table = parquet.read_table(path)
    return {
        name: [_plain(value) for value in table.column(name).to_pylist()]
        for name in table.column_names
        if not name.startswith("__index_level")
    }


class _Reader:
    """Columns of either form, checked into a ``Frame``.

    Args:
        where: names the frame in messages.
        option: that it came by.
    """

    def __init__(self, where: str, option: str) -> None:
        self._where = where
        self._option = option

    def refuse(self, reason: str) -> NoReturn:
        raise InvalidOption(f"{self._where}: {reason}", option=self._option)

    def frame(self, raw: Raw) -> Frame:
        named: dict[Any, Any] = {}
        for name, column in raw.items():
            key = (_known(name[0]), str(name[1])) if isinstance(name, tuple) else _known(name)
            if key in named:
                self.refuse(f"there are two columns {_told(key)!r}")
            named[key] = column
        dates = named.pop("date", None)
        if dates is None:
            self.refuse(f"there is no column 'date' among {', '.join(map(_told, named))}")
        lengths = {_told(name): len(column) for name, column in named.items()}
        for name, length in lengths.items():
            if length != len(dates):
                self.refuse(f"{name} has {length} values and date {len(dates)}")
        days = [self._date(value) for value in dates]
        frame = self._long(days, named) if "tic" in named else self._wide(days, named)
        self._check(frame)
        return frame

    def _date(self, value: Any) -> str:
        text = _plain(value)
        found = _DATE.fullmatch(text.strip()) if isinstance(text, str) else None
        try:
            if found is not None:
                return datetime.date.fromisoformat(found[1]).isoformat()
        except ValueError:
            pass
        self.refuse(f"{value!r:.40} is not a date: a row is a day, written YYYY-MM-DD")

    def _long(self, days: list[str], named: dict[Any, Any]) -> Frame:
        tics = [str(tic).strip() for tic in named.pop("tic")]
        if "close" not in named:
            self.refuse(f"there is no column 'close' among {', '.join(map(_told, named))}")
        tickers, dates = tuple(sorted(set(tics))), tuple(sorted(set(days)))
        column_of = {ticker: at for at, ticker in enumerate(tickers)}
        row_of = {date: at for at, date in enumerate(dates)}
        if len(tickers) * len(dates) > 4 * len(days) + 1000:
            self.refuse("most tickers have no row on most days: every ticker needs every day")
        place = np.full((len(dates), len(tickers)), -1, np.int64)
        for row, (day, tic) in enumerate(zip(days, tics, strict=True)):
            at = row_of[day], column_of[tic]
            if place[at] >= 0:
                self.refuse(f"there are two rows of {tic} on {day}")
            place[at] = row
        missing = np.argwhere(place < 0)
        if missing.size:
            day, ticker = missing[0]
            self.refuse(
                f"{tickers[ticker]} is missing on {dates[day]}: every ticker needs every day"
            )
        columns = {}
        for name, values in named.items():
            numbers = self._numbers(name, values, needed=name in _KNOWN)
            if numbers is not None:
                columns[str(name)] = numbers[place]
        return Frame(tickers, dates, columns)

    def _wide(self, days: list[str], named: dict[Any, Any]) -> Frame:
        if list(days) != sorted(set(days)):
            self.refuse("the dates must ascend, each there once")
        fields: dict[str, dict[str, Column]] = {}
        for name, values in named.items():
            field, ticker = name if isinstance(name, tuple) else ("close", str(name))
            numbers = self._numbers(name, values, needed=True)
            assert numbers is not None
            fields.setdefault(str(field), {})[ticker] = numbers
        closes = fields.get("close", {})
        if not closes:
            self.refuse("there are no closing prices")
        for field, found in fields.items():
            for ticker in closes.keys() ^ found.keys():
                lacks = field if ticker in closes else "close"
                self.refuse(f"{ticker} has no {lacks}")
        columns = {
            field: np.stack([found[ticker] for ticker in closes], axis=1)
            for field, found in fields.items()
        }
        return Frame(tuple(closes), tuple(days), columns)

    def _numbers(self, name: Any, values: Any, *, needed: bool) -> Column | None:
        """Return a column as float64, NaN where there is none; ``None`` if it is text."""
        try:
            return np.array([_number(value) for value in values], np.float64)
        except (TypeError, ValueError, OverflowError):
            if not needed:
                return None
        bad = next(value for value in values if not _is_number(value))
        self.refuse(f"{_told(name)} has {bad!r:.40}, which is not a number")

    def _check(self, frame: Frame) -> None:
        if len(frame.dates) < 2:
            self.refuse("it needs two days or more")
        if not all(frame.tickers):
            self.refuse("a ticker has no name")
        columns = frame.columns
        for name in [each for each in _KNOWN if each in columns]:
            column = columns[name]
            good = np.isfinite(column) & (column >= 0 if name == "volume" else column > 0)
            least = "negative" if name == "volume" else "not positive"
            self._each(frame, ~good, f"{name} is missing or {least}")
        rest = [columns[name] for name in ("open", "close") if name in columns]
        for name, wrong in (("low", np.greater), ("high", np.less)):
            for other in rest if name in columns else []:
                slack = 1 + (_ROUNDING if name == "low" else -_ROUNDING)
                self._each(
                    frame,
                    wrong(columns[name], other * slack),
                    f"{name} is not the day's {name}est price; if only closing prices are adjusted,"
                    " adjust the others too or leave them out",
                )

    def _each(self, frame: Frame, bad: NDArray[np.bool_], reason: str) -> None:
        found = np.argwhere(bad)
        if found.size:
            day, ticker = found[0]
            self.refuse(f"{frame.tickers[ticker]} on {frame.dates[day]}: {reason}")


def _known(name: Any) -> Any:
    lower = str(name).strip().lower()
    return lower if lower in (*_KNOWN, "date", "tic") else str(name)


def _number(value: Any) -> float:
    if value is None or value == "":
        return math.nan
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, str | int | float | np.number):
        raise TypeError
    return float(value)


def _is_number(value: Any) -> bool:
    try:
        _number(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True
