"""What a scrape of a pool reads, and the page that explains it."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from openenv_async.pool import EnvPool, SyncEnvPool
from openenv_async.pool.metrics import METRICS, PoolCollector
from openenv_async.providers.process import ProcessProvider
from tests.helpers import until
from tests.pool.workers import CountingEnv, LoopProvider
from tests.rollouts.environments import Move

PAGE = Path(__file__).parents[2] / "docs" / "pool.md"
POOL = "openenv_pool_"

Samples = dict[tuple[str, ...], float]


def samples(text: str) -> Samples:
    """Every sample, by its name without the prefix and the values of its labels."""
    return {
        (sample.name.removeprefix(POOL), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped(registry: CollectorRegistry) -> Samples:
    return samples(generate_latest(registry).decode())


def one(observation: Any) -> Move:
    return Move(1)


async def test_a_pool_that_played_is_scraped() -> None:
    provider = LoopProvider()
    registry = CollectorRegistry(auto_describe=True)
    pool = EnvPool(
        provider, client=CountingEnv, min_workers=2, max_workers=2, sessions_per_worker=3
    )
    registry.register(PoolCollector(pool))
    assert set(scraped(registry).values()) == {0.0}, "it was never opened"
    async with pool:
        async for outcome in pool.collect(one, 20, concurrency=6):
            assert outcome.status.usable
        async with pool.session(), pool.session():
            found, now = scraped(registry), pool.statistics()
        assert found["workers", "default", "ready"] == 2
        assert found["workers", "default", "starting"] == 0
        assert found["slots", "default"] == 6
        assert found["sessions", "default"] == 2
        assert found["waiting", "default"] == 0
        assert found["sessions_leased_total", "default"] == now.sessions_leased == 8
        assert found["workers_started_total", "default"] == 2
        assert 0 < found["worker_seconds", "default", "used"] <= now.seconds.used
        provider.started[0].die()
        await until(lambda: pool.statistics().workers_died == 1)
        assert scraped(registry)["workers_died_total", "default"] == 1
    found = scraped(registry)
    assert found["workers", "default", "ready"] == found["sessions", "default"] == 0
    assert found["workers_started_total", "default"] >= 2, "what was counted stays"


async def test_the_seconds_are_those_of_the_statistics() -> None:
    registry = CollectorRegistry()
    async with EnvPool(LoopProvider(), client=CountingEnv) as pool:
        await pool.rollout(one)
        registry.register(PoolCollector(pool))
    found, seconds = scraped(registry), pool.statistics().seconds
    for state in ("used", "idle", "starting", "wasted"):
        assert found["worker_seconds", "default", state] == getattr(seconds, state)
    assert seconds.used > 0


async def test_several_pools_in_one_registry() -> None:
    registry = CollectorRegistry(auto_describe=True)
    async with EnvPool(LoopProvider()) as train, EnvPool(LoopProvider(), min_workers=2) as test:
        collector = PoolCollector({"train": train, "test": test})
        registry.register(collector)
        found = scraped(registry)
        assert found["workers", "train", "ready"] == 1
        assert found["workers", "test", "ready"] == 2
        assert generate_latest(registry).decode().count("# HELP openenv_pool_workers ") == 1
        with pytest.raises(ValueError, match="openenv_pool_workers"):
            registry.register(PoolCollector(train))
        registry.unregister(collector)
        assert scraped(registry) == {}


async def test_a_server_of_prometheus_client_scrapes_from_its_thread() -> None:
    registry = CollectorRegistry()
    async with EnvPool(LoopProvider(), client=CountingEnv) as pool, pool.session():
        registry.register(PoolCollector(pool))
        server, thread = start_http_server(0, "127.0.0.1", registry)
        try:
            url = f"http://127.0.0.1:{server.server_port}/metrics"

            def fetch() -> str:
                with urllib.request.urlopen(url, timeout=30) as reply:
                    return str(reply.read().decode())

            found = samples(await asyncio.to_thread(fetch))
        finally:
            await asyncio.to_thread(server.shutdown)
            server.server_close()
            await asyncio.to_thread(thread.join)
        assert found["sessions", "default"] == 1


def test_a_blocking_pool_is_scraped() -> None:
    registry = CollectorRegistry()
    provider = ProcessProvider("tests.rollouts.environments:Counting")
    with SyncEnvPool(provider, client=CountingEnv) as pool:
        registry.register(PoolCollector(pool))
        with pool.session():
            assert scraped(registry)["sessions", "default"] == 1


def test_the_page_has_every_metric() -> None:
    pattern = r"^\| `(openenv_pool_\w+)` \| (\w+) \| (.+?) \| (.+) \|$"
    rows = re.findall(pattern, PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [
        (metric.name, metric.kind, ", ".join(metric.states) or "–", metric.help)
        for metric in METRICS
    ]
