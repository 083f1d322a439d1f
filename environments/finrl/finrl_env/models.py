"""Actions, observations and state."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FinRLAction", "FinRLMetrics", "FinRLObservation", "FinRLState"]


@dataclass(slots=True)
class FinRLAction:
    """The trades at today's closing prices.

    Attributes:
        actions: one number from -1 to 1 for every ticker, in the order of
            ``FinRLState.tickers``. With ``action_mode="shares"`` it is the share of ``hmax``
            stocks to buy (positive) or sell. With ``"weights"`` (a + 1) / 2, where stocks may be
            sold short a itself, is the part of the portfolio that the stock should have; all of
            them are scaled down if their sizes sum to more than 1 / ``initial_margin``, and what
            is left is cash. With ``"allocation"`` it is from 0 to 1, and the parts are
            exp(a) / Σ exp(a).
    """

    actions: list[float]


@dataclass(slots=True)
class FinRLObservation:
    """The market and the portfolio after a day's close.

    Attributes:
        state: float32 [1 + 2 n + k n] for n tickers and k indicators: cash, n closing prices, n
            numbers of stocks held, then the indicators, n of each, in the order of
            ``FinRLState.tech_indicators``. With ``action_mode="allocation"`` [n + k, n]: the
            covariance of the daily returns of the year before, then the indicators. Nothing in it
            is later than ``date``.
        portfolio_value: cash and stocks at closing prices.
        date: ISO, the trading day that has just closed.
        turbulence: how unusual the day's returns were, 0 or more; see ``indicators``.
    """

    state: NDArray[np.float32]
    portfolio_value: float
    date: str
    turbulence: float


@dataclass(slots=True)
class FinRLMetrics:
    """The metrics of an episode so far.

    Attributes:
        total_return: last value / first value - 1.
        sharpe: √252 × mean / standard deviation (n - 1) of the daily returns, no risk-free rate;
            0 when there are fewer than two or they do not vary.
        max_drawdown: the largest fall from a peak, as a part of the peak.
        turnover: traded value / mean portfolio value, per 252 days.
        total_cost: paid for trading.
        trades: orders that were executed.
        slippage: lost to prices worse than the day's.
        fees: paid for stocks sold short and for borrowed money.
        margin_calls: days on which positions were cut by force.
        buy_and_hold_return: of equal parts of all tickers bought at the start, without costs.
    """

    total_return: float
    sharpe: float
    max_drawdown: float
    turnover: float
    total_cost: float
    trades: int
    slippage: float
    fees: float
    margin_calls: int
    buy_and_hold_return: float


@dataclass(slots=True)
class FinRLState:
    """The market that is traded and how; most names are those of the ``reset`` options.

    Attributes:
        margin: equity as a part of the exposure; ``None`` without positions.
    """

    tickers: list[str]
    tech_indicators: list[str]
    stock_dim: int
    split: str
    start: str
    end: str
    day: int
    episode_days: int
    initial_amount: float
    hmax: int
    action_mode: str
    reward: str
    backend: str
    cash: float
    shares: list[float]
    margin: float | None
    metrics: FinRLMetrics
