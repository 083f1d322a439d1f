from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.providers.engines import ours, require_engine


@pytest.fixture
def engine() -> Iterator[None]:
    """A real Engine; and the test leaves no container of this process on it."""
    require_engine()
    yield
    assert ours() == []
