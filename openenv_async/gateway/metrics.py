"""A gateway's statistics in Prometheus' text format.

Rules:

- Nothing is counted here: a scrape takes one reading of the gateway's ``stats()``.
- ``METRICS`` names everything there is; ``docs/metrics.md`` is checked against it.
- Labels have a fixed set of values: how answers reached their clients, and the engines' addresses.
  No session, key or model of an agent is ever one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from openenv_async.endpoints.addresses import told_url
from openenv_async.server.metrics import Metric, prometheus_text
from openenv_async.version import __version__

__all__ = ["METRICS", "gateway_text"]

_DELIVERIES: Final = ("whole", "error", "broken")


def _count(name: str, key: str, help: str) -> Metric:
    def read(stats: Mapping[str, Any]) -> Any:
        return stats["counts"].get(key, 0)

    return Metric(f"openenv_gateway_{name}_total", "counter", help, read)


def _gauge(name: str, help: str, read: Callable[[Mapping[str, Any]], Any]) -> Metric:
    return Metric(f"openenv_gateway_{name}", "gauge", help, read)


def _of_engines(name: str, key: Literal["calls", "sessions", "failing"], help: str) -> Metric:
    def read(stats: Mapping[str, Any]) -> Any:
        found: dict[str, int] = {}
        for engine in stats["engines"]:
            where = told_url(engine["url"])
            found[where] = found.get(where, 0) + int(engine[key])
        return found

    return Metric(f"openenv_gateway_engine_{name}", "gauge", help, read, "engine")


def _journal_size(stats: Mapping[str, Any]) -> int:
    journal = stats["journal"]
    return 0 if journal is None else int(journal["size"])


METRICS: Final[tuple[Metric, ...]] = (
    Metric(
        "openenv_gateway_info",
        "gauge",
        "Always 1; the label is the gateway's version.",
        lambda stats: {__version__: 1},
        "version",
    ),
    _gauge(
        "sessions", "Sessions there are, closed ones included.", lambda stats: stats["sessions"]
    ),
    _gauge("running", "Samples that run.", lambda stats: stats["running"]),
    _count("sessions_opened", "sessions", "Sessions that were opened."),
    _count("samples", "samples", "Samples that were begun."),
    _count("failures", "failures", "Samples that failed."),
    _count("joins", "joins", "Calls that were answered by a sample that ran already."),
    _count("replays", "replays", "Calls that were answered by a sample that was kept."),
    Metric(
        "openenv_gateway_answers_total",
        "counter",
        "Answers by how they reached their clients: whole, error, broken.",
        lambda stats: {each: stats["counts"].get(each, 0) for each in _DELIVERIES},
        "delivery",
    ),
    _of_engines("calls", "calls", "Calls that run at an engine."),
    _of_engines("sessions", "sessions", "Sessions that are kept at an engine."),
    _of_engines("failing", "failing", "1 while an engine rests since it failed."),
    _gauge("journal_bytes", "Size of the journal; 0 without one.", _journal_size),
)


def gateway_text(stats: Mapping[str, Any]) -> tuple[bytes, str]:
    """A reading of a gateway's ``stats()`` in Prometheus' text format, and its media type."""
    return prometheus_text({None: stats}, METRICS)
