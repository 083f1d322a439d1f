from __future__ import annotations

from tests.providers.fixtures import engine

__all__ = ["engine"]
