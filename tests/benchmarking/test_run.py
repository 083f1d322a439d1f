"""The load generator: what it counts, and what it says about how."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async import EngineOptions, Environment, serve
from openenv_async.benchmarking import Latencies, Load, bench
from openenv_async.errors import OpenEnvError, ServerBusy, ServerError
from openenv_async.testing import BenchAsyncEnvironment, BenchEnvironment, BenchThreadEnvironment

SHORT = Load(sessions=8, connections=2, seconds=0.3, warmup=0.05)


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=200), st.floats(0.01, 1.0))
def test_quantiles(values: list[float], share: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    rank = max(1, -int(-share * len(values) // 1))
    exact = sorted(values)[rank - 1]
    assert latencies.quantile(share) == pytest.approx(exact, abs=2e-6)
    assert latencies.longest == max(values)
    assert latencies.count == len(values)


def test_no_latencies() -> None:
    assert Latencies().quantile(0.5) == 0.0


@pytest.mark.parametrize(
    "wrong", [{"sessions": 0}, {"connections": 0}, {"seconds": 0.0}, {"warmup": -1.0}]
)
def test_a_load_that_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Load(**wrong)


@pytest.mark.parametrize("env", [BenchEnvironment, BenchThreadEnvironment, BenchAsyncEnvironment])
async def test_a_run(env: Any) -> None:
    phases: list[str] = []
    options = EngineOptions(max_sessions=8)
    async with serve(env, params={"obs_bytes": 1000}, options=options) as url:
        report = await bench(url, SHORT, on_progress=lambda phase, share, n: phases.append(phase))
    assert list(dict.fromkeys(phases)) == ["open", "warm-up", "measure"]
    assert report.steps > 10
    assert report.failures == {}
    assert report.success_rate == 1.0
    assert report.transport == "Unix socket"
    assert report.steps_per_second == pytest.approx(report.steps / report.seconds, rel=0.01)
    latency = report.latency_ms
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"] + 0.001
    for usage in (report.client, report.server):
        assert usage.cpu_us_per_step is not None
        assert usage.cpu_us_per_step > 0
        assert usage.rss_bytes is not None
        assert usage.rss_bytes > 1 << 20
    for words in ("closed loop", "8 sessions", "2 connection", "warm-up dropped", "GET /stats"):
        assert words in report.method
    assert json.loads(json.dumps(report.as_dict()))["steps"] == report.steps


async def test_a_run_over_tcp_says_so() -> None:
    async with serve(BenchEnvironment) as url:
        report = await bench(url, dataclasses.replace(SHORT, local=False))
    assert report.transport == "WebSocket"


class Fails(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """An environment that fails every third step and ends after ten."""

    isolation = "inline"

    def __init__(self) -> None:
        self.count = 0

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.count += 1
        if self.count % 3 == 0:
            raise RuntimeError("third")
        return {"terminated": self.count % 10 == 0}


async def test_failures_count_and_episodes_begin_again() -> None:
    async with serve(Fails) as url:
        report = await bench(url, SHORT, action=lambda rng: {"n": rng.random()}, target="fails")
    assert report.target == "fails"
    assert set(report.failures) == {"environment_raised"}
    assert 0.5 < report.success_rate < 0.9
    assert report.episodes > 0


async def test_a_server_that_is_full() -> None:
    async with serve(BenchEnvironment, options=EngineOptions(max_sessions=4)) as url:
        with pytest.raises(ServerBusy):
            await bench(url, SHORT)


class Broken(Fails):
    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("never")


async def test_not_one_step() -> None:
    async with serve(Broken) as url:
        with pytest.raises(ServerError, match="environment_raised"):
            await bench(url, SHORT, action=lambda rng: {})
    with pytest.raises(OpenEnvError):
        await bench("http://127.0.0.1:9", SHORT)
