"""W3C trace context: passed through from a client's request to the environment.

Spans are made by ``spans``, if at all. The ``traceparent`` and ``tracestate`` of a client (with
the WebSocket's opening request, or with each HTTP request) are given by ``current_traceparent``
inside the environment's own code, so that spans it makes belong to the caller's trace.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, MutableMapping
from contextvars import ContextVar
from typing import Final, NamedTuple

__all__ = ["TraceContext", "current_traceparent", "current_tracestate"]

# Level 1 of the recommendation: version, trace id, parent id, flags; later versions may go on.
_PARENT: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-\S{2,}")
_LONGEST: Final = 512


class TraceContext(NamedTuple):
    """The trace that a request belongs to."""

    traceparent: str | None = None
    tracestate: str | None = None


TRACING: Final = "opentelemetry"
"""The module without which there is no trace to pass on."""
NO_TRACE: Final = TraceContext()

current: Final[ContextVar[TraceContext]] = ContextVar("openenv_trace", default=NO_TRACE)


def current_traceparent() -> str | None:
    """The ``traceparent`` of the request that is being served, for environments."""
    return current.get().traceparent


def current_tracestate() -> str | None:
    """The ``tracestate`` that came with it."""
    return current.get().tracestate


def trace_of(headers: Iterable[tuple[bytes, bytes]]) -> TraceContext | None:
    """The trace context of ASGI headers; a malformed one is none, as the standard wants it."""
    parent: str | None = None
    states: list[str] = []
    for name, value in headers:
        if name == b"traceparent":
            parent = value.decode("latin-1")
        elif name == b"tracestate":
            states.append(value.decode("latin-1"))
    return None if parent is None else trace_from(parent, ",".join(states))


def trace_from(parent: str | None, state: str | None) -> TraceContext | None:
    """The trace context of these values; a malformed one is none, as the standard wants it."""
    if parent is None or len(parent) > _LONGEST or not _PARENT.fullmatch(parent):
        return None
    return TraceContext(parent, state if state and len(state) <= _LONGEST else None)


def inject(headers: MutableMapping[str, str]) -> None:
    """Add the caller's trace context to request headers, if the program uses OpenTelemetry."""
    if TRACING not in sys.modules or "traceparent" in headers:
        return
    try:
        from opentelemetry.propagate import inject as add
    except ImportError:
        return
    add(headers)
