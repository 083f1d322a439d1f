"""FinRL's own ``StockTradingEnv``, fed with the same prices and indicators.

FinRL's package cannot be imported without brokers' clients, but the one module needs only
gymnasium, matplotlib, pandas and Stable-Baselines3, so it is loaded by its path.

Its last ``step`` gives the last reward a second time; here an episode ends before it.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from finrl_env.indicators import INDICATORS
from finrl_env.market import Market
from finrl_env.settings import Settings
from openenv_async.errors import InvalidOption

__all__ = ["FinRLAccount", "available"]

_MODULE: Final = Path("meta", "env_stock_trading", "env_stocktrading.py")


def available() -> bool:
    """Return whether FinRL is installed."""
    return importlib.util.find_spec("finrl") is not None


@functools.cache
def _trading_env() -> Any:
    spec = importlib.util.find_spec("finrl")  # finds it without running its __init__
    if spec is None or not spec.submodule_search_locations:
        raise InvalidOption(
            "backend finrl needs FinRL: pip install 'openenv-async-finrl[finrl]'"
            " && pip install --no-deps finrl",
            option="backend",
        )
    path = Path(spec.submodule_search_locations[0]) / _MODULE
    found = importlib.util.spec_from_file_location("finrl_env_stocktrading", path)
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
    return module.StockTradingEnv


class FinRLAccount:
    """The portfolio inside FinRL's environment, for the days ``first`` to ``last``."""

    def __init__(self, market: Market, settings: Settings, first: int, last: int) -> None:
        env_class = _trading_env()
        count = len(market.tickers)
        self._count = count
        threshold = settings.turbulence_threshold
        self._env = env_class(
            df=_frame(market, first, last),
            stock_dim=count,
            hmax=settings.hmax,
            initial_amount=settings.initial_amount,
            num_stock_shares=[0] * count,
            buy_cost_pct=[settings.buy_cost_pct] * count,
            sell_cost_pct=[settings.sell_cost_pct] * count,
            reward_scaling=settings.scale,
            state_space=1 + (2 + len(INDICATORS)) * count,
            action_space=count,
            tech_indicator_list=list(INDICATORS),
            turbulence_threshold=threshold,
            print_verbosity=1 << 30,
        )
        self._env.reset()
        self.traded = 0.0

    def step(self, actions: NDArray[np.float64]) -> None:
        """Trade and go on to the next day."""
        before = self.shares
        prices = np.array(self._env.state[1 : 1 + self._count], np.float64)
        self._env.step(actions)
        self.traded += float(np.abs(self.shares - before) @ prices)

    @property
    def cash(self) -> float:
        return float(self._env.state[0])

    @property
    def shares(self) -> NDArray[np.float64]:
        count = self._count
        return np.array(self._env.state[1 + count : 1 + 2 * count], np.float64)

    @property
    def cost(self) -> float:
        return float(self._env.cost)

    @property
    def trades(self) -> int:
        return int(self._env.trades)

    def value(self, prices: NDArray[np.float64]) -> float:
        """Cash and stocks at ``prices``."""
        return float(self.cash + self.shares @ prices)


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
    for index, name in enumerate(INDICATORS):
        columns[name] = market.features[days, index].ravel()
    return pandas.DataFrame(columns, index=np.repeat(np.arange(len(days)), count))
