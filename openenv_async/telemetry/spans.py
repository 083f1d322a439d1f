"""OpenTelemetry spans of sessions, their calls, episodes and model calls; none unless asked for.

Rules:

- Nothing is imported, made or looked at for a step while spans are off.
- ``OPENENV_TRACES=otlp`` has a command, its servers and their workers export by OTLP, as the
  ``OTEL_*`` variables of the SDK say: endpoint, service name, sampler.
- ``enable_spans()`` is for programs with a tracer provider of their own.
- An error of an exporter or a sampler is the SDK's to log; it never reaches a session.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from typing import Any, Final

from openenv_async.telemetry.tracing import TraceContext

__all__ = [
    "TRACES_VARIABLE",
    "Span",
    "begin",
    "disable_spans",
    "enable_from_environ",
    "enable_spans",
    "is_on",
    "record_model_call",
]

TRACES_VARIABLE: Final = "OPENENV_TRACES"
"""``otlp`` has commands and workers export spans."""
_NAME: Final = "openenv_async"
_tracer: Any = None


def enable_spans(provider: Any = None) -> None:
    """Make spans from now on.

    Args:
        provider: a ``TracerProvider``; by default the program's, OpenTelemetry's global one.

    Raises:
        ModuleNotFoundError: opentelemetry-api is not installed.
    """
    global _tracer
    try:
        from opentelemetry import trace
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            "spans need OpenTelemetry: pip install 'openenv-async[otel]'"
        ) from exc
    _tracer = (provider or trace.get_tracer_provider()).get_tracer(_NAME)


def disable_spans() -> None:
    """Make no spans from now on."""
    global _tracer
    _tracer = None


def is_on() -> bool:
    """Return whether spans are made."""
    return _tracer is not None


def enable_from_environ(environ: Mapping[str, str] = os.environ) -> None:
    """Export spans by OTLP if ``OPENENV_TRACES`` says so.

    Raises:
        ModuleNotFoundError: the exporter is not installed.
        ValueError: the variable has another value.
    """
    wanted = environ.get(TRACES_VARIABLE, "").strip().lower()
    if wanted in ("", "none", "0"):
        return
    if wanted != "otlp":
        raise ValueError(f"{TRACES_VARIABLE} must be otlp or none, got {wanted!r:.60}")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            f"{TRACES_VARIABLE}=otlp needs the exporter: pip install 'openenv-async[otel]'"
        ) from exc
    # A name that is given here would win over OTEL_SERVICE_NAME.
    name = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": _NAME}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    enable_spans(provider)


class Span:
    """A span that runs.

    Attributes:
        context: of what belongs to it.
    """

    __slots__ = ("_span", "context")

    def __init__(self, span: Any) -> None:
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._span = span
        carrier: dict[str, str] = {}
        TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
        self.context = TraceContext(carrier.get("traceparent"), carrier.get("tracestate"))

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Have it be OpenTelemetry's current span in the block, of this task or thread."""
        from opentelemetry import context
        from opentelemetry.trace import set_span_in_context

        token = context.attach(set_span_in_context(self._span))
        try:
            yield
        finally:
            context.detach(token)

    def note(self, attributes: Mapping[str, Any]) -> None:
        """Add attributes; those of value ``None`` are left out."""
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name, value)

    def end(self, error: tuple[str, str] | None = None) -> None:
        """End it; with a code and a message as an error. Later calls change nothing."""
        if error is not None and self._span.is_recording():
            from opentelemetry.trace import Status, StatusCode

            self._span.set_attribute("error.type", error[0])
            self._span.set_status(Status(StatusCode.ERROR, error[1]))
        self._span.end()


def begin(
    name: str,
    parent: TraceContext | None = None,
    attributes: Mapping[str, Any] | None = None,
    *,
    serves: bool = False,
) -> Span | None:
    """Begin a span; ``None`` while spans are off.

    Args:
        name: low in cardinality.
        parent: the trace that it belongs to; by default that of the running code.
        attributes: those of value ``None`` are left out.
        serves: it answers somebody else's request.
    """
    if _tracer is None:
        return None
    from opentelemetry.trace import SpanKind

    kind = SpanKind.SERVER if serves else SpanKind.INTERNAL
    span = Span(_tracer.start_span(name, _context_of(parent), kind))
    span.note(attributes or {})
    return span


def record_model_call(record: Any, parent: TraceContext | None) -> None:
    """Make the span of a model call that is over, with the names of the GenAI conventions.

    Args:
        record: a ``CallRecord`` of the gateway.
        parent: the trace of the agent's request.
    """
    if _tracer is None:
        return
    from opentelemetry.trace import SpanKind

    answer = record.answer
    asked = record.asked_model or "model"
    begun = int(record.started_at * 1e9)
    raw = _tracer.start_span(
        f"chat {asked}", _context_of(parent), SpanKind.CLIENT, start_time=begun
    )
    span = Span(raw)
    span.note(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": _NAME,
            "gen_ai.request.model": asked,
            "gen_ai.request.max_tokens": record.sampling.get("max_tokens"),
            "gen_ai.request.temperature": record.sampling.get("temperature"),
            "gen_ai.conversation.id": record.session,
            "openenv.call.attempts": record.attempts,
        }
    )
    if answer is not None:
        span.note(
            {
                "gen_ai.response.model": answer.model,
                "gen_ai.response.id": answer.engine_call_id,
                "gen_ai.response.finish_reasons": [answer.finish_reason],
                "gen_ai.usage.input_tokens": answer.prompt_tokens,
                "gen_ai.usage.output_tokens": answer.completion_tokens,
                "server.address": answer.engine,
            }
        )
    if record.error is not None:
        from opentelemetry.trace import Status, StatusCode

        raw.set_attribute("error.type", record.error[0])
        raw.set_status(Status(StatusCode.ERROR, record.error[1]))
    raw.end(end_time=begun + int(record.seconds * 1e9))


def _context_of(parent: TraceContext | None) -> Any:
    """OpenTelemetry's context of a trace; ``None``: that of the running code."""
    if parent is None or parent.traceparent is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = {"traceparent": parent.traceparent, "tracestate": parent.tracestate or ""}
    return TraceContextTextMapPropagator().extract(carrier)
