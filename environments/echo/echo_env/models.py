"""Actions, observations and state."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EchoAction", "EchoObservation"]


@dataclass
class EchoAction:
    """Something to say."""

    message: str


@dataclass
class EchoObservation:
    """The echo of a message.

    Attributes:
        echo: ``Ready`` after a reset, then ``Echo: `` and the message.
        timestamp: seconds since the epoch.
    """

    echo: str
    timestamp: float
