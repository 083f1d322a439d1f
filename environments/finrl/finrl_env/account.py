"""Cash and stocks, and what trading does to them.

Orders are filled at the day's closing price: sales first, the largest first, so that their cash
can be spent; then purchases, the largest first, each cut to what the cash pays for, costs
included. Neither debt nor short positions exist. In ``shares`` mode this is FinRL's rule, whole
stocks only; in ``weights`` mode parts of a stock are traded.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["Account"]

Vector = NDArray[np.float64]


class Account(msgspec.Struct):
    """A portfolio.

    Attributes:
        cash: in money.
        shares: of every stock, float64 [n].
        buy_cost, sell_cost: as parts of a trade's value.
        traded: value of all trades so far.
        cost: paid for them.
        trades: how many.
    """

    cash: float
    shares: NDArray[np.float64]
    buy_cost: float
    sell_cost: float
    traded: float = 0.0
    cost: float = 0.0
    trades: int = 0

    def value(self, prices: Vector) -> float:
        """Cash and stocks at ``prices``."""
        return float(self.cash + self.shares @ prices)

    def trade(self, orders: NDArray[Any], prices: Vector, *, whole: bool) -> None:
        """Buy (positive) and sell (negative) numbers of stocks; ``whole`` ones only or parts."""
        by_size = np.argsort(orders)
        for index in by_size:
            if orders[index] >= 0:
                break
            self._sell(index, min(-orders[index], self.shares[index]), prices[index])
        for index in by_size[::-1]:
            if orders[index] <= 0:
                break
            paid_for = self.cash / (prices[index] * (1 + self.buy_cost))
            if whole:
                paid_for = np.floor(paid_for)
            self._buy(index, min(orders[index], paid_for), prices[index])

    def sell_all(self, prices: Vector) -> None:
        """Turn every stock into cash."""
        for index in range(len(self.shares)):
            self._sell(index, self.shares[index], prices[index])

    def rebalance(self, weights: Vector, prices: Vector) -> None:
        """Bring every stock to its part of the portfolio's value, as far as the costs allow."""
        target = weights * self.value(prices) / prices
        self.trade(target - self.shares, prices, whole=False)

    def _sell(self, index: Any, number: float, price: float) -> None:
        if number <= 0:
            return
        worth = float(number * price)
        self.cash += worth * (1 - self.sell_cost)
        self.shares[index] -= number
        self._book(worth, self.sell_cost)

    def _buy(self, index: Any, number: float, price: float) -> None:
        if number <= 0:
            return
        worth = float(number * price)
        self.cash = max(0.0, self.cash - worth * (1 + self.buy_cost))
        self.shares[index] += number
        self._book(worth, self.buy_cost)

    def _book(self, worth: float, cost: float) -> None:
        self.traded += worth
        self.cost += worth * cost
        self.trades += 1
