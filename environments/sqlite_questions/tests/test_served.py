"""Over a socket: tasks by name, tools by schema, random play."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
from sqlite_questions_env import Answer, Query, SqliteQuestionsEnv
from sqlite_questions_env.certification import SKILLS
from sqlite_questions_env.environment import SqliteQuestions

from openenv_async import OutcomeStatus, serve
from openenv_async.errors import InvalidAction
from openenv_async.rollouts import RandomPolicy, TaskSet, collect_all, fetch_schema
from openenv_async.rollouts.tools import ActionTools
from openenv_async.targets.discovery import find_target

CODE = "SELECT iata FROM airports WHERE state = 'AK' ORDER BY latitude DESC LIMIT 1"


async def test_a_task_is_played_by_its_id() -> None:
    async with serve(SqliteQuestions) as url, SqliteQuestionsEnv(url) as env:
        tasks = await env.tasks()
        assert await tasks.splits() == ["train", "test"]
        listed = await tasks.range("train")
        assert len(listed) == await tasks.count("train") > 1000
        assert {*listed[0].data} == {"question", "kind"}

        result = await env.reset(task_id="airports_northernmost:AK")
        assert "northernmost airport in the state 'AK'" in result.observation.text
        result = await env.step(Query(CODE))
        assert result.observation.text == "iata\nBRW"
        result = await env.step(Answer("BRW"))
        assert (result.reward, result.terminated) == (1.0, True)
        assert (await env.state()).task_id == "airports_northernmost:AK"


async def test_an_unknown_tool_is_refused() -> None:
    async with serve(SqliteQuestions) as url, SqliteQuestionsEnv(url) as env:
        await env.reset(seed=1)
        untyped: Any = env
        for action, expected in (
            ({"tool": "drop", "table": "airports"}, "drop"),
            ({"sql": "SELECT 1"}, "tool"),
            ({"tool": "query"}, "sql"),
            ({"tool": "query", "sql": "x" * 4001}, "4000"),
            ({"tool": "describe", "table": "airport"}, "'airport'"),
        ):
            with pytest.raises(InvalidAction, match=expected):
                await untyped.step(action)
        assert (await env.state()).steps == 0


async def test_a_model_is_offered_one_tool_an_action() -> None:
    async with serve(SqliteQuestions) as url:
        tools = ActionTools((await fetch_schema(url))["action"])
    assert sorted(tools.names) == ["answer", "describe", "list_tables", "query"]


async def test_random_play_goes_to_its_end() -> None:
    async with serve(SqliteQuestions) as url:
        policy = RandomPolicy((await fetch_schema(url))["action"], 0)
        outcomes = await collect_all(url, policy, episodes=20, seeds=0, on_mistake="tell")
    assert len(outcomes) == 20
    assert any(outcome.steps for outcome in outcomes)


@pytest.mark.parametrize("split", ["train", "test"])
async def test_more_skill_is_paid_more(split: str) -> None:
    async with serve(SqliteQuestions) as url:
        means = [
            mean(outcome.episode_return or 0.0 for outcome in outcomes)
            for outcomes in [
                await collect_all(
                    url, policy, tasks=TaskSet(split, shuffle=0), episodes=150, seeds=0
                )
                for policy in SKILLS.values()
            ]
        ]
    weak, middling, strong = means
    assert 0.05 < weak < middling - 0.1 < strong - 0.2 < 0.8, means


async def test_the_log_of_the_environment_agrees_with_the_records(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    async with serve(SqliteQuestions, params={"log": str(log)}) as url:
        policy = RandomPolicy((await fetch_schema(url))["action"], 0)
        outcomes = await collect_all(
            url, policy, tasks="test", group_size=2, concurrency=16, on_mistake="tell"
        )
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    begun = Counter(line["task_id"] for line in lines if line["event"] == "begin")
    steps = Counter(line["episode_id"] for line in lines if line["event"] == "step")
    ends = {line["episode_id"]: line["why"] for line in lines if line["event"] == "end"}
    assert len(outcomes) == len(ends) == 2 * SqliteQuestions.tasks.count("test")
    assert {*begun.values()} == {2}
    for outcome in outcomes:
        assert outcome.episode is not None
        assert outcome.task is not None
        assert begun[outcome.task.id] == 2
        assert steps[outcome.episode.episode_id] == outcome.steps
        if outcome.status.usable:
            why = "answered" if outcome.status is OutcomeStatus.COMPLETED else "out of steps"
            assert ends[outcome.episode.episode_id] == why


def test_it_is_found_by_its_name() -> None:
    assert find_target("sqlite_questions").cls is SqliteQuestions
