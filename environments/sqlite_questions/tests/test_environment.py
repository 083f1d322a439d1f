"""Tools, bounds, answers, the log, and the questions themselves."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlite_questions_env import Answer, Describe, ListTables, Query, SqlObservation
from sqlite_questions_env.database import TABLES, database_file
from sqlite_questions_env.environment import LOG, SqliteQuestions
from sqlite_questions_env.questions import questions

from openenv_async.errors import InvalidAction

TASK = "airports_count:TX"


def asked(**params: Any) -> SqliteQuestions:
    env = SqliteQuestions(**params)
    task = SqliteQuestions.tasks.find("train", TASK)
    assert task is not None
    env.reset(task.data["question"], task.private["answer"], task.id)
    return env


def test_the_tables_are_there_and_described() -> None:
    env = asked()
    assert env.step(ListTables()).text.splitlines() == [*TABLES]
    for table in TABLES:
        seen = env.step(Describe(table))
        assert seen.text.startswith(f"{table} (")
        assert len(seen.text.splitlines()) == 5
    with sqlite3.connect(database_file()) as connection:
        counts = [connection.execute(f"SELECT COUNT(*) FROM {t}").fetchone()[0] for t in TABLES]
    assert counts == [3376, 1461, 51, 120]


def test_a_query_shows_some_rows_and_counts_all() -> None:
    seen = asked(max_rows=2).step(Query("SELECT iata, NULL AS x FROM airports ORDER BY iata"))
    assert seen.text == "iata | x\n00M | NULL\n00R | NULL\n(3374 more rows)"
    assert (seen.rows, seen.is_error, seen.reward) == (3376, False, None)
    assert asked().step(Query("SELECT 1 AS a WHERE 0")).text == "a\n(no rows)"
    assert len(asked().step(Query("SELECT printf('%.*c', 900, 'x')")).text) < 300


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELEC 1", "syntax error"),
        ("SELECT altitude FROM airports", "no such column: altitude"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("DELETE FROM airports", "only SELECT"),
        ("PRAGMA writable_schema = 1", "only SELECT"),
        ("ATTACH '/tmp/x.db' AS x", "only SELECT"),
        ("CREATE TEMP TABLE t (a)", "only SELECT"),
        ("SELECT load_extension('x')", "not authorized"),
        ("SELECT zeroblob(1000000000)", "too big"),
        ("SELECT group_concat(name || name || name) FROM airports", "too big"),
        ("-- nothing", "gives no rows"),
        ("SELECT '\ud800'", "surrogates"),
        ("SELECT 1\x00", "null character"),
    ],
)
def test_bad_sql_is_told_and_the_episode_goes_on(sql: str, expected: str) -> None:
    env = asked()
    seen = env.step(Query(sql))
    assert seen.is_error
    assert seen.text.startswith("error: ")
    assert expected in seen.text
    assert (seen.reward, seen.done) == (None, False)
    assert env.step(Query("SELECT COUNT(*) FROM airports")).text.endswith("3376")


def test_a_statement_without_an_end_is_ended() -> None:
    env = asked(max_seconds=0.2)
    begun = time.monotonic()
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT MAX(x) FROM c"
    seen = env.step(Query(endless))
    assert seen.text == "error: the statement took more than 0.2 s: ask for less"
    assert 0.2 <= time.monotonic() - begun < 5
    assert not env.step(Query("SELECT 1")).is_error


def test_an_empty_statement_is_refused_and_is_no_step() -> None:
    env = asked()
    with pytest.raises(InvalidAction, match="the statement is empty"):
        env.step(Query("  "))
    assert env.state().steps == 0


@pytest.mark.parametrize(
    ("right", "given", "reward"),
    [
        (3, 3.0, 1.0),
        (3, "3", 1.0),
        (1813.0, " 1,813 ", 1.0),
        (3, "3.1", 0.0),
        (3, "three", 0.0),
        (0.3, 0.30000000001, 1.0),
        ("BRW", "brw ", 1.0),
        ("BRW", "ADK", 0.0),
        ("2012-01-21", "2012-01-21", 1.0),
        (3, "nan", 0.0),
    ],
)
def test_answers(right: Any, given: Any, reward: float) -> None:
    env = SqliteQuestions()
    env.reset("?", right)
    seen = env.step(Answer(given))
    assert (seen.reward, seen.done) == (reward, True)
    assert str(right) not in seen.text


def test_an_episode_is_truncated_after_its_steps() -> None:
    env = asked(max_steps=2)
    first, last = env.step(ListTables()), env.step(ListTables())
    assert (first.truncated, first.reward) == (False, None)
    assert (last.truncated, last.done, last.reward) == (True, False, 0.0)
    env = asked(max_steps=1)
    last = env.step(Answer(1))
    assert (last.truncated, last.done) == (False, True)


def test_a_seed_draws_a_question_where_none_is_given() -> None:
    env = SqliteQuestions()
    first = [env.reset(seed=seed).text for seed in range(20)]
    assert first == [env.reset(seed=seed).text for seed in range(20)]
    assert len(set(first)) > 15
    assert env.state().task_id is not None


def test_the_log_has_a_line_for_all_that_was_done(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    env = asked(log=str(path))
    env.step(ListTables())
    with pytest.raises(InvalidAction):
        env.step(Query(""))
    env.step(Answer(1))
    env.reset("?", 1, "own", episode_id="second")
    env.step(ListTables())
    env.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line["task_id"]) for line in lines] == [
        ("begin", TASK),
        ("step", TASK),
        ("step", TASK),
        ("end", TASK),
        ("begin", "own"),
        ("step", "own"),
        ("end", "own"),
    ]
    steps = [(line["step"], line["tool"]) for line in lines if line["event"] == "step"]
    assert steps == [(0, "list_tables"), (1, "answer"), (0, "list_tables")]
    assert [line["why"] for line in lines if line["event"] == "end"] == ["answered", "left"]
    assert lines[-1]["episode_id"] == "second"


def test_the_log_may_be_named_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOG, str(tmp_path / "log.jsonl"))
    SqliteQuestions().reset("?", 1)
    assert (tmp_path / "log.jsonl").read_text().count("\n") == 1


def test_the_questions_are_the_same_each_time_and_each_has_one_answer() -> None:
    for split, least in (("train", 1000), ("test", 150)):
        rows = [*questions(split)]
        assert rows == [*questions(split)]
        assert len(rows) >= least
        assert len({row["id"] for row in rows}) == len(rows)
        assert len({row["question"] for row in rows}) == len(rows)
        assert all(isinstance(row["answer"], str | int | float) for row in rows)
    kinds = {row["kind"] for row in questions("train")}
    assert kinds == {row["kind"] for row in questions("test")}
    assert len(kinds) == 12


@pytest.mark.parametrize("split", ["train", "test"])
def test_no_answer_is_right_for_many_questions(split: str) -> None:
    rows = [*questions(split)]
    [(answer, count)] = Counter(str(row["answer"]) for row in rows).most_common(1)
    assert count < 0.04 * len(rows), answer


def test_an_observation_says_nothing_of_the_answer_before_it_is_given() -> None:
    env = SqliteQuestions()
    seen: list[SqlObservation] = [env.reset("?", "a-private-answer", "own")]
    seen += [env.step(action) for action in (ListTables(), Query("SELECT 1"), Answer("no"))]
    assert "a-private-answer" not in f"{seen} {env.state()}"
