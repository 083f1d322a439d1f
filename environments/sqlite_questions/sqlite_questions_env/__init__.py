"""Questions over a SQLite database, answered with tools."""

from __future__ import annotations

from openenv_async.targets.discovery import EnvironmentEntry
from sqlite_questions_env.client import SqliteQuestionsEnv
from sqlite_questions_env.models import (
    Answer,
    Describe,
    ListTables,
    Query,
    SqlAction,
    SqlObservation,
    SqlState,
)

__all__ = [
    "ENVIRONMENT",
    "Answer",
    "Describe",
    "ListTables",
    "Query",
    "SqlAction",
    "SqlObservation",
    "SqlState",
    "SqliteQuestionsEnv",
]

ENVIRONMENT = EnvironmentEntry(
    environment="sqlite_questions_env.environment:SqliteQuestions",
    client="sqlite_questions_env.client:SqliteQuestionsEnv",
    action="sqlite_questions_env.models:SqlAction",
    image="openenv-async-sqlite-questions",
)
