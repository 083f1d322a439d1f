"""Messages between the server and a worker: four bytes of length, then JSON."""

from __future__ import annotations

import json
import os
from typing import Any, Final

__all__ = ["CONTROL", "receive", "send"]

CONTROL: Final = 3
"""The worker's end of its socket."""


def send(message: dict[str, Any]) -> None:
    """Write one message."""
    text = json.dumps(message).encode()
    data = memoryview(len(text).to_bytes(4, "big") + text)
    while data:
        data = data[os.write(CONTROL, data) :]


def receive() -> dict[str, Any]:
    """Read one message.

    Raises:
        EOFError: the server let go.
    """
    size = int.from_bytes(_exactly(4), "big")
    message: dict[str, Any] = json.loads(_exactly(size))
    return message


def _exactly(size: int) -> bytes:
    parts = []
    while size:
        part = os.read(CONTROL, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
