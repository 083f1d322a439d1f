"""Actions, observations and state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["EchoAction", "EchoObservation"]


@dataclass
class EchoAction:
    """Something to say.

    Attributes:
        message: what to say.
        tool: the tool that was called to say it, if one was.
    """

    message: str
    tool: Literal["echo_message", "echo_with_length"] | None = None


@dataclass
class EchoObservation:
    """The echo of a message.

    Attributes:
        echo: ``Ready`` after a reset, then ``Echo: `` and the message.
        timestamp: seconds since the epoch.
        result: what the tool gives that was called: the message, or ``message`` and ``length``.
    """

    echo: str
    timestamp: float
    result: str | dict[str, Any] | None = None
