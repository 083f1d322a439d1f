"""Upstream's own server is certified by its address, as far as its wire tells."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.certification import Certification
from openenv_async.checks.certify import certify
from tests.upstream.conftest import upstream_python as upstream_python
from tests.upstream.test_real_server import upstream_server

pytestmark = pytest.mark.xdist_group("upstream")


def long(observation: Any) -> dict[str, Any]:
    return {"message": "x" * 10}


STATED = Certification(
    oracle=long,
    return_range=(0.0, 2.0),
    oracle_return=1.0,
    answer=lambda text: {"message": text},
    guess=lambda observation: {"message": "x"},
    max_steps=1,
)


async def test_an_upstream_server_is_certified(upstream_python: str) -> None:
    async with upstream_server(upstream_python, 64) as url:
        certificate = await certify(url, declaration=STATED, episodes=4, seconds=2)
    results = {result.name: result for result in certificate.results}
    assert results["the_oracle_solves_it"].status == "passed"
    assert results["seeds_decide_the_episode"].status == "passed"
    assert results["guesses_fail"].reason == "guesses are paid 1, where the oracle needs 1"
    told = "reset() gives the reward 1.0, before any step"  # that server pays for everything
    assert results["rewards_belong_to_steps"].reason == told
    for name in (
        "answers_stay_hidden",
        "seeds_decide_across_processes",
        "sessions_leave_nothing_behind",
    ):
        assert results[name].status == "skipped"
    assert certificate.digest_of == "server"
