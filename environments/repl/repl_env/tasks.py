"""Bundled tasks: questions on long texts that are drawn from a seed.

No text can be read at a glance: the answer is one line in hundreds, or spread over many.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from openenv_async.errors import InvalidOption

__all__ = ["TASKS", "Drawn", "Split", "draw"]

Split = Literal["train", "test"]
_PLACES = "Arlen Bergen Corvo Delmar Ebro Farsund Galway Hvar Istria Jura Kotor Luleå"
_THINGS = "anvil basket candle drum easel flute globe harp inkwell jug kettle lantern"
_MONTHS = "January February March April May June"


@dataclass(frozen=True, slots=True)
class Drawn:
    """A question on a text, with its answer."""

    name: str
    context: str
    task_prompt: str
    expected_answer: str


def _needle(rng: random.Random) -> tuple[str, str, str]:
    lines = []
    codes: dict[str, int] = {}
    for place in _PLACES.split():
        for thing in _THINGS.split():
            codes[f"the {thing} in {place}"] = rng.randint(10_000, 99_999)
    for what, code in codes.items():
        lines.append(f"The lock on {what} opens with {code}.")
        lines += [f"Nobody has seen {what} since {rng.choice(_MONTHS.split())}."] * rng.randint(
            0, 3
        )
    rng.shuffle(lines)
    what = rng.choice(list(codes))
    return "\n".join(lines), f"Which number opens the lock on {what}?", str(codes[what])


def _orders(rng: random.Random) -> list[tuple[str, str, str, int]]:
    places, things, months = _PLACES.split(), _THINGS.split(), _MONTHS.split()
    return [
        (rng.choice(places), rng.choice(things), rng.choice(months), rng.randint(1, 40))
        for _ in range(rng.randint(300, 600))
    ]


def _ledger(rows: list[tuple[str, str, str, int]]) -> str:
    return "\n".join(
        f"{month}: {place} ordered {count} of {thing}" for place, thing, month, count in rows
    )


def _count(rng: random.Random) -> tuple[str, str, str]:
    rows = _orders(rng)
    place, thing = rows[0][:2]
    right = sum(row[:2] == (place, thing) for row in rows)
    return _ledger(rows), f"How many orders of {thing} did {place} place?", str(right)


def _total(rng: random.Random) -> tuple[str, str, str]:
    rows = _orders(rng)
    thing, month = rows[0][1:3]
    right = sum(row[3] for row in rows if row[1:3] == (thing, month))
    question = f"Add up what was ordered of {thing} in {month}. What is the total?"
    return _ledger(rows), question, str(right)


def _busiest(rng: random.Random) -> tuple[str, str, str]:
    while True:
        rows = _orders(rng)
        totals = {p: sum(row[3] for row in rows if row[0] == p) for p in _PLACES.split()}
        best = sorted(totals, key=lambda place: -totals[place])[:2]
        if totals[best[0]] > totals[best[1]]:
            question = "Which place ordered most in all, whatever it was? Name it."
            return _ledger(rows), question, best[0]


def _chain(rng: random.Random) -> tuple[str, str, str]:
    rooms = [f"room {number}" for number in rng.sample(range(100, 999), 300)]
    follows = dict(zip(rooms, [*rooms[1:], rooms[0]], strict=True))
    lines = [f"The door in {room} leads to {to}." for room, to in follows.items()]
    rng.shuffle(lines)
    doors = rng.randint(3, 30)
    start, end = rooms[0], rooms[doors]
    question = f"You are in {start} and walk through {doors} doors. Which room are you in? (room N)"
    return "\n".join(lines), question, end


TASKS: Final[dict[str, tuple[Split, Callable[[random.Random], tuple[str, str, str]]]]] = {
    "needle": ("train", _needle),
    "count": ("train", _count),
    "total": ("train", _total),
    "chain": ("test", _chain),
    "busiest": ("test", _busiest),
}
"""The tasks by name: the split, and what draws context, question and answer."""


def draw(seed: int, name: str | None, split: Split | None) -> Drawn:
    """The task of a seed.

    Raises:
        InvalidOption: there is no such task.
    """
    rng = random.Random(f"repl/{seed}")
    if name is None:
        fitting = [key for key, (of, _) in TASKS.items() if split in (None, of)]
        if not fitting:
            raise InvalidOption(f"split is {split!r}: choose train or test")
        name = rng.choice(fitting)
    elif name not in TASKS:
        raise InvalidOption(f"there is no task {name!r}: choose one of {', '.join(TASKS)}")
    return Drawn(name, *TASKS[name][1](rng))
