"""A pool's statistics in Prometheus' format, for a registry of ``prometheus_client``.

Rules:

- Nothing is counted here. A scrape takes one reading of ``statistics()`` of each pool, in a turn
  of the pool's loop, whatever thread it comes from.
- ``METRICS`` names everything there is; ``docs/pool.md`` is checked against it.
- Labels have a fixed set of values: the names of the pools, and states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from openenv_async.pool.pool import EnvPool
from openenv_async.pool.scheduler import PoolStatistics
from openenv_async.pool.sync import SyncEnvPool

__all__ = ["METRICS", "PoolCollector", "PoolMetric"]

Family = CounterMetricFamily | GaugeMetricFamily


@dataclass(frozen=True, slots=True)
class PoolMetric:
    """One line of the table. Every metric has the label ``pool``.

    Attributes:
        name: as Prometheus shows it, a counter's ``_total`` included.
        kind: of metric.
        help: what it counts.
        read: its value in a reading; with ``states``, the object that has one by each name.
        states: values of the label ``state``, where it has that label.
    """

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    read: Callable[[PoolStatistics], object]
    states: tuple[str, ...] = ()

    def family(self) -> Family:
        """Return the metric without a sample."""
        kind = GaugeMetricFamily if self.kind == "gauge" else CounterMetricFamily
        return kind(self.name, self.help, labels=["pool", "state"] if self.states else ["pool"])

    def add_to(self, family: Family, pool: str, reading: PoolStatistics) -> None:
        """Add its samples of one pool."""
        found = self.read(reading)
        if not self.states:
            assert isinstance(found, int | float)
            family.add_metric([pool], found)
        for state in self.states:
            family.add_metric([pool, state], getattr(found, state))


METRICS: Final[tuple[PoolMetric, ...]] = (
    PoolMetric(
        "openenv_pool_workers",
        "gauge",
        "Workers: that serve (ready), that do not answer yet (starting), that get no more"
        " sessions (draining).",
        lambda now: now,
        ("ready", "starting", "draining"),
    ),
    PoolMetric(
        "openenv_pool_workers_peak",
        "gauge",
        "The most workers there were at once, starting ones included.",
        lambda now: now.peak_workers,
    ),
    PoolMetric(
        "openenv_pool_slots", "gauge", "Slots of the ready workers.", lambda now: now.capacity
    ),
    PoolMetric("openenv_pool_sessions", "gauge", "Slots that are held.", lambda now: now.sessions),
    PoolMetric(
        "openenv_pool_waiting", "gauge", "Callers that wait for a slot.", lambda now: now.waiting
    ),
    PoolMetric(
        "openenv_pool_sessions_leased_total",
        "counter",
        "Slots that were given.",
        lambda now: now.sessions_leased,
    ),
    PoolMetric(
        "openenv_pool_workers_started_total",
        "counter",
        "Workers that were started and answered.",
        lambda now: now.workers_started,
    ),
    PoolMetric(
        "openenv_pool_starts_failed_total",
        "counter",
        "Starts of workers that failed.",
        lambda now: now.starts_failed,
    ),
    PoolMetric(
        "openenv_pool_workers_died_total",
        "counter",
        "Workers that ended by themselves.",
        lambda now: now.workers_died,
    ),
    PoolMetric(
        "openenv_pool_workers_ended_total",
        "counter",
        "Workers that ended because the pool wanted it.",
        lambda now: now.workers_ended,
    ),
    # No counter: what is being used is told as used, and becomes wasted if the worker dies.
    PoolMetric(
        "openenv_pool_worker_seconds",
        "gauge",
        "Seconds of all workers so far by what they were: used (with a session), idle, starting,"
        " wasted.",
        lambda now: now.seconds,
        ("used", "idle", "starting", "wasted"),
    ),
)


class PoolCollector(Collector):
    """A collector of pools' statistics for a registry, read anew whenever it is scraped.

    ``prometheus_client.REGISTRY.register(PoolCollector(pool))``

    The registry holds on to it: unregister it when the pool is closed, unless the process ends.

    Args:
        pools: a pool, which has the label ``pool="default"``; or several by their label.
    """

    def __init__(self, pools: EnvPool | SyncEnvPool | Mapping[str, EnvPool | SyncEnvPool]) -> None:
        self._pools = dict(pools) if isinstance(pools, Mapping) else {"default": pools}

    def describe(self) -> Iterator[Family]:
        """Return the metrics without samples: registering it reads no pool."""
        return (metric.family() for metric in METRICS)

    def collect(self) -> Iterator[Family]:
        """Return the metrics of all pools now."""
        readings = {name: pool.statistics() for name, pool in self._pools.items()}
        for metric in METRICS:
            family = metric.family()
            for name, reading in readings.items():
                metric.add_to(family, name, reading)
            yield family
