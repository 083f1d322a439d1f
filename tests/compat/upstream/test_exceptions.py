"""Upstream's exceptions: what they say and hold."""

from __future__ import annotations

import pytest

from openenv_async.compat.upstream.exceptions import (
    ConcurrencyConfigurationError,
    EnvironmentFactoryError,
    OpenEnvError,
    SessionCapacityError,
    SessionCreationError,
    SessionNotFoundError,
)


@pytest.mark.parametrize(
    ("error", "held"),
    [
        (ConcurrencyConfigurationError("Maze", 8), {"max_concurrent_envs": 8}),
        (SessionCapacityError(2, 2), {"active_sessions": 2, "max_sessions": 2}),
        (SessionNotFoundError("s-1"), {"session_id": "s-1"}),
        (SessionCreationError("no memory"), {"reason": "no memory"}),
        (EnvironmentFactoryError("make_maze"), {"factory_name": "make_maze"}),
    ],
)
def test_it_holds_and_says_its_facts(error: OpenEnvError, held: dict[str, object]) -> None:
    assert isinstance(error, OpenEnvError)
    for name, value in held.items():
        assert getattr(error, name) == value
        assert str(value) in str(error)


def test_a_message_of_the_caller_replaces_its_own() -> None:
    assert str(SessionCapacityError(1, 1, "full")) == "full"
    assert str(ConcurrencyConfigurationError("Maze", 2, message="no")) == "no"
