"""Compare with FinRL's own environments, step for step.

    pip install 'openenv-async-finrl[finrl]' && pip install --no-deps finrl==0.3.7
    python scripts/side_by_side.py [STEPS]

Each case plays random actions in ``FinRLEnvironment`` and in FinRL's ``StockTradingEnv`` or
``StockPortfolioEnv``, and compares the whole state that each gives its agent, the reward and the
value of the portfolio after every step. In the cases of an own frame FinRL's are made by pandas of
the rows as they are, covariances included, as FinRL's tutorials do it.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import numpy as np
import pandas
from finrl_env import FinRLAction
from finrl_env.environment import FinRLEnvironment
from finrl_env.finrl_backend import own_environment

__all__ = ["CASES", "compare", "made_frame"]

_ALLOCATION: Final = {
    "action_mode": "allocation",
    "reward": "portfolio_value",
    "buy_cost_pct": 0.0,
    "sell_cost_pct": 0.0,
}
_OWN: Final = {
    "split": "all",
    "tech_indicators": ["vix", "high", "volume"],
}
CASES: Final[dict[str, dict[str, Any]]] = {
    "shares, bundled prices": {},
    "shares, little money": {"initial_amount": 4_000.0, "hmax": 40},
    "shares, turbulence of 2008": {"start_date": "2008-06-01", "turbulence_threshold": 60.0},
    "shares, own OHLCV frame, own features": {**_OWN, "data": 6},
    "shares, own turbulence": {**_OWN, "data": 6, "turbulence_threshold": 20.0},
    "shares, one ticker": {"tickers": ["KO"], "initial_amount": 20_000.0},
    "allocation, bundled prices": _ALLOCATION,
    "allocation, own OHLCV frame, own features": {**_ALLOCATION, **_OWN, "data": 6},
}


def made_frame(tickers: int, days: int = 700, seed: int = 0) -> dict[str, list[Any]]:
    """Return a long frame of a random walk, with columns as FinRL's and a ``vix``."""
    rng = np.random.default_rng(seed)
    closes = 60 * np.exp(np.cumsum(rng.normal(0.0004, 0.02, (days, tickers)), axis=0))
    opens = closes * np.exp(rng.normal(0, 0.005, closes.shape))
    spread = np.exp(np.abs(rng.normal(0, 0.01, closes.shape)))
    volumes = rng.integers(500, 5_000, closes.shape).astype(float)
    daily = {"vix": rng.uniform(10, 40, days), "turbulence": rng.exponential(8, days)}
    dates = np.datetime64("2010-01-01") + np.arange(days)
    columns = {
        "date": np.repeat(dates.astype(str), tickers),
        "tic": np.tile([f"T{at:02}" for at in range(tickers)], days),
        "open": opens.ravel(),
        "high": (np.maximum(opens, closes) * spread).ravel(),
        "low": (np.minimum(opens, closes) / spread).ravel(),
        "close": closes.ravel(),
        "volume": volumes.ravel(),
    } | {name: np.repeat(values, tickers) for name, values in daily.items()}
    return {name: values.tolist() for name, values in columns.items()}


def compare(case: str, steps: int, seed: int = 0) -> dict[str, float]:
    """Play one case in both; return the number of steps and the largest differences.

    Returns:
        ``steps``, and the largest relative difference of ``state``, ``reward`` and ``value``.
    """
    options = dict(CASES[case])
    if "data" in options:
        options["data"] = made_frame(options["data"])
    ours = FinRLEnvironment(episode_days=steps + 1, **options)
    seen = ours.reset(seed=seed).observation
    days = ours._first, ours._last
    frame = _finrls(options["data"], *days) if "data" in options else None
    theirs = own_environment(ours._market, ours._settings, *days, frame)
    state, _ = theirs.reset()
    worst = dict.fromkeys(("state", "reward", "value"), 0.0)
    rng = np.random.default_rng(seed)
    allocates = options.get("action_mode") == "allocation"
    for _ in range(steps):
        worst["state"] = max(worst["state"], _apart(seen.state, np.asarray(state, np.float32)))
        action = rng.uniform(0.0 if allocates else -1.0, 1.0, len(ours._market.tickers))
        result = ours.step(FinRLAction(action.tolist()))
        seen = result.observation
        state, reward, _, _, _ = theirs.step(action)
        worst["reward"] = max(worst["reward"], _apart(result.reward, reward))
        value = theirs.portfolio_value if allocates else theirs.asset_memory[-1]
        worst["value"] = max(worst["value"], _apart(seen.portfolio_value, value))
    worst["state"] = max(worst["state"], _apart(seen.state, np.asarray(state, np.float32)))
    return {"steps": steps, **worst}


def _finrls(data: dict[str, list[Any]], first: int, last: int) -> Any:
    """Return rows as the frame that FinRL's environments take, of some of the days."""
    frame = pandas.DataFrame(data).sort_values(["date", "tic"], ignore_index=True)
    frame.index = frame.date.factorize()[0]
    closes = frame.pivot_table(index="date", columns="tic", values="close")
    returns = closes.pct_change()
    covariances = [
        returns.iloc[max(1, day - 251) : day + 1].cov().to_numpy() for day in range(first, last + 1)
    ]
    frame = frame.loc[first:last].copy()
    frame.index = frame.index - first
    frame["cov_list"] = [covariances[day] for day in frame.index]
    return frame


def _apart(ours: Any, theirs: Any) -> float:
    """Return the largest difference as a part of the size, of numbers above one."""
    left, right = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if left.shape != right.shape:
        raise ValueError(f"shapes {left.shape} and {right.shape}")
    return float((np.abs(left - right) / np.maximum(1.0, np.abs(right))).max())


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 250
    for case in CASES:
        found = compare(case, steps)
        told = "  ".join(f"{name} {value:.1e}" for name, value in list(found.items())[1:])
        sys.stdout.write(f"{case:42}{steps:5} steps  {told}\n")


if __name__ == "__main__":
    main()
