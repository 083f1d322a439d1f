"""The task: take an item from a shelf, of which only a tool knows the number."""

from __future__ import annotations

import random
from typing import Final, TypeAlias

import msgspec

from openenv_async import Environment, StepResult

__all__ = ["ITEMS", "SHELVES", "Find", "Pick", "Shelves"]

ITEMS: Final = (
    *("apples", "bread", "candles", "eggs", "flour", "honey", "jam", "lemons"),
    *("milk", "nuts", "onions", "pears", "rice", "salt", "soap", "tea"),
)
SHELVES: Final = range(1, 9)


class Find(msgspec.Struct, tag="find", tag_field="tool"):
    """Tell on which shelf an item is."""

    item: str


class Pick(msgspec.Struct, tag="pick", tag_field="tool"):
    """Take what is on a shelf, which ends the episode."""

    shelf: int


Action: TypeAlias = Find | Pick


class Shelves(Environment[Action, str, dict[str, int]]):
    """Eight shelves: the right one is worth 1, every other 0, so a guess is worth 1/8.

    The seed draws the item and its shelf. No word of the order tells the shelf.
    """

    isolation = "inline"

    def __init__(self) -> None:
        self.item = ""
        self.shelf = 0

    def reset(self, seed: int = 0) -> str:
        """Order an item."""
        draw = random.Random(seed)
        self.item, self.shelf = draw.choice(ITEMS), draw.choice(SHELVES)
        return f"Take the {self.item}."

    def step(self, action: Action) -> StepResult[str]:
        """Look, or take."""
        if isinstance(action, Find):
            found = action.item == self.item
            return StepResult(f"shelf {self.shelf}" if found else "not here", 0.0, False)
        return StepResult("taken", float(action.shelf == self.shelf), True)

    def state(self) -> dict[str, int]:
        """Return nothing that an agent could use."""
        return {}
