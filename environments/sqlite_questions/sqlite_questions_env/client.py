"""The client."""

from __future__ import annotations

from openenv_async.client.env import EnvClient
from sqlite_questions_env.models import SqlAction, SqlObservation, SqlState

__all__ = ["SqliteQuestionsEnv"]


class SqliteQuestionsEnv(EnvClient[SqlAction, SqlObservation, SqlState]):
    """One session of a served environment of questions."""
