"""How long a client lets the server take, and how long it waits itself."""

from __future__ import annotations

from typing import Final

__all__ = ["BACKSTOP", "on_wire"]

BACKSTOP: Final = 5.0
"""Seconds after the server's deadline at which the client stops waiting for its answer."""


def on_wire(timeout: float | None) -> float:
    """Seconds as a frame or a header carries them: 0 for no deadline."""
    return 0.0 if timeout is None else timeout
