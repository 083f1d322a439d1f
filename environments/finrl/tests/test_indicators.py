"""Indicators and turbulence against plain references."""

from __future__ import annotations

import numpy as np
import pytest
from finrl_env.frames import BUNDLED
from finrl_env.indicators import INDICATORS, indicators, turbulence
from finrl_env.market import load_market

PRICES = 40 * np.exp(np.cumsum(np.random.default_rng(3).normal(0, 0.02, (300, 4)), axis=0))


COLUMNS = dict(zip(INDICATORS, indicators(PRICES)[:, :, 1].T.tolist(), strict=True))


def test_averages_and_bands() -> None:
    price = PRICES[:, 1]
    for day in (0, 5, 19, 100, 299):
        for size in (30, 60):
            window = price[max(0, day - size + 1) : day + 1]
            assert COLUMNS[f"close_{size}_sma"][day] == pytest.approx(window.mean())
        window = price[max(0, day - 19) : day + 1]
        assert COLUMNS["boll_ub"][day] == pytest.approx(window.mean() + 2 * window.std())
        assert COLUMNS["boll_lb"][day] == pytest.approx(window.mean() - 2 * window.std())


def test_macd_rsi_and_cci() -> None:
    price = PRICES[:, 1].tolist()
    fast = slow = price[0]
    up = down = 0.0
    for day, value in enumerate(price):
        if day:
            fast += 2 / 13 * (value - fast)
            slow += 2 / 27 * (value - slow)
            change = value - price[day - 1]
            up += (max(change, 0) - up) / 30
            down += (max(-change, 0) - down) / 30
        assert COLUMNS["macd"][day] == pytest.approx(fast - slow)
        wanted = 100 * up / (up + down) if up + down else 50
        assert COLUMNS["rsi_30"][day] == pytest.approx(wanted)
        if day in (0, 29, 200):
            window = np.array(price[max(0, day - 29) : day + 1])
            distance = np.abs(window - window.mean()).mean()
            wanted = (value - window.mean()) / (0.015 * distance) if day else 0
            assert COLUMNS["cci_30"][day] == pytest.approx(wanted)


def test_turbulence_is_the_distance_to_the_year_before() -> None:
    result = turbulence(PRICES)
    assert not result[:253].any()
    returns = PRICES[1:] / PRICES[:-1] - 1
    for day in (253, 280, 299):
        past = returns[day - 1 - 252 : day - 1]
        apart = returns[day - 1] - past.mean(axis=0)
        wanted = apart @ np.linalg.inv(np.cov(past.T)) @ apart
        assert result[day] == pytest.approx(wanted)
    shocked = PRICES.copy()
    shocked[280:] *= np.array([0.7, 1.3, 0.8, 1.2])
    assert turbulence(shocked)[280] > 10 * result[280]


def test_a_stock_that_does_not_move_breaks_nothing() -> None:
    still = PRICES.copy()
    still[:, 2] = 7.0
    assert np.isfinite(turbulence(still)).all()
    assert np.isfinite(indicators(still)).all()


def test_the_bundled_prices() -> None:
    market = load_market()
    assert len(market.tickers) == 20
    assert (market.dates[0], market.dates[-1]) == ("1999-01-04", "2022-12-28")
    assert market.prices.shape == (len(market.dates), 20)
    assert np.isfinite(market.features).all()
    # adjusted: no split shows as a day's return, though every one of these stocks had splits
    assert np.abs(market.prices[1:] / market.prices[:-1] - 1).max() < 0.7
    assert BUNDLED.with_name("LICENSE-skfolio.txt").read_text().startswith("BSD 3-Clause")
    # the worst of 2008 and of March 2020 stand out
    calm = np.median(market.turbulence[252:])
    for month in ("2008-10", "2020-03"):
        days = [i for i, date in enumerate(market.dates) if date.startswith(month)]
        assert market.turbulence[days].max() > 5 * calm


def test_cci_takes_the_typical_price_where_there_is_one() -> None:
    typical = PRICES * np.random.default_rng(1).uniform(0.97, 1.03, PRICES.shape)
    cci = indicators(PRICES, typical)[:, INDICATORS.index("cci_30"), 1]
    window = typical[171:201, 1]
    wanted = (window[-1] - window.mean()) / (0.015 * np.abs(window - window.mean()).mean())
    assert cci[200] == pytest.approx(wanted)
    others = [at for at, name in enumerate(INDICATORS) if name != "cci_30"]
    assert np.array_equal(indicators(PRICES, typical)[:, others], indicators(PRICES)[:, others])
