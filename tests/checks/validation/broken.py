"""Environments that break one promise each."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from openenv_async import Environment, StepResult
from openenv_async.environment import Isolation
from openenv_async.errors import InvalidAction
from openenv_async.tasks import TaskTable
from openenv_async.types import Task
from tests.quiz import NumberedTasks

__all__ = ["BROKEN", "Counts", "Good"]


@dataclass
class Move:
    by: int


@dataclass
class Seen:
    numbers: list[int]
    total: int
    reward: float | None = None
    done: bool = False


@dataclass
class Where:
    total: int


class Good(Environment[Move, Seen, Where]):
    """An environment that keeps every promise: it draws from its seed, and ends after twenty."""

    isolation: ClassVar[Isolation | None] = "inline"

    def __init__(self) -> None:
        self.rng: Any = random.Random()
        self.total = 0
        self.steps = 0

    def reset(self, seed: int = 0) -> Any:
        self.rng = random.Random(seed)
        self.total = self.steps = 0
        return self.seen()

    def step(self, action: Move) -> Any:
        self.total += action.by
        self.steps += 1
        return self.seen(reward=1.0)

    def seen(self, reward: float | None = None) -> Seen:
        numbers = [self.rng.randint(0, 10**9)]
        return Seen(numbers, self.total, reward, done=self.steps == 20)

    def state(self) -> Where:
        return Where(self.total)


class RaisesInStep(Good):
    def step(self, action: Move) -> Any:
        raise ZeroDivisionError("broken")


class HangsInReset(Good):
    isolation: ClassVar[Isolation | None] = "thread"

    def reset(self, seed: int = 0) -> Any:
        threading.Event().wait(3)


class OverAfterReset(Good):
    """Its first episode ends, and every later one is over from the start."""

    def __init__(self) -> None:
        super().__init__()
        self.over = False

    def seen(self, reward: float | None = None) -> Seen:
        self.over |= self.steps == 20
        return Seen([], 0, reward, done=self.over)


class RewardsNothingFinite(Good):
    def seen(self, reward: float | None = None) -> Seen:
        return super().seen(None if reward is None else float("nan"))


class ShowsWhatItDoesNotDeclare(Good):
    def seen(self, reward: float | None = None) -> Seen:
        return Seen(["one"], self.total, reward)  # type: ignore[list-item]  # wrong on purpose


class StatesWhatItDoesNotDeclare(Good):
    def state(self) -> Where:
        return Where("much")  # type: ignore[arg-type]  # wrong on purpose


class ShowsTooMuch(Good):
    def step(self, action: Move) -> Any:
        return Seen([7] * 300_000, 0)


class TakesAnything(Good):
    """Its schema promises a type that it does not hold its actions to."""

    def __init__(self) -> None:
        super().__init__()

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        number = {"type": "object", "properties": {"by": {"type": "integer"}}}
        return {"action": {**number, "required": ["by"], "additionalProperties": False}}


class TakesAnyDict(TakesAnything, Environment[dict[str, Any], Seen, Where]):
    def step(self, action: Any) -> Any:
        return self.seen(reward=1.0)


class IgnoresItsSeed(Good):
    def reset(self, seed: int = 0) -> Any:
        super().reset()
        self.rng = random.SystemRandom()
        return self.seen()


class SharesItsGenerator(Good):
    """The global generator: the same episode again, as long as nobody else draws."""

    def reset(self, seed: int = 0) -> Any:
        super().reset(seed)
        random.seed(seed)
        self.rng = random
        return self.seen()


class SharesItsState(Good):
    shared: ClassVar[dict[str, int]] = {"total": 0}

    def reset(self, seed: int = 0) -> Any:
        self.shared["total"] = 0
        return super().reset(seed)

    def step(self, action: Move) -> Any:
        self.shared["total"] += 1
        return super().step(action)

    def state(self) -> Where:
        return Where(self.shared["total"])


class GoesOnAfterItsDeadline(Good):
    """Async, and ignores being cancelled."""

    async def step(self, action: Move) -> Any:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        return super().step(action)


class HoldsUpOthers(Good):
    def step(self, action: Move) -> Any:
        time.sleep(0.4)
        return super().step(action)


class RaisesInClose(Good):
    def close(self) -> None:
        raise RuntimeError("cannot close")


class LeavesFilesOpen(Good):
    kept: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        super().__init__()
        self.kept.append(open(__file__))  # noqa: SIM115 - left open on purpose


class LeavesThreadsBehind(Good):
    def reset(self, seed: int = 0) -> Any:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        return super().reset(seed)


class OnlyAFew(Good):
    """Fails when more than four are alive."""

    alive: ClassVar[list[int]] = [0]

    def __init__(self) -> None:
        super().__init__()
        self.alive[0] += 1
        if self.alive[0] > 4:
            self.alive[0] -= 1
            raise OSError("the port is taken")

    def close(self) -> None:
        self.alive[0] -= 1


class EndsOddly(Good):
    """An environment with a StepResult whose reward is text."""

    def step(self, action: Move) -> Any:
        return StepResult(self.seen(), "1.0")  # type: ignore[arg-type]  # wrong on purpose


class Counts(Good, Environment[Move, Seen, Where]):
    """One to three at a time, never the same twice in a row; it lists them."""

    def reset(self, seed: int = 0) -> Any:
        self.last = 0
        return super().reset(seed)

    def legal_actions(self) -> list[Move]:
        return [Move(by) for by in (1, 2, 3) if by != self.last]

    def step(self, action: Move) -> Any:
        if action.by not in (1, 2, 3) or action.by == self.last:
            raise InvalidAction(f"{action.by} cannot be taken now")
        self.last = action.by
        return super().step(action)


class ListsWhatItRefuses(Counts):
    def legal_actions(self) -> list[Move]:
        return [Move(1), Move(2), Move(3)]


class TakesWhatItDoesNotList(Counts):
    def step(self, action: Move) -> Any:
        self.last = action.by if action.by in (1, 2, 3) else self.last
        return Good.step(self, action)


class HasMasksOfAnotherLength(Counts):
    def legal_actions(self) -> Any:
        return np.ones(7, bool)

    @classmethod
    def schemas(cls, **params: Any) -> dict[str, Any]:
        number = {"type": "integer", "minimum": 1, "maximum": 3}
        return {"action": {"type": "object", "properties": {"by": number}, "required": ["by"]}}


class WithTasks(Good):
    """An environment that keeps every promise of tasks."""

    tasks: ClassVar[Any] = TaskTable(
        {
            "train": [{"id": n, "start": n, "answer": f"a{n}"} for n in range(30)],
            "test": [{"id": "only", "start": 5, "answer": "b"}],
        },
        private=["answer"],
    )

    def reset(self, seed: int = 0, start: int = 0, answer: str = "") -> Any:
        self.answer = answer
        super().reset(seed)
        self.total = start
        return self.seen()


class Unlike(NumberedTasks):
    """Tasks of which one is another by itself than in its page."""

    def __init__(self) -> None:
        super().__init__(20)

    def get(self, split: str, index: int) -> Task:
        return Task(f"n{index + self.size}", {"start": index}, {"answer": "x"})

    def range(self, split: str, start: int, stop: int) -> list[Task]:
        return [Task(f"n{n}", {"start": n}, {"answer": "x"}) for n in range(start, stop)]


class Twice(Unlike):
    """Tasks of which two have one id."""

    def range(self, split: str, start: int, stop: int) -> list[Task]:
        return [Task(f"n{n // 2}", {"start": n}, {"answer": "x"}) for n in range(start, stop)]


class Fewer(Unlike):
    """Tasks that are fewer than their number."""

    def range(self, split: str, start: int, stop: int) -> list[Task]:
        return super().range(split, start, stop)[:-1]


class Fleeting(Unlike):
    """Tasks with other ids each time."""

    def range(self, split: str, start: int, stop: int) -> list[Task]:
        self.size += 100
        self.made = [
            Task(f"n{n + self.size}", {"start": n}, {"answer": "x"}) for n in range(start, stop)
        ]
        return self.made

    def count(self, split: str) -> int:
        return 20

    def get(self, split: str, index: int) -> Task:
        return self.made[index]


class ListsOtherTasksThanItGives(WithTasks):
    tasks: ClassVar[Any] = Unlike()


class HasAnIdTwice(WithTasks):
    tasks: ClassVar[Any] = Twice()


class ListsFewerTasksThanItCounts(WithTasks):
    tasks: ClassVar[Any] = Fewer()


class HasIdsThatDoNotLast(WithTasks):
    tasks: ClassVar[Any] = Fleeting()


class CannotReadItsTasks(WithTasks):
    tasks: ClassVar[Any] = TaskTable({"train": "/no/such/file.jsonl"})


class HasATaskThatDoesNotFit(WithTasks):
    tasks: ClassVar[Any] = TaskTable({"train": [{"id": "a", "start": "soon"}]})


class DrawsItsTaskAnew(WithTasks):
    def reset(self, seed: int = 0, start: int = 0, answer: str = "") -> Any:
        return super().reset(random.randrange(10**9), start, answer)


class ShowsItsAnswer(WithTasks):
    """The info of its reset has what is private."""

    def reset(self, seed: int = 0, start: int = 0, answer: str = "") -> Any:
        return StepResult(super().reset(seed, start, answer), info={"solution": [answer]})


class TellsItsAnswer(WithTasks):
    """The info of its steps has what is private."""

    def step(self, action: Move) -> Any:
        seen = super().step(action)
        return StepResult(seen, 1.0, seen.done, info={"answer": self.answer})


BROKEN = {
    ListsOtherTasksThanItGives: "tasks_are_listed_alike",
    HasAnIdTwice: "tasks_are_listed_alike",
    ListsFewerTasksThanItCounts: "tasks_are_listed_alike",
    HasIdsThatDoNotLast: "tasks_are_listed_alike",
    CannotReadItsTasks: "tasks_are_listed_alike",
    HasATaskThatDoesNotFit: "tasks_begin_episodes",
    DrawsItsTaskAnew: "tasks_begin_episodes",
    ShowsItsAnswer: "private_columns_stay_private",
    TellsItsAnswer: "private_columns_stay_private",
    RaisesInStep: "episodes_run_over_native_msgpack",
    HangsInReset: "episodes_run_over_http",
    OverAfterReset: "the_end_is_respected",
    RewardsNothingFinite: "rewards_are_numbers",
    EndsOddly: "rewards_are_numbers",
    ShowsWhatItDoesNotDeclare: "observations_fit_the_schema",
    StatesWhatItDoesNotDeclare: "states_fit_the_schema",
    ShowsTooMuch: "observations_are_small_enough",
    TakesAnyDict: "wrong_actions_are_refused",
    ListsWhatItRefuses: "legal_actions_are_taken",
    HasMasksOfAnotherLength: "legal_actions_are_taken",
    TakesWhatItDoesNotList: "other_actions_are_refused",
    IgnoresItsSeed: "equal_seeds_give_equal_episodes",
    SharesItsGenerator: "sessions_share_no_randomness",
    SharesItsState: "sessions_are_isolated",
    GoesOnAfterItsDeadline: "deadlines_are_honoured",
    HoldsUpOthers: "slow_calls_delay_nobody",
    RaisesInClose: "closing_succeeds",
    LeavesFilesOpen: "closing_releases",
    LeavesThreadsBehind: "closing_releases",
    OnlyAFew: "sessions_run_at_once",
}
"""The check that catches each."""
