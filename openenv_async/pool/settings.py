"""The numbers that govern a pool: how many workers and slots, and for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from openenv_async.pool.scheduler import ProviderRules, Scheduler
from openenv_async.providers.base import Provider
from openenv_async.rollouts.checking import check_count

__all__ = ["PoolSettings"]

_MAX_WORKERS: Final = 8
_ANY_NUMBER: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """Arguments of ``EnvPool``, by the same names, once they are known to make sense.

    Raises:
        TypeError, ValueError: they do not.
    """

    max_workers: int | None
    sessions_per_worker: int
    min_workers: int
    warm_workers: int
    idle_ttl: float | None
    max_lifetime: float | None
    max_uses: int | None
    acquire_timeout: float | None
    start_timeout: float
    connections: int

    def __post_init__(self) -> None:
        for name in ("max_workers", "sessions_per_worker", "max_uses", "connections"):
            if (count := getattr(self, name)) is not None:
                object.__setattr__(self, name, check_count(name, count))
        for name in ("min_workers", "warm_workers"):
            count = check_count(name, getattr(self, name), 0)
            object.__setattr__(self, name, count)
            if count > (self.max_workers or count):
                raise ValueError(
                    f"{name} must be 0 to {self.max_workers} (max_workers), got {count}"
                )
        for name in ("idle_ttl", "max_lifetime", "acquire_timeout", "start_timeout"):
            seconds = getattr(self, name)
            if isinstance(seconds, bool | str):
                raise TypeError(f"{name} must be a number of seconds, got {seconds!r}")
            if seconds is not None and not seconds >= 0:
                raise ValueError(f"{name} must be at least 0 seconds, got {seconds!r}")

    def scheduler(self, providers: Sequence[Provider]) -> Scheduler:
        """An empty scheduler with these rules."""
        return Scheduler(
            [self._rules(provider) for provider in providers],
            min_workers=self.min_workers,
            warm_workers=self.warm_workers,
            idle_ttl=self.idle_ttl,
            max_lifetime=self.max_lifetime,
            max_uses=self.max_uses,
        )

    def _rules(self, provider: Provider) -> ProviderRules:
        most = self.max_workers
        if most is None:
            owned = provider.owns_workers
            most = max(_MAX_WORKERS, self.min_workers) if owned else _ANY_NUMBER
        return ProviderRules(most, self.sessions_per_worker, free=not provider.owns_workers)
