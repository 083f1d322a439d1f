"""The settings of an episode: defaults, the server's environment variables and bounds."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final, Literal, Self, get_type_hints

import msgspec

from openenv_async.environment import Isolation
from openenv_async.errors import InvalidOption

__all__ = [
    "VARIABLES",
    "ActionMode",
    "Backend",
    "Reward",
    "Settings",
    "Split",
    "declared_isolation",
]

Split = Literal["train", "test", "all"]
ActionMode = Literal["shares", "weights"]
Reward = Literal["value", "log_return", "sharpe"]
Backend = Literal["native", "finrl"]
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")

VARIABLES: Final[dict[str, str]] = {
    "FINRL_TICKERS": "tickers",
    "FINRL_SPLIT": "split",
    "FINRL_SPLIT_DATE": "split_date",
    "FINRL_START_DATE": "start_date",
    "FINRL_END_DATE": "end_date",
    "FINRL_EPISODE_DAYS": "episode_days",
    "FINRL_INITIAL_AMOUNT": "initial_amount",
    "FINRL_HMAX": "hmax",
    "FINRL_ACTION_MODE": "action_mode",
    "FINRL_BUY_COST_PCT": "buy_cost_pct",
    "FINRL_SELL_COST_PCT": "sell_cost_pct",
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
        split: ``train`` ends before ``split_date``, ``test`` begins with it.
        start_date, end_date: further bounds, both included.
        episode_days: trading days of an episode, whose first day is drawn from the seed; 0: all
            days of the split.
        initial_amount: cash at the start.
        hmax: stocks that an action of 1 buys (``shares``).
        action_mode: what the actions mean, see ``FinRLAction``.
        buy_cost_pct, sell_cost_pct: cost of a trade, as a part of its value.
        reward: ``value``: change of the portfolio value; ``log_return``: of its logarithm;
            ``sharpe``: the differential Sharpe ratio (Moody & Saffell, 1998).
        reward_scaling: factor of the reward; ``None``: 1e-4 for ``value``, as FinRL, else 1.
        turbulence_threshold: when the day's turbulence is not below it everything is sold and
            nothing bought, whatever the action; ``None``: never.
        backend: ``finrl`` runs FinRL's own ``StockTradingEnv`` (extra ``finrl``).
        data_path: CSV file of prices; ``None``: the bundled one.
    """

    tickers: tuple[str, ...] | None = None
    split: Split = "train"
    split_date: str = "2017-01-01"
    start_date: str | None = None
    end_date: str | None = None
    episode_days: int = 252
    initial_amount: float = 1_000_000.0
    hmax: int = 100
    action_mode: ActionMode = "shares"
    buy_cost_pct: float = 0.001
    sell_cost_pct: float = 0.001
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
            ("tickers", self.tickers is None or self.tickers, "not empty"),
        ):
            if not good:
                raise InvalidOption(
                    f"{name} must be {wanted}, got {getattr(self, name)!r}", option=name
                )
        if self.tickers is not None and len(set(self.tickers)) < len(self.tickers):
            raise InvalidOption("a ticker is named twice", option="tickers")
        if self.backend == "finrl" and (self.action_mode, self.reward) != ("shares", "value"):
            raise InvalidOption(
                "FinRL's own environment knows action_mode shares and reward value only",
                option="backend",
            )

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
        if "tickers" in changes:
            changes["tickers"] = tuple(changes["tickers"])
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
                value = text.split(",") if name == "tickers" else text
                changes[name] = _converted(variable, value, hints[name])
        return cls().changed(
            {key: _converted(key, value, hints[key]) for key, value in changes.items()}
        )

    @classmethod
    def names(cls) -> list[str]:
        return [item.name for item in fields(cls)]


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
