"""An Engine's progress while it builds, pulls or pushes, as lines for people."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["BuildLog", "transfer_line"]

_STEP: Final = re.compile(r"Step (\d+)/(\d+) : (.*)", re.DOTALL)
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_KEPT: Final = 40


class BuildLog:
    """The record of a build: its steps, the last lines of the current one, the image it made.

    Args:
        on_line: called with every line, its step's included.
    """

    def __init__(self, on_line: Callable[[str], object]) -> None:
        self._on_line = on_line
        self._partial = ""
        self.step = ""
        self.image_id: str | None = None
        self.tail: deque[str] = deque(maxlen=_KEPT)

    def feed(self, message: Mapping[str, Any]) -> None:
        """One message of the Engine's stream."""
        if "stream" in message:
            *lines, self._partial = (self._partial + str(message["stream"])).split("\n")
            for line in lines:
                self._line(line)
        elif "aux" in message and isinstance(message["aux"], dict) and "ID" in message["aux"]:
            self.image_id = str(message["aux"]["ID"])
        elif "status" in message:
            told = transfer_line(message)
            if told is not None:
                self._on_line(told)

    def finish(self) -> None:
        """The stream ended."""
        if self._partial:
            self._line(self._partial)
            self._partial = ""

    def _line(self, raw: str) -> None:
        line = _ESCAPES.sub("", raw).rsplit("\r", 1)[-1].rstrip()
        if not line:
            return
        step = _STEP.match(line)
        if step is not None:
            self.step = f"step {step[1]} of {step[2]} ({' '.join(step[3].split())})"
            self.tail.clear()
        elif line.startswith((" ---> ", "Removing intermediate container")):
            return  # the Engine's own bookkeeping
        else:
            self.tail.append(line)
        self._on_line(line)


def transfer_line(message: Mapping[str, Any]) -> str | None:
    """A line for a message on a layer or image; none for the many that tell of bytes."""
    status = str(message.get("status", ""))
    if not status or message.get("progressDetail"):
        return None
    name = message.get("id")
    return f"{name}: {status}" if name else status
