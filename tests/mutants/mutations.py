"""The fixed list of mutations: small changes that the tests of their room must notice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["MUTATIONS", "Mutation"]


@dataclass(frozen=True)
class Mutation:
    """One change of one module.

    Attributes:
        name: what it breaks.
        file: path from the root of the tree.
        before: the text that is replaced; it stands in the file exactly once.
        after: the text in its place.
        first: test files that are run first.
        survives: why no test can notice it; empty where one must.
    """

    name: str
    file: str
    before: str
    after: str
    first: tuple[str, ...] = ()
    survives: str = ""

    def apply(self, source: bytes) -> bytes:
        """The source with the change.

        Raises:
            ValueError: the text does not stand in it exactly once.
        """
        if source.count(self.before.encode()) != 1:
            raise ValueError(
                f"{self.name}: {self.file} has it {source.count(self.before.encode())} times"
            )
        return source.replace(self.before.encode(), self.after.encode())


MUTATIONS: Final[tuple[Mutation, ...]] = ()
