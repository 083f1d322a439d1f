"""Environments that are broken on purpose, each in one way, and one that is not.

Those with a link are of a kind that somebody reported of a real environment or grader.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from openenv_async import Certification, Environment, StepResult, TaskTable
from openenv_async.environment import Isolation
from openenv_async.errors import InvalidAction

__all__ = ["Certification", "InvalidAction", "TaskTable"]

Row = dict[str, Any]


@dataclass
class Answer:
    text: str = ""


@dataclass
class Seen:
    text: str
    done: bool = False
    reward: float | None = None
    extra: Row = field(default_factory=dict)


def products(split: str) -> list[Row]:
    """Rows whose answers differ, half of them easy."""
    rng = random.Random(split)
    rows = []
    for number in range(64):
        a, b = rng.randint(200, 999), 10 if number % 2 else rng.randint(200, 999)
        rows.append({"id": f"{number}", "question": f"{a} times {b}?", "answer": str(a * b)})
    return rows


def oracle(observation: Row, turn: Any) -> Answer:
    return Answer(turn.task.private["answer"])


def factors(observation: Row) -> tuple[str, str]:
    a, _, b = observation["text"].removesuffix("?").partition(" times ")
    return a, b


def appends_a_zero(observation: Row) -> Answer:
    a, b = factors(observation)
    return Answer(a + "0" if b == "10" else "")


def multiplies(observation: Row) -> Answer:
    a, b = map(int, factors(observation))
    return Answer(str(a * b))


STATED = Certification(
    oracle=oracle,
    return_range=(0.0, 1.0),
    answer=Answer,
    guess=lambda observation, turn: Answer(str(random.Random(turn.index).randint(0, 10**6))),
    cheats={"the sum": lambda observation: Answer(str(sum(map(int, factors(observation)))))},
    skills={"guesses": lambda o: Answer("1"), "zeros": appends_a_zero, "multiplies": multiplies},
    probes=[Answer("read me")],
)


class Good(Environment[Answer, Seen, Row]):
    """Asks for a product."""

    isolation: ClassVar[Isolation | None] = "inline"
    tasks = TaskTable({"train": lambda: products("train")}, private=["answer"])
    certification: ClassVar[Certification | None] = STATED

    def reset(self, question: str, answer: str, seed: int = 0) -> Seen:
        self.question, self.answer, self.seed = question, answer, seed
        return Seen(question)

    def step(self, action: Answer) -> Seen | StepResult[Seen]:
        return Seen("", done=True, reward=float(self.grade(action.text.strip())))

    def grade(self, text: str) -> float:
        return text == self.answer

    def state(self) -> Row:
        return {"question": self.question}


def table(make: Callable[[int, random.Random], tuple[str, str]]) -> TaskTable:
    def rows() -> list[Row]:
        rng = random.Random(0)
        made = (make(number, rng) for number in range(64))
        return [
            {"id": f"{number}", "question": question, "answer": answer}
            for number, (question, answer) in enumerate(made)
        ]

    return TaskTable({"train": rows}, private=["answer"])


# -- reported in public trackers ---------------------------------------------------------------


class PaysIdlers(Good):
    """Half of its tasks are solved before anything is done.

    https://github.com/dbt-labs/ade-bench/issues/7
    """

    tasks = table(lambda n, rng: (f"make it {n}", "" if n % 2 else str(n)))


class TrustsTheOutput(Good):
    """The grader reads the verdict from what the submission prints.

    https://github.com/SWE-bench/SWE-bench/pull/620
    """

    certification = Certification(
        oracle=oracle,
        return_range=(0.0, 1.0),
        answer=Answer,
        cheats={"forges_the_verdict": lambda observation: Answer("1 test, PASSED")},
    )

    def grade(self, text: str) -> float:
        return text == self.answer or text.endswith("PASSED")


class DrawsFromASet(Good):
    """The seed draws from a set of texts, whose order is another in every process.

    https://github.com/mll-lab-nu/RAGEN/pull/9
    """

    def reset(self, question: str, answer: str, seed: int = 0) -> Seen:
        super().reset(question, answer)
        words = list({f"word {number}" for number in range(100)})
        return Seen(question, extra={"hint": random.Random(seed).choice(words)})


class ShowsItsState(Good):
    """The answer is in the state that every client may ask for.

    https://github.com/huggingface/OpenEnv/pull/611
    """

    def state(self) -> Row:
        return {"question": self.question, "true_answer": self.answer}


class PaysTooMuch(Good):
    """A bonus is added to a reward that was whole already.

    https://github.com/huggingface/OpenEnv/pull/499
    """

    def grade(self, text: str) -> float:
        return 1.25 * (text == self.answer)


class KeepsItsSteps(Good):
    """The count of steps is not set back: later episodes are shorter.

    https://github.com/MartinThoma/banana-gym/issues/4
    """

    steps = 0

    def step(self, action: Answer) -> Seen | StepResult[Seen]:
        self.steps += 1
        return Seen(self.question, done=self.steps % 17 == 0, reward=0.0)


class PaysWhatItCannotRead(Good):
    """An answer that cannot be parsed is paid as if it were right.

    https://github.com/huggingface/cookbook/issues/335
    """

    def grade(self, text: str) -> float:
        try:
            return int(text) == int(self.answer)
        except ValueError:
            return 1.0


class TakesTheEmptyAnswer(Good):
    """The right answer begins with the empty one.

    https://github.com/mitodl/mitx-grading-library/pull/12
    """

    def grade(self, text: str) -> float:
        return self.answer.startswith(text)


class StopsAtAnExit(Good):
    """Tests that do not run because the code exits count as passed.

    https://github.com/codewars/runner/issues/321
    """

    certification = Certification(
        oracle=oracle,
        return_range=(0.0, 1.0),
        answer=Answer,
        cheats={"exits": lambda observation: Answer("raise SystemExit(0)")},
    )

    def grade(self, text: str) -> float:
        space: Row = {}
        try:
            exec(f"value = ({text})" if text.isdigit() else text, space)
        except SystemExit:
            return 1.0
        except Exception:
            return 0.0
        return str(space.get("value")) == self.answer


# -- and others --------------------------------------------------------------------------------


class LooksForTheAnswer(Good):
    """The right answer anywhere in the text is enough, and the options are in the prompt."""

    @staticmethod
    def options(number: int, rng: random.Random) -> tuple[str, str]:
        words = [f"w{rng.randint(1000, 9999)}" for _ in range(20)]
        return f"Which one? {' '.join(words)}", words[number % 20]

    tasks = table(options.__func__)  # type: ignore[attr-defined] # a static method has it
    certification = Certification(
        oracle=oracle,
        return_range=(0.0, 1.0),
        answer=Answer,
        options=lambda observation: observation["text"].split(),
        secrets=lambda turn: (),
    )

    def grade(self, text: str) -> float:
        return self.answer in text


class HasAFavourite(Good):
    """Most of its answers are the same."""

    tasks = table(lambda n, rng: (f"question {n}", "teal" if n % 3 else f"colour {n}"))


class PaysAgain(Good):
    """Every step pays for what was paid already; five of a hundred actions do."""

    @classmethod
    def certification_for(cls, **params: Any) -> Certification:
        return Certification(
            return_range=(0.0, 10.0),
            guess=lambda observation, turn: Answer(
                str(random.Random(f"{turn.index}/{turn.t}").randrange(100))
            ),
            max_steps=10,
        )

    def step(self, action: Answer) -> Seen | StepResult[Seen]:
        paid = action.text.isdigit() and int(action.text) % 20 == 7
        return Seen(self.question, reward=float(paid))


class RefusesTheRightAnswer(Good):
    """The grader compares a text with a number."""

    def grade(self, text: str) -> float:
        answer: object = int(self.answer)
        return float(text == answer)


class LeavesItsTestsAbout(Good):
    """An action can read the file that the grader reads."""

    def step(self, action: Answer) -> Seen | StepResult[Seen]:
        if action.text == "read me":
            return Seen(f"assert solve() == {self.answer}", reward=0.0)
        return super().step(action)


class SharesItsGenerator(Good):
    """All sessions draw from one generator, which each seeds anew."""

    def reset(self, question: str, answer: str, seed: int = 0) -> Seen:
        random.seed(seed)
        self.question = question
        return Seen(question)

    def step(self, action: Answer) -> Seen | StepResult[Seen]:
        return Seen(self.question, reward=0.0, extra={"draw": random.random()})


class PaysByLuck(Good):
    """Part of the reward is drawn anew whenever it is given."""

    def grade(self, text: str) -> float:
        return (text == self.answer) * 0.5 + random.SystemRandom().random() / 2


class FlipsCoins(Good):
    """Its questions are answered by yes or no."""

    tasks = table(lambda n, rng: (f"{n}?", rng.choice(["yes", "no"])))
    certification = Certification(
        oracle=oracle,
        return_range=(0.0, 1.0),
        answer=Answer,
        guess=lambda observation, turn: Answer(random.Random(turn.index).choice(["yes", "no"])),
    )


class LeavesFiles(Good):
    """Every session makes a folder that nobody removes."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="leftbybroken")


class TellsInTheInfo(Good):
    """The answer is in the info of the first observation."""

    def reset(  # type: ignore[override] # it says more
        self, question: str, answer: str, seed: int = 0
    ) -> StepResult[Seen]:
        self.question, self.answer = question, answer
        return StepResult(Seen(question), info={"debug": {"gold": answer}})


class PaysTheClumsy(Good):
    """The weakest of its policies is paid most."""

    def grade(self, text: str) -> float:
        return text == "1" or text == self.answer


class IsOneTask(Good):
    """Every scripted policy solves all of it or nothing."""

    certification = Certification(
        return_range=(0.0, 1.0), skills={"guesses": lambda o: Answer("1"), "all": multiplies}
    )


NOT_STATED = Certification()
