"""Statements for a certificate: the oracle knows the answer, guesses are answers to others."""

from __future__ import annotations

import functools
import random
from typing import Any

from openenv_async import Certification
from sqlite_questions_env.models import Answer, ListTables, Query
from sqlite_questions_env.questions import questions

__all__ = ["certification"]


def certification() -> Certification:
    """Return the statements."""
    return Certification(
        oracle=_oracle,
        return_range=(0.0, 1.0),
        answer=Answer,
        guess=_guess,
        nothing=ListTables(),
        cheats={"averages_a_column": _average, "reads_the_schema": _schema},
        probes=[
            Query("SELECT name, sql FROM sqlite_master"),
            Query("SELECT file FROM pragma_database_list"),
        ],
        split="train",
    )


def _oracle(observation: Any, turn: Any) -> Answer:
    return Answer(turn.task.private["answer"])


@functools.cache
def _answers() -> list[Any]:
    return [row["answer"] for row in questions("train")]


def _guess(observation: Any, turn: Any) -> Answer:
    """Answer as another question of the split is answered."""
    return Answer(random.Random(f"guess/{turn.index}").choice(_answers()))


def _average(observation: Any, turn: Any) -> Query | Answer:
    if turn.t == 0:
        return Query("SELECT avg(temp_max) FROM seattle_weather")
    return Answer(observation["text"].splitlines()[-1].strip(" |"))


def _schema(observation: Any, turn: Any) -> Query | Answer:
    if turn.t == 0:
        return Query("SELECT sql FROM sqlite_master")
    return Answer(observation["text"])
