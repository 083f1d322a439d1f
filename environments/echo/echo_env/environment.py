"""The environment."""

from __future__ import annotations

import time
from typing import Any

from echo_env.models import EchoAction, EchoObservation
from openenv_async import Environment, Tool

__all__ = ["EchoEnvironment"]


_MESSAGE = {
    "type": "object",
    "properties": {"message": {"type": "string", "description": "the message to echo"}},
    "required": ["message"],
}


class EchoEnvironment(Environment[EchoAction, EchoObservation, dict[str, Any]]):
    """An echo of what it is told. It gives no reward and never ends."""

    name = "echo"
    isolation = "inline"  # its calls take microseconds, so they need no thread
    tools = (
        Tool(
            "echo_message",
            "Echo a message.",
            _MESSAGE,
            constants={"tool": "echo_message"},
            result_field="result",
        ),
        Tool(
            "echo_with_length",
            "Echo a message, with its length.",
            _MESSAGE,
            constants={"tool": "echo_with_length"},
            result_field="result",
        ),
    )

    def reset(self) -> EchoObservation:
        return EchoObservation(echo="Ready", timestamp=time.time())

    def step(self, action: EchoAction) -> EchoObservation:
        message = action.message
        result: Any = None
        if action.tool == "echo_message":
            result = message
        elif action.tool == "echo_with_length":
            result = {"message": message, "length": len(message)}
        return EchoObservation(echo=f"Echo: {message}", timestamp=time.time(), result=result)

    def state(self) -> dict[str, Any]:
        return {"status": "running"}
