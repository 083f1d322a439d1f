"""Actions, one class a tool, observation and state."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec

__all__ = [
    "MAX_SQL",
    "Answer",
    "Describe",
    "ListTables",
    "Query",
    "SqlAction",
    "SqlObservation",
    "SqlState",
    "Table",
]


MAX_SQL: Final = 4_000
"""Characters of a statement."""
Table: TypeAlias = Literal["airports", "seattle_weather", "iowa_electricity", "us_employment"]


class ListTables(msgspec.Struct, tag="list_tables", tag_field="tool"):
    """List the tables of the database."""


class Describe(msgspec.Struct, tag="describe", tag_field="tool"):
    """Describe one table: its columns, their types, and its first rows.

    Attributes:
        table: its name.
    """

    table: Table


class Query(msgspec.Struct, tag="query", tag_field="tool"):
    """Run one SELECT statement and read its rows.

    Attributes:
        sql: the statement, in SQLite's dialect.
    """

    sql: Annotated[str, msgspec.Meta(max_length=MAX_SQL)]


class Answer(msgspec.Struct, tag="answer", tag_field="tool"):
    """Answer the question, which ends the episode.

    Attributes:
        value: a number, or a text.
    """

    value: str | float


SqlAction: TypeAlias = ListTables | Describe | Query | Answer


class SqlObservation(msgspec.Struct):
    """The question at first, then what a tool says.

    Attributes:
        text: for the model to read.
        is_error: the statement failed; ``text`` says why.
        rows: rows that the query gave, those left out counted too; ``None`` where it was none.
    """

    text: str
    is_error: bool = False
    rows: int | None = None
    reward: float | None = None
    done: bool = False
    truncated: bool = False


class SqlState(msgspec.Struct):
    """The place of an episode.

    Attributes:
        task_id: the question's; ``None`` for one of the caller's own.
        question: what is asked.
        steps, max_steps: taken, and allowed.
        queries: statements run.
    """

    task_id: str | None
    question: str
    steps: int
    max_steps: int
    queries: int
