"""The model of a task, and of its hidden tests."""

from __future__ import annotations

import inspect
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from coding_env.sandbox.inside.canonical import canonical
from coding_env.sandbox.inside.examiner import count_units

__all__ = [
    "Args",
    "Case",
    "Checks",
    "Difficulty",
    "FunctionTask",
    "Program",
    "Split",
    "Suite",
    "Task",
    "Tests",
    "WrittenTask",
    "constant_share",
]

Args = list[Any]
"""The arguments of one call: Python literals."""
Split = Literal["train", "test"]
Difficulty = Literal["easy", "medium", "hard"]


@dataclass(frozen=True, slots=True)
class Case:
    """One call of the task's function.

    Attributes:
        expected: the result as ``canonical`` writes it.
    """

    args: Args
    expected: str


@dataclass(frozen=True, slots=True)
class Program:
    """One run of a program.

    Attributes:
        stdin: its standard input.
        stdout: what it has to print; blanks at the ends of lines and empty lines at the end do not
            count, and numbers with a fraction count to nine significant digits. ``None``: anything.
        files: what stands in its folder.
        outputs: files that it has to leave there, compared as ``stdout`` is.
    """

    stdin: str
    stdout: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checks:
    """Assertions: each statement that holds one, at the top of the text, is a test.

    Attributes:
        source: Python. It names the solution's functions and classes without importing them.
        entry_point: with it, the tests are the statements of ``check(candidate)``.
        operators: whether ``+``, ``==`` and the like of the solution's own classes are trusted
            beside values of the tests.
    """

    source: str
    entry_point: str = ""
    operators: bool = False

    def count(self) -> int:
        """Return how many tests there are."""
        return count_units(self.source, bool(self.entry_point))


@dataclass(frozen=True, slots=True)
class Suite:
    """Files of pytest, which import the submission as ``solution``.

    Attributes:
        files: Python, by path.
        data: other files that stand beside them.
        operators: as of ``Checks``.
    """

    files: Mapping[str, str]
    data: Mapping[str, str] = field(default_factory=dict)
    operators: bool = False


Tests: TypeAlias = Sequence[Case] | Sequence[Program] | Checks | Suite
"""The hidden tests of one episode."""


def constant_share(tests: Tests) -> float:
    """The share of the tests that the best constant answer passes; 0 where that is not known."""
    if isinstance(tests, Checks | Suite) or not tests:
        return 0.0
    answers = [test.expected if isinstance(test, Case) else test.stdout for test in tests]
    most = Counter(answer for answer in answers if answer is not None).most_common(1)
    return most[0][1] / len(tests) if most and len(tests) > 1 else 0.0


class Task(ABC):
    """A program to write.

    Attributes:
        name: unique.
        split, difficulty: of it.
        entry_point: the function that cases call; empty if there is none.
        files: what stands in the folder, by path.
        packages: installed packages that the code may import; ``None``: those of the environment.
    """

    name: str
    split: Split
    difficulty: Difficulty
    entry_point: str
    files: Mapping[str, str]
    packages: tuple[str, ...] | None

    @abstractmethod
    def prompt(self) -> str:
        """The text that the agent is told."""

    @abstractmethod
    def tests(self, count: int, rng: random.Random) -> Tests:
        """The hidden tests of an episode, ``count`` of them where they are drawn."""

    @abstractmethod
    def solution(self) -> str:
        """The source of a solution that passes; empty if none is known."""


@dataclass(frozen=True, slots=True)
class FunctionTask(Task):
    """A function to write, whose hidden tests are drawn.

    Attributes:
        entry_point: the function's name.
        signature: as in a ``def`` line, without the ``def``.
        text: what it shall do.
        solve: does it.
        examples: arguments that are shown, with their results.
        edges: arguments of hidden tests that every episode has.
        draw: arguments of a further hidden test.
        source: the source of ``solve``, if it does not stand in a module.
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
    draw: Callable[[random.Random], Args]
    source: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] | None = None

    def prompt(self) -> str:
        """The text that the agent is told."""
        shown = "\n".join(
            f">>> {self.entry_point}({', '.join(map(repr, args))})\n{self.solve(*args)!r}"
            for args in self.examples
        )
        return (
            f"Write a Python function.\n\ndef {self.signature}\n\n{self.text}\n\n{shown}\n\n"
            "Submit its complete source. Hidden tests call it; the reward is the fraction that"
            " passes, above what one constant answer would pass."
        )

    def tests(self, count: int, rng: random.Random) -> list[Case]:
        """The hidden tests: the edges first, then drawn ones up to ``count``."""
        all_args = [list(args) for args in self.edges][:count]
        while len(all_args) < count:
            all_args.append(self.draw(rng))
        return [Case(args, canonical(self.solve(*args))) for args in all_args]

    def solution(self) -> str:
        """The source of ``solve``, with what stands beside it in its module."""
        if self.source:
            return self.source
        module = inspect.getmodule(self.solve)
        assert module is not None
        source = inspect.getsource(module).partition("\nTASKS")[0]
        kept = [line for line in source.splitlines() if not line.startswith("from coding_env")]
        return "\n".join([*kept, f"{self.entry_point} = {self.solve.__name__}", ""])


@dataclass(frozen=True, slots=True)
class WrittenTask(Task):
    """A task of a row: its prompt and its tests are as they were written.

    Attributes:
        text: the prompt.
        hidden: the tests.
        entry_point: the function that cases call; ``Class.method`` for one of a new instance.
        source: of a solution.
    """

    name: str
    split: Split
    difficulty: Difficulty
    text: str
    hidden: Tests
    entry_point: str = ""
    source: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] | None = None

    def prompt(self) -> str:
        """The text that the agent is told."""
        return self.text

    def tests(self, count: int, rng: random.Random) -> Tests:
        """All tests, whatever the count."""
        return self.hidden

    def solution(self) -> str:
        """The row's own solution; empty if it has none."""
        return self.source
