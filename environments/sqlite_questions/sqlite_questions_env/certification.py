"""Statements for a certificate: the oracle knows the answer, guesses are answers to others."""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable
from typing import Any, Final

from openenv_async import Certification
from sqlite_questions_env.models import Answer, ListTables, Query
from sqlite_questions_env.questions import questions

__all__ = ["SKILLS", "certification"]

_MONTHS: Final = "JanFebMarAprMayJunJulAugSepOctNovDec"
_IN_MONTH: Final = "FROM seattle_weather WHERE date LIKE '{month}%'"
_IN_STATE: Final = "FROM airports WHERE state = '{name}'"
_COUNTS: Final = {
    "On how many days": f"SELECT COUNT(*) {_IN_MONTH} AND weather = '{{name}}'",
    "airports are there": f"SELECT COUNT(*) {_IN_STATE}",
}
_LOOKS_UP: Final = {
    **_COUNTS,
    "In which city": "SELECT city FROM airports WHERE iata = '{name}'",
    "megawatt hours": "SELECT net_generation FROM iowa_electricity WHERE source = '{name}'"
    " AND year = {year}",
}
_COMPARES: Final = {
    **_LOOKS_UP,
    "highest temperature": f"SELECT MAX(temp_max) {_IN_MONTH}",
    "lowest temperature": f"SELECT MIN(temp_min) {_IN_MONTH}",
    "millimetres": f"SELECT ROUND(SUM(precipitation), 1) {_IN_MONTH}",
    "wind": f"SELECT date {_IN_MONTH} ORDER BY wind DESC LIMIT 1",
    "northernmost": f"SELECT iata {_IN_STATE} ORDER BY latitude DESC LIMIT 1",
    "southernmost": f"SELECT iata {_IN_STATE} ORDER BY latitude LIMIT 1",
}


def certification() -> Certification:
    """Return the statements."""
    return Certification(
        oracle=_oracle,
        return_range=(0.0, 1.0),
        answer=Answer,
        guess=_guess,
        nothing=ListTables(),
        cheats={"averages_a_column": _average, "reads_the_schema": _schema},
        skills=SKILLS,
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


def _asks(queries: dict[str, str]) -> Callable[[Any, Any], Query | Answer]:
    """Return a policy that knows what to ask the database for some wordings of a question."""

    def policy(observation: Any, turn: Any) -> Query | Answer:
        text = observation["text"]
        if turn.t:
            return Answer(text.splitlines()[-1])
        for wording, sql in queries.items():
            if wording in text:
                return Query(sql.format(**_names(text)))
        return Answer("")

    return policy


def _names(question: str) -> dict[str, str]:
    """Return what a question names: a year, a month, a name in quotes."""
    name, year = re.search(r"'([^']*)'", question), re.search(r"\b\d{4}\b", question)
    month = re.search(r"([A-Z][a-z]{2})[a-z]* (\d{4})", question)
    number = 0 if month is None else _MONTHS.find(month[1]) // 3 + 1
    told = "" if year is None else year[0]
    return {
        "name": "" if name is None else name[1],
        "year": told or "0",
        "month": f"{told}-{number:02d}",
    }


SKILLS: Final = {
    "counts": _asks(_COUNTS),
    "counts and looks up": _asks(_LOOKS_UP),
    "counts, looks up and compares": _asks(_COMPARES),
}
"""Scripted policies, from the weakest to the strongest."""
