"""Statements for a certificate: the answers of the bundled tasks, by their ids."""

from __future__ import annotations

import random
from typing import Any, Final

from chat_env.models import ChatAction
from chat_env.tasks import builtin_tasks
from openenv_async import Certification

__all__ = ["certification"]

_FORMS: Final = (
    "apple, pear, plum",
    "cat, dog, owl, bear",
    '{"name": "Ada", "age": 36}',
    "Rain falls from dark clouds.",
    '{"city": "Lima", "country": "Peru"}',
    "HELLO",
    "earth",
    "8",
    "Goodbye friend",
    "red, blue",
    "carrot, leek, onion",
    "[1, 2, 3]",
    "SPRING",
    "c-a-t",
    "iron, gold, tin",
    "2024-03-05",
    "yes, yes, yes",
    "How old are you?",
    '{"ready": true}',
    "0.5",
)
"""Answers to the tasks of the kind ``format``, in their order."""


def certification(**params: Any) -> Certification:
    """Return the statements."""
    return Certification(
        oracle=lambda observation, turn: _say(_answer(turn.task.id)),
        return_range=(0.0, 1.0),
        answer=_say,
        guess=_guess,
        nothing=ChatAction(message=" "),
        skills={
            "guesses": _guess,
            "adds": _adds,
            "knows": lambda observation, turn: _say(_answer(turn.task.id)),
        },
        probes=(),
        split="train",
    )


def _say(text: str) -> ChatAction:
    return ChatAction(message=text or " ")


def _answer(task_id: str) -> str:
    kind, _, rest = task_id.partition("-")
    if kind == "sum":
        return str(sum(map(int, rest.split("-"))))
    return _FORMS[int(rest)] if kind == "format" else rest


def _guess(observation: Any, turn: Any) -> ChatAction:
    """Answer as another task of the split is answered, once in each episode."""
    answers = [_answer(task.id) for task in builtin_tasks() if task.split == "train"]
    return _say(random.Random(f"guess/{turn.index}").choice(answers))


def _adds(observation: Any) -> ChatAction:
    words = observation["messages"][-1]["content"].replace("?", "").split()
    return _say(str(sum(int(word) for word in words if word.isdigit())))
