"""The rules of an account against a reference that goes by their definition."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from finrl_env.account import Account, Terms

DAYS = 12
EPS = 1e-7


class Ledger:
    """The rules in plain Python: by the definition of the margin, amounts found by trial."""

    def __init__(self, cash: float, count: int, terms: Terms) -> None:
        self.cash, self.held, self.terms = cash, [0.0] * count, terms
        self.calls = 0

    def equity(self, prices: list[float]) -> float:
        return self.cash + sum(a * b for a, b in zip(self.held, prices, strict=True))

    def exposure(self, prices: list[float]) -> float:
        return sum(abs(a) * b for a, b in zip(self.held, prices, strict=True))

    def slip(self, number: float, volume: float) -> float:
        return min(1.0, self.terms.slippage + self.terms.impact * math.sqrt(number / volume))

    def fill(self, at: int, number: float, price: float, volume: float) -> None:
        slip = self.slip(abs(number), volume)
        if number > 0:
            self.cash -= number * price * (1 + slip) * (1 + self.terms.buy_cost)
        else:
            self.cash += -number * price * (1 - slip) * (1 - self.terms.sell_cost)
        self.held[at] += number

    def most(self, at: int, number: float, prices: list[float], volume: float) -> int:
        """The most whole stocks after which the margin holds, every count tried from above."""
        sign = 1 if number > 0 else -1
        cash, held = self.cash, self.held[at]
        for count in range(int(abs(number)), 0, -1):
            self.fill(at, sign * count, prices[at], volume)
            wanted = self.terms.initial_margin * self.exposure(prices)
            holds = self.equity(prices) >= wanted - EPS
            self.cash, self.held[at] = cash, held
            if holds:
                return sign * count
        return 0

    def trade(self, orders: list[int], prices: list[float], volumes: list[float]) -> None:
        limit = self.terms.volume_limit
        if limit is not None:
            orders = [
                int(math.copysign(min(abs(order), math.floor(limit * volume)), order))
                for order, volume in zip(orders, volumes, strict=True)
            ]
        ranked = sorted(range(len(orders)), key=lambda at: -abs(orders[at]))
        rest = list(orders)
        for sign in (-1, 1):
            for at in (at for at in ranked if orders[at] * sign > 0):
                against = max(0.0, -sign * self.held[at])
                closing = sign * min(abs(orders[at]), against)
                if closing:
                    self.fill(at, closing, prices[at], volumes[at])
                rest[at] -= int(closing)
        for sign in (-1, 1) if self.terms.short else (1,):
            for at in (at for at in ranked if rest[at] * sign > 0):
                number = self.most(at, rest[at], prices, volumes[at])
                if number:
                    self.fill(at, number, prices[at], volumes[at])

    def end_day(self, prices: list[float], volumes: list[float]) -> None:
        long = sum(max(0.0, a) * b for a, b in zip(self.held, prices, strict=True))
        sold = sum(max(0.0, -a) * b for a, b in zip(self.held, prices, strict=True))
        borrowed = max(0.0, long - self.equity(prices))
        self.cash -= (sold * self.terms.borrow_rate + borrowed * self.terms.interest_rate) / 252
        exposure = self.exposure(prices)
        if exposure == 0 or self.equity(prices) >= self.terms.maintenance_margin * exposure:
            return
        self.calls += 1
        # The margin after a part of everything is closed, stocks counted in parts, by bisection.
        low, high = 0.0, 1.0
        start = self.cash, list(self.held)
        for _ in range(60):
            part = (low + high) / 2
            self.cut(part, prices, volumes, whole=False)
            good = self.equity(prices) >= self.terms.initial_margin * self.exposure(prices)
            self.cash, self.held = start[0], list(start[1])
            low, high = (low, part) if good else (part, high)
        self.cut(high, prices, volumes, whole=True)

    def cut(self, part: float, prices: list[float], volumes: list[float], *, whole: bool) -> None:
        for at, held in enumerate(self.held):
            number = abs(held) * part
            if whole:
                number = min(abs(held), math.ceil(number - 1e-6))
            if number:
                self.fill(at, -math.copysign(number, held), prices[at], volumes[at])


def market(rng: random.Random, count: int) -> list[tuple[list[float], list[float]]]:
    prices = [rng.uniform(5, 80) for _ in range(count)]
    days = []
    for _ in range(DAYS):
        prices = [price * math.exp(rng.gauss(0, 0.12)) for price in prices]
        days.append((list(prices), [float(rng.randint(20, 3000)) for _ in range(count)]))
    return days


def terms_of(rng: random.Random, **fixed: Any) -> Terms:
    initial = rng.choice([1.0, 0.5, 0.4])
    drawn = {
        "buy_cost": rng.choice([0.0, 0.001, 0.01]),
        "sell_cost": rng.choice([0.0, 0.002]),
        "slippage": rng.choice([0.0, 0.005]),
        "impact": rng.choice([0.0, 0.1]),
        "volume_limit": rng.choice([None, 0.05, 1.0]),
        "short": rng.random() < 0.7,
        "initial_margin": initial,
        "maintenance_margin": rng.choice([0.3, 0.25]),
        "borrow_rate": rng.choice([0.0, 0.3]),
        "interest_rate": rng.choice([0.0, 0.2]),
    }
    return Terms(**(drawn | fixed))


def play(
    seed: int, check: Callable[[Account, Ledger, list[float]], None], **fixed: Any
) -> tuple[Account, Ledger]:
    rng = random.Random(seed)
    count = rng.randint(1, 4)
    terms = terms_of(rng, **fixed)
    account, ledger = Account(5_000.0, np.zeros(count), terms), Ledger(5_000.0, count, terms)
    days = market(rng, count)
    for (prices, volumes), (after, later) in itertools.pairwise(days):
        orders = rng.sample(range(-160, 161), count)
        account.trade(np.array(orders), np.array(prices), np.array(volumes), whole=True)
        ledger.trade(orders, prices, volumes)
        check(account, ledger, prices)
        account.end_day(np.array(after), np.array(later), whole=True)
        ledger.end_day(after, later)
        check(account, ledger, after)
    return account, ledger


def same(account: Account, ledger: Ledger, prices: list[float]) -> None:
    assert account.shares.tolist() == pytest.approx(ledger.held, abs=1e-6)
    assert account.cash == pytest.approx(ledger.cash, abs=1e-5)
    assert account.calls == ledger.calls


def test_two_hundred_random_accounts_are_the_references() -> None:
    """Whole stocks, at all terms; margin calls without impact, whose least cut is exact."""
    calls = shorts = 0
    for seed in range(200):
        cash_only: dict[str, Any] = {"initial_margin": 1.0, "short": False}
        account, ledger = play(seed, same, **(cash_only if seed % 2 else {"impact": 0.0}))
        calls += ledger.calls
        shorts += account.shares.min() < 0
    assert calls > 20
    assert shorts > 20


def test_after_a_call_the_margin_is_the_initial_one() -> None:
    """Impacts make the cut larger than the least, never smaller."""
    answered = 0

    def check(account: Account, ledger: Ledger, prices: list[float]) -> None:
        nonlocal answered
        exposure = float(np.abs(account.shares) @ np.array(prices))
        if account.calls > seen[0]:
            seen[0] = account.calls
            answered += 1
            equity = account.value(np.array(prices))
            assert exposure == 0 or equity >= account.terms.initial_margin * exposure - 1e-6

    for seed in range(300, 420):
        seen = [0]
        play(seed, check, impact=0.05, initial_margin=0.5, volume_limit=None, short=True)
    assert answered > 20


def test_a_short_position_earns_what_the_price_falls() -> None:
    account = Account(1_000.0, np.zeros(1), Terms(short=True, borrow_rate=0.252))
    account.trade(np.array([-10]), np.array([100.0]), whole=True)
    assert (account.cash, account.shares[0]) == (2_000.0, -10.0)
    account.end_day(np.array([90.0]), None, whole=True)
    assert account.fees == pytest.approx(0.9)  # a thousandth of 900
    assert account.value(np.array([90.0])) == pytest.approx(1_100 - 0.9)
    account.trade(np.array([25]), np.array([90.0]), whole=True)  # covers 10, buys 12
    assert account.shares[0] == 12.0
    assert account.trades == 3


def test_a_short_position_that_rises_is_covered_by_force() -> None:
    terms = Terms(short=True, initial_margin=0.5, maintenance_margin=0.3)
    account = Account(1_000.0, np.zeros(1), terms)
    account.trade(np.array([-50]), np.array([100.0]), whole=True)
    assert account.shares[0] == -20.0  # of 2,000, half of which there is
    account.end_day(np.array([115.0]), None, whole=True)
    assert account.calls == 0  # 700 of 2,300
    account.end_day(np.array([116.0]), None, whole=True)
    assert account.calls == 1  # 680 of 2,320
    assert account.shares[0] == -11.0  # 680 of 1,276; of 12 it would not be half
    account.end_day(np.array([1_000.0]), None, whole=True)
    assert account.shares[0] == 0.0
    assert account.cash < 0  # the debt stays


def test_money_is_borrowed_for_stocks_and_costs_interest() -> None:
    terms = Terms(initial_margin=0.5, maintenance_margin=0.4, interest_rate=0.504)
    account = Account(1_000.0, np.zeros(2), terms)
    account.rebalance(np.array([1.2, 0.8]), np.array([10.0, 20.0]))
    assert account.shares.tolist() == pytest.approx([120, 40])
    assert account.cash == pytest.approx(-1_000)
    account.end_day(np.array([10.0, 20.0]), None, whole=False)
    assert account.fees == pytest.approx(2.0)
    account.end_day(np.array([8.0, 16.0]), None, whole=False)  # 600 of 1,600
    assert account.calls == 1
    left = np.array([8.0, 16.0])
    assert account.value(left) == pytest.approx(0.5 * float(account.shares @ left))


def test_orders_of_a_day_without_volume_wait_for_the_limit() -> None:
    account = Account(1_000.0, np.zeros(2), Terms(volume_limit=0.1))
    account.trade(np.array([9, 9]), np.array([10.0, 10.0]), np.array([0.0, 55.0]), whole=True)
    assert account.shares.tolist() == [0.0, 5.0]


def test_slips_are_counted_apart_from_costs() -> None:
    terms = Terms(buy_cost=0.01, sell_cost=0.01, slippage=0.02, impact=0.1)
    account = Account(1_000.0, np.zeros(1), terms)
    volumes = np.array([400.0])
    account.trade(np.array([4]), np.array([100.0]), volumes, whole=True)  # slip 0.02 + 0.1 × 0.1
    assert account.slipped == pytest.approx(12.0)
    assert account.cost == pytest.approx(4.12)
    assert account.cash == pytest.approx(1_000 - 412 - 4.12)
    account.close_all(np.array([100.0]), volumes)
    assert account.slipped == pytest.approx(24.0)
    assert account.cash == pytest.approx(1_000 - 412 - 4.12 + 388 - 3.88)
    assert account.traded == pytest.approx(800.0)
