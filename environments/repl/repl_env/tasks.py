"""Bundled tasks: questions on texts of any length, drawn from a seed or from a task's name.

Rules:

- A text is as long as is asked for, and a few sentences longer at most. No question can be
  answered at a glance: the answer is one sentence of all, or spread over many.
- The answer is worked out from the facts that the text was made of, and is exact. It is drawn from
  many, so that no constant is often right.
- ``train`` and ``test`` have the same tasks in different worlds: no name, sentence or question is
  in both.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from openenv_async import TaskTable
from openenv_async.errors import InvalidOption
from repl_env.worlds import TEST, TRAIN, World

__all__ = [
    "LENGTH",
    "MAX_LENGTH",
    "MIN_LENGTH",
    "TABLE",
    "TASKS",
    "WORLDS",
    "Drawn",
    "Split",
    "draw",
]

Split = Literal["train", "test"]
WORLDS: Final[dict[str, World]] = {"train": TRAIN, "test": TEST}
MIN_LENGTH: Final = 4_000
MAX_LENGTH: Final = 4_000_000
"""Characters of a text."""
LENGTH: Final = 16_000
"""Characters of a text, unless others are asked for."""
_FILLER: Final = 0.15
"""The part of sentences that no question is about."""
_LISTED: Final = 25
"""Texts of each task that a split lists."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A question on a text, with its answer."""

    name: str
    split: str
    context: str
    task_prompt: str
    expected_answer: str


class _Writer:
    """A text that grows to a length, from the facts of one world."""

    def __init__(self, rng: random.Random, world: World, length: int) -> None:
        self.rng, self.world = rng, world
        self.lines: list[str] = []
        self._left = length

    def write(self, forms: tuple[str, ...], **fields: Any) -> None:
        """Add a sentence, in one of its forms."""
        line = self.rng.choice(forms).format(**fields)
        line = line[0].upper() + line[1:]
        self.lines.append(line)
        self._left -= len(line) + 1

    def growing(self) -> Iterator[None]:
        """Yield as often as another fact is wanted, with filler between them."""
        rng, world = self.rng, self.world
        while self._left > 0:
            if rng.random() < _FILLER:
                self.write(
                    world.filler, place=rng.choice(world.places), time=rng.choice(world.times)
                )
            else:
                yield

    def text(self) -> str:
        """The sentences in a random order."""
        self.rng.shuffle(self.lines)
        return "\n".join(self.lines)

    def order(self, **given: Any) -> dict[str, Any]:
        """Write an amount, with these fields and others at random; gives all of them."""
        rng, world = self.rng, self.world
        fields = {
            "place": rng.choice(world.places),
            "thing": rng.choice(world.things),
            "time": rng.choice(world.times),
            "number": rng.randint(2, 400),
        } | given
        self.write(world.order, **fields)
        return fields


_Made = tuple[str, dict[str, Any], object]
"""A text, the fields of its question and its answer."""


def _needle(writer: _Writer) -> _Made:
    rng, world = writer.rng, writer.world
    codes: dict[tuple[str, int, str], int] = {}
    for _ in writer.growing():
        place, thing = rng.choice(world.places), rng.choice(world.things)
        what = (thing, rng.randint(100, 999), place)
        if what not in codes:
            codes[what] = rng.randint(10_000, 99_999)
            fields = dict(zip(("thing", "serial", "place"), what, strict=True))
            writer.write(world.code, **fields, number=codes[what])
    thing, serial, place = rng.choice([*codes])
    answer = codes[thing, serial, place]
    return writer.text(), {"thing": thing, "serial": serial, "place": place}, answer


def _latest(writer: _Writer) -> _Made:
    rng, world = writer.rng, writer.world
    place, thing = rng.choice(world.places), rng.choice(world.things)
    own = [rng.randint(10_000, 99_999) for _ in range(rng.randint(3, 9))]
    for number in own:
        writer.write(world.reading, thing=thing, place=place, number=number)
    told = dict(zip(writer.lines, own, strict=True))
    for _ in writer.growing():
        other = rng.choice(world.places), rng.choice(world.things)
        if other != (place, thing):
            number = rng.randint(10_000, 99_999)
            writer.write(world.reading, place=other[0], thing=other[1], number=number)
    text = writer.text()
    last = next(line for line in reversed(text.splitlines()) if line in told)
    return text, {"thing": thing, "place": place}, told[last]


def _count(writer: _Writer) -> _Made:
    rng, world = writer.rng, writer.world
    place, thing = rng.choice(world.places), rng.choice(world.things)
    wanted = rng.randint(8, 48)
    for _ in range(wanted):
        writer.order(place=place, thing=thing)
    for _ in writer.growing():
        if rng.random() < 0.5:
            writer.order(place=place, thing=_other(rng, world.things, thing))
        else:
            writer.order(place=_other(rng, world.places, place))
    return writer.text(), {"thing": thing, "place": place}, wanted


def _distinct(writer: _Writer) -> _Made:
    rng, world = writer.rng, writer.world
    thing = rng.choice(world.things)
    places = rng.sample(world.places, rng.randint(6, len(world.places)))
    for place in places:
        writer.order(place=place, thing=thing)
    for _ in writer.growing():
        if rng.random() < 0.2:
            writer.order(place=rng.choice(places), thing=thing)
        else:
            writer.order(thing=_other(rng, world.things, thing))
    return writer.text(), {"thing": thing}, len(places)


def _total(writer: _Writer) -> _Made:
    rng, world = writer.rng, writer.world
    thing, time = rng.choice(world.things), rng.choice(world.times)
    total = sum(writer.order(thing=thing, time=time)["number"] for _ in range(rng.randint(5, 20)))
    for _ in writer.growing():
        if rng.random() < 0.5:
            writer.order(time=time, thing=_other(rng, world.things, thing))
        else:
            writer.order(time=_other(rng, world.times, time))
    return writer.text(), {"thing": thing, "time": time}, total


def _busiest(writer: _Writer) -> _Made:
    rng, world = writer.rng, writer.world
    thing = rng.choice(world.things)
    totals: Counter[str] = Counter()
    for _ in writer.growing():
        if rng.random() < 0.6:
            row = writer.order(thing=thing)
            totals[row["place"]] += row["number"]
        else:
            writer.order(thing=_other(rng, world.things, thing))
    (best, most), *others = totals.most_common()
    if others and others[0][1] == most:
        writer.order(thing=thing, place=best)
    return writer.text(), {"thing": thing}, best


def _chain(writer: _Writer) -> _Made:
    rng, world = writer.rng, writer.world
    steps = rng.randint(3, 30)
    numbers = _numbers(rng)
    chain = list(itertools.islice(numbers, 40))
    for here, there in itertools.pairwise(chain):
        writer.write(world.hop, number=here, next=there)
    for _ in writer.growing():
        chain.append(next(numbers))
        writer.write(world.hop, number=chain[-2], next=chain[-1])
    writer.write(world.hop, number=chain[-1], next=chain[0])
    start = rng.randrange(len(chain))
    return (
        writer.text(),
        {"number": chain[start], "steps": steps},
        chain[(start + steps) % len(chain)],
    )


def _relay(writer: _Writer) -> _Made:
    rng, world = writer.rng, writer.world
    numbers = _numbers(rng)
    ends: dict[int, int] = {}
    for _ in writer.growing():
        one, two, three, four = itertools.islice(numbers, 4)
        writer.write(world.first, number=one, next=two)
        writer.write(world.second, number=two, next=three)
        writer.write(world.third, number=three, next=four)
        ends[one] = four
    start = rng.choice([*ends])
    return writer.text(), {"number": start}, ends[start]


def _other(rng: random.Random, names: tuple[str, ...], but: str) -> str:
    """A name at random that is not this one."""
    while (name := rng.choice(names)) == but:
        pass
    return name


def _numbers(rng: random.Random) -> Iterator[int]:
    """Different numbers of six digits, then of seven, without end."""
    seen: set[int] = set()
    for low in itertools.accumulate(itertools.repeat(10), lambda x, y: x * y, initial=100_000):
        while len(seen) < low:
            number = rng.randint(low, 10 * low - 1)
            if number not in seen:
                seen.add(number)
                yield number


TASKS: Final[dict[str, Callable[[_Writer], _Made]]] = {
    "needle": _needle,
    "latest": _latest,
    "count": _count,
    "distinct": _distinct,
    "total": _total,
    "busiest": _busiest,
    "chain": _chain,
    "relay": _relay,
}
"""Makers of the text, the question's fields and the answer, by the name of the task."""

_NAME: Final = re.compile(r"(?P<kind>[a-z]+)/(?P<split>train|test)/(?P<number>\d{1,9})")


def draw(seed: int, name: str | None, split: Split | None, length: int = LENGTH) -> Drawn:
    """The task of a seed, or of a name.

    Args:
        seed: of the task, the text and the question.
        name: a key of ``TASKS``; or one text of it, such as ``count/test/17``, whatever the seed.
        split: whose world it is; ``None``: either.
        length: characters of the text.

    Raises:
        InvalidOption: there is no such task, split or length.
    """
    if split is not None and split not in WORLDS:
        raise InvalidOption(f"split is {split!r}: choose {' or '.join(get_args(Split))}")
    if not MIN_LENGTH <= length <= MAX_LENGTH:
        raise InvalidOption(
            f"context_length is {length}: choose from {MIN_LENGTH:,} to {MAX_LENGTH:,} characters"
        )
    rng = random.Random(f"repl/{seed}")
    kind, world = name, str(split) if split else None
    if name is not None and (found := _NAME.fullmatch(name)):
        rng = random.Random(f"repl/{name}")
        kind, world = found["kind"], found["split"]
    if kind is None:
        kind = rng.choice([*TASKS])
    if kind not in TASKS:
        raise InvalidOption(
            f"there is no task {name!r:.80}: choose one of {', '.join(TASKS)}, or one text of"
            " them, such as count/test/17"
        )
    if world is None:
        world = rng.choice([*WORLDS])
    writer = _Writer(rng, WORLDS[world], length)
    context, fields, answer = TASKS[kind](writer)
    question = WORLDS[world].questions[kind].format(**fields)
    return Drawn(kind, world, context, question, str(answer))


def _rows(split: str) -> list[dict[str, Any]]:
    names = [f"{kind}/{split}/{number}" for number in range(_LISTED) for kind in TASKS]
    return [{"id": name, "task": name} for name in names]


TABLE: Final = TaskTable({split: functools.partial(_rows, split) for split in WORLDS})
"""The tasks that a reset may name: ``_LISTED`` texts of each kind in each split."""
