"""An environment with tasks of its own, and the answers that must never leave it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from openenv_async import Environment
from openenv_async.environment import Isolation
from openenv_async.tasks import TaskTable
from openenv_async.types import Task

__all__ = [
    "MARKER",
    "AsyncQuiz",
    "Guess",
    "InlineQuiz",
    "NumberedQuiz",
    "NumberedTasks",
    "ProcessQuiz",
    "Prompt",
    "Quiz",
    "quiz_rows",
]

MARKER = "MARKER-of-a-private-answer"
"""Stands in every private column."""


def quiz_rows(name: str, count: int) -> list[dict[str, Any]]:
    """Rows of one split."""
    return [
        {"id": f"{name}-{n}", "question": f"{name} {n}?", "level": n % 3, "answer": f"{MARKER}{n}"}
        for n in range(count)
    ]


@dataclass
class Guess:
    text: str


@dataclass
class Prompt:
    question: str
    done: bool = False
    reward: float | None = None


class Quiz(Environment[Guess, Prompt, dict[str, Any]]):
    """One question an episode; its answer is a private column."""

    isolation: ClassVar[Isolation | None] = "thread"
    tasks = TaskTable(
        {
            "train": lambda: quiz_rows("train", 2500),
            "test": lambda: quiz_rows("test", 20),
        },
        private=["answer"],
    )

    def reset(self, question: str = "free", answer: str = "free", hints: int = 0) -> Prompt:
        self.answer = answer
        return Prompt(f"{question} ({hints} hints)")

    def step(self, action: Guess) -> Prompt:
        right = action.text == self.answer
        return Prompt("right" if right else "wrong", True, float(right))


class InlineQuiz(Quiz):
    """The same, run on the loop."""

    isolation = "inline"


class ProcessQuiz(Quiz):
    """The same, in processes."""

    isolation = "process"


class AsyncQuiz(Environment[Guess, Prompt, dict[str, Any]]):
    """The same, async."""

    tasks = Quiz.tasks

    async def reset(self, question: str = "free", answer: str = "free", hints: int = 0) -> Prompt:
        self.answer = answer
        return Prompt(f"{question} ({hints} hints)")

    async def step(self, action: Guess) -> Prompt:
        right = action.text == self.answer
        return Prompt("right" if right else "wrong", True, float(right))


class NumberedTasks:
    """Tasks made by number, with nothing but the four calls.

    Attributes:
        asked: the calls so far.
    """

    def __init__(self, size: int = 1500) -> None:
        self.size = size
        self.asked: list[tuple[Any, ...]] = []

    def splits(self) -> list[str]:
        return ["all"]

    def count(self, split: str) -> int:
        return self.size

    def get(self, split: str, index: int) -> Task:
        self.asked.append(("get", split, index))
        return Task(f"n{index}", {"question": f"{index}?"}, {"answer": MARKER})

    def range(self, split: str, start: int, stop: int) -> list[Task]:
        self.asked.append(("range", split, start, stop))
        return [self.get(split, index) for index in range(start, stop)]


class NumberedQuiz(Quiz):
    """A quiz over made tasks."""

    tasks: ClassVar[Any] = NumberedTasks()
