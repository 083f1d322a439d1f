"""It can be watched: metrics on every transport, logs that name sessions, traces passed through."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

import aiohttp
import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from websockets.asyncio.client import connect

from openenv_async import Environment, GenericEnvClient, HTTPEnvClient, Timeouts
from openenv_async.engine import Engine
from openenv_async.environment import Isolation
from openenv_async.errors import OpenEnvError
from openenv_async.providers.local_server import LocalServer
from openenv_async.telemetry.logs import JsonFormatter, TextFormatter, configure_logging
from openenv_async.telemetry.tracing import (
    TraceContext,
    current_traceparent,
    current_tracestate,
    inject,
    trace_of,
)
from tests.behaviours.environments import Commanded, Ledger, clients, gather, served, served_process
from tests.helpers import until
from tests.rollouts.environments import Counting

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"


# -- metrics ------------------------------------------------------------------------------


async def test_a_scrape_costs_little_with_many_sessions() -> None:
    async with served(Ledger, max_sessions=2000) as (url, engine), clients(url, 500) as made:
        await gather(c.reset() for c in made)
        async with aiohttp.ClientSession() as http, http.get(url + "/metrics") as reply:
            text = await reply.text()
        assert 'openenv_sessions{state="active"} 500.0' in text
        assert len(text.splitlines()) < 400
        assert not any(session in text for session in engine.sessions)


async def test_a_lost_client_is_parked_then_abandoned() -> None:
    async with served(Ledger, timeouts=Timeouts(resume=0.2)) as (url, engine):
        client = GenericEnvClient(url)
        await client.reset()
        connection = client.connection
        assert connection is not None
        engine_side: Engine = engine
        connection.lost = lambda transport: None  # type: ignore[method-assign]  # it stays away
        assert connection._transport is not None
        await connection._transport.aclose(leaving=False)
        await until(lambda: any(s.sink is None for s in engine_side.sessions.values()))
        async with aiohttp.ClientSession() as http:
            async with http.get(url + "/stats") as reply:
                stats = await reply.json()
            assert (stats["parked"], stats["active"]) == (1, 0)
            await until(lambda: engine_side.stats.abandoned == 1)
            async with http.get(url + "/stats") as reply:
                assert (await reply.json())["parked"] == 0
        connection._fail(OpenEnvError("the test is over"))


# -- logs ---------------------------------------------------------------------------------


async def test_clean_closes_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with served(Counting) as (url, engine):
        for kind in (GenericEnvClient, HTTPEnvClient):
            for _ in range(5):
                made: list[Any] = [kind(url) for _ in range(100)]
                await gather(client.reset() for client in made)
                await gather(client.close() for client in made)
        assert engine.stats.closed == 1000
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_records_name_their_session(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "openenv_async")
    async with served(Commanded, interrupt_grace=0.1) as (url, _):
        client = GenericEnvClient(url)
        await client.reset()
        with pytest.raises(OpenEnvError):
            await client.step({"do": "sleep", "seconds": 0.5}, timeout=0.05)
        [record] = [r for r in caplog.records if r.levelno == logging.WARNING]
        line = json.loads(JsonFormatter().format(record))
        assert line["session_id"] == client.session_id
        assert line["level"] == "warning"
        assert line["message"].startswith("step() did not stop")
        assert f"session_id={client.session_id}" in TextFormatter().format(record)
        await client.close()
        await until(lambda: Commanded.working == 0)


def record(message: str, **more: Any) -> logging.LogRecord:
    logger = logging.getLogger("openenv_async.test")
    made = logger.makeRecord(logger.name, logging.INFO, __file__, 1, message, (), None)
    made.__dict__.update(more)
    return made


def test_json_lines_are_single_and_whole() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        made = record('quote " and\nnewline é', worker=3, exc_info=sys.exc_info())
    text = JsonFormatter().format(made)
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == 'quote " and\nnewline é'
    assert line["worker"] == 3
    assert "session_id" not in line
    assert line["exception"].endswith("ValueError: two\nlines")
    assert line["time"].endswith("Z")


@contextlib.contextmanager
def bare_root() -> Iterator[None]:
    """A root logger as a fresh process has it."""
    loggers = [logging.getLogger(name) for name in (None, "openenv_async", "uvicorn")]
    saved = [(logger.handlers[:], logger.level) for logger in loggers]
    for logger in loggers:
        logger.handlers.clear()
    try:
        yield
    finally:
        for logger, (handlers, level) in zip(loggers, saved, strict=True):
            logger.handlers[:] = handlers
            logger.setLevel(level)


def test_logging_is_set_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(logging.getLogger("uvicorn"), "propagate", True)  # as in a new process
    with bare_root():
        configure_logging("info", "json", stream)
        configure_logging("info", "text", stream)
        logging.getLogger("openenv_async.x").info("ours")
        logging.getLogger("uvicorn.x").info("uvicorn's")
        logging.getLogger("somebody").info("not wanted")
        logging.getLogger("somebody").warning("wanted")
    lines = [json.loads(line)["message"] for line in stream.getvalue().splitlines()]
    assert lines == ["ours", "uvicorn's", "wanted"]


async def test_a_process_logs_json() -> None:
    arguments = ("--log-format", "json", "--log-level", "info")
    async with LocalServer("tests.rollouts.environments:Counting", arguments=arguments) as server:
        pass
    lines = [json.loads(line) for line in server.log_tail.splitlines()]
    assert any(line["logger"] == "uvicorn.error" for line in lines)
    assert {"time", "level", "logger", "message"} <= set(lines[0])


async def test_a_quiet_process_logs_nothing() -> None:
    async with LocalServer("tests.rollouts.environments:Counting") as server:
        client = GenericEnvClient(server.url)
        await client.reset()
        await client.close()
    assert server.log_tail == ""


# -- traces -------------------------------------------------------------------------------


class Traced(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Says what trace it is in."""

    isolation: ClassVar[Isolation | None] = "inline"

    def __init__(self) -> None:
        self.built_in = current_traceparent()

    def reset(self) -> dict[str, Any]:
        return {"built": self.built_in, **self.now()}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return self.now()

    def now(self) -> dict[str, Any]:
        return {"parent": current_traceparent(), "state": current_tracestate()}


class TracedThread(Traced):
    isolation = "thread"


class TracedProcess(Traced):
    isolation = "process"


class TracedAsync(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    def __init__(self) -> None:
        self.inner = Traced()

    async def reset(self) -> dict[str, Any]:
        return self.inner.reset()

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        return self.inner.now()


ENVIRONMENTS = [Traced, TracedThread, TracedAsync]


@pytest.mark.parametrize("env", [*ENVIRONMENTS, TracedProcess])
async def test_the_connections_trace_reaches_the_environment(env: type) -> None:
    headers = {"traceparent": PARENT, "tracestate": "vendor=1"}
    async with (
        served(env, max_threads=1) as (url, _),
        GenericEnvClient(url, headers=headers) as traced,
        GenericEnvClient(url) as plain,
        GenericEnvClient(url, headers={"traceparent": OTHER}) as other,
    ):
        for _ in range(2):
            observation = (await traced.reset()).observation
            assert observation == {"built": PARENT, "parent": PARENT, "state": "vendor=1"}
            observation = (await plain.reset()).observation
            assert observation == {"built": None, "parent": None, "state": None}
            observation = (await other.reset()).observation
            assert observation == {"built": OTHER, "parent": OTHER, "state": None}
            assert (await traced.step({})).observation["parent"] == PARENT
            assert (await plain.step({})).observation["parent"] is None


async def test_a_session_that_waited_has_its_own_trace() -> None:
    """It is begun by the close of another one."""
    async with served(TracedAsync, max_sessions=1, max_waiting=1) as (url, engine):
        first = await GenericEnvClient(url, headers={"traceparent": OTHER}).open()
        second = GenericEnvClient(url, headers={"traceparent": PARENT})
        opening = asyncio.create_task(second.open())
        await until(lambda: engine.waiting == 1)
        await first.close()
        await opening
        assert (await second.reset()).observation["built"] == PARENT
        await second.close()


@pytest.mark.parametrize("env", ENVIRONMENTS)
async def test_each_http_request_brings_its_own(env: type) -> None:
    async with served(env, max_threads=1) as (url, _), aiohttp.ClientSession() as http:

        async def post(path: str, parent: str | None, body: Any) -> Any:
            headers = {"X-OpenEnv-Session": name} if name else {}
            if parent is not None:
                headers["traceparent"] = parent
            async with http.post(url + path, headers=headers, json=body) as reply:
                assert reply.status == 200
                return reply.headers.get("X-OpenEnv-Session"), (await reply.json())["observation"]

        name = None
        name, observation = await post("/reset", PARENT, {})
        assert observation["built"] == observation["parent"] == PARENT
        assert (await post("/step", OTHER, {"action": {}}))[1]["parent"] == OTHER
        assert (await post("/step", None, {"action": {}}))[1]["parent"] is None


async def test_upstreams_dialect_too() -> None:
    async with served(Traced) as (url, _):
        address = url.replace("http", "ws") + "/ws"
        async with connect(address, additional_headers={"traceparent": PARENT}) as socket:
            await socket.send(json.dumps({"type": "reset", "data": {}}))
            reply = json.loads(await socket.recv())
            assert reply["data"]["observation"]["parent"] == PARENT


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "garbage",
        PARENT.upper(),
        PARENT.replace("00-4b", "ff-4b"),
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
        PARENT + "x" * 600,
    ],
)
def test_a_malformed_trace_is_none(bad: str) -> None:
    assert trace_of([(b"traceparent", bad.encode()), (b"tracestate", b"a=1")]) is None


def test_trace_states_are_joined_and_bounded() -> None:
    parent = (b"traceparent", PARENT.encode())
    state = b"tracestate"
    assert trace_of([parent, (state, b"a=1"), (state, b"b=2")]) == TraceContext(PARENT, "a=1,b=2")
    assert trace_of([parent, (state, b"x" * 513)]) == TraceContext(PARENT, None)
    assert trace_of([(state, b"a=1")]) is None


@pytest.mark.parametrize("kind", [GenericEnvClient, HTTPEnvClient])
async def test_a_program_with_opentelemetry_sends_its_context(kind: Any) -> None:
    async with served(Traced) as (url, _):
        with trace.use_span(_span(PARENT)):
            client = kind(url)
            assert (await client.reset()).observation["parent"] == PARENT
        await client.close()


def _span(parent: str) -> NonRecordingSpan:
    ids = int(parent[3:35], 16), int(parent[36:52], 16)
    return NonRecordingSpan(SpanContext(*ids, False, TraceFlags(int(parent[-2:]))))


async def test_sessions_of_one_connection_have_traces_of_their_own() -> None:
    async with served(Traced) as (url, _):
        with trace.use_span(_span(PARENT)):
            one = await GenericEnvClient(url).open()
        with trace.use_span(_span(OTHER)):
            other = await GenericEnvClient(url).open()
        assert one.connection is other.connection
        assert (await one.reset()).observation["parent"] == PARENT
        assert (await other.reset()).observation["parent"] == OTHER
        await gather([one.close(), other.close()])


def test_headers_of_the_callers_win() -> None:
    headers = {"traceparent": OTHER}
    inject(headers)
    assert headers == {"traceparent": OTHER}
    empty: dict[str, str] = {}
    inject(empty)  # no span is current
    assert empty == {}


async def test_served_process_is_scraped() -> None:
    async with served_process("Ledger", "--port", "0") as (url, _), clients(url, 3) as made:
        await gather(c.reset() for c in made)
        async with aiohttp.ClientSession() as http, http.get(url + "/metrics") as reply:
            assert 'openenv_sessions{state="active"} 3.0' in await reply.text()
