"""The pace of Python's cyclic garbage collector in a process that serves many sessions.

A step that waits keeps a few objects alive while it does. The collector takes them for new ones
each time that 700 more were made than freed, walks them in vain, and counts the survivors until it
walks everything: with thousands of sessions that is a quarter of the server's time, and pauses of
tens of milliseconds.

Rules:

- A collection of the young objects is due after 700 (Python's own number) and ``PER_SESSION`` for
  each session that lives: a step in flight is not looked at more than a few times.
- A collection that finds garbage shows that the environments make cycles: it halves the number,
  down to Python's own, so that no more memory waits than before. One that finds none doubles it
  again.
- The older objects are collected when Python sees fit, and nothing is ever exempt: what a closed
  session or an ended episode leaves behind is found.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

__all__ = ["PER_SESSION", "CollectorPace", "paced_collector"]

PER_SESSION: Final = 8
"""Objects that may be new for each session before the collector looks at them."""
_GARBAGE: Final = 16
"""One object in so many that is garbage is a reason to look more often."""


class CollectorPace:
    """The number of new objects that makes a collection due, decided after each collection.

    Args:
        sessions: gives how many live.
        usual: the number without sessions.

    Attributes:
        threshold: the number.
    """

    def __init__(self, sessions: Callable[[], int], usual: int) -> None:
        self._sessions = sessions
        self._usual = usual
        self.threshold = usual

    def decide(self, found: int) -> int:
        """Return the new threshold, after a collection that found so many objects of garbage."""
        most = self._usual + PER_SESSION * self._sessions()
        if found * _GARBAGE > self.threshold:
            self.threshold = max(self._usual, self.threshold // 2)
        else:
            self.threshold = min(most, self.threshold * 2)
        return self.threshold


@contextmanager
def paced_collector(sessions: Callable[[], int]) -> Iterator[None]:
    """Let the collector of this process keep the pace of its sessions, meanwhile.

    Args:
        sessions: gives how many live; may be called in any thread.
    """
    usual, middle, old = gc.get_threshold()
    if not usual or not gc.isenabled():  # the process's owner has switched it off
        yield
        return
    pace = CollectorPace(sessions, usual)

    def collected(phase: str, about: dict[str, Any]) -> None:
        if phase == "stop":
            gc.set_threshold(pace.decide(about["collected"]), middle, old)

    gc.callbacks.append(collected)
    try:
        yield
    finally:
        gc.callbacks.remove(collected)
        gc.set_threshold(usual, middle, old)
