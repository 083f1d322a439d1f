"""Trading, rewards, ends, refusals, and that nothing of the future is seen."""

from __future__ import annotations

import importlib.util
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finrl_env import FinRLAction, FinRLMetrics, FinRLObservation
from finrl_env.environment import FinRLEnvironment
from finrl_env.finrl_backend import available
from finrl_env.indicators import INDICATORS
from finrl_env.market import load_market
from finrl_env.policies import buy_and_hold
from finrl_env.settings import VARIABLES, Settings, declared_isolation

from openenv_async import StepResult
from openenv_async.errors import InvalidAction, InvalidOption, OperationUnsupported

FEW = ["AAPL", "KO", "XOM"]
Row = tuple[bytes, float, str, float | None, bool, bool]


def row(result: StepResult[FinRLObservation]) -> Row:
    seen = result.observation
    return (
        seen.state.tobytes(),
        seen.portfolio_value,
        seen.date,
        result.reward,
        result.terminated,
        result.truncated,
    )


def orders(count: int, size: int = 3) -> list[FinRLAction]:
    rng = random.Random(count)
    return [FinRLAction([rng.uniform(-1, 1) for _ in range(size)]) for _ in range(count)]


def play(env: FinRLEnvironment, actions: list[FinRLAction], **options: Any) -> list[Row]:
    rows = [row(env.reset(**options))]
    for action in actions:
        result = env.step(action)
        rows.append(row(result))
        if result.done:
            break
    return rows


def write_prices(path: Path, prices: Any, tickers: list[str]) -> str:
    lines = ["date," + ",".join(tickers)]
    for index, day in enumerate(prices):
        date = f"{2001 + index // 336}-{index // 28 % 12 + 1:02}-{index % 28 + 1:02}"
        lines.append(",".join([date, *(repr(float(price)) for price in day)]))
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def walk(days: int, tickers: int, seed: int = 0) -> Any:
    returns = np.random.default_rng(seed).normal(0.0005, 0.02, (days, tickers))
    return 50 * np.exp(np.cumsum(returns, axis=0))


@pytest.mark.parametrize("mode", ["shares", "weights"])
def test_nothing_of_the_future_is_seen(tmp_path: Path, mode: str) -> None:
    """Prices changed after day 200 change nothing that happens up to it."""
    prices = walk(300, 3)
    changed = prices.copy()
    changed[201:] *= np.random.default_rng(1).uniform(0.5, 2.0, changed[201:].shape)
    traces = []
    for name, each in (("a.csv", prices), ("b.csv", changed)):
        env = FinRLEnvironment(
            data_path=write_prices(tmp_path / name, each, FEW),
            split="all",
            episode_days=0,
            action_mode=mode,  # type: ignore[arg-type]  # one of the two
            turbulence_threshold=5.0,
        )
        traces.append(play(env, orders(299)))
    assert len(traces[0]) == 300
    assert traces[0][:201] == traces[1][:201]
    assert all(one != other for one, other in zip(traces[0][201:], traces[1][201:], strict=True))


def test_what_is_seen_is_what_there_is() -> None:
    env = FinRLEnvironment(tickers=FEW, split="test", episode_days=0)
    seen = env.reset(seed=0).observation
    market = load_market(None, tuple(FEW))
    day = market.dates.index("2017-01-03")
    assert seen.date == "2017-01-03"
    assert seen.portfolio_value == 1_000_000.0
    assert seen.turbulence == market.turbulence[day]
    assert seen.state.dtype == np.float32
    assert seen.state.shape == (1 + 3 * (2 + len(INDICATORS)),)
    expected = [1e6, *market.prices[day], 0, 0, 0, *market.features[day].ravel()]
    assert np.allclose(seen.state, expected)
    assert env.state().end == "2022-12-28"
    assert env.state().episode_days == 1508


def test_whole_stocks_are_bought_and_sold_at_a_cost() -> None:
    env = FinRLEnvironment(tickers=FEW, episode_days=5, initial_amount=10_000.0, hmax=20)
    env.reset(seed=1)
    market = load_market(None, tuple(FEW))
    day = market.dates.index(env.state().start)
    price, after = market.prices[day], market.prices[day + 1]
    result = env.step(FinRLAction([0.5, 0.16, -1.0]))
    worth = 10 * price[0] + 3 * price[1]
    cash = 10_000 - worth * 1.001
    state = env.state()
    assert state.shares == [10.0, 3.0, 0.0]
    assert state.cash == pytest.approx(cash)
    assert state.metrics.total_cost == pytest.approx(worth * 0.001)
    assert state.metrics.trades == 2
    value = cash + 10 * after[0] + 3 * after[1]
    assert result.observation.portfolio_value == pytest.approx(value)
    assert result.reward == pytest.approx((value - 10_000) * 1e-4)
    env.step(FinRLAction([-1.0, 0.0, 0.0]))
    assert env.state().shares == [0.0, 3.0, 0.0]
    assert env.state().cash == pytest.approx(cash + 10 * after[0] * 0.999)


def test_no_more_is_bought_than_there_is_money_for() -> None:
    env = FinRLEnvironment(tickers=FEW, split="test", initial_amount=500.0, episode_days=60)
    env.reset(seed=0)
    for action in orders(59):
        env.step(action)
        state = env.state()
        assert state.cash >= 0
        assert min(state.shares) >= 0
        assert all(share == int(share) for share in state.shares)


def test_weights_are_parts_of_the_portfolio() -> None:
    env = FinRLEnvironment(tickers=FEW, split="test", action_mode="weights", buy_cost_pct=0.0)
    market = load_market(None, tuple(FEW))
    env.reset(seed=0)
    day = market.dates.index(env.state().start)
    env.step(FinRLAction([0.0, -0.5, -1.0]))  # a half, a quarter, nothing
    state = env.state()
    assert np.allclose(np.array(state.shares) * market.prices[day], [5e5, 2.5e5, 0])
    assert state.cash == pytest.approx(2.5e5)
    env.reset(seed=0)
    env.step(FinRLAction([1.0, 1.0, 1.0]))
    assert np.allclose(np.array(env.state().shares) * market.prices[day], 1e6 / 3)
    assert env.state().cash == pytest.approx(0, abs=1e-3)


def test_rewards() -> None:
    kept = {}
    for reward in ("value", "log_return", "sharpe"):
        env = FinRLEnvironment(tickers=FEW, reward=reward, episode_days=40)
        kept[reward] = play(env, orders(39), seed=2)
    values = [each[1] for each in kept["value"]]
    given = {
        name: [each[3] for each in rows[1:] if each[3] is not None] for name, rows in kept.items()
    }
    assert np.allclose(given["value"], np.diff(values) * 1e-4)
    assert np.allclose(given["log_return"], np.diff(np.log(values)))
    mean = square = 0.0
    for before, now, got in zip(values, values[1:], given["sharpe"], strict=False):
        change = now / before - 1
        variance = square - mean * mean
        wanted = 0.0
        if variance > 1e-12:
            wanted = (square * (change - mean) - mean * (change**2 - square) / 2) / variance**1.5
        assert got == pytest.approx(wanted)
        mean += (change - mean) / 252
        square += (change**2 - square) / 252
    assert env.reset(reward="value", reward_scaling=2.0).reward is None
    start = env.state().cash
    result = env.step(FinRLAction([1.0, 1.0, 1.0]))
    assert result.reward == pytest.approx(2 * (result.observation.portfolio_value - start))


def test_metrics_are_what_they_say() -> None:
    env = FinRLEnvironment(tickers=FEW, episode_days=30, split="test")
    rows = play(env, orders(29), seed=5)
    values = np.array([each[1] for each in rows])
    returns = values[1:] / values[:-1] - 1
    metrics = env.state().metrics
    assert isinstance(metrics, FinRLMetrics)
    assert metrics.total_return == pytest.approx(values[-1] / values[0] - 1)
    assert metrics.sharpe == pytest.approx(math.sqrt(252) * returns.mean() / returns.std(ddof=1))
    falls = [1 - values[j] / values[i] for i in range(30) for j in range(i, 30)]
    assert metrics.max_drawdown == pytest.approx(max(falls))
    assert metrics.turnover == pytest.approx(metrics.total_cost / 0.001 / values.mean() * 252 / 29)
    env.reset(seed=5)
    calm = env.state().metrics
    assert (calm.sharpe, calm.max_drawdown, calm.turnover) == (0.0, 0.0, 0.0)


def test_the_metrics_come_with_the_end() -> None:
    env = FinRLEnvironment(tickers=FEW, episode_days=4)
    env.reset(seed=0)
    results = [env.step(action) for action in orders(3)]
    assert [result.truncated for result in results] == [False, False, True]
    assert not any(result.terminated for result in results)
    assert results[0].info == {}
    assert results[-1].info["metrics"] == env.state().metrics


def test_ruin_terminates(tmp_path: Path) -> None:
    prices = np.concatenate([np.full((5, 1), 100.0), np.full((5, 1), 1.0)])
    env = FinRLEnvironment(
        data_path=write_prices(tmp_path / "crash.csv", prices, ["DOWN"]),
        split="all",
        episode_days=0,
        hmax=100_000,
    )
    rows = play(env, [FinRLAction([1.0])] * 9)
    assert rows[-1][4:] == (True, False)
    assert len(rows) == 6


def test_turbulence_sells_everything() -> None:
    env = FinRLEnvironment(tickers=FEW, split="all", start_date="2008-09-02", episode_days=0)
    env.reset(seed=0, turbulence_threshold=8.0, end_date="2009-03-02")
    buy = FinRLAction([0.1, 0.1, 0.1])
    seen, sold = env.reset(seed=0, turbulence_threshold=8.0, end_date="2009-03-02"), 0
    for _ in range(100):
        alarmed = seen.observation.turbulence >= 8.0 and env.state().day > 0
        seen = env.step(buy)
        assert (env.state().shares == [0.0, 0.0, 0.0]) == alarmed
        sold += alarmed
    assert sold > 3


def test_windows_are_drawn_from_the_seed_within_the_split() -> None:
    env = FinRLEnvironment(tickers=FEW, episode_days=100)
    starts = []
    for split, low, high in (
        ("train", "2000-01-03", "2016-12-30"),
        ("test", "2017-01-03", "2022-12-28"),
        ("all", "2000-01-03", "2022-12-28"),
    ):
        for seed in range(30):
            env.reset(seed=seed, split=split)  # type: ignore[arg-type]  # one of the three
            state = env.state()
            assert low <= state.start < state.end <= high
            starts.append(state.start)
            env.reset(seed=seed, split=split)  # type: ignore[arg-type]  # one of the three
            assert env.state().start == state.start
    assert len(set(starts)) > 60


def test_the_example_policy_beats_random_orders() -> None:
    env = FinRLEnvironment(split="test")
    rng = random.Random(0)

    def mean_return(policy: Any) -> float:
        total = 0.0
        for seed in range(10):
            result = env.reset(seed=seed)
            while not result.done:
                result = env.step(policy(result.observation))
                total += result.reward or 0.0
        return total / 10

    chance = mean_return(lambda seen: FinRLAction([rng.uniform(-1, 1) for _ in range(20)]))
    assert mean_return(buy_and_hold) > chance + 3


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([0.0, 0.0], "actions has 2 numbers: it takes 3, one for each of AAPL, KO, XOM"),
        ([0.0, 1.5, 0.0], r"actions\[1\] is 1.5: it must be from -1 to 1"),
        ([0.0, 0.0, math.nan], r"actions\[2\] is nan"),
    ],
)
def test_a_bad_action_costs_nothing(actions: list[float], message: str) -> None:
    env = FinRLEnvironment(tickers=FEW)
    env.reset(seed=0)
    before = env.state()
    with pytest.raises(InvalidAction, match=message):
        env.step(FinRLAction(actions))
    assert env.state() == before


@pytest.mark.parametrize("options", [{}, {"reward": "sharpe", "action_mode": "weights"}])
def test_a_snapshot_goes_on_alike_here_and_elsewhere(options: dict[str, Any]) -> None:
    env = FinRLEnvironment(tickers=FEW, **options)
    play(env, orders(20), seed=3)
    saved = env.snapshot()
    expected = [row(env.step(action)) for action in orders(30)]
    metrics = env.state().metrics
    env.restore(saved)
    assert [row(env.step(action)) for action in orders(30)] == expected
    other = FinRLEnvironment()
    other.restore(saved)
    assert [row(other.step(action)) for action in orders(30)] == expected
    assert other.state().metrics == metrics
    for bad in (b"", saved[:-3]):
        with pytest.raises(InvalidOption, match="not a snapshot of finrl"):
            env.restore(bad)


def ohlcv(days: int = 40, seed: int = 0) -> dict[str, Any]:
    """A wide frame of three tickers, as plain data."""
    closes = walk(days, 3, seed)
    rng = np.random.default_rng(seed + 1)
    opens = closes * rng.uniform(0.98, 1.02, closes.shape)
    fields = {
        "open": opens,
        "high": np.maximum(opens, closes) * 1.01,
        "low": np.minimum(opens, closes) * 0.99,
        "close": closes,
        "volume": rng.integers(10, 400, closes.shape).astype(float),
    }
    dates = (np.datetime64("2015-03-01") + np.arange(days)).astype(str).tolist()
    return {"date": dates} | {
        name: dict(zip(FEW, values.T.tolist(), strict=True)) for name, values in fields.items()
    }


OWN: dict[str, Any] = {"split": "all", "episode_days": 0}


def test_own_prices_are_traded_for_one_episode() -> None:
    env = FinRLEnvironment(tickers=["AAPL", "KO"], episode_days=5)
    data = ohlcv()
    names = ["volume", "macd"]
    seen = env.reset(seed=0, data=data, tech_indicators=names, **OWN).observation
    assert seen.date == "2015-03-01"
    wanted = [1e6, *(data["close"][each][0] for each in FEW[:2]), 0, 0]
    wanted += [*(data["volume"][each][0] for each in FEW[:2]), 0, 0]
    assert np.allclose(seen.state, wanted)
    assert env.state().tech_indicators == names
    for own in (None, ohlcv(seed=5)):
        result = env.reset(seed=0, split="all", data=own)
        assert result.observation.state.size == 1 + 2 * 9
        assert env.state().start.startswith("2015") is bool(own)
    env.reset(seed=0)
    assert env.state().start < "2017"
    assert env.state().episode_days == 5


def test_the_server_can_be_given_a_frame() -> None:
    env = FinRLEnvironment(data=ohlcv(), **OWN)
    env.reset()
    assert (env.state().tickers, env.state().start) == (FEW, "2015-03-01")
    schema = FinRLEnvironment.schemas(data=ohlcv(), tech_indicators=["high"], **OWN)
    told = schema["observation"]["$defs"]["FinRLObservation"]["properties"]["state"]
    assert told["x-ndarray"]["shape"] == [1 + 3 * 3]


def test_orders_can_be_filled_at_the_next_open() -> None:
    data = ohlcv()
    env = FinRLEnvironment(data=data, execution="next_open", buy_cost_pct=0.01, **OWN)
    env.reset()
    result = env.step(FinRLAction([0.1, 0.0, 0.0]))
    opened, closed = data["open"]["AAPL"][1], data["close"]["AAPL"][1]
    assert env.state().cash == pytest.approx(1e6 - 10 * opened * 1.01)
    gain = 10 * (closed - opened) - 10 * opened * 0.01
    assert result.reward == pytest.approx(gain * 1e-4)


def test_orders_are_cut_to_a_part_of_the_days_volume() -> None:
    data = ohlcv()
    env = FinRLEnvironment(data=data, volume_limit=0.1, slippage_pct=0.02, **OWN)
    env.reset()
    env.step(FinRLAction([1.0, 1.0, 1.0]))
    volumes = np.array([data["volume"][each][0] for each in FEW])
    prices = np.array([data["close"][each][0] for each in FEW])
    state = env.state()
    assert state.shares == np.minimum(100, volumes // 10).tolist()
    assert state.metrics.slippage == pytest.approx(0.02 * float(np.array(state.shares) @ prices))


def test_stocks_are_sold_short_and_covered_by_force(tmp_path: Path) -> None:
    prices = np.array([[100.0], [100.0], [140.0], [200.0], [200.0], [200.0]])
    env = FinRLEnvironment(
        data_path=write_prices(tmp_path / "rise.csv", prices, ["UP"]),
        short=True,
        initial_margin=0.5,
        maintenance_margin=0.3,
        initial_amount=10_000.0,
        sell_cost_pct=0.0,
        buy_cost_pct=0.0,
        reward_scaling=1.0,
        **OWN,
    )
    env.reset()
    first = env.step(FinRLAction([-1.0]))
    assert env.state().shares == [-100.0]
    assert env.state().margin == 1.0
    assert first.reward == 0.0
    second = env.step(FinRLAction([0.0]))
    assert second.reward == -4_000.0
    assert second.info == {}  # 6,000 of 14,000
    third = env.step(FinRLAction([0.0]))
    assert third.info["margin_call"] is True
    assert third.terminated  # nothing is left of 10,000
    assert env.state().shares == [0.0]
    assert env.state().margin is None
    assert third.info["metrics"].margin_calls == 1


def test_short_parts_of_the_portfolio() -> None:
    env = FinRLEnvironment(
        tickers=FEW,
        split="test",
        action_mode="weights",
        short=True,
        buy_cost_pct=0,
        sell_cost_pct=0,
    )
    env.reset(seed=0)
    price = env._market.prices[env._day]
    env.step(FinRLAction([0.6, -0.4, 0.0]))
    assert np.allclose(np.array(env.state().shares) * price, [6e5, -4e5, 0])
    env.reset(seed=0)
    env.step(FinRLAction([1.0, -1.0, 0.5]))  # 2.5 times what there is
    assert np.allclose(np.array(env.state().shares) * price, [4e5, -4e5, 2e5])


def test_debts_have_a_reward_too(tmp_path: Path) -> None:
    prices = np.array([[100.0], [100.0], [900.0], [900.0]])
    path = write_prices(tmp_path / "jump.csv", prices, ["UP"])
    for reward in ("value", "log_return", "sharpe"):
        env = FinRLEnvironment(data_path=path, short=True, hmax=10_000, reward=reward, **OWN)
        env.reset()
        env.step(FinRLAction([-1.0]))
        result = env.step(FinRLAction([0.0]))
        assert result.terminated
        assert result.observation.portfolio_value < 0
        assert result.reward is not None
        assert math.isfinite(result.reward)
        assert math.isfinite(result.info["metrics"].sharpe)


def test_allocation_is_softmax_of_what_there_is() -> None:
    env = FinRLEnvironment(
        tickers=FEW,
        split="test",
        action_mode="allocation",
        reward="portfolio_value",
        buy_cost_pct=0,
        sell_cost_pct=0,
    )
    seen = env.reset(seed=0).observation
    market, day = env._market, env._day
    returns = market.prices[day - 251 : day + 1] / market.prices[day - 252 : day] - 1
    assert seen.state.shape == (3 + len(INDICATORS), 3)
    assert np.allclose(seen.state[:3], np.cov(returns.T))
    assert np.allclose(seen.state[3:], market.features[day])
    result = env.step(FinRLAction([0.0, 0.5, 1.0]))
    weights = np.exp([0.0, 0.5, 1.0]) / np.exp([0.0, 0.5, 1.0]).sum()
    grown = float(weights @ (market.prices[day + 1] / market.prices[day]))
    assert result.reward == pytest.approx(1e6 * grown)
    with pytest.raises(InvalidAction, match=r"actions\[0\] is -0.5: it must be from 0 to 1"):
        env.step(FinRLAction([-0.5, 0.0, 0.0]))
    schema = FinRLEnvironment.schemas(action_mode="allocation")
    actions = schema["action"]["$defs"]["FinRLAction"]["properties"]["actions"]
    assert actions["items"]["minimum"] == 0.0


def test_a_snapshot_takes_own_prices_along() -> None:
    env = FinRLEnvironment()
    data = ohlcv()
    env.reset(data=data, short=True, borrow_rate=0.1, impact_pct=0.1, **OWN)
    actions = orders(30)
    for action in actions[:10]:
        env.step(action)
    saved = env.snapshot()
    expected = [row(env.step(action)) for action in actions[10:]]
    other = FinRLEnvironment()
    other.restore(saved)
    assert [row(other.step(action)) for action in actions[10:]] == expected
    assert other.state() == env.state()
    with pytest.raises(InvalidOption, match="of other prices"):
        other.restore(saved.replace(b"2015-03-05", b"2015-03-0\x00"))
    served = FinRLEnvironment(data=data, **OWN)
    assert len(served.snapshot()) > 5 * 3 * 40 * 8  # five fields of three tickers
    assert len(FinRLEnvironment().snapshot()) < 1_024


@pytest.mark.skipif(not available(), reason="FinRL is not installed")
@pytest.mark.parametrize("threshold", [None, 60.0])
def test_finrls_own_environment_trades_alike(threshold: float | None) -> None:
    options: dict[str, Any] = {"episode_days": 80, "turbulence_threshold": threshold}
    ours, theirs = FinRLEnvironment(), FinRLEnvironment(backend="finrl")
    actions = orders(79, 20)
    for left, right in zip(
        play(ours, actions, seed=11, start_date="2008-06-01", **options),
        play(theirs, actions, seed=11, start_date="2008-06-01", **options),
        strict=True,
    ):
        assert np.allclose(
            np.frombuffer(left[0], np.float32), np.frombuffer(right[0], np.float32), rtol=1e-5
        )
        assert left[2] == right[2]
        assert left[1] == pytest.approx(right[1])
        assert left[3] is right[3] or left[3] == pytest.approx(right[3], abs=1e-9)
        assert left[4:] == right[4:]
    assert theirs.state().metrics.trades == ours.state().metrics.trades
    assert theirs.state().metrics.turnover == pytest.approx(ours.state().metrics.turnover)
    with pytest.raises(OperationUnsupported):
        theirs.snapshot()


def test_a_missing_finrl_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from finrl_env import finrl_backend

    finrl_backend._class_of.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidOption, match="pip install"):
        FinRLEnvironment(backend="finrl")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"tickers": ["AAPL", "NOPE"]}, "no prices of 'NOPE': take some of AAPL"),
        ({"tickers": ["AAPL", "AAPL"]}, "named twice"),
        ({"tickers": []}, "tickers must be not empty"),
        ({"start_date": "2020"}, "start_date must be YYYY-MM-DD"),
        ({"start_date": "2016-12-01"}, "20 trading days|21 trading days"),
        ({"episode_days": 1}, "0 or at least 2"),
        ({"initial_amount": 0}, "must be positive"),
        ({"buy_cost_pct": 1.0}, "from 0 to below 1"),
        ({"backend": "finrl", "action_mode": "weights"}, "knows action_mode shares"),
        ({"data_path": "/no/such/file.csv"}, "cannot be read as prices"),
        ({"execution": "next_open"}, "execution='next_open' needs the column 'open'"),
        ({"impact_pct": 0.1}, "impact_pct=0.1 needs the column 'volume'"),
        ({"volume_limit": 0.1}, "volume_limit=0.1 needs the column 'volume'"),
        ({"volume_limit": 0.0}, "volume_limit must be above 0 and at most 1"),
        ({"initial_margin": 1.5}, "initial_margin must be above 0 and at most 1"),
        ({"initial_margin": 0.2}, "maintenance_margin must be above 0 and at most initial_margin"),
        ({"slippage_pct": math.nan}, "slippage_pct must be from 0 to below 1"),
        ({"borrow_rate": -1}, "borrow_rate must be from 0"),
        ({"tech_indicators": ["macd", "rsi"]}, "no feature 'rsi': take some of"),
        ({"tech_indicators": ["macd", "macd"]}, "different names"),
        ({"action_mode": "allocation", "short": True}, "go with action_mode weights"),
    ],
)
def test_what_cannot_be_is_told(params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        FinRLEnvironment(**params)


def test_every_setting_has_a_variable(tmp_path: Path) -> None:
    assert sorted(VARIABLES.values()) == sorted(Settings.names())
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"hmax": 50, "initial_amount": 5000, "split": "test"}))
    read = Settings.from_environ(
        {
            "FINRL_CONFIG_PATH": str(config),
            "FINRL_TICKERS": "KO,XOM",
            "FINRL_HMAX": "70",
            "FINRL_REWARD": "log_return",
            "FINRL_TURBULENCE_THRESHOLD": "12.5",
        }
    )
    assert (read.hmax, read.initial_amount, read.split) == (70, 5000.0, "test")
    assert (read.tickers, read.reward) == (("KO", "XOM"), "log_return")
    assert read.turbulence_threshold == 12.5
    with pytest.raises(InvalidOption, match="FINRL_SPLIT=later"):
        Settings.from_environ({"FINRL_SPLIT": "later"})
    config.write_text('{"hmaxx": 1}')
    with pytest.raises(InvalidOption, match="has 'hmaxx'; it may have"):
        Settings.from_environ({"FINRL_CONFIG_PATH": str(config)})
    with pytest.raises(InvalidOption, match="FINRL_ISOLATION=none"):
        declared_isolation({"FINRL_ISOLATION": "none"})
