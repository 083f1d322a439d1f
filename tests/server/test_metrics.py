"""What a server says about itself: the reading, its two formats, and the page that explains it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from openenv_async import EngineOptions, GenericEnvClient, HTTPEnvClient, serve
from openenv_async.engine import Engine
from openenv_async.engine.statistics import PHASES, Histogram
from openenv_async.errors import ServerBusy
from openenv_async.server import HTTPEnvServer, create_app
from openenv_async.server.metrics import METRICS, LoopWatch, prometheus_text, read_stats
from openenv_async.spec import EnvironmentSpec
from tests.behaviours.environments import CommandedProcess, Ledger, LedgerAsync, LedgerThread
from tests.helpers import until
from tests.rollouts.environments import Counting

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


async def scrape(url: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample, by its name and the values of its labels."""
    async with aiohttp.ClientSession() as http, http.get(url + "/metrics") as reply:
        assert reply.status == 200
        assert reply.content_type == "text/plain"
        text = await reply.text()
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def read(url: str, path: str = "/metrics.json") -> dict[str, Any]:
    async with aiohttp.ClientSession() as http, http.get(url + path) as reply:
        found: dict[str, Any] = await reply.json()
        return found


async def test_the_same_in_both_formats() -> None:
    async with serve(Counting) as url:
        client = await GenericEnvClient(url).open()
        await client.reset()
        for _ in range(3):
            await client.step({"amount": 1})
        other = await HTTPEnvClient(url).open()
        found, stats = await scrape(url), await read(url)
        assert set(stats) == set(await read(url, "/stats"))
        assert found["openenv_sessions", ("active",)] == stats["active"] == 2
        assert found["openenv_sessions", ("waiting",)] == stats["waiting"] == 0
        assert found["openenv_steps_total", ()] == stats["steps"] == 3
        assert found["openenv_sessions_opened_total", ()] == stats["opened"] == 2
        assert found["openenv_connections", ()] == stats["connections"] == 1
        assert found["openenv_received_bytes_total", ()] > 20
        assert found["openenv_sent_bytes_total", ()] > 20
        assert found["openenv_health", ("ok",)] == 1
        assert found["openenv_health", ("wedged",)] == 0
        assert found["openenv_draining", ()] == 0
        draining, _ = prometheus_text({None: {**stats, "draining": "it is being drained"}})
        assert b"openenv_draining 1.0" in draining
        assert found["openenv_environment_info", ("Counting",)] == 1
        assert found["openenv_free_descriptors", ()] > 0
        await client.close()
        await other.close()
        await until(lambda: client.connection is None)
        found = await scrape(url)
        assert found["openenv_sessions", ("active",)] == 0
        assert found["openenv_sessions_closed_total", ()] == 2


async def test_upstreams_health_stays_what_it_was() -> None:
    async with serve(Counting) as url:
        assert await read(url, "/health") == {"status": "healthy"}


async def test_labels_do_not_grow_with_use() -> None:
    async with serve(Counting) as url:
        await scrape(url)
        before = set(await scrape(url))
        for _ in range(20):
            async with GenericEnvClient(url) as client:
                await client.reset()
                await client.step({"amount": 1})
        assert set(await scrape(url)) == before
        assert len(before) < 200


# -- where the time of a step goes --------------------------------------------------------


@pytest.mark.parametrize("env", [Ledger, LedgerAsync, LedgerThread, CommandedProcess])
async def test_an_armed_session_times_its_next_step(env: type) -> None:
    app = create_app(env)
    engine: Engine = app.state.openenv.engine
    async with serve(app) as url, GenericEnvClient(url) as client:
        await client.reset()
        assert engine.timer.histograms["env"].count == 0
        [session] = engine.sessions.values()
        executor = session.executor
        for number in range(1, 4):
            engine.time_steps([session])
            engine.time_steps([session])
            assert session.executor is engine.timer
            await client.step({"n": number})
            assert session.executor is executor
            await client.step({"n": number})
            counts = {phase: found.count for phase, found in engine.timer.histograms.items()}
            remote = env is CommandedProcess  # where only the whole is known
            assert counts == dict.fromkeys(PHASES, 0 if remote else number) | {"env": number}
        assert engine.timer.histograms["env"].sum > 0
        engine.time_steps([session])
        assert (await client.state()) is not None  # which is no step, and disarms
        assert session.executor is executor
        found = await scrape(url)
        assert found["openenv_step_seconds_count", ("env",)] == 3


async def test_the_watch_arms_sessions_in_turn() -> None:
    watch = HTTPEnvServer(Ledger).watch
    armed: list[list[int]] = []
    engine: Any = watch._engine
    engine.time_steps = lambda sessions: armed.append(list(sessions))
    engine.sessions = {str(number): number for number in range(40)}
    watch.start()
    try:
        for _ in range(5):
            watch._look()
        engine.sessions.clear()
        watch._look()
    finally:
        watch.stop()
    assert all(len(chosen) == len(set(chosen)) == 32 for chosen in armed[:5])
    assert set(armed[0] + armed[1]) == set(range(40))
    assert armed[5] == []


def test_a_histogram_counts_by_size() -> None:
    found = Histogram()
    for seconds in (0.0, 1e-5, 1.1e-5, 0.5, 1e9):
        found.add(seconds)
    assert found.count == 5
    assert found.counts[0] == 2
    assert found.counts[-1] == 1


async def test_the_wait_for_capacity_is_counted() -> None:
    options = EngineOptions(max_sessions=1, max_waiting=4)
    app = create_app(Counting, options=options)
    engine: Engine = app.state.openenv.engine
    async with serve(app, options=options) as url:
        first = await GenericEnvClient(url).open()
        second = GenericEnvClient(url)
        opening = asyncio.create_task(second.open())
        await until(lambda: engine.waiting == 1)
        stats = await read(url)
        assert stats["waiting"] == 1
        assert stats["active"] == 1
        assert stats["longest_wait"] > 0
        assert stats["health"] == "degraded"
        assert stats["health_reasons"] == ["1 sessions wait for capacity"]
        await first.close()
        await opening
        stats = await read(url)
        assert stats["health"] == "ok"
        assert stats["queue_wait"]["count"] == 1
        assert stats["queue_wait"]["sum"] > 0
        assert (await scrape(url))["openenv_queue_wait_seconds_count", ()] == 1
        await second.close()


async def test_workers_are_counted() -> None:
    app = create_app(CommandedProcess)
    async with serve(app) as url:
        client = await GenericEnvClient(url).open()
        await client.reset()
        assert (await read(url))["workers"] == 1
        with pytest.raises(Exception, match="is gone"):
            await client.step({"do": "os_exit", "code": 3})
        stats = await read(url)
        assert stats["workers_started"] == stats["workers_died"] == 1
        assert stats["workers"] == 0
        other = await GenericEnvClient(url).open()
        await other.close()
        await until(lambda: app.state.openenv.engine.stats.closed == 2)
        assert (await read(url))["workers_died"] == 1  # one that is not needed does not count


# -- health -------------------------------------------------------------------------------


class Held(LoopWatch):
    """A loop that is as late as the test says."""

    late = 0.0

    @property
    def worst_lag(self) -> float:
        return self.late


@pytest.mark.parametrize(
    ("late", "health"),
    [(0.0, "ok"), (0.2, "ok"), (0.3, "degraded"), (4.9, "degraded"), (5.0, "wedged")],
)
async def test_health_follows_the_loop(late: float, health: str) -> None:
    engine = Engine(EnvironmentSpec(Counting))
    watch = Held(engine)
    watch.late = late
    stats = read_stats(engine, watch)
    assert stats["health"] == health
    assert bool(stats["health_reasons"]) is (health != "ok")
    assert f'openenv_health{{state="{health}"}} 1.0' in prometheus_text({None: stats})[0].decode()


async def test_the_lag_is_measured() -> None:
    watch = LoopWatch(Engine(EnvironmentSpec(Counting)))
    assert watch.lag == watch.worst_lag == 0.0
    watch.start()
    loop = asyncio.get_running_loop()
    try:
        watch._due = loop.time() - 3.0  # as if the loop had been blocked
        assert watch.lag >= 3.0
        watch._look()
        assert 3.0 <= watch.worst_lag < 4.0
        watch._look()
        assert watch.lag == 0.0
        assert watch.worst_lag >= 3.0
        for _ in range(10):
            watch._look()
        assert watch.worst_lag < 1.0
    finally:
        watch.stop()


# -- clients ------------------------------------------------------------------------------


async def test_refusals_are_counted() -> None:
    options = EngineOptions(max_sessions=1)
    async with serve(Counting, options=options) as url, GenericEnvClient(url):
        with pytest.raises(ServerBusy):
            await GenericEnvClient(url).open()
        assert (await scrape(url))["openenv_sessions_refused_total", ()] == 1


async def test_the_client_knows_its_reconnects_and_late_replies() -> None:
    async with serve(Counting) as url, GenericEnvClient(url) as client:
        assert client.connection is not None
        assert client.connection.reconnects == 0
        assert client.connection.late_replies == 0


# -- the page -----------------------------------------------------------------------------


def test_the_page_names_every_metric() -> None:
    row = r"^\| `(openenv_(?!gateway_)\w+)` \| (\w+) \| (.*?) \| (.+?) \|$"
    rows = re.findall(row, PAGE.read_text(), re.M)
    assert {(name, kind) for name, kind, *_ in rows} == {(m.name, m.kind) for m in METRICS}
    assert [name for name, *_ in rows] == [metric.name for metric in METRICS]
    for metric, (_, _, label, help) in zip(METRICS, rows, strict=True):
        assert label.split("`")[1:2] == ([metric.label] if metric.label else []), metric.name
        assert help == metric.help, metric.name


async def test_the_page_names_every_key() -> None:
    engine = Engine(EnvironmentSpec(Counting))
    stats = read_stats(engine, LoopWatch(engine))
    named = set(re.findall(r"`(\w+)`", PAGE.read_text()))
    assert set(stats) <= named
    json.dumps(stats)
