"""Technical indicators and turbulence, computed with NumPy from closing prices.

All take float64 [days, tickers] and give the same shape (turbulence: [days]). Row t depends on
rows up to t only. While a window is not full yet, the rows that there are count.

- ``macd``: EMA₁₂ - EMA₂₆ of the price, with EMAₙ(t) = EMAₙ(t-1) + 2 / (n + 1) × (p - EMAₙ(t-1))
  (Appel).
- ``boll_ub``, ``boll_lb``: mean ± 2 standard deviations (n) of the last 20 prices (Bollinger).
- ``rsi_30``: 100 × U / (U + D), U and D being Wilder averages over 30 days of the gains and of
  the losses; 50 where there were neither (Wilder, 1978).
- ``cci_30``: (p - m) / (0.015 × d), m the mean of the last 30 prices and d their mean distance
  to m; 0 where d is 0 (Lambert). The price is the typical one, (high + low + close) / 3, where
  there are highs and lows, else the close.
- ``close_30_sma``, ``close_60_sma``: means of the last 30 and 60 prices.
- turbulence: (y - μ) Σ⁻¹ (y - μ)ᵀ for the day's returns y, with mean and covariance of the 252
  days before (Kritzman & Li, 2010); 0 until there are that many.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["INDICATORS", "LOOKBACK", "indicators", "turbulence"]

Prices = NDArray[np.float64]

INDICATORS: Final = (
    "macd",
    "boll_ub",
    "boll_lb",
    "rsi_30",
    "cci_30",
    "close_30_sma",
    "close_60_sma",
)
LOOKBACK: Final = 252


def indicators(prices: Prices, typical: Prices | None = None) -> NDArray[np.float64]:
    """All of them: [days, indicators, tickers].

    Args:
        prices: closing prices.
        typical: prices that ``cci_30`` is of; ``None``: the closing prices.
    """
    mean20, deviation20 = _rolling(prices, 20)
    return np.stack(
        [
            _smoothed(prices, 2 / 13) - _smoothed(prices, 2 / 27),
            mean20 + 2 * deviation20,
            mean20 - 2 * deviation20,
            _rsi(prices, 30),
            _cci(prices if typical is None else typical, 30),
            _rolling(prices, 30)[0],
            _rolling(prices, 60)[0],
        ],
        axis=1,
    )


def turbulence(prices: Prices, lookback: int = LOOKBACK) -> NDArray[np.float64]:
    """The turbulence of every day: [days]."""
    returns = prices[1:] / prices[:-1] - 1
    result = np.zeros(len(prices))
    for day in range(lookback, len(returns)):
        past = returns[day - lookback : day]
        centred = past - past.mean(axis=0)
        unusual = returns[day] - past.mean(axis=0)
        covariance = centred.T @ centred / (lookback - 1)
        try:
            solved = np.linalg.solve(covariance, unusual)
        except np.linalg.LinAlgError:  # a stock that did not move for a year
            solved = np.linalg.lstsq(covariance, unusual, rcond=None)[0]
        result[day + 1] = max(0.0, float(unusual @ solved))
    return result


def _windows(prices: Prices, size: int) -> NDArray[np.float64]:
    """The last ``size`` rows up to every row, NaN where there is none: [days, tickers, size]."""
    empty = np.full((size - 1, prices.shape[1]), np.nan)
    return np.lib.stride_tricks.sliding_window_view(np.vstack([empty, prices]), size, axis=0)


def _rolling(prices: Prices, size: int) -> tuple[Prices, Prices]:
    windows = _windows(prices, size)
    return np.nanmean(windows, axis=2), np.nanstd(windows, axis=2)


def _smoothed(values: Prices, alpha: float) -> Prices:
    result = np.empty_like(values)
    current = result[0] = values[0]
    for day in range(1, len(values)):
        current = result[day] = current + alpha * (values[day] - current)
    return result


def _rsi(prices: Prices, days: int) -> Prices:
    change = np.diff(prices, axis=0, prepend=prices[:1])
    gains = _smoothed(np.maximum(change, 0), 1 / days)
    losses = _smoothed(np.maximum(-change, 0), 1 / days)
    both = gains + losses
    return np.where(both > 0, 100 * gains / np.where(both > 0, both, 1), 50.0)


def _cci(prices: Prices, days: int) -> Prices:
    windows = _windows(prices, days)
    mean = np.nanmean(windows, axis=2)
    distance = np.nanmean(np.abs(windows - mean[:, :, None]), axis=2)
    moved = distance > 1e-12 * mean
    result: Prices = np.where(moved, (prices - mean) / (0.015 * np.where(moved, distance, 1)), 0.0)
    return result
