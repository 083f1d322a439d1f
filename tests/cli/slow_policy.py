"""A policy that blocks the event loop for as long as a small model does."""

from __future__ import annotations

import time
from typing import Any


def policy(observation: Any) -> dict[str, int]:
    time.sleep(1.5)
    return {"amount": 1}
