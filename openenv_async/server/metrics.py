"""A server's report about itself: one reading, as JSON and in Prometheus' text format.

Rules:

- Nothing is counted here. A reading takes the plain integers that the engine keeps anyway.
- ``METRICS`` names everything there is; ``docs/metrics.md`` is checked against it.
- Labels have a fixed set of values. No session, client or episode is ever one.
"""

from __future__ import annotations

import asyncio
import dataclasses
import mmap
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final, Literal

from openenv_async.engine import Engine
from openenv_async.engine.callers import Caller
from openenv_async.engine.executors.processes import ProcessExecutor
from openenv_async.engine.quotas import Account
from openenv_async.engine.resources import free_descriptors
from openenv_async.engine.statistics import Histogram
from openenv_async.event_loop import loop_name, version_of
from openenv_async.server.history import History
from openenv_async.version import __version__

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

__all__ = [
    "HEALTH",
    "METRICS",
    "LoopWatch",
    "Metric",
    "prometheus_text",
    "read_stats",
    "visible_to",
]

HEALTH: Final = ("ok", "degraded", "wedged")
_TICK: Final = 1.0
_REMEMBERED: Final = 10
"""Looks at the loop whose worst lag is told."""
_SAMPLES: Final = 32
"""Sessions whose next step is timed, per look."""
_SLOW_LOOP: Final = 0.25
_STUCK_LOOP: Final = 5.0
_LONG_WAIT: Final = 30.0
_ENVIRONMENT: Final = "environment"
_TOKEN: Final = "token"


class LoopWatch:
    """Looks at the event loop once a second: how late it is, and where steps spend their time.

    Args:
        engine: whose sessions are sampled.

    Attributes:
        history: a sample of each look.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.history: Final = History(engine)
        self._lags: deque[float] = deque(maxlen=_REMEMBERED)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        self._turn = 0

    def start(self) -> None:
        """Begin to look, on the running loop; idempotent."""
        if self._timer is None:
            self._loop = asyncio.get_running_loop()
            self._due = self._loop.time() + _TICK
            self._timer = self._loop.call_at(self._due, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._due = None, inf

    def _look(self) -> None:
        assert self._loop is not None
        self._lags.append(max(0.0, self._loop.time() - self._due))
        sessions = list(self._engine.sessions.values())
        # Each in turn: a few at a time of many, every one of few.
        start = self._turn % len(sessions) if sessions else 0
        chosen = sessions[start : start + _SAMPLES]
        chosen += sessions[: min(start, _SAMPLES - len(chosen))]
        self._turn = start + len(chosen)
        self._engine.time_steps(chosen)
        self.history.add(self._lags[-1])
        self._due = self._loop.time() + _TICK
        self._timer = self._loop.call_at(self._due, self._look)

    @property
    def lag(self) -> float:
        """Seconds by which the loop was late at the last look, or is late for the next."""
        overdue = 0.0 if self._loop is None else max(0.0, self._loop.time() - self._due)
        return max(overdue, self._lags[-1] if self._lags else 0.0)

    @property
    def worst_lag(self) -> float:
        """The greatest of the last ten."""
        return max(self.lag, *self._lags) if self._lags else self.lag


def read_stats(engine: Engine, watch: LoopWatch) -> dict[str, Any]:
    """Everything the server knows about itself, as plain values."""
    executor, vector = engine._executor, engine.spec.vector
    waiting = engine.waiting
    parked = sum(session.sink is None for session in engine.sessions.values())
    health, reasons = _health(engine, watch)
    free = free_descriptors()
    return {
        "health": health,
        "health_reasons": reasons,
        "environment": engine.spec.name,
        "server": f"openenv_async/{__version__}",
        "epoch": engine.epoch,
        "pid": os.getpid(),
        "runs_on": _libraries(),
        "uptime": time.time() - engine.started_at,
        "draining": engine.draining,
        "sessions": len(engine.sessions),
        "active": len(engine.sessions) - waiting - parked,
        "waiting": waiting,
        "parked": parked,
        "max_sessions": engine.max_sessions,
        **dataclasses.asdict(engine.stats),
        "labels": dict(engine.labels),
        "tokens": {str(caller.name): _use(account) for caller, account in engine.accounts.items()},
        "row_steps": engine.stats.steps * (1 if vector is None else vector.batch_size),
        "resource_refusals": engine.resources.refused,
        "queue_wait": _histogram(engine.waits),
        "longest_wait": engine.longest_wait,
        "step_seconds": {
            phase: _histogram(found) for phase, found in engine.timer.histograms.items()
        },
        "loop_lag": watch.lag,
        "loop_lag_worst": watch.worst_lag,
        "workers": executor.worker_count if isinstance(executor, ProcessExecutor) else 0,
        "cpu_seconds": time.process_time(),
        "rss_bytes": _resident_bytes(),
        "free_descriptors": None if free == inf else int(free),
    }


def _use(account: Account) -> dict[str, Any]:
    names = ("sessions", "opened", "steps", "bytes_in", "bytes_out", "delayed")
    refused = {f"refused_{quota}": count for quota, count in account.refused.items()}
    use = {name: getattr(account, name) for name in names}
    return {**use, **refused, "labels": dict(account.caller.labels)}


def visible_to(caller: Caller, stats: dict[str, Any]) -> dict[str, Any]:
    """Return a reading without the use that other callers make, unless for an administrator."""
    if caller.is_admin:
        return stats
    tokens = {name: use for name, use in stats["tokens"].items() if name == caller.name}
    return stats | {"tokens": tokens}


def _libraries() -> list[str]:
    """Return the event loop, HTTP parser and WebSocket library that carry this server."""
    found = [loop_name(asyncio.get_running_loop())]
    if "uvicorn.protocols.http.auto" in sys.modules:  # another ASGI server has its own
        found += [version_of("httptools" if "httptools" in sys.modules else "h11")]
        found += [version_of("websockets")]
    return found


def _health(engine: Engine, watch: LoopWatch) -> tuple[str, list[str]]:
    """Return the server's health and its reasons. Slow is not dead: no client is to leave it."""
    lag, wait = watch.worst_lag, engine.longest_wait
    stuck = [
        *([f"the loop was {lag:.1f} s late"] if lag >= _STUCK_LOOP else ()),
        *([f"a session has waited {wait:.0f} s for capacity"] if wait >= _LONG_WAIT else ()),
    ]
    if stuck:
        return "wedged", stuck
    slow = [
        *([f"the loop was {lag:.2f} s late"] if lag >= _SLOW_LOOP else ()),
        *([f"{engine.waiting} sessions wait for capacity"] if engine.waiting else ()),
        *(["descriptors or memory are short"] if engine.resources.short else ()),
        *([f"it is going away: {engine.draining}"] if engine.draining is not None else ()),
    ]
    return ("degraded", slow) if slow else ("ok", [])


def _histogram(found: Histogram) -> dict[str, Any]:
    ends = [*(f"{bound:g}" for bound in found.bounds), "+Inf"]
    buckets, below = {}, 0
    for end, count in zip(ends, found.counts, strict=True):
        below += count
        buckets[end] = below
    return {"count": below, "sum": found.sum, "buckets": buckets}


# -- Prometheus -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Metric:
    """One line of the table.

    Attributes:
        name: as Prometheus shows it, a counter's ``_total`` included.
        kind: of metric.
        help: what it counts.
        read: its value in what ``read_stats`` gives; by label value where it has a label.
        label: the label's name.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    read: Callable[[Mapping[str, Any]], Any]
    label: str | None = None


def _key(name: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda stats: stats[name]


def _keys(*names: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda stats: {name: stats[name] for name in names}


def _counter(name: str, key: str, help: str) -> Metric:
    return Metric(f"openenv_{name}_total", "counter", help, _key(key))


def _gauge(name: str, key: str, help: str) -> Metric:
    return Metric(f"openenv_{name}", "gauge", help, _key(key))


def _of_tokens(kind: Literal["gauge", "counter"], name: str, key: str, help: str) -> Metric:
    def read(stats: Mapping[str, Any]) -> Any:
        return {token: use[key] for token, use in stats["tokens"].items()}

    suffix = "_total" if kind == "counter" else ""
    return Metric(f"openenv_token_{name}{suffix}", kind, help, read, _TOKEN)


METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "openenv_server_info",
        "gauge",
        "Always 1; the label is the server's version.",
        lambda stats: {stats["server"]: 1},
        "version",
    ),
    Metric(
        "openenv_environment_info",
        "gauge",
        "Always 1; the label is the environment's name.",
        lambda stats: {stats["environment"]: 1},
        "environment",
    ),
    Metric(
        "openenv_health",
        "gauge",
        "1 for what the server is now, 0 for the others: ok, degraded, wedged.",
        lambda stats: {state: int(stats["health"] == state) for state in HEALTH},
        "state",
    ),
    Metric(
        "openenv_draining",
        "gauge",
        "1 while no session is opened and no episode begun, since the server is to stop.",
        lambda stats: int(stats["draining"] is not None),
    ),
    _gauge("uptime_seconds", "uptime", "Seconds since the start."),
    Metric(
        "openenv_sessions",
        "gauge",
        "Sessions: connected (active), in the queue (waiting), without a connection (parked).",
        _keys("active", "waiting", "parked"),
        "state",
    ),
    _gauge("sessions_limit", "max_sessions", "Sessions that may exist at once."),
    _gauge("sessions_peak", "peak_sessions", "The most sessions there were at once."),
    _counter("sessions_opened", "opened", "Sessions whose environment was to be built."),
    _counter("sessions_closed", "closed", "Sessions that ended, however."),
    _counter("sessions_refused", "refused", "Requests to open a session that were refused."),
    _counter("sessions_expired", "expired", "Sessions closed by their idle timeout."),
    _counter("sessions_abandoned", "abandoned", "Sessions whose client did not come back in time."),
    _counter("sessions_resumed", "resumed", "Sessions that another connection took up again."),
    Metric(
        "openenv_queue_wait_seconds",
        "histogram",
        "Time that sessions waited for capacity before they got it.",
        _key("queue_wait"),
    ),
    _gauge("queue_longest_wait_seconds", "longest_wait", "Of the first one in the queue now."),
    _counter("steps", "steps", "Steps that were answered, failed ones included."),
    _counter("row_steps", "row_steps", "The same, with each row of a session that is a vector."),
    Metric(
        "openenv_errors_total",
        "counter",
        "Requests of sessions that were answered with an error.",
        _key("errors"),
        "code",
    ),
    Metric(
        "openenv_step_seconds",
        "histogram",
        "Steps of a sample (32 a second at most) by phase: until it begins (queue), in the"
        " environment's code (env), decoding and encoding (serialize).",
        _key("step_seconds"),
        "phase",
    ),
    _counter("duplicates", "duplicates", "Requests that came again and were not run again."),
    _counter("timeouts", "timeouts", "Requests that passed their deadline."),
    _counter("column_frames", "column_frames", "Frames that step many sessions at once."),
    _counter("bad_frames", "bad_frames", "Frames and messages that could not be read."),
    _gauge("connections", "connections", "Connections by WebSocket or Unix socket."),
    _counter("connections_opened", "connections_opened", "Connections accepted."),
    _gauge("local_connections", "local_connections", "Those of them by Unix socket."),
    _counter(
        "local_connections_opened",
        "local_connections_opened",
        "Connections by Unix socket accepted, each in place of a WebSocket accepted before.",
    ),
    _counter("connections_cut", "cut", "Connections of peers that were silent or did not read."),
    _counter("resource_refusals", "resource_refusals", "Refusals for want of descriptors, memory."),
    _counter("received_bytes", "bytes_in", "Bytes of messages and HTTP bodies received."),
    _counter("sent_bytes", "bytes_out", "Bytes of messages and HTTP bodies sent."),
    _counter("shared_payloads", "shared_payloads", "Payloads passed in shared memory."),
    _counter("shared_bytes", "shared_bytes", "Bytes of payloads passed in shared memory."),
    _counter(
        "shared_full", "shared_full", "Large payloads sent by a socket: the shared memory was full."
    ),
    _of_tokens("gauge", "sessions", "sessions", "Sessions of the holder of a named token."),
    _of_tokens("counter", "sessions_opened", "opened", "Sessions that it opened."),
    _of_tokens("counter", "steps", "steps", "Steps and resets; each row of a vector."),
    _of_tokens("counter", "received_bytes", "bytes_in", "Bytes of its messages and bodies."),
    _of_tokens("counter", "sent_bytes", "bytes_out", "Bytes of messages and bodies sent to it."),
    _of_tokens("counter", "delayed", "delayed", "Requests that waited for their turn."),
    _of_tokens("counter", "refused_sessions", "refused_sessions", "Sessions beyond its quota."),
    _of_tokens("counter", "refused_steps", "refused_steps", "Requests beyond its steps a second."),
    _of_tokens("counter", "refused_bytes", "refused_bytes", "Requests beyond its bytes a second."),
    _gauge("workers", "workers", "Worker processes."),
    _counter("workers_started", "workers_started", "Worker processes started."),
    _counter("workers_died", "workers_died", "Worker processes that crashed or had to be killed."),
    _gauge("loop_lag_seconds", "loop_lag", "Delay of the event loop when last looked at."),
    _gauge("loop_lag_worst_seconds", "loop_lag_worst", "The worst of the last ten looks."),
    _counter("cpu_seconds", "cpu_seconds", "CPU time of the server's process."),
    _gauge("resident_bytes", "rss_bytes", "Memory that the server's process holds."),
    _gauge("free_descriptors", "free_descriptors", "File descriptors left (-1: unknown)."),
)


class _Collector:
    """A collector that gives one reading of each environment to a registry.

    Args:
        readings: by the name of the environment, which is a label where there are several.
        metrics: that are read from each.
    """

    def __init__(
        self, readings: Mapping[str | None, Mapping[str, Any]], metrics: tuple[Metric, ...]
    ) -> None:
        self._readings = readings
        self._metrics = metrics

    def collect(self) -> Iterator[Family]:
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        several = None not in self._readings
        for metric in self._metrics:
            if several and metric.label == _ENVIRONMENT:
                continue  # every other metric has it then
            labels = [_ENVIRONMENT] if several else []
            if metric.label is not None:
                labels.append(metric.label)
            of_tokens = self._own_labels(metric)
            of_environments = sorted(
                {name for stats in self._readings.values() for name in stats.get("labels", ())}
                - {*labels, *of_tokens}
            )
            labels += of_tokens + of_environments
            kinds = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}
            kind = kinds.get(metric.kind, HistogramMetricFamily)
            family: Any = kind(metric.name, metric.help, labels=labels)
            for environment, stats in self._readings.items():
                value = metric.read(stats)
                for label, each in ({None: value} if metric.label is None else value).items():
                    values = [name for name in (environment, label) if name is not None]
                    own = stats["tokens"][label]["labels"] if of_tokens else {}
                    values += [own.get(name, "") for name in of_tokens]
                    values += [stats.get("labels", {}).get(name, "") for name in of_environments]
                    if metric.kind == "histogram":
                        buckets = list(each["buckets"].items())
                        family.add_metric(values, buckets=buckets, sum_value=each["sum"])
                    else:
                        family.add_metric(values, -1 if each is None else each)
            yield family

    def _own_labels(self, metric: Metric) -> list[str]:
        """The names of labels that the tokens of a metric have beside their own."""
        if metric.label != _TOKEN:
            return []
        uses = [use for stats in self._readings.values() for use in stats["tokens"].values()]
        return sorted({name for use in uses for name in use["labels"]})


def prometheus_text(
    readings: Mapping[str | None, Mapping[str, Any]], metrics: tuple[Metric, ...] = METRICS
) -> tuple[bytes, str]:
    """Readings in Prometheus' text format, and its media type.

    Args:
        readings: by the name of the environment; one without a name gets no label of it.
        metrics: that are read from each; by default those of a server.
    """
    # Imported at the first scrape: it takes a while, and most servers are never scraped.
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(readings, metrics))
    return generate_latest(registry), CONTENT_TYPE_LATEST


def _resident_bytes() -> int:
    """Memory this process holds now; its peak where the system does not say, else 0."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError, ValueError):
        try:
            import resource
        except ImportError:  # Windows
            return 0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
