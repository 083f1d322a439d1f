"""Upstream's own server is validated by its address, and told what its dialect cannot answer."""

from __future__ import annotations

import pytest

from openenv_async.checks.validation import validate
from tests.upstream.conftest import upstream_python as upstream_python
from tests.upstream.test_real_server import upstream_server

pytestmark = pytest.mark.xdist_group("upstream")


async def test_an_upstream_server_is_validated(upstream_python: str) -> None:
    async with upstream_server(upstream_python, 64) as url:
        results = {result.name: result for result in await validate(url, sessions=4)}
    assert [result for result in results.values() if result.status == "failed"] == []
    assert results["episodes_run_over_upstream"].status == "passed"
    assert results["equal_seeds_give_equal_episodes"].status == "passed"
    assert results["sessions_are_isolated"].status == "passed"
    for name, why in {
        "episodes_run_over_native_msgpack": "speaks no other dialect",
        "episodes_run_over_http": "HTTP routes have no episode",
        "cancelling_is_honoured": "cannot cancel",
        "closing_releases": "started here",
    }.items():
        assert results[name].status == "skipped"
        assert why in results[name].reason


async def test_an_upstream_server_with_room_for_one(upstream_python: str) -> None:
    names = ["rewards_are_numbers", "sessions_are_isolated", "sessions_run_at_once"]
    async with upstream_server(upstream_python, 1) as url:
        results = {result.name: result for result in await validate(url, names=names)}
    assert results["rewards_are_numbers"].status == "passed"
    for name in names[1:]:
        assert results[name].status == "skipped"
        assert "no room for another session" in results[name].reason
