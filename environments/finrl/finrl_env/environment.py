"""The environment: one portfolio per session."""

from __future__ import annotations

import math
import random
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from finrl_env.account import Account
from finrl_env.finrl_backend import FinRLAccount, FinRLPortfolio
from finrl_env.frames import Frame, read_frame, sent_frame
from finrl_env.market import Market, load_market, sent_market
from finrl_env.metrics import DifferentialSharpe, measure
from finrl_env.models import FinRLAction, FinRLMetrics, FinRLObservation, FinRLState
from finrl_env.settings import (
    ActionMode,
    Backend,
    Execution,
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
_DUST = 1e-6


class FinRLEnvironment(Environment[FinRLAction, FinRLObservation, FinRLState]):
    """Portfolio trading on daily prices.

    A step trades at the day's closing prices and goes on to the next day's close; its reward is
    what that did to the portfolio, see ``Settings.reward``. ``truncated``: the last day of the
    episode is reached; ``terminated``: less than a tenth of the money is left.

    Args:
        settings: see ``Settings``; what is not given comes from ``FINRL_CONFIG_PATH`` and the
            other ``FINRL_*`` variables, else from its defaults.
        data: prices in place of those of ``data_path``: a pandas data frame, columns or rows; see
            ``frames``.

    Raises:
        InvalidOption: a setting that cannot be, or too few days between the dates.
    """

    name = "finrl"
    isolation: ClassVar[Isolation | None] = declared_isolation()  # a step takes microseconds

    def __init__(
        self,
        tickers: list[str] | None = None,
        tech_indicators: list[str] | None = None,
        split: Split | None = None,
        split_date: str | None = None,
        start_date: str | None = None,
        end_date: str | None = None,
        episode_days: int | None = None,
        initial_amount: float | None = None,
        hmax: int | None = None,
        action_mode: ActionMode | None = None,
        execution: Execution | None = None,
        buy_cost_pct: float | None = None,
        sell_cost_pct: float | None = None,
        slippage_pct: float | None = None,
        impact_pct: float | None = None,
        volume_limit: float | None = None,
        short: bool | None = None,
        initial_margin: float | None = None,
        maintenance_margin: float | None = None,
        borrow_rate: float | None = None,
        interest_rate: float | None = None,
        reward: Reward | None = None,
        reward_scaling: float | None = None,
        turbulence_threshold: float | None = None,
        backend: Backend | None = None,
        data_path: str | None = None,
        data: Any = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in Settings.names()}
        self._served = Settings.from_environ().changed(given)
        self._frame = None if data is None else sent_frame(data)
        self._begin(self._served, 0, self._frame)

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
        tech_indicators: list[str] | None = None,
        split: Split | None = None,
        split_date: str | None = None,
        start_date: str | None = None,
        end_date: str | None = None,
        episode_days: int | None = None,
        initial_amount: float | None = None,
        hmax: int | None = None,
        action_mode: ActionMode | None = None,
        execution: Execution | None = None,
        buy_cost_pct: float | None = None,
        sell_cost_pct: float | None = None,
        slippage_pct: float | None = None,
        impact_pct: float | None = None,
        volume_limit: float | None = None,
        short: bool | None = None,
        initial_margin: float | None = None,
        maintenance_margin: float | None = None,
        borrow_rate: float | None = None,
        interest_rate: float | None = None,
        reward: Reward | None = None,
        reward_scaling: float | None = None,
        turbulence_threshold: float | None = None,
        backend: Backend | None = None,
        data: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> StepResult[FinRLObservation]:
        """Begin an episode; the options change the server's settings for this episode.

        Args:
            seed: draws the first day.
            data: prices of the caller's own, see ``frames``: traded in place of the server's.
        """
        given = {name: value for name, value in locals().items() if name in Settings.names()}
        frame = self._frame if data is None else sent_frame(data)
        self._begin(self._served.changed(given), seed, frame)
        return StepResult(self._observation())

    def _begin(self, settings: Settings, seed: int | None, frame: Frame | None) -> None:
        market = _market(settings, frame)
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
        self._account: Account | FinRLAccount | FinRLPortfolio
        if settings.backend == "native":
            count = len(market.tickers)
            self._account = Account(settings.initial_amount, np.zeros(count), settings.terms)
        else:
            own = FinRLPortfolio if settings.action_mode == "allocation" else FinRLAccount
            self._account = own(market, settings, self._first, self._last)
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
        calls = self._account.calls
        self._trade(wanted)
        before = self._values[-1]
        now = self._account.value(self._market.prices[self._day])
        self._values.append(now)
        terminated = now < _RUIN * self._settings.initial_amount
        truncated = self._day >= self._last and not terminated
        info: dict[str, Any] = {}
        if self._account.calls > calls:
            info["margin_call"] = True
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
        least = _least(self._settings)
        bad = np.flatnonzero(~((wanted >= least) & (wanted <= 1.0)))
        if bad.size:
            raise InvalidAction(
                f"actions[{bad[0]}] is {actions[bad[0]]!r}: it must be from {least:g} to 1"
            )
        return wanted

    def _trade(self, wanted: NDArray[np.float64]) -> None:
        """Trade, and go on to the next day's close."""
        settings, market, today = self._settings, self._market, self._day
        account = self._account
        self._day += 1
        if not isinstance(account, Account):
            account.step(wanted)
            return
        filled = today if settings.execution == "close" else self._day
        prices = market.prices[today]
        if market.opens is not None and settings.execution == "next_open":
            prices = market.opens[filled]
        volumes = None if market.volumes is None else market.volumes[filled]
        threshold = settings.turbulence_threshold
        # The first day's is not looked at: there is nothing to sell yet.
        alarmed = threshold is not None and market.turbulence[today] >= threshold
        whole = settings.action_mode == "shares"
        if alarmed and today > self._first and settings.action_mode != "allocation":
            account.close_all(prices, volumes)
        elif whole:
            orders = (wanted * settings.hmax).astype(np.int64)
            account.trade(orders, prices, volumes, whole=True)
        else:
            account.rebalance(_weights(wanted, settings), prices, volumes)
        now_traded = None if market.volumes is None else market.volumes[self._day]
        account.end_day(market.prices[self._day], now_traded, whole=whole)

    def _reward(self, before: float, now: float) -> float:
        settings = self._settings
        match settings.reward:
            case "value":
                gain = now - before
            case "log_return":
                least = _DUST * settings.initial_amount  # debts have no logarithm
                gain = math.log(max(now, least) / before)
            case "sharpe":
                gain = self._sharpe.add(now / before - 1)
            case "portfolio_value":
                gain = now
        return gain * settings.scale

    def _observation(self) -> FinRLObservation:
        market, day, account = self._market, self._day, self._account
        if self._settings.action_mode == "allocation":
            state = np.concatenate((market.covariance(day), market.features[day]))
        else:
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
        return measure(self._values, self._account, float(grown.mean() - 1))

    def state(self) -> FinRLState:
        settings, dates = self._settings, self._market.dates
        return FinRLState(
            tickers=list(self._market.tickers),
            tech_indicators=list(self._market.names),
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
            margin=self._margin(),
            metrics=self._metrics(),
        )

    def _margin(self) -> float | None:
        prices = self._market.prices[self._day]
        exposure = float(np.abs(self._account.shares) @ prices)
        return self._account.value(prices) / exposure if exposure else None

    def snapshot(self) -> bytes:
        """Return the position of the episode: under 1 KB and 9 bytes a day.

        Prices that came with ``data`` go along.

        Raises:
            OperationUnsupported: FinRL's own environment is played.
        """
        if not isinstance(self._account, Account):
            raise OperationUnsupported("FinRL's own environment cannot be saved: use native")
        saved = Snapshot(
            self._settings,
            self._first,
            self._last,
            self._day,
            self._account,
            self._values,
            self._sharpe,
            self._market.frame.digest,
        )
        if self._market.frame != read_frame(self._served.data_path):
            saved.keep(self._market.frame)
        return saved.encode()

    def restore(self, snapshot: bytes) -> None:
        """Go on from a snapshot, of this or of another session with the same prices.

        Raises:
            InvalidOption: it is not a snapshot of this environment.
        """
        saved = Snapshot.decode(snapshot)
        if saved.settings.data_path != self._served.data_path:
            raise InvalidOption("this snapshot of finrl is of other prices")
        market = _market(saved.settings, saved.frame())
        if market.frame.digest != saved.digest:
            raise InvalidOption("this snapshot of finrl is of other prices")
        self._play(market, saved.settings, saved.first, saved.last)
        self._day, self._account = saved.day, saved.account
        self._values, self._sharpe = saved.values, saved.sharpe

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        """The schemas for the stocks that are served: how many numbers go in and come out."""
        given = dict(params)
        data = given.pop("data", None)
        settings = Settings.from_environ().changed(given)
        market = _market(settings, None if data is None else sent_frame(data))
        count, kinds = len(market.tickers), len(market.names)
        action, observation = json_schema(FinRLAction), json_schema(FinRLObservation)
        of = _properties(action)["actions"]
        of["items"] = {"type": "number", "minimum": _least(settings), "maximum": 1.0}
        of["minItems"] = of["maxItems"] = count
        shape = [1 + (2 + kinds) * count]
        if settings.action_mode == "allocation":
            shape = [count + kinds, count]
        _properties(observation)["state"]["x-ndarray"]["shape"] = shape
        return {"action": action, "observation": observation}


def _market(settings: Settings, frame: Frame | None) -> Market:
    """Return what is traded: of a frame, else of the file that the settings name."""
    if frame is None:
        market = load_market(settings.data_path, settings.tickers, settings.tech_indicators)
    else:
        market = sent_market(frame, settings.tickers, settings.tech_indicators)
    for column, option in settings.needed.items():
        if column not in market.frame.columns:
            raise InvalidOption(
                f"{option}={getattr(settings, option)!r} needs the column {column!r}, which the"
                " prices have not",
                option=option,
            )
    return market


def _least(settings: Settings) -> float:
    """The least number of an action."""
    return 0.0 if settings.action_mode == "allocation" else -1.0


def _weights(wanted: NDArray[np.float64], settings: Settings) -> NDArray[np.float64]:
    """The parts of the portfolio that an action asks for."""
    if settings.action_mode == "allocation":
        weights: NDArray[np.float64] = np.exp(wanted)
        return weights / float(weights.sum())
    weights = wanted if settings.short else (wanted + 1) / 2
    return weights / max(1.0, float(np.abs(weights).sum()) * settings.initial_margin)


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    """The properties of the object that a schema of a model describes."""
    if "$ref" in schema:
        schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    properties: dict[str, Any] = schema["properties"]
    return properties
