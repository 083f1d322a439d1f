"""A gateway's statistics in Prometheus' format: the same as its JSON, and what the page says."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from openenv_async.gateway.metrics import METRICS, gateway_text
from tests.gateway.scripted import Client
from tests.gateway.test_verbs import admin, get

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
STATS = {
    "sessions": 3,
    "running": 2,
    "counts": {"sessions": 5, "samples": 7, "failures": 1, "whole": 6, "broken": 2},
    "engines": [
        {"url": "http://me:secret@a:1", "calls": 2, "sessions": 3, "failing": False},
        {"url": "http://b:1", "calls": 0, "sessions": 0, "failing": True},
    ],
    "journal": {"size": 4096},
}


def samples(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_scrape_tells_what_the_gateway_did() -> None:
    async with admin() as (gateway, client):
        session = await gateway.open()
        async with Client(gateway.url, session.key) as agent:
            assert (await agent.ask({"say": "hi"})).status == 200
        reply = await get(client, "/metrics")
        assert reply.status == 200
        assert reply.headers["content-type"].startswith("text/plain")
        found = samples(reply.body.decode())
        assert found["openenv_gateway_sessions", ()] == 1
        assert found["openenv_gateway_sessions_opened_total", ()] == 1
        assert found["openenv_gateway_samples_total", ()] == 1
        assert found["openenv_gateway_answers_total", ("whole",)] == 1
        assert found["openenv_gateway_failures_total", ()] == 0
        assert found["openenv_gateway_running", ()] == 0


def test_engines_are_told_apart_without_their_credentials() -> None:
    text, _ = gateway_text(STATS)
    found = samples(text.decode())
    assert b"secret" not in text
    engines = {labels for name, labels in found if name == "openenv_gateway_engine_calls"}
    assert len(engines) == 2
    assert found["openenv_gateway_engine_failing", ("http://b:1",)] == 1
    assert found["openenv_gateway_journal_bytes", ()] == 4096
    assert found["openenv_gateway_answers_total", ("broken",)] == 2


def test_the_page_has_every_metric() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines()]
    told = {row[0][2:]: (row[1], row[3][:-2]) for row in rows if "`openenv_gateway_" in row[0]}
    assert told == {f"`{each.name}`": (each.kind, each.help) for each in METRICS}
