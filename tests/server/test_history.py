"""The last minutes of a server."""

from __future__ import annotations

import math

import pytest

from openenv_async import GenericEnvClient, create_app, serve
from openenv_async.engine.statistics import Histogram
from openenv_async.server import HTTPEnvServer
from openenv_async.server.history import History, percentile
from tests.helpers import Counter


def test_quantiles_of_counted_durations() -> None:
    counts = [0] * (len(Histogram.bounds) + 1)
    assert percentile(counts, 0.5) is None
    counts[2] = 10  # from 30 to 100 µs
    assert percentile(counts, 0.5) == pytest.approx(65e-6)
    assert percentile(counts, 1.0) == pytest.approx(100e-6)
    counts[-1] = 10
    assert percentile(counts, 0.99) == Histogram.bounds[-1]


async def test_samples_tell_rates_and_quantiles() -> None:
    server = HTTPEnvServer(Counter)
    history = History(server.engine)
    assert history.told()["at"] == []
    history.add(0.0)
    server.engine.stats.steps += 30
    server.engine.stats.errors["x"] = 1
    server.engine.timer.histograms["env"].add(0.002)
    history.add(0.25)
    told = history.told()
    assert told["steps"][0] > 0
    assert told["errors"][0] > 0
    assert told["lag"] == [0.25]
    assert told["sessions"] == [0]
    assert told["p99"]["queue"] == [None]
    assert 0.001 < told["p50"]["env"][0] < 0.003


async def test_five_minutes_are_kept() -> None:
    history = History(HTTPEnvServer(Counter).engine)
    for _ in range(400):
        history.add(0.0)
    told = history.told()
    assert {len(told[name]) for name in ("at", "steps", "errors", "waiting", "lag")} == {300}
    assert all(map(math.isfinite, told["steps"]))


async def test_the_watch_takes_a_sample_at_each_look() -> None:
    app = create_app(Counter, local=False)
    server = app.state.openenv
    async with serve(app) as url, GenericEnvClient(url) as env:
        await env.reset()
        server.watch._look()
        await env.step({})
        server.watch._look()
        told = server.watch.history.told()
        assert told["sessions"] == [1]
        assert told["steps"][0] > 0
