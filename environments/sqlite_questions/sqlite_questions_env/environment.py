"""The environment: a question, tools to find the answer with, and a log of what was done."""

from __future__ import annotations

import functools
import json
import math
import os
import random
import time
from typing import Any, ClassVar, Final

from openenv_async import Certification, Environment, TaskTable
from openenv_async.environment import Isolation
from openenv_async.errors import InvalidAction
from sqlite_questions_env.database import TABLES, Database, database_file, render
from sqlite_questions_env.models import (
    Answer,
    Describe,
    ListTables,
    Query,
    SqlAction,
    SqlObservation,
    SqlState,
    Table,
)
from sqlite_questions_env.questions import SPLITS, questions

__all__ = ["LOG", "SqliteQuestions"]

LOG: Final = "SQLITE_QUESTIONS_LOG"
"""The environment variable that names the log, where no argument does."""
_FIRST_ROWS: Final = 3
_CLOSE: Final = 1e-6
"""Relative error of a number that counts as right."""


class SqliteQuestions(Environment[SqlAction, SqlObservation, SqlState]):
    """Answer a question over a SQLite database of real tables, by looking at it with tools.

    Args:
        max_steps: after which an episode is truncated.
        max_rows: of a result that are shown.
        max_seconds: that a query may take.
        log: path of a file that gets a line of JSON for every episode begun, step executed and
            episode ended, whatever process it is in.
    """

    # A query may take a second, and SQLite lets other threads run meanwhile.
    isolation: ClassVar[Isolation | None] = "thread"
    tasks = TaskTable(
        {split: functools.partial(questions, split) for split in SPLITS}, private=["answer"]
    )

    def __init__(
        self,
        max_steps: int = 12,
        max_rows: int = 20,
        max_seconds: float = 1.0,
        log: str | None = None,
    ) -> None:
        self._max_steps = max_steps
        self._database = Database(max_rows, max_seconds)
        self._log = _Log(log or os.environ.get(LOG))
        self._question = ""
        self._answer: str | float = ""
        self._task_id: str | None = None
        self._episode_id = ""
        self._steps = self._queries = 0
        self._is_running = False

    @classmethod
    def prepare_process(cls, sessions: int, **params: Any) -> None:
        """Make the database and the questions, which all sessions share."""
        database_file()
        for split in SPLITS:
            cls.tasks.count(split)

    @classmethod
    def certification_for(cls, **params: Any) -> Certification | None:
        """The statements for a certificate."""
        from sqlite_questions_env.certification import certification

        return certification()

    def reset(
        self,
        question: str = "",
        answer: str | float = "",
        task_id: str | None = None,
        seed: int = 0,
        episode_id: str = "",
    ) -> SqlObservation:
        """Ask a question: that of a task, one of the caller's own, or one that the seed draws."""
        self._end("left")
        if not question:
            count = self.tasks.count("train")
            task = self.tasks.get("train", random.Random(seed).randrange(count))
            question, answer = task.data["question"], task.private["answer"]
            task_id = task.id
        self._question, self._answer, self._task_id = question, answer, task_id
        self._episode_id = episode_id
        self._steps = self._queries = 0
        self._is_running = True
        self._log.write(event="begin", episode_id=episode_id, task_id=task_id)
        return SqlObservation(question)

    def step(self, action: SqlAction) -> SqlObservation:
        """Use one tool."""
        match action:
            case ListTables():
                seen = SqlObservation("\n".join(TABLES))
            case Describe(table):
                seen = self._describe(table)
            case Query(sql):
                seen = self._run(sql)
            case Answer(value):
                seen = SqlObservation("", reward=float(_is_right(value, self._answer)), done=True)
                seen.text = "right" if seen.reward else "wrong"
        self._steps += 1
        tool = str(type(action).__struct_config__.tag)
        if not seen.done and self._steps >= self._max_steps:
            seen.truncated = True
            seen.reward = 0.0
        self._log.write(
            event="step",
            episode_id=self._episode_id,
            task_id=self._task_id,
            step=self._steps - 1,
            tool=tool,
            reward=seen.reward,
        )
        if seen.done or seen.truncated:
            self._end("answered" if seen.done else "out of steps")
        return seen

    def state(self) -> SqlState:
        """Return where the episode is."""
        return SqlState(self._task_id, self._question, self._steps, self._max_steps, self._queries)

    def close(self) -> None:
        """Close the connection to the database."""
        self._end("left")
        self._database.close()

    def _describe(self, table: Table) -> SqlObservation:
        columns = ", ".join(f"{name} {kind}" for name, kind in TABLES[table][1].items())
        rows = self._database.query(f"SELECT * FROM {table} LIMIT {_FIRST_ROWS}")
        return SqlObservation(f"{table} ({columns})\n{render(rows)}")

    def _run(self, sql: str) -> SqlObservation:
        if not sql.strip():
            raise InvalidAction("the statement is empty: write a SELECT")
        self._queries += 1
        try:
            rows = self._database.query(sql)
        except ValueError as exc:
            return SqlObservation(f"error: {exc}", is_error=True)
        return SqlObservation(render(rows), rows=rows[2])

    def _end(self, why: str) -> None:
        if self._is_running:
            self._is_running = False
            self._log.write(
                event="end",
                episode_id=self._episode_id,
                task_id=self._task_id,
                steps=self._steps,
                why=why,
            )


class _Log:
    """A file to which every process appends whole lines."""

    def __init__(self, path: str | None) -> None:
        self._path = path

    def write(self, **facts: Any) -> None:
        if self._path is None:
            return
        line = json.dumps({"time": round(time.time(), 6), **facts}) + "\n"
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)


def _is_right(given: str | float, right: str | float) -> bool:
    """Return whether an answer is the right one: equal as a number, else as a text."""
    if isinstance(right, str):
        return str(given).strip().casefold() == right.strip().casefold()
    try:
        value = float(str(given).strip().replace(",", ""))
    except ValueError:
        return False
    return math.isclose(value, right, rel_tol=_CLOSE, abs_tol=_CLOSE)
