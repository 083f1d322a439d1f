"""The pool: workers by demand, leased environments, and playing on them."""

from __future__ import annotations

from openenv_async.pool.playing import Mapped
from openenv_async.pool.pool import EnvPool
from openenv_async.pool.scheduler import PoolStatistics
from openenv_async.pool.sync import SyncEnvPool

__all__ = ["EnvPool", "Mapped", "PoolStatistics", "SyncEnvPool"]
