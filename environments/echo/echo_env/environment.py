"""The environment."""

from __future__ import annotations

import time
from typing import Any

from echo_env.models import EchoAction, EchoObservation
from openenv_async import Environment

__all__ = ["EchoEnvironment"]


class EchoEnvironment(Environment[EchoAction, EchoObservation, dict[str, Any]]):
    """An echo of what it is told. It gives no reward and never ends."""

    name = "echo"
    isolation = "inline"  # its calls take microseconds, so they need no thread

    def reset(self) -> EchoObservation:
        return EchoObservation(echo="Ready", timestamp=time.time())

    def step(self, action: EchoAction) -> EchoObservation:
        return EchoObservation(echo=f"Echo: {action.message}", timestamp=time.time())

    def state(self) -> dict[str, Any]:
        return {"status": "running"}
