"""Prices, indicators and dates, read once per process."""

from __future__ import annotations

import bisect
import csv
import functools
import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

import numpy as np
from numpy.typing import NDArray

from finrl_env.indicators import LOOKBACK, indicators, turbulence
from openenv_async.errors import InvalidOption

__all__ = ["BUNDLED", "Market", "load_market"]

BUNDLED: Final = Path(__file__).with_name("data") / "prices.csv.gz"


@dataclass(frozen=True, slots=True)
class Market:
    """Some stocks over time.

    Attributes:
        tickers: [n].
        dates: ISO, ascending, [days].
        prices: adjusted closing prices, float64 [days, n].
        features: indicators, float64 [days, k, n].
        turbulence: float64 [days].
    """

    tickers: tuple[str, ...]
    dates: tuple[str, ...]
    prices: NDArray[np.float64]
    features: NDArray[np.float64]
    turbulence: NDArray[np.float64]

    @classmethod
    def of(
        cls, tickers: tuple[str, ...], dates: tuple[str, ...], prices: NDArray[np.float64]
    ) -> Market:
        """The market with what follows from the prices."""
        return cls(tickers, dates, prices, indicators(prices), turbulence(prices))

    def days(self, first: str | None, last: str | None, before: str | None) -> range:
        """The days from ``first`` to ``last``, both included, and before ``before``.

        The first 252 days only warm the indicators up, where there are twice as many.
        """
        warm = LOOKBACK if len(self.dates) > 2 * LOOKBACK else 0
        begin = bisect.bisect_left(self.dates, first) if first else 0
        end = bisect.bisect_right(self.dates, last) if last else len(self.dates)
        if before:
            end = min(end, bisect.bisect_left(self.dates, before))
        return range(max(begin, warm), end)


@functools.lru_cache(maxsize=8)
def load_market(path: str | None = None, tickers: tuple[str, ...] | None = None) -> Market:
    """The market of a file, the bundled one by default, with some or all of its tickers.

    Args:
        path: CSV, plain or gzip: either wide (``date`` and a column of closing prices for every
            ticker) or long, as FinRL's (``date``, ``tic``, ``close`` and more).
        tickers: which, in this order.

    Raises:
        InvalidOption: there is no such file or ticker, or it is no such file.
    """
    known, dates, prices = _read(path)
    wanted = tickers or known
    for ticker in wanted:
        if ticker not in known:
            raise InvalidOption(
                f"there are no prices of {ticker!r}: take some of {', '.join(known)}",
                option="tickers",
            )
    columns = [known.index(ticker) for ticker in wanted]
    return Market.of(tuple(wanted), dates, np.ascontiguousarray(prices[:, columns]))


Table = tuple[tuple[str, ...], tuple[str, ...], NDArray[np.float64]]


@functools.lru_cache(maxsize=8)
def _read(path: str | None) -> Table:
    where = Path(path) if path else BUNDLED
    try:
        with _open(where) as file:
            rows = csv.reader(file)
            head = [name.strip() for name in next(rows)]
            table = _long(head, rows) if "tic" in head else _wide(head, rows)
    except (OSError, StopIteration, ValueError, IndexError) as exc:
        raise InvalidOption(f"{where} cannot be read as prices: {exc}", option="data_path") from exc
    _, dates, prices = table
    if list(dates) != sorted(set(dates)) or len(dates) < 2:
        raise InvalidOption(f"{where}: the dates must be two or more and ascend")
    if not (np.isfinite(prices).all() and (prices > 0).all()):
        raise InvalidOption(f"{where}: a price is missing or not positive")
    return table


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _wide(head: list[str], rows: Iterator[list[str]]) -> Table:
    dates, prices = [], []
    for date, *row in rows:
        dates.append(date[:10])
        prices.append(row)
    return tuple(head[1:]), tuple(dates), np.array(prices, np.float64).reshape(len(dates), -1)


def _long(head: list[str], rows: Iterator[list[str]]) -> Table:
    date_at, tic_at, close_at = (head.index(name) for name in ("date", "tic", "close"))
    closes = {(row[date_at][:10], row[tic_at]): float(row[close_at]) for row in rows}
    dates = tuple(sorted({date for date, _ in closes}))
    tickers = tuple(sorted({ticker for _, ticker in closes}))
    prices = [[closes.get((date, ticker), np.nan) for ticker in tickers] for date in dates]
    return tickers, dates, np.array(prices, np.float64)
