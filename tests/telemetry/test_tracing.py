"""W3C trace contexts, read from headers and added to them."""

from __future__ import annotations

import sys

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from openenv_async.telemetry import tracing
from openenv_async.telemetry.tracing import (
    NO_TRACE,
    TraceContext,
    current,
    current_traceparent,
    current_tracestate,
    inject,
    trace_from,
    trace_of,
)

TRACE, PARENT = "ab" * 16, "cd" * 8
GOOD = f"00-{TRACE}-{PARENT}-01"


def test_outside_of_a_request_there_is_none() -> None:
    assert (current_traceparent(), current_tracestate()) == (None, None)


def test_inside_of_a_request_there_is_its_own() -> None:
    token = current.set(TraceContext(GOOD, "a=1"))
    try:
        assert (current_traceparent(), current_tracestate()) == (GOOD, "a=1")
    finally:
        current.reset(token)
    assert current.get() is NO_TRACE


@pytest.mark.parametrize(
    "parent", [GOOD, f"01-{TRACE}-{PARENT}-00-more", f"fe-{TRACE}-{PARENT}-01"]
)
def test_a_parent_of_this_version_or_a_later_one_is_taken(parent: str) -> None:
    assert trace_from(parent, "a=1") == TraceContext(parent, "a=1")


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        "x",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"{GOOD}-{'x' * 512}",
    ],
)
def test_a_malformed_parent_is_no_trace(parent: str | None) -> None:
    assert trace_from(parent, "a=1") is None


def test_the_lengths_that_are_just_taken() -> None:
    longest = GOOD + "x" * (512 - len(GOOD))
    assert trace_from(longest, "s" * 512) == TraceContext(longest, "s" * 512)
    assert trace_from(longest + "x", None) is None
    assert trace_from(GOOD, "s" * 513) == TraceContext(GOOD, None)
    assert trace_from(GOOD, "") == TraceContext(GOOD, None)


def test_headers_of_asgi() -> None:
    state = [(b"tracestate", b"a=1"), (b"host", b"x"), (b"tracestate", b"b=2")]
    assert trace_of([*state, (b"traceparent", GOOD.encode())]) == TraceContext(GOOD, "a=1,b=2")
    assert trace_of(state) is None
    assert trace_of([(b"traceparent", b"\xff")]) is None


def test_the_callers_trace_is_added_to_headers() -> None:
    context = SpanContext(int(TRACE, 16), int(PARENT, 16), False, TraceFlags(1))
    span = set_span_in_context(NonRecordingSpan(context))
    from opentelemetry import context as contexts

    token = contexts.attach(span)
    try:
        headers: dict[str, str] = {}
        inject(headers)
        assert headers["traceparent"] == GOOD
        own = {"traceparent": "mine"}
        inject(own)
        assert own == {"traceparent": "mine"}
    finally:
        contexts.detach(token)
    assert trace.get_current_span().get_span_context().trace_id == 0


def test_nothing_is_added_where_opentelemetry_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, tracing.TRACING)
    headers: dict[str, str] = {}
    inject(headers)
    assert headers == {}
    monkeypatch.setitem(sys.modules, tracing.TRACING, trace)
    monkeypatch.setitem(sys.modules, "opentelemetry.propagate", None)
    inject(headers)
    assert headers == {}
