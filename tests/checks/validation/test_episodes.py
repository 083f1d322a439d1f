"""The checks of episodes, rewards and schemas, each broken by an environment."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.checks.registry import Skipped
from openenv_async.checks.validation import episodes
from openenv_async.checks.validation.candidate import Candidate
from openenv_async.checks.validation.episodes import _own_state, _transport
from tests.checks.validation.broken import BROKEN
from tests.checks.validation.caught import broken_in, is_caught, names_of


@broken_in(episodes)
async def test_each_broken_environment_is_caught_by_its_check(cls: Any) -> None:
    await is_caught(cls)


def test_every_check_catches_one() -> None:
    over_other_transports = {"episodes_run_over_native_json", "episodes_run_over_upstream"}
    assert names_of(episodes) - set(BROKEN.values()) == over_other_transports


def test_the_fields_that_the_client_adds_are_not_the_environments() -> None:
    state = {"n": 1, "episode_id": "e", "step_count": 2}
    assert _own_state(state, {"properties": {"n": {}}}) == {"n": 1}
    assert _own_state(state, {"properties": {"step_count": {}}}) == {"n": 1, "step_count": 2}
    assert _own_state([1], {}) == [1]


def test_an_upstream_server_speaks_one_dialect() -> None:
    candidate = Candidate(url="http://127.0.0.1:9", is_upstream=True)
    assert _transport(candidate, "upstream").name == "upstream"
    with pytest.raises(Skipped, match="no episode"):
        _transport(candidate, "http")
    with pytest.raises(Skipped, match="no other dialect"):
        _transport(candidate, "native json")
    own = Candidate(url="http://127.0.0.1:9")
    for name in ("native msgpack", "native json", "http", "upstream"):
        assert _transport(own, name).name == name
