"""A single-turn taskset in the form of ``verifiers`` 0.4; it runs where that is installed."""

# The package is not installed where this is type-checked, so its base classes are Any there.
# mypy: disable-error-code="misc, untyped-decorator"

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import verifiers.v1 as vf

__all__ = ["Sums"]


class SumData(vf.TaskData):
    answer: int
    question: str


class Sum(vf.Task[SumData]):
    @vf.reward(weight=2.0)
    async def right(self, task: Any, trace: Any) -> float:
        if "raise" in trace.last_reply:
            raise RuntimeError("the reward function is out of order")
        if "die" in trace.last_reply:
            os._exit(3)
        return float(trace.last_reply.strip() == str(task.answer))

    @vf.reward
    async def brief(self, trace: Any) -> float:
        return -0.125 * len(trace.last_reply)

    @vf.metric
    async def length(self, trace: Any) -> float:
        return float(len(trace.last_reply))


class Sums(vf.Taskset[Sum, vf.TasksetConfig]):
    """Sums of two numbers."""

    def load(self) -> Iterator[Any]:
        print("a taskset may print")  # noqa: T201  # what its output has, too
        for number in range(20):
            other = number * 7 % 11
            question = f"What is {number} + {other}?"
            data = SumData(
                id=f"sum-{number}",
                prompt=question,
                system_prompt="Answer with a number.",
                question=question,
                answer=number + other,
            )
            yield Sum(data, self.config.task)


class Endless(Sums):
    INFINITE = True

    def load(self) -> Iterator[Any]:
        while True:
            yield from super().load()
