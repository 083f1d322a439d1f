"""Spans: one trace from a rollout to the environment's own code; nothing while they are off."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from openenv_async import Environment, GenericEnvClient, HTTPEnvClient, StepResult, serve
from openenv_async.errors import EnvironmentRaised
from openenv_async.gateway.calls import Answer, CallRecord
from openenv_async.rollouts import collect_all
from openenv_async.telemetry import spans
from openenv_async.telemetry.tracing import TraceContext, current_traceparent


class Traced(Environment[int, int, dict[str, Any]]):
    """Two steps an episode; the environment makes a span in each."""

    isolation: ClassVar[Any] = "inline"
    provider: ClassVar[TracerProvider]

    def reset(self) -> int:
        self.steps = 0
        return 0

    def step(self, action: int) -> StepResult[int]:
        if action < 0:
            raise RuntimeError("negative")
        with self.provider.get_tracer("own").start_as_current_span("own work"):
            self.steps += 1
        return StepResult(self.steps, 1.0, terminated=self.steps == 2)


class TracedInThread(Traced):
    isolation = "thread"


class TracedAsync(Traced):
    isolation = None

    async def step(self, action: int) -> StepResult[int]:  # type: ignore[override]  # async
        return super().step(action)


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    made = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(made))
    Traced.provider = provider
    spans.enable_spans(provider)
    yield made
    spans.disable_spans()
    provider.shutdown()


def by_name(exporter: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    number: int = span.context.span_id
    return number


def parent_of(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


@pytest.mark.parametrize("cls", [Traced, TracedInThread, TracedAsync])
async def test_a_rollout_is_one_trace_down_to_the_environment(
    exporter: InMemorySpanExporter, cls: Any
) -> None:
    async with serve(cls) as url:
        outcomes = await collect_all(url, lambda seen: 1, episodes=3, concurrency=1)
    assert len(outcomes) == 3
    found = by_name(exporter)
    assert {name: len(each) for name, each in found.items()} == {
        "rollouts": 1,
        "session": 1,
        "open": 1,
        "close": 1,
        "reset": 3,
        "step": 6,
        "own work": 6,
        "episode": 3,
    }
    (root,), (session,) = found["rollouts"], found["session"]
    assert {span.context.trace_id for each in found.values() for span in each if span.context} == {
        root.context.trace_id if root.context else 0
    }
    assert session.kind is SpanKind.SERVER
    assert parent_of(session) == id_of(root)
    assert {parent_of(span) for span in found["step"]} == {id_of(session)}
    assert {parent_of(own) for own in found["own work"]} == set(map(id_of, found["step"]))
    assert {parent_of(span) for span in found["episode"]} == {id_of(root)}
    last = dict(found["episode"][-1].attributes or {})
    assert (last["openenv.episode.status"], last["openenv.episode.return"]) == ("completed", 2.0)
    assert dict(found["step"][-1].attributes or {})["openenv.terminated"] is True
    assert dict(session.attributes or {})["openenv.environment"] == cls.__name__


async def test_a_failure_is_an_error_of_its_call_alone(exporter: InMemorySpanExporter) -> None:
    async with serve(Traced) as url, GenericEnvClient(url) as env:
        await env.reset()
        with pytest.raises(EnvironmentRaised):
            await env.step(-1)
        await env.step(1)
    bad, good = by_name(exporter)["step"]
    assert bad.status.status_code is StatusCode.ERROR
    assert dict(bad.attributes or {})["error.type"] == "environment_raised"
    assert good.status.status_code is StatusCode.UNSET


async def test_each_call_over_http_belongs_to_its_own_parent(
    exporter: InMemorySpanExporter,
) -> None:
    tracer = Traced.provider.get_tracer("caller")
    async with serve(Traced) as url, HTTPEnvClient[Any, Any, Any](url) as env:
        with tracer.start_as_current_span("one") as one:
            await env.reset()
        with tracer.start_as_current_span("two") as two:
            await env.step(1)
    found = by_name(exporter)
    assert parent_of(found["reset"][0]) == one.get_span_context().span_id
    assert parent_of(found["step"][0]) == two.get_span_context().span_id


async def test_a_session_that_is_lost_ends_its_span(exporter: InMemorySpanExporter) -> None:
    async with serve(Traced) as url:
        env = GenericEnvClient(url)
        await env.reset()
        assert "session" not in by_name(exporter)
    (session,) = by_name(exporter)["session"]
    assert session.end_time is not None
    await env.close()


async def test_while_spans_are_off_there_are_none_and_contexts_still_pass() -> None:
    seen: list[str | None] = []

    class Tells(Traced):
        def reset(self) -> int:
            seen.append(current_traceparent())
            return 0

    parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    async with serve(Tells) as url:
        async with GenericEnvClient(url, headers={"traceparent": parent}) as env:
            await env.reset()
        async with GenericEnvClient(url, share=False) as env:
            await env.reset()
    assert seen == [parent, None]
    assert spans.begin("never") is None


def test_a_model_call_has_the_names_of_the_conventions(exporter: InMemorySpanExporter) -> None:
    parent = TraceContext(f"00-{'ab' * 16}-{'cd' * 8}-01")
    answer = Answer(text="hi", prompt_tokens=7, completion_tokens=3, model="m-1")
    record = CallRecord(
        session="s", number=0, dialect="chat", messages=[], asked_model="m", answer=answer,
        sampling={"temperature": 0.5}, started_at=100.0, seconds=1.5,
    )  # fmt: skip
    spans.record_model_call(record, parent)
    (span,) = exporter.get_finished_spans()
    told = dict(span.attributes or {})
    assert (span.name, span.kind) == ("chat m", SpanKind.CLIENT)
    assert parent_of(span) == int("cd" * 8, 16)
    assert (span.end_time or 0) - (span.start_time or 0) == 1_500_000_000
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.request.model"] == "m"
    assert told["gen_ai.response.model"] == "m-1"
    assert told["gen_ai.request.temperature"] == 0.5
    assert told["gen_ai.usage.input_tokens"] == 7
    assert told["gen_ai.usage.output_tokens"] == 3
    assert told["gen_ai.response.finish_reasons"] == ("stop",)
    record.answer, record.error = None, ("deadline_exceeded", "too long")
    spans.record_model_call(record, None)
    assert exporter.get_finished_spans()[-1].status.status_code is StatusCode.ERROR
    spans.disable_spans()
    spans.record_model_call(SimpleNamespace(), None)  # it is not looked at


def test_the_variable_says_whether_spans_are_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    spans.enable_from_environ({})
    spans.enable_from_environ({"OPENENV_TRACES": "none"})
    assert not spans.is_on()
    with pytest.raises(ValueError, match="must be otlp or none, got 'stdout'"):
        spans.enable_from_environ({"OPENENV_TRACES": "stdout"})
    assert trace.get_tracer_provider() is not None
