"""Admission of a stream's episodes: one begins if it can still be used once the learner reads it.

Rules:

- An episode that begins now is read after all those that began before it and were not read yet.
  From how many episodes the learner reads per version of its policy follows at which version that
  will be; an episode that would be too old by then does not begin.
- A group begins as a whole, or not yet.
- How many the learner reads per version is known once it has published. Until then it is taken to
  be no more than what it has read and asks for; without any staleness allowed, half as many again,
  since episodes would else be played one after the other.
- Whoever waits for an episode gets one: if none is under way, the next begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import ceil

__all__ = ["Admission"]


class Admission:
    """Admits the episodes of one stream.

    Args:
        version: tells the version of the policy.
        size: episodes of a group.
        max_staleness: versions that an episode may be behind when it is read.
    """

    def __init__(self, version: Callable[[], int], size: int, max_staleness: int) -> None:
        self._version = version
        self._size = size
        self._max_staleness = max_staleness
        self._known = version()
        self._admitted = 0
        self._under_way = 0
        self._read = 0
        self._batch = 0
        self._wanted = size
        self._reader_waits = False
        self._closed = False
        self._changed = asyncio.Event()

    # -- the players' side --------------------------------------------------------------------

    async def admit(self) -> None:
        """Return when the next episode may begin."""
        while not self._may_begin():
            self._changed.clear()
            await self._changed.wait()
        self._admitted += 1
        self._under_way += 1

    def give_back(self) -> None:
        """An admitted episode does not begin, or begins again later."""
        self._admitted -= 1
        self._under_way -= 1
        self._changed.set()

    def close(self) -> None:
        """There are no more episodes: nobody waits any more."""
        self._closed = True
        self._changed.set()

    def _may_begin(self) -> bool:
        self._notice()
        if self._closed or self._admitted % self._size:
            return True
        if self._reader_waits and not self._under_way:
            return True
        batch = max(self._batch, self._wanted)
        last = self._read + self._under_way + self._size - 1
        if self._max_staleness:
            last += (batch - self._size) // 4  # the quick overtake the slow
        return last // batch <= self._max_staleness

    # -- the reader's side --------------------------------------------------------------------

    def asked(self) -> None:
        """The reader waits for the next."""
        self._notice()
        self._reader_waits = True
        blind = not self._batch and not self._max_staleness
        more = self._read // 2 if blind else 0
        self._wanted = max(self._wanted, self._read + max(more, self._size))
        self._changed.set()

    def read(self, count: int) -> None:
        """The reader was given that many episodes."""
        self._notice()
        self._reader_waits = False
        self._under_way -= count
        self._read += count
        self._changed.set()

    def dropped(self) -> None:
        """An episode ended that the reader is not given."""
        self._under_way -= 1
        self._changed.set()

    def _notice(self) -> None:
        """Learn from a new version how many episodes are read for one."""
        version = self._version()
        if version == self._known:
            return
        if self._read:
            self._batch = ceil(self._read / max(1, version - self._known))
        self._known = version
        self._read = 0
        self._wanted = self._size
