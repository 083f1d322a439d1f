"""The output of a worker on stdout and stderr."""

from __future__ import annotations

import os

__all__ = ["Output"]


class Output:
    """One stream of one call, cut to a size.

    Attributes:
        size: bytes that were written, those left out included.
    """

    def __init__(self, fd: int, limit: int) -> None:
        self.fd = fd
        self.size = 0
        self._limit = limit
        self._kept = bytearray()

    def clear(self) -> None:
        """Begin a new call; what came between calls is forgotten."""
        self.size = 0
        self._kept.clear()

    def read(self) -> bool:
        """Take what is there, a mebibyte at most; ``False`` once nobody can write any more."""
        for _ in range(16):
            try:
                data = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self.size += len(data)
            self._kept += data[: max(0, self._limit - len(self._kept))]
        return True

    def text(self) -> str:
        """Return what was kept, and a line that says how much was not."""
        text = self._kept.decode("utf-8", "replace")
        left_out = self.size - len(self._kept)
        return f"{text}\n[truncated: {left_out} more bytes]\n" if left_out else text
