"""The generator of an episode's chance.

Python's own takes 20 µs to be seeded, which is the time of ten moves of a small game. This one is
SplitMix64 (Steele, Lea, Flood: *Fast Splittable Pseudorandom Number Generators*, 2014): its whole
state is one number of 64 bits, and a seed is taken as it is.
"""

from __future__ import annotations

import random
from typing import Any, Final

__all__ = ["EpisodeRandom"]

_MASK: Final = (1 << 64) - 1


class EpisodeRandom(random.Random):
    """A ``random.Random`` whose state is ``position``.

    Attributes:
        position: a number below 2**64.
    """

    position = 0

    def seed(self, a: Any = None, version: int = 2) -> None:
        """Begin where an integer says; its upper bits count, too."""
        number = int(a or 0)
        self.position = (number ^ (number >> 64)) & _MASK

    def _next(self) -> int:
        self.position = z = (self.position + 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def random(self) -> float:
        """Return a number of [0, 1) with 53 bits."""
        return (self._next() >> 11) * 2.0**-53

    def getrandbits(self, k: int, /) -> int:
        """Return a number of ``k`` bits."""
        if k <= 64:
            return self._next() >> (64 - k)
        number = 0
        for _ in range(0, k, 64):
            number = number << 64 | self._next()
        return number >> (-k % 64)

    def getstate(self) -> tuple[Any, ...]:
        return (self.position, self.gauss_next)

    def setstate(self, state: tuple[Any, ...]) -> None:
        position, self.gauss_next = state
        self.position = position & _MASK
