"""A server of the small environment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integrations.serving import served
from tests.integrations.trl_worlds import Talk


@pytest.fixture
def talk() -> Iterator[str]:
    with served(Talk) as url:
        yield url
