"""A server of CartPole."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gymnasium_env.environment import InlineGymnasiumEnvironment

from tests.integrations.serving import served


@pytest.fixture(scope="module")
def cartpole() -> Iterator[str]:
    with served(InlineGymnasiumEnvironment, params={"id": "CartPole-v1"}) as url:
        yield url
