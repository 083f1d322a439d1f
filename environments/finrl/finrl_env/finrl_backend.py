"""FinRL's own ``StockTradingEnv`` and ``StockPortfolioEnv``, fed with the same prices and features.

FinRL's package cannot be imported without brokers' clients, but the two modules need only
gymnasium, matplotlib, pandas and Stable-Baselines3, so they are loaded by their paths.

Their last ``step`` gives the last reward a second time; here an episode ends before it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from finrl_env.market import Market
from finrl_env.settings import Settings
from openenv_async.errors import InvalidOption

__all__ = ["FinRLAccount", "FinRLPortfolio", "available", "own_environment"]

_TRADING: Final = ("env_stock_trading/env_stocktrading.py", "StockTradingEnv")
_PORTFOLIO: Final = ("env_portfolio_allocation/env_portfolio.py", "StockPortfolioEnv")


def available() -> bool:
    """Return whether FinRL is installed."""
    return importlib.util.find_spec("finrl") is not None


@functools.cache
def _class_of(file: str, name: str) -> Any:
    spec = importlib.util.find_spec("finrl")  # finds it without running its __init__
    if spec is None or not spec.submodule_search_locations:
        raise InvalidOption(
            "backend finrl needs FinRL: pip install 'openenv-async-finrl[finrl]'"
            " && pip install --no-deps finrl",
            option="backend",
        )
    path = Path(spec.submodule_search_locations[0]) / "meta" / file
    found = importlib.util.spec_from_file_location(f"finrl_env_{path.stem}", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    try:
        found.loader.exec_module(module)
    except ImportError as exc:
        raise InvalidOption(
            f"backend finrl needs {exc.name}: pip install 'openenv-async-finrl[finrl]'",
            option="backend",
        ) from exc
    return getattr(module, name)


def own_environment(
    market: Market, settings: Settings, first: int, last: int, frame: Any = None
) -> Any:
    """Return FinRL's environment of the days ``first`` to ``last``, not yet reset.

    It is ``StockPortfolioEnv`` for ``action_mode="allocation"``, else ``StockTradingEnv``.

    Args:
        market: what is traded.
        settings: of the episode.
        first, last: places in the market's dates.
        frame: pandas data frame of those days as FinRL wants it; ``None``: made of the market.

    Raises:
        InvalidOption: FinRL, or what its module needs, is not installed.
    """
    count, kinds = len(market.tickers), len(market.names)
    common: dict[str, Any] = {
        "df": _frame(market, first, last) if frame is None else frame,
        "stock_dim": count,
        "hmax": settings.hmax,
        "initial_amount": settings.initial_amount,
        "reward_scaling": settings.scale,
        "action_space": count,
        "tech_indicator_list": list(market.names),
        "turbulence_threshold": settings.turbulence_threshold,
    }
    if settings.action_mode == "allocation":
        if frame is None:
            common["df"]["cov_list"] = _covariances(market, first, last)
        return _class_of(*_PORTFOLIO)(transaction_cost_pct=0.0, state_space=count, **common)
    return _class_of(*_TRADING)(
        num_stock_shares=[0] * count,
        buy_cost_pct=[settings.buy_cost_pct] * count,
        sell_cost_pct=[settings.sell_cost_pct] * count,
        state_space=1 + (2 + kinds) * count,
        print_verbosity=1 << 30,
        **common,
    )


class _Own:
    """An environment of FinRL's, which knows neither slips nor debts."""

    slipped = 0.0
    fees = 0.0
    calls = 0

    def __init__(self, market: Market, settings: Settings, first: int, last: int) -> None:
        self._count = len(market.tickers)
        self.env = own_environment(market, settings, first, last)
        self.env.reset()
        self.traded = 0.0


class FinRLAccount(_Own):
    """The portfolio inside FinRL's ``StockTradingEnv``.

    Attributes:
        env: FinRL's environment.
        traded: value of all trades so far.
    """

    def step(self, actions: NDArray[np.float64]) -> None:
        """Trade and go on to the next day."""
        before = self.shares
        prices = np.array(self.env.state[1 : 1 + self._count], np.float64)
        self.env.step(actions)
        self.traded += float(np.abs(self.shares - before) @ prices)

    @property
    def cash(self) -> float:
        return float(self.env.state[0])

    @property
    def shares(self) -> NDArray[np.float64]:
        count = self._count
        return np.array(self.env.state[1 + count : 1 + 2 * count], np.float64)

    @property
    def cost(self) -> float:
        return float(self.env.cost)

    @property
    def trades(self) -> int:
        return int(self.env.trades)

    def value(self, prices: NDArray[np.float64]) -> float:
        """Cash and stocks at ``prices``."""
        return float(self.cash + self.shares @ prices)


class FinRLPortfolio(_Own):
    """The portfolio inside FinRL's ``StockPortfolioEnv``, which is always invested.

    Attributes:
        env: FinRL's environment.
        shares: parts of stocks held, float64 [n].
        traded: value of all trades so far.
        trades: how many.
    """

    cash = 0.0
    cost = 0.0

    def __init__(self, market: Market, settings: Settings, first: int, last: int) -> None:
        super().__init__(market, settings, first, last)
        self.cash = settings.initial_amount
        self.shares = np.zeros(self._count)
        self.trades = 0

    def step(self, actions: NDArray[np.float64]) -> None:
        """Divide the portfolio and go on to the next day."""
        prices, value = self.env.data.close.to_numpy(np.float64), float(self.env.portfolio_value)
        self.env.step(actions)
        shares = value * np.asarray(self.env.actions_memory[-1], np.float64) / prices
        change = shares - self.shares
        self.traded += float(np.abs(change) @ prices)
        self.trades += int(np.count_nonzero(change))
        self.shares, self.cash = shares, 0.0

    def value(self, prices: NDArray[np.float64]) -> float:
        """The value that FinRL counts."""
        return float(self.env.portfolio_value)


def _covariances(market: Market, first: int, last: int) -> list[NDArray[np.float64]]:
    count = len(market.tickers)
    days = [market.covariance(day) for day in range(first, last + 1)]
    return [each for each in days for _ in range(count)]


def _frame(market: Market, first: int, last: int) -> Any:
    """The days as FinRL wants them: a row for every day and ticker, numbered by day."""
    pandas: Any = importlib.import_module("pandas")  # which the module has imported
    days = np.arange(first, last + 1)
    count = len(market.tickers)
    columns: dict[str, Any] = {
        "date": np.repeat([market.dates[day] for day in days], count),
        "tic": np.tile(market.tickers, len(days)),
        "close": market.prices[days].ravel(),
        "turbulence": np.repeat(market.turbulence[days], count),
    }
    for index, name in enumerate(market.names):
        columns[name] = market.features[days, index].ravel()
    return pandas.DataFrame(columns, index=np.repeat(np.arange(len(days)), count))
