"""The model of a task."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from coding_env.sandbox.inside.canonical import canonical

__all__ = ["Args", "Case", "Difficulty", "Split", "Task"]

Args = list[Any]
"""The arguments of one call: Python literals."""
Split = Literal["train", "test"]
Difficulty = Literal["easy", "medium", "hard"]


@dataclass(frozen=True, slots=True)
class Case:
    """One test.

    Attributes:
        expected: the result as ``canonical`` writes it.
    """

    args: Args
    expected: str


@dataclass(frozen=True, slots=True)
class Task:
    """A function to write.

    Attributes:
        name: unique.
        entry_point: the function's name.
        signature: as in a ``def`` line, without the ``def``.
        text: what it shall do.
        solve: does it.
        examples: arguments that are shown, with their results.
        edges: arguments of hidden tests that every episode has.
        draw: arguments of a further hidden test.
    """

    name: str
    split: Split
    difficulty: Difficulty
    entry_point: str
    signature: str
    text: str
    solve: Callable[..., Any]
    examples: Sequence[Args]
    edges: Sequence[Args]
    draw: Callable[[random.Random], Args] | None = None

    def prompt(self) -> str:
        """The text that the agent is told."""
        shown = "\n".join(
            f">>> {self.entry_point}({', '.join(map(repr, args))})\n{self.solve(*args)!r}"
            for args in self.examples
        )
        return (
            f"Write a Python function.\n\ndef {self.signature}\n\n{self.text}\n\n{shown}\n\n"
            "Submit its complete source. Hidden tests call it; the reward is the fraction that"
            " passes."
        )

    def cases(self, count: int, rng: random.Random) -> list[Case]:
        """The hidden tests: the edges first, then drawn ones up to ``count``."""
        all_args = [list(args) for args in self.edges][:count]
        while self.draw is not None and len(all_args) < count:
            all_args.append(self.draw(rng))
        return [Case(args, canonical(self.solve(*args))) for args in all_args]
