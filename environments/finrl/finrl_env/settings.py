"""The settings of an episode: defaults, the server's environment variables and bounds."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, get_type_hints

import msgspec

from finrl_env.account import Terms
from openenv_async.environment import Isolation
from openenv_async.errors import InvalidOption

__all__ = [
    "VARIABLES",
    "ActionMode",
    "Backend",
    "Execution",
    "Reward",
    "Settings",
    "Split",
    "declared_isolation",
]

Split = Literal["train", "test", "all"]
ActionMode = Literal["shares", "weights", "allocation"]
Execution = Literal["close", "next_open"]
Reward = Literal["value", "log_return", "sharpe", "portfolio_value"]
Backend = Literal["native", "finrl"]
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
_LISTS: Final = {"tickers", "tech_indicators"}
_MOST_FEATURES: Final = 64
_KEPT: Final = "above 0 and at most initial_margin"

VARIABLES: Final[dict[str, str]] = {
    "FINRL_TICKERS": "tickers",
    "FINRL_TECH_INDICATORS": "tech_indicators",
    "FINRL_SPLIT": "split",
    "FINRL_SPLIT_DATE": "split_date",
    "FINRL_START_DATE": "start_date",
    "FINRL_END_DATE": "end_date",
    "FINRL_EPISODE_DAYS": "episode_days",
    "FINRL_INITIAL_AMOUNT": "initial_amount",
    "FINRL_HMAX": "hmax",
    "FINRL_ACTION_MODE": "action_mode",
    "FINRL_EXECUTION": "execution",
    "FINRL_BUY_COST_PCT": "buy_cost_pct",
    "FINRL_SELL_COST_PCT": "sell_cost_pct",
    "FINRL_SLIPPAGE_PCT": "slippage_pct",
    "FINRL_IMPACT_PCT": "impact_pct",
    "FINRL_VOLUME_LIMIT": "volume_limit",
    "FINRL_SHORT": "short",
    "FINRL_INITIAL_MARGIN": "initial_margin",
    "FINRL_MAINTENANCE_MARGIN": "maintenance_margin",
    "FINRL_BORROW_RATE": "borrow_rate",
    "FINRL_INTEREST_RATE": "interest_rate",
    "FINRL_REWARD": "reward",
    "FINRL_REWARD_SCALING": "reward_scaling",
    "FINRL_TURBULENCE_THRESHOLD": "turbulence_threshold",
    "FINRL_BACKEND": "backend",
    "FINRL_DATA_PATH": "data_path",
}
"""Environment variable of every setting. ``FINRL_CONFIG_PATH``, as upstream's, names a JSON file
with any of the settings, which the others change."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of an episode.

    Attributes:
        tickers: which stocks, in this order; ``None``: all of the data.
        tech_indicators: features of an observation: columns of the data, or computed; ``None``:
            the seven of ``indicators``.
        split: ``train`` ends before ``split_date``, ``test`` begins with it.
        start_date, end_date: further bounds, both included.
        episode_days: trading days of an episode, whose first day is drawn from the seed; 0: all
            days of the split.
        initial_amount: cash at the start.
        hmax: stocks that an action of 1 buys (``shares``).
        action_mode: what the actions mean, see ``FinRLAction``; ``allocation`` is FinRL's
            ``StockPortfolioEnv``, with its observation.
        execution: ``close``: orders are filled at the closing prices that were seen;
            ``next_open``: at the next day's opening prices.
        buy_cost_pct, sell_cost_pct: cost of a trade, as a part of its value.
        slippage_pct: how much worse than the price an order is filled, as a part of it.
        impact_pct: the same for an order of a whole day's volume; by the square root of its part.
        volume_limit: largest order, as a part of the day's volume; ``None``: no limit.
        short: whether stocks are sold that are not held.
        initial_margin: equity that a new position needs, as a part of the exposure; 1: no debt.
        maintenance_margin: where the equity is a smaller part, positions are cut.
        borrow_rate, interest_rate: fees a year of stocks sold short and of borrowed money.
        reward: ``value``: change of the portfolio value; ``log_return``: of its logarithm;
            ``sharpe``: the differential Sharpe ratio (Moody & Saffell, 1998);
            ``portfolio_value``: the value itself.
        reward_scaling: factor of the reward; ``None``: 1e-4 for ``value``, as FinRL, else 1.
        turbulence_threshold: when the day's turbulence is not below it everything is sold and
            nothing bought, whatever the action; ``None``: never.
        backend: ``finrl`` runs FinRL's own ``StockTradingEnv`` (extra ``finrl``).
        data_path: file of prices, see ``frames``; ``None``: the bundled one.
    """

    tickers: tuple[str, ...] | None = None
    tech_indicators: tuple[str, ...] | None = None
    split: Split = "train"
    split_date: str = "2017-01-01"
    start_date: str | None = None
    end_date: str | None = None
    episode_days: int = 252
    initial_amount: float = 1_000_000.0
    hmax: int = 100
    action_mode: ActionMode = "shares"
    execution: Execution = "close"
    buy_cost_pct: float = 0.001
    sell_cost_pct: float = 0.001
    slippage_pct: float = 0.0
    impact_pct: float = 0.0
    volume_limit: float | None = None
    short: bool = False
    initial_margin: float = 1.0
    maintenance_margin: float = 0.25
    borrow_rate: float = 0.0
    interest_rate: float = 0.0
    reward: Reward = "value"
    reward_scaling: float | None = None
    turbulence_threshold: float | None = None
    backend: Backend = "native"
    data_path: str | None = None

    def __post_init__(self) -> None:
        for name in ("split_date", "start_date", "end_date"):
            value = getattr(self, name)
            if value is not None and not _DATE.fullmatch(value):
                raise InvalidOption(f"{name} must be YYYY-MM-DD, got {value!r}", option=name)
        for name, good, wanted in (
            ("episode_days", self.episode_days == 0 or self.episode_days >= 2, "0 or at least 2"),
            ("initial_amount", self.initial_amount > 0, "positive"),
            ("hmax", self.hmax >= 1, "at least 1"),
            ("buy_cost_pct", 0 <= self.buy_cost_pct < 1, "from 0 to below 1"),
            ("sell_cost_pct", 0 <= self.sell_cost_pct < 1, "from 0 to below 1"),
            ("slippage_pct", 0 <= self.slippage_pct < 1, "from 0 to below 1"),
            ("impact_pct", 0 <= self.impact_pct < math.inf, "0 or more"),
            ("volume_limit", _part(self.volume_limit), "above 0 and at most 1"),
            ("initial_margin", _part(self.initial_margin), "above 0 and at most 1"),
            ("maintenance_margin", 0 < self.maintenance_margin <= self.initial_margin, _KEPT),
            ("borrow_rate", 0 <= self.borrow_rate < 10, "from 0 to below 10"),
            ("interest_rate", 0 <= self.interest_rate < 10, "from 0 to below 10"),
            ("tickers", self.tickers is None or self.tickers, "not empty"),
        ):
            if not good:
                raise InvalidOption(
                    f"{name} must be {wanted}, got {getattr(self, name)!r}", option=name
                )
        if self.tickers is not None and len(set(self.tickers)) < len(self.tickers):
            raise InvalidOption("a ticker is named twice", option="tickers")
        names = self.tech_indicators or ()
        if len(set(names)) < len(names) or len(names) > _MOST_FEATURES:
            raise InvalidOption(
                f"tech_indicators must be at most {_MOST_FEATURES} different names",
                option="tech_indicators",
            )
        if self.action_mode == "allocation" and not self.terms.plain:
            raise InvalidOption(
                "action_mode allocation divides what there is: short and initial_margin go with"
                " action_mode weights",
                option="action_mode",
            )
        if self.backend == "finrl":
            self._check_finrl()

    def _check_finrl(self) -> None:
        """Refuse what FinRL's own environments have not."""
        if self.action_mode == "weights":
            reason = "action_mode shares and allocation"
        elif self.reward != ("value" if self.action_mode == "shares" else "portfolio_value"):
            reason = "reward value (of shares) and portfolio_value (of allocation)"
        elif self.execution != "close" or self.terms != Terms(
            buy_cost=self.buy_cost_pct, sell_cost=self.sell_cost_pct
        ):
            reason = "buy_cost_pct and sell_cost_pct, of what a trade costs and may be,"
        elif self.action_mode == "allocation" and self.buy_cost_pct + self.sell_cost_pct:
            reason = "buy_cost_pct=0 and sell_cost_pct=0 in action_mode allocation"
        else:
            return
        raise InvalidOption(f"FinRL's own environment knows {reason} only", option="backend")

    @property
    def terms(self) -> Terms:
        """The terms of the account."""
        return Terms(
            self.buy_cost_pct,
            self.sell_cost_pct,
            self.slippage_pct,
            self.impact_pct,
            self.volume_limit,
            self.short,
            self.initial_margin,
            self.maintenance_margin,
            self.borrow_rate,
            self.interest_rate,
        )

    @property
    def needed(self) -> dict[str, str]:
        """The columns that the data must have, and the option that needs each."""
        columns = {}
        if self.execution == "next_open":
            columns["open"] = "execution"
        if self.impact_pct:
            columns["volume"] = "impact_pct"
        if self.volume_limit is not None:
            columns["volume"] = "volume_limit"
        return columns

    @property
    def scale(self) -> float:
        """The factor of the reward."""
        if self.reward_scaling is not None:
            return self.reward_scaling
        return 1e-4 if self.reward == "value" else 1.0

    def bounds(self) -> tuple[str | None, str | None, str | None]:
        """First date, last date, and the date before which it has to be."""
        first = self.start_date
        if self.split == "test":
            first = max(first or "", self.split_date)
        return first, self.end_date, self.split_date if self.split == "train" else None

    def changed(self, options: Mapping[str, Any]) -> Self:
        """A copy with those options that are not ``None``.

        Raises:
            InvalidOption: a value that cannot be.
        """
        changes = {name: value for name, value in options.items() if value is not None}
        for name in _LISTS & changes.keys():
            changes[name] = tuple(changes[name])
        return replace(self, **changes) if changes else self

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """The defaults as the configuration file and the environment variables change them.

        Raises:
            InvalidOption: a value is none; the message names the variable.
        """
        changes: dict[str, Any] = {}
        if path := environ.get("FINRL_CONFIG_PATH"):
            changes = _read_config(path, cls.names())
        hints = get_type_hints(cls)
        for variable, name in VARIABLES.items():
            if text := environ.get(variable):
                value = text.split(",") if name in _LISTS else text
                changes[name] = _converted(variable, value, hints[name])
        return cls().changed(
            {key: _converted(key, value, hints[key]) for key, value in changes.items()}
        )

    @classmethod
    def names(cls) -> list[str]:
        return [item.name for item in fields(cls)]


def _part(value: float | None) -> bool:
    return value is None or 0 < value <= 1


def _converted(where: str, value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise InvalidOption(f"{where}={value}: {exc}") from None


def _read_config(path: str, known: list[str]) -> dict[str, Any]:
    try:
        config = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as exc:
        raise InvalidOption(f"FINRL_CONFIG_PATH={path}: {exc}") from exc
    for key in config:
        if key not in known:
            raise InvalidOption(f"{path} has {key!r}; it may have {', '.join(known)}", option=key)
    return config


def declared_isolation(environ: Mapping[str, str] = os.environ) -> Isolation:
    """``FINRL_ISOLATION``: inline (the default), thread or process.

    Raises:
        InvalidOption: it is something else.
    """
    isolation: Isolation = _converted(
        "FINRL_ISOLATION", environ.get("FINRL_ISOLATION") or "inline", Isolation
    )
    return isolation
