"""The questions: made of the tables, each with the answer that a query of its own gives.

They are the same wherever they are made: templates in order, their places filled with what the
tables hold. Which split a question is in depends on its id alone.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from sqlite_questions_env.database import database_file

__all__ = ["SPLITS", "questions"]

SPLITS: Final = ("train", "test")
_TEST_SHARE: Final = 0.15
_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June", "July", "August"),
    *("September", "October", "November", "December"),
)
_YEARS: Final = range(2012, 2016)
_SECTORS: Final = (
    *("nonfarm", "construction", "manufacturing", "retail_trade", "information"),
    *("financial_activities", "leisure_and_hospitality", "government"),
)
_FEWEST: Final = 5
"""Airports of a state from which on it is asked about by more than their number."""

Made = tuple[str, str, str, tuple[Any, ...]]
"""Kind, the rest of the id, the question, and the query of its answer with the arguments."""


def questions(split: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a split: ``id``, ``question``, ``kind``, and the private ``answer``."""
    connection = sqlite3.connect(f"file:{database_file()}?mode=ro&immutable=1", uri=True)
    try:
        for kind, name, question, (sql, *arguments) in _made(connection):
            task_id = f"{kind}:{name}"
            digest = hashlib.blake2s(task_id.encode(), digest_size=4).digest()
            is_test = int.from_bytes(digest, "big") < _TEST_SHARE * 2**32
            if is_test is not (split == "test"):
                continue
            found = connection.execute(sql, arguments).fetchall()
            if len(found) == 1 and found[0][0] is not None:  # nothing that has two answers
                yield {"id": task_id, "question": question, "kind": kind, "answer": found[0][0]}
    finally:
        connection.close()


def _made(connection: sqlite3.Connection) -> Iterator[Made]:
    yield from _weather()
    yield from _airports(connection)
    yield from _employment(connection)
    yield from _electricity(connection)


def _weather() -> Iterator[Made]:
    for year in _YEARS:
        for number, name in enumerate(_MONTHS, 1):
            month, when = f"{year}-{number:02d}", f"{name} {year}"
            for column, said in (("temp_max", "highest"), ("temp_min", "lowest")):
                call = "MAX" if column == "temp_max" else "MIN"
                yield (
                    f"weather_{said}",
                    month,
                    f"In degrees Celsius, what was the {said} temperature in Seattle in {when}?",
                    (
                        f"SELECT {call}({column}) FROM seattle_weather WHERE date LIKE ?",
                        f"{month}%",
                    ),
                )
            yield (
                "weather_rain",
                month,
                f"How many millimetres of precipitation fell in Seattle in {when}?",
                (
                    "SELECT ROUND(SUM(precipitation), 1) FROM seattle_weather WHERE date LIKE ?",
                    f"{month}%",
                ),
            )
            yield (
                "weather_wind",
                month,
                f"On which date in {when} did the wind blow strongest in Seattle?",
                (
                    "SELECT date FROM seattle_weather WHERE date LIKE ?1 AND wind = (SELECT"
                    " MAX(wind) FROM seattle_weather WHERE date LIKE ?1)",
                    f"{month}%",
                ),
            )
            for weather in ("sun", "rain", "fog", "snow", "drizzle"):
                yield (
                    "weather_days",
                    f"{month}:{weather}",
                    f"On how many days of {when} was the weather in Seattle '{weather}'?",
                    (  # no such day, no question: "0" would be right for every tenth question
                        "SELECT NULLIF(COUNT(*), 0) FROM seattle_weather WHERE date LIKE ?"
                        " AND weather = ?",
                        f"{month}%",
                        weather,
                    ),
                )


def _airports(connection: sqlite3.Connection) -> Iterator[Made]:
    states = connection.execute(
        "SELECT state, COUNT(*) FROM airports WHERE LENGTH(state) = 2 GROUP BY state ORDER BY state"
    ).fetchall()
    for state, count in states:
        yield (
            "airports_count",
            state,
            f"How many airports are there in the state '{state}'?",
            ("SELECT COUNT(*) FROM airports WHERE state = ?", state),
        )
        if count < _FEWEST:
            continue
        for said, order in (("northernmost", "latitude DESC"), ("southernmost", "latitude ASC")):
            yield (
                f"airports_{said}",
                state,
                f"What is the IATA code of the {said} airport in the state '{state}'?",
                (f"SELECT iata FROM airports WHERE state = ? ORDER BY {order} LIMIT 1", state),
            )
    codes = connection.execute(
        "SELECT iata FROM airports WHERE iata GLOB '[A-Z][A-Z][A-Z]' ORDER BY iata"
    ).fetchall()
    for (code,) in codes[::4]:
        yield (
            "airports_city",
            code,
            f"In which city is the airport '{code}'?",
            ("SELECT city FROM airports WHERE iata = ?", code),
        )


def _employment(connection: sqlite3.Connection) -> Iterator[Made]:
    for sector in _SECTORS:
        said = sector.replace("_", " ")
        for year in range(2006, 2016):
            yield (
                "employment_change",
                f"{sector}:{year}",
                f"By how many thousands did employment in '{said}' change from January to December"
                f" {year}?",
                (
                    f"SELECT ROUND((SELECT {sector} FROM us_employment WHERE month = ?)"
                    f" - (SELECT {sector} FROM us_employment WHERE month = ?), 1)",
                    f"{year}-12-01",
                    f"{year}-01-01",
                ),
            )
            yield (
                "employment_most",
                f"{sector}:{year}",
                f"How many thousands of people at most worked in '{said}' in a month of {year}?",
                (f"SELECT MAX({sector}) FROM us_employment WHERE month LIKE ?", f"{year}%"),
            )


def _electricity(connection: sqlite3.Connection) -> Iterator[Made]:
    sources = connection.execute(
        "SELECT DISTINCT source FROM iowa_electricity ORDER BY 1"
    ).fetchall()
    for (source,) in sources:
        for year in range(2001, 2018):
            yield (
                "electricity",
                f"{source.lower().replace(' ', '_')}:{year}",
                f"How many thousand megawatt hours of '{source}' electricity did Iowa generate in"
                f" {year}?",
                (
                    "SELECT net_generation FROM iowa_electricity WHERE source = ? AND year = ?",
                    source,
                    year,
                ),
            )
