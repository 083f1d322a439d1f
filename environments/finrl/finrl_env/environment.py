"""The environment: one portfolio per session."""

from __future__ import annotations

import math
import random
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from finrl_env.account import Account
from finrl_env.finrl_backend import FinRLAccount
from finrl_env.indicators import INDICATORS
from finrl_env.market import Market, load_market
from finrl_env.metrics import DifferentialSharpe, measure
from finrl_env.models import FinRLAction, FinRLMetrics, FinRLObservation, FinRLState
from finrl_env.settings import (
    ActionMode,
    Backend,
    Reward,
    Settings,
    Split,
    declared_isolation,
)
from finrl_env.snapshots import Snapshot
from openenv_async import Certification, Environment, StepResult
from openenv_async.environment import Isolation
from openenv_async.errors import InvalidAction, InvalidOption, OperationUnsupported
from openenv_async.models import json_schema

__all__ = ["FinRLEnvironment"]

_RUIN = 0.1


class FinRLEnvironment(Environment[FinRLAction, FinRLObservation, FinRLState]):
    """Portfolio trading on daily prices.

    A step trades at the day's closing prices and goes on to the next day's close; its reward is
    what that did to the portfolio, see ``Settings.reward``. ``truncated``: the last day of the
    episode is reached; ``terminated``: less than a tenth of the money is left.

    Args:
        settings: see ``Settings``; what is not given comes from ``FINRL_CONFIG_PATH`` and the
            other ``FINRL_*`` variables, else from its defaults.

    Raises:
        InvalidOption: a setting that cannot be, or too few days between the dates.
    """

    name = "finrl"
    isolation: ClassVar[Isolation | None] = declared_isolation()  # a step takes microseconds

    def __init__(
        self,
        tickers: list[str] | None = None,
        split: Split | None = None,
        split_date: str | None = None,
        start_date: str | None = None,
        end_date: str | None = None,
        episode_days: int | None = None,
        initial_amount: float | None = None,
        hmax: int | None = None,
        action_mode: ActionMode | None = None,
        buy_cost_pct: float | None = None,
        sell_cost_pct: float | None = None,
        reward: Reward | None = None,
        reward_scaling: float | None = None,
        turbulence_threshold: float | None = None,
        backend: Backend | None = None,
        data_path: str | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in Settings.names()}
        self._served = Settings.from_environ().changed(given)
        self._begin(self._served, 0)

    @classmethod
    def certification_for(cls, **params: Any) -> Certification | None:
        """The statements for a certificate."""
        from finrl_env.certification import certification

        return certification(**params)

    def reset(
        self,
        seed: int | None = None,
        *,
        tickers: list[str] | None = None,
        split: Split | None = None,
        split_date: str | None = None,
        start_date: str | None = None,
        end_date: str | None = None,
        episode_days: int | None = None,
        initial_amount: float | None = None,
        hmax: int | None = None,
        action_mode: ActionMode | None = None,
        buy_cost_pct: float | None = None,
        sell_cost_pct: float | None = None,
        reward: Reward | None = None,
        reward_scaling: float | None = None,
        turbulence_threshold: float | None = None,
        backend: Backend | None = None,
    ) -> StepResult[FinRLObservation]:
        """Begin an episode; the options change the server's settings for this episode."""
        given = {name: value for name, value in locals().items() if name in Settings.names()}
        self._begin(self._served.changed(given), seed)
        return StepResult(self._observation())

    def _begin(self, settings: Settings, seed: int | None) -> None:
        market = load_market(settings.data_path, settings.tickers)
        days = market.days(*settings.bounds())
        length = settings.episode_days or len(days)
        if len(days) < max(2, length):
            raise InvalidOption(
                f"there are {len(days)} trading days between the dates of {settings.split!r} and"
                f" an episode takes {max(2, length)}: widen the dates or set episode_days=0",
                option="episode_days",
            )
        first = days[random.Random(seed).randint(0, len(days) - length)]
        self._play(market, settings, first, first + length - 1)
        self._account: Account | FinRLAccount
        if settings.backend == "finrl":
            self._account = FinRLAccount(market, settings, self._first, self._last)
        else:
            self._account = Account(
                settings.initial_amount,
                np.zeros(len(market.tickers)),
                settings.buy_cost_pct,
                settings.sell_cost_pct,
            )
        self._values = [settings.initial_amount]
        self._sharpe = DifferentialSharpe()

    def _play(self, market: Market, settings: Settings, first: int, last: int) -> None:
        self._market = market
        self._settings = settings
        self._first = self._day = first
        self._last = last

    def next_prices(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the prices of today and of tomorrow, which no observation has."""
        return self._market.prices[self._day], self._market.prices[self._day + 1]

    def step(self, action: FinRLAction) -> StepResult[FinRLObservation]:
        wanted = self._checked(action.actions)
        self._trade(wanted)
        self._day += 1
        before = self._values[-1]
        now = self._account.value(self._market.prices[self._day])
        self._values.append(now)
        terminated = now < _RUIN * self._settings.initial_amount
        truncated = self._day >= self._last and not terminated
        info: dict[str, Any] = {}
        if terminated or truncated:
            info["metrics"] = self._metrics()
        return StepResult(
            self._observation(), self._reward(before, now), terminated, truncated, info
        )

    def _checked(self, actions: list[float]) -> NDArray[np.float64]:
        tickers = self._market.tickers
        if len(actions) != len(tickers):
            raise InvalidAction(
                f"actions has {len(actions)} numbers: it takes {len(tickers)}, one for each of"
                f" {', '.join(tickers)}"
            )
        wanted = np.array(actions, np.float64)
        bad = np.flatnonzero(~(np.abs(wanted) <= 1.0))
        if bad.size:
            raise InvalidAction(
                f"actions[{bad[0]}] is {actions[bad[0]]!r}: it must be from -1 to 1"
            )
        return wanted

    def _trade(self, wanted: NDArray[np.float64]) -> None:
        settings, prices = self._settings, self._market.prices[self._day]
        account = self._account
        if isinstance(account, FinRLAccount):
            account.step(wanted)
            return
        threshold = settings.turbulence_threshold
        # The first day's is not looked at: there is nothing to sell yet.
        alarmed = threshold is not None and self._market.turbulence[self._day] >= threshold
        if alarmed and self._day > self._first:
            account.sell_all(prices)
        elif settings.action_mode == "shares":
            account.trade((wanted * settings.hmax).astype(np.int64), prices, whole=True)
        else:
            weights = (wanted + 1) / 2
            account.rebalance(weights / max(1.0, float(weights.sum())), prices)

    def _reward(self, before: float, now: float) -> float:
        settings = self._settings
        match settings.reward:
            case "value":
                gain = now - before
            case "log_return":
                gain = math.log(now / before)
            case "sharpe":
                gain = self._sharpe.add(now / before - 1)
        return gain * settings.scale

    def _observation(self) -> FinRLObservation:
        market, day, account = self._market, self._day, self._account
        state = np.concatenate(
            ([account.cash], market.prices[day], account.shares, market.features[day].ravel())
        )
        return FinRLObservation(
            state=state.astype(np.float32),
            portfolio_value=self._values[-1],
            date=market.dates[day],
            turbulence=float(market.turbulence[day]),
        )

    def _metrics(self) -> FinRLMetrics:
        prices = self._market.prices
        grown = prices[self._day] / prices[self._first]
        return measure(
            self._values,
            traded=self._account.traded,
            cost=self._account.cost,
            trades=self._account.trades,
            buy_and_hold=float(grown.mean() - 1),
        )

    def state(self) -> FinRLState:
        settings, dates = self._settings, self._market.dates
        return FinRLState(
            tickers=list(self._market.tickers),
            tech_indicators=list(INDICATORS),
            stock_dim=len(self._market.tickers),
            split=settings.split,
            start=dates[self._first],
            end=dates[self._last],
            day=self._day - self._first,
            episode_days=self._last - self._first + 1,
            initial_amount=settings.initial_amount,
            hmax=settings.hmax,
            action_mode=settings.action_mode,
            reward=settings.reward,
            backend=settings.backend,
            cash=self._account.cash,
            shares=self._account.shares.tolist(),
            metrics=self._metrics(),
        )

    def snapshot(self) -> bytes:
        """Return the position of the episode: under 1 KB and 9 bytes a day.

        Raises:
            OperationUnsupported: FinRL's own environment is played.
        """
        if isinstance(self._account, FinRLAccount):
            raise OperationUnsupported("FinRL's own environment cannot be saved: use native")
        return Snapshot(
            self._settings,
            self._first,
            self._last,
            self._day,
            self._account,
            self._values,
            self._sharpe,
        ).encode()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot, of this or of another session with the same prices.

        Raises:
            InvalidOption: it is not a snapshot of this environment.
        """
        saved = Snapshot.decode(snapshot)
        if saved.settings.data_path != self._served.data_path:
            raise InvalidOption("this snapshot of finrl is of other prices")
        market = load_market(saved.settings.data_path, saved.settings.tickers)
        self._play(market, saved.settings, saved.first, saved.last)
        self._day, self._account = saved.day, saved.account
        self._values, self._sharpe = saved.values, saved.sharpe

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        """The schemas for the stocks that are served: how many numbers go in and come out."""
        settings = Settings.from_environ().changed(params)
        count = len(load_market(settings.data_path, settings.tickers).tickers)
        action, observation = json_schema(FinRLAction), json_schema(FinRLObservation)
        of = _properties(action)["actions"]
        of["items"] = {"type": "number", "minimum": -1.0, "maximum": 1.0}
        of["minItems"] = of["maxItems"] = count
        seen = _properties(observation)["state"]
        seen["x-ndarray"]["shape"] = [1 + (2 + len(INDICATORS)) * count]
        return {"action": action, "observation": observation}


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    """The properties of the object that a schema of a model describes."""
    if "$ref" in schema:
        schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    properties: dict[str, Any] = schema["properties"]
    return properties
