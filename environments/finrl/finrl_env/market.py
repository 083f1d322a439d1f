"""Prices, features and dates of what is traded, made once per process."""

from __future__ import annotations

import bisect
import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finrl_env.frames import Frame, read_frame
from finrl_env.indicators import INDICATORS, LOOKBACK, indicators, turbulence
from openenv_async.errors import InvalidOption

__all__ = ["Market", "load_market", "sent_market"]

_TURBULENCE = "turbulence"


@dataclass(frozen=True, slots=True)
class Market:
    """Some stocks over time.

    Attributes:
        frame: what it is made of.
        tickers: [n].
        dates: ISO, ascending, [days].
        prices: closing prices, float64 [days, n].
        opens: opening prices, float64 [days, n]; ``None``: the frame has none.
        volumes: traded stocks, float64 [days, n]; ``None``: the frame has none.
        names: of the features, [k].
        features: float64 [days, k, n].
        turbulence: float64 [days].
    """

    frame: Frame
    tickers: tuple[str, ...]
    dates: tuple[str, ...]
    prices: NDArray[np.float64]
    opens: NDArray[np.float64] | None
    volumes: NDArray[np.float64] | None
    names: tuple[str, ...]
    features: NDArray[np.float64]
    turbulence: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        frame: Frame,
        tickers: tuple[str, ...] | None = None,
        names: tuple[str, ...] | None = None,
    ) -> Market:
        """Return the market of a frame, with some or all of its tickers.

        Args:
            frame: the numbers.
            tickers: which, in this order.
            names: of the features: columns of the frame, else computed ones.

        Raises:
            InvalidOption: there is no such ticker or feature, or a number of one is missing.
        """
        picked = _picked(frame, tickers)
        prices = picked.columns["close"]
        names = INDICATORS if names is None else names
        features = np.empty((len(picked.dates), len(names), len(picked.tickers)))
        computed = None
        for at, name in enumerate(names):
            if name in picked.columns:
                features[:, at] = picked.number(name, "tech_indicators")
            elif name in INDICATORS:
                if computed is None:
                    computed = indicators(prices, _typical(picked))
                features[:, at] = computed[:, INDICATORS.index(name)]
            else:
                known = sorted({*INDICATORS, *picked.columns})
                raise InvalidOption(
                    f"there is no feature {name!r}: take some of {', '.join(known)}",
                    option="tech_indicators",
                )
        return cls(
            frame,
            picked.tickers,
            picked.dates,
            prices,
            picked.columns.get("open"),
            picked.columns.get("volume"),
            names,
            features,
            _unusual(picked),
        )

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

    def covariance(self, day: int) -> NDArray[np.float64]:
        """Return the covariance of the daily returns of the year up to a day: float64 [n, n].

        It is of fewer days where there are fewer, and 0 where there are not two returns.
        """
        past = self.prices[max(0, day - LOOKBACK) : day + 1]
        count = len(self.tickers)
        if len(past) < 3:
            return np.zeros((count, count))
        return np.cov((past[1:] / past[:-1] - 1).T).reshape(count, count)


@functools.lru_cache(maxsize=8)
def load_market(
    path: str | None = None,
    tickers: tuple[str, ...] | None = None,
    names: tuple[str, ...] | None = None,
) -> Market:
    """Return the market of a file, the bundled one by default; see ``read_frame``, ``Market.of``.

    Raises:
        InvalidOption: there is no such file, ticker or feature, or it breaks a rule of frames.
    """
    return Market.of(read_frame(path), tickers, names)


sent_market = functools.lru_cache(maxsize=8)(Market.of)
"""The market of a frame that a client or a caller gave: kept apart, it displaces no file's."""


def _picked(frame: Frame, tickers: tuple[str, ...] | None) -> Frame:
    if tickers is None:
        return frame
    for ticker in tickers:
        if ticker not in frame.tickers:
            raise InvalidOption(
                f"there are no prices of {ticker!r}: take some of {', '.join(frame.tickers)}",
                option="tickers",
            )
    at = [frame.tickers.index(ticker) for ticker in tickers]
    columns = {name: np.ascontiguousarray(each[:, at]) for name, each in frame.columns.items()}
    return Frame(tickers, frame.dates, columns)


def _typical(frame: Frame) -> NDArray[np.float64]:
    """Return (high + low + close) / 3 where there are all three, else the closing price."""
    columns = frame.columns
    if "high" not in columns or "low" not in columns:
        return columns["close"]
    return (columns["high"] + columns["low"] + columns["close"]) / 3


def _unusual(frame: Frame) -> NDArray[np.float64]:
    """Return the turbulence: the frame's own, one number a day, or computed."""
    if _TURBULENCE not in frame.columns:
        return turbulence(frame.columns["close"])
    column = frame.number(_TURBULENCE, "data")
    apart = np.flatnonzero((column != column[:, :1]).any(axis=1))
    if apart.size:
        raise InvalidOption(
            f"turbulence differs between tickers on {frame.dates[apart[0]]}: it is one number a"
            " day",
            option="data",
        )
    return np.ascontiguousarray(column[:, 0])
