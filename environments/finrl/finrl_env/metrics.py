"""The metrics and rewards of an episode."""

from __future__ import annotations

import math
from typing import Protocol

import msgspec
import numpy as np

from finrl_env.models import FinRLMetrics

__all__ = ["DifferentialSharpe", "Trading", "measure"]

_YEAR = 252


class Trading(Protocol):
    """The sums of trading so far; see ``Account``."""

    @property
    def traded(self) -> float: ...
    @property
    def cost(self) -> float: ...
    @property
    def slipped(self) -> float: ...
    @property
    def fees(self) -> float: ...
    @property
    def trades(self) -> int: ...
    @property
    def calls(self) -> int: ...


def measure(values: list[float], trading: Trading, buy_and_hold: float) -> FinRLMetrics:
    """The metrics of an episode.

    Args:
        values: of the portfolio, one for each day so far, the first before any trade.
        trading: its sums.
        buy_and_hold: what equal parts bought at the start have returned.
    """
    series = np.array(values)
    returns = series[1:] / series[:-1] - 1
    deviation = float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
    peaks = np.maximum.accumulate(series)
    years = max(1, len(returns)) / _YEAR
    return FinRLMetrics(
        total_return=float(series[-1] / series[0] - 1),
        sharpe=math.sqrt(_YEAR) * float(returns.mean()) / deviation if deviation > 1e-12 else 0.0,
        max_drawdown=float((1 - series / peaks).max()),
        turnover=trading.traded / float(series.mean()) / years,
        total_cost=trading.cost,
        trades=trading.trades,
        slippage=trading.slipped,
        fees=trading.fees,
        margin_calls=trading.calls,
        buy_and_hold_return=buy_and_hold,
    )


class DifferentialSharpe(msgspec.Struct):
    """The change of a moving Sharpe ratio by one more return (Moody & Saffell, 1998).

    D = (B ΔA - A ΔB / 2) / (B - A²)^(3/2) with ΔA = R - A, ΔB = R² - B, of moving averages A of
    the returns and B of their squares; A += η ΔA, B += η ΔB, η = 1/252. 0 while the variance is.

    Attributes:
        mean: A.
        square: B.
    """

    mean: float = 0.0
    square: float = 0.0

    def add(self, value: float) -> float:
        """D for the return ``value``."""
        to_mean, to_square = value - self.mean, value * value - self.square
        variance = self.square - self.mean**2
        gain = 0.0
        if variance > 1e-12:
            gain = (self.square * to_mean - self.mean * to_square / 2) / variance**1.5
        self.mean += to_mean / _YEAR
        self.square += to_square / _YEAR
        return gain
