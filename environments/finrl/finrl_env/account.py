"""Cash and stocks, and what trading does to them.

Rules:

- Orders are filled in four rounds, in each the largest first: sales of what is held, purchases that
  cover short positions, new short positions, purchases. So what frees money comes first. An order
  that turns a position round is two: it closes, then opens.
- An order that closes a position is always filled. One that opens or adds to a position is cut to
  what leaves equity >= initial margin × exposure, costs included, at the prices the portfolio is
  valued by. Equity is cash and positions, exposure the sum of their sizes. With a margin of 1 and
  no short positions that is: purchases are paid in cash. This is FinRL's rule, whole stocks only.
- A purchase is filled at price × (1 + slip), a sale at price × (1 - slip), slip being
  slippage + impact × √(stocks / the day's volume), at most 1 (the square root law: Almgren et al.,
  2005). Of an order no more is filled than the limit's part of the day's volume; a margin call and
  an alarm know no limit.
- A day's end costs a 252nd of a year's fees: of the value that is sold short, and of what the long
  positions are worth beyond the equity, which is borrowed. Proceeds of short sales are collateral.
- If equity < maintenance margin × exposure then, every position is cut by the same part, at that
  day's closing prices: the least that brings the equity to the initial margin again, impacts taken
  as if everything were closed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["Account", "Terms"]

Vector = NDArray[np.float64]
_YEAR = 252
_HALVINGS = 60


class Terms(msgspec.Struct, frozen=True):
    """The terms of an account; see the rules above.

    Attributes:
        buy_cost, sell_cost: as parts of a trade's value.
        slippage, impact: of the slip, as parts of the price.
        volume_limit: largest order, as a part of the day's volume; ``None``: no limit.
        short: whether stocks are sold that are not held.
        initial_margin, maintenance_margin: equity as a part of the exposure.
        borrow_rate, interest_rate: fees a year, of stocks sold short and of borrowed money.
    """

    buy_cost: float = 0.0
    sell_cost: float = 0.0
    slippage: float = 0.0
    impact: float = 0.0
    volume_limit: float | None = None
    short: bool = False
    initial_margin: float = 1.0
    maintenance_margin: float = 0.25
    borrow_rate: float = 0.0
    interest_rate: float = 0.0

    @property
    def plain(self) -> bool:
        """True where everything is paid in cash: nothing is borrowed and nothing called."""
        return not self.short and self.initial_margin == 1.0


class Account(msgspec.Struct):
    """A portfolio.

    Attributes:
        cash: in money; negative where it is borrowed.
        shares: of every stock, float64 [n]; negative ones are sold short.
        terms: what trading costs and how far it may go.
        traded: value of all trades so far, at the day's prices.
        cost: paid for them.
        slipped: lost to prices worse than the day's.
        fees: paid for borrowed stocks and money.
        trades: how many.
        calls: margin calls.
    """

    cash: float
    shares: NDArray[np.float64]
    terms: Terms
    traded: float = 0.0
    cost: float = 0.0
    slipped: float = 0.0
    fees: float = 0.0
    trades: int = 0
    calls: int = 0

    def value(self, prices: Vector) -> float:
        """The equity: cash and positions at ``prices``."""
        return float(self.cash + self.shares @ prices)

    def trade(
        self,
        orders: NDArray[Any],
        prices: Vector,
        volumes: Vector | None = None,
        *,
        whole: bool,
    ) -> None:
        """Buy (positive) and sell (negative) numbers of stocks; ``whole`` ones only or parts."""
        limit = self.terms.volume_limit
        if limit is not None and volumes is not None:
            most = np.floor(limit * volumes) if whole else limit * volumes
            orders = np.clip(orders, -most, most)
        by_size = np.argsort(orders)
        sales = [index for index in by_size if orders[index] < 0]
        purchases = [index for index in by_size[::-1] if orders[index] > 0]
        left: dict[Any, float] = {}
        for index in (*sales, *purchases):
            number, held = abs(orders[index]), self.shares[index]
            against = held if orders[index] < 0 else -held
            closed = min(number, max(0.0, against))
            left[index] = number - closed
            self._fill(index, math.copysign(closed, orders[index]), prices, volumes)
        if self.terms.short:
            for index in sales:
                self._open(index, left[index], -1, prices, volumes, whole)
        for index in purchases:
            self._open(index, left[index], 1, prices, volumes, whole)

    def close_all(self, prices: Vector, volumes: Vector | None = None) -> None:
        """Sell every stock, and cover what is sold short."""
        for index in range(len(self.shares)):
            self._fill(index, -self.shares[index], prices, volumes)

    def rebalance(self, weights: Vector, prices: Vector, volumes: Vector | None = None) -> None:
        """Bring every stock to its part of the portfolio's value, as far as the rules allow."""
        target = weights * self.value(prices) / prices
        self.trade(target - self.shares, prices, volumes, whole=False)

    def end_day(self, prices: Vector, volumes: Vector | None, *, whole: bool) -> None:
        """Take the day's fees, and answer a margin call, at closing prices."""
        terms = self.terms
        if terms.plain:
            return
        worth = self.shares * prices
        equity, exposure = float(self.cash + worth.sum()), float(np.abs(worth).sum())
        sold = float(-worth[worth < 0].sum())
        borrowed = max(0.0, exposure - sold - equity)
        fee = (sold * terms.borrow_rate + borrowed * terms.interest_rate) / _YEAR
        self.cash -= fee
        self.fees += fee
        equity -= fee
        if exposure and equity < terms.maintenance_margin * exposure:
            self._cut(equity, exposure, prices, volumes, whole)

    def _cut(
        self, equity: float, exposure: float, prices: Vector, volumes: Vector | None, whole: bool
    ) -> None:
        """Cut every position by the part after which the equity is the initial margin."""
        self.calls += 1
        terms, lost = self.terms, 0.0  # to costs and slips, if everything were closed
        for index, held in enumerate(self.shares):
            slip = self._slip(abs(held), index, volumes)
            rate = terms.sell_cost * (1 - slip) if held > 0 else terms.buy_cost * (1 + slip)
            lost += abs(held) * prices[index] * (slip + rate)
        wanted = terms.initial_margin * exposure
        part = min(1.0, (wanted - equity) / (wanted - lost)) if wanted > lost else 1.0
        for index, held in enumerate(self.shares):
            number = abs(held) * part
            if whole:
                number = min(abs(held), math.ceil(number - 1e-9))
            self._fill(index, math.copysign(number, -held), prices, volumes)

    def _open(
        self,
        index: Any,
        number: float,
        sign: int,
        prices: Vector,
        volumes: Vector | None,
        whole: bool,
    ) -> None:
        """Buy (sign 1) or sell short (-1) as much of a number as the margin allows."""
        if number <= 0:
            return
        price, terms = prices[index], self.terms
        free, kept = self.cash, 1 - terms.initial_margin
        if not terms.plain:
            worth = self.shares * prices
            held = worth[worth > 0].sum()
            free += kept * held - (2 - kept) * (held - worth.sum())

        def taken(count: float) -> float:
            """The part of its price by which one of so many stocks lessens what is free."""
            slip = self._slip(count, index, volumes)
            if sign > 0:
                return (1 + slip) * (1 + terms.buy_cost) - kept
            return (2 - kept) - (1 - slip) * (1 - terms.sell_cost)

        unit = price * taken(0.0)
        most = max(0.0, free // unit if whole else free / unit)
        number = min(number, most)
        if terms.impact:
            number = _largest(number, lambda count: count * price * taken(count) <= free)
            if whole:
                number = math.floor(number + 1e-9)
        self._fill(index, sign * number, prices, volumes)
        if terms.plain:
            self.cash = max(0.0, self.cash)

    def _slip(self, number: float, index: Any, volumes: Vector | None) -> float:
        terms = self.terms
        slip = terms.slippage
        if terms.impact and number and volumes is not None:
            volume = volumes[index]
            slip += terms.impact * math.sqrt(number / volume) if volume else 1.0
        return min(1.0, slip)

    def _fill(self, index: Any, number: float, prices: Vector, volumes: Vector | None) -> None:
        """Buy a number of stocks, sell a negative one."""
        if number == 0:
            return
        slip = self._slip(abs(number), index, volumes)
        worth = float(prices[index] * abs(number))
        rate = self.terms.buy_cost if number > 0 else self.terms.sell_cost
        if number > 0:
            paid = worth * (1 + slip)
            self.cash -= paid * (1 + rate)
        else:
            paid = worth * (1 - slip)
            self.cash += paid * (1 - rate)
        self.shares[index] += number
        self.traded += worth
        self.cost += paid * rate
        self.slipped += worth * slip
        self.trades += 1


def _largest(most: float, fits: Callable[[float], bool]) -> float:
    """Return the largest number up to ``most`` that fits, if all below one that fits do."""
    if fits(most):
        return most
    low, high = 0.0, most
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
