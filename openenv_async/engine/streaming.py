"""The partial observations of one streaming step: numbers, credit, and those to show again."""

from __future__ import annotations

from collections import deque

from openenv_async.protocol.frames import Partial

__all__ = ["PartialStream"]


class PartialStream:
    """What was shown of a step, and how much more may be.

    A partial observation is kept until the client grants credit for it, for a client that comes
    back over another connection.

    Args:
        credit: partial observations that may be sent now.
        max_credit: of it at most.

    Attributes:
        kept: those that the client may not have, oldest first.
    """

    __slots__ = ("_credit", "_max_credit", "_shown", "kept")

    def __init__(self, credit: int, max_credit: int) -> None:
        self._credit = min(credit, max_credit)
        self._max_credit = max_credit
        self._shown = 0
        self.kept: deque[Partial] = deque()

    @property
    def granted(self) -> int:
        """Units of credit that the client has given back so far."""
        return self._shown - len(self.kept)

    @property
    def has_credit(self) -> bool:
        """Whether one more may be sent."""
        return self._credit > 0

    def show(self, channel: int, seq: int, payload: bytes, whole: bool) -> Partial:
        """The next partial observation, as a frame."""
        partial = Partial(channel, seq, self._shown, payload, whole)
        self.kept.append(partial)
        self._shown += 1
        self._credit -= 1
        return partial

    def grant(self, units: int) -> None:
        """The client took so many and lets as many more be sent."""
        for _ in range(min(units, len(self.kept))):
            self.kept.popleft()
        self._credit = min(self._credit + units, self._max_credit)
