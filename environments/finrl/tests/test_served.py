"""Over a socket."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finrl_env import ENVIRONMENT, FinRLAction, FinRLEnv, FinRLMetrics, FinRLState, data_of
from finrl_env.environment import FinRLEnvironment
from finrl_env.policies import buy_and_hold

from openenv_async import OutcomeStatus, serve
from openenv_async.errors import InvalidOption
from openenv_async.rollouts import RandomPolicy, collect_all, fetch_schema
from openenv_async.targets.discovery import find_target
from openenv_async.testing import served_application


async def test_sixteen_sessions_side_by_side_trade_the_same() -> None:
    async def play(url: str, seed: int) -> list[tuple[bytes, float | None, str]]:
        rng = np.random.default_rng(1)
        async with FinRLEnv(url) as env:
            result = await env.reset(seed=seed)
            trace = []
            for _ in range(30):
                seen = result.observation
                assert seen.state.dtype == np.float32
                trace.append((seen.state.tobytes(), result.reward, seen.date))
                result = await env.step(FinRLAction(rng.uniform(-1, 1, 20).tolist()))
            return trace

    async with serve(FinRLEnvironment) as url:
        alone = await play(url, 7)
        traces = await asyncio.gather(*(play(url, 7 if i % 2 else 100 + i) for i in range(16)))
    assert all(trace == alone for trace in traces[1::2])
    assert all(trace != alone for trace in traces[::2])


async def test_the_schema_knows_the_stocks_and_random_play_fits_it() -> None:
    params: dict[str, Any] = {"tickers": ["KO", "PEP"], "episode_days": 20}
    async with serve(FinRLEnvironment, params=params) as url:
        schema = await fetch_schema(url)
        outcomes = await collect_all(
            url, RandomPolicy(schema["action"], 0), episodes=4, concurrency=2, seeds=0
        )
    assert [outcome.status for outcome in outcomes] == [OutcomeStatus.TRUNCATED] * 4
    assert [outcome.steps for outcome in outcomes] == [19] * 4
    actions = schema["action"]["$defs"]["FinRLAction"]["properties"]["actions"]
    assert (actions["minItems"], actions["maxItems"]) == (2, 2)
    state = schema["observation"]["$defs"]["FinRLObservation"]["properties"]["state"]
    assert state["x-ndarray"] == {"dtype": "<f4", "shape": [1 + 2 * 9]}


async def test_options_state_and_metrics_come_through() -> None:
    async with serve(FinRLEnvironment) as url, FinRLEnv(url) as env:
        result = await env.reset(seed=0, tickers=["KO"], split="test", episode_days=3)
        assert result.observation.state.shape == (10,)
        while not result.done:
            result = await env.step(FinRLAction([1.0]))
        state = await env.state()
        assert isinstance(state, FinRLState)
        assert isinstance(state.metrics, FinRLMetrics)
        assert result.info["metrics"]["trades"] == state.metrics.trades == 2
        assert (state.split, state.tickers, state.day) == ("test", ["KO"], 2)
        with pytest.raises(InvalidOption):  # files are the server's
            await env.reset(data_path="/etc/passwd")


def small_frame(tickers: str, days: int = 6) -> dict[str, Any]:
    dates = (np.datetime64("2020-01-01") + np.arange(days)).astype(str).tolist()
    rows = [(date, each) for date in dates for each in tickers]
    closes = [10.0 + at for at in range(len(rows))]
    return {"date": [d for d, _ in rows], "tic": [t for _, t in rows], "close": closes}


@pytest.mark.parametrize("codec", ["openenv.v1.msgpack", "openenv.v1.json"])
async def test_a_client_sends_its_own_frame(codec: str) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(small_frame("XY"))
    frame["date"] = pandas.to_datetime(frame["date"])
    async with serve(FinRLEnvironment) as url, FinRLEnv(url, subprotocol=codec) as env:
        sent = data_of(frame)
        result = await env.reset(data=sent, split="all", episode_days=0, short=True)
        assert result.observation.state[1:3].tolist() == [10.0, 11.0]
        await env.step(FinRLAction([0.1, -0.1]))
        state = await env.state()
        assert (state.tickers, state.shares) == (["X", "Y"], [10.0, -10.0])
        for bad, message in (
            (sent | {"close": [0.0] * 12}, "X on 2020-01-01: close is missing or not positive"),
            ({"date": ["x"] * 200_001}, "may be sent"),
            ("/etc/passwd", "data"),
        ):
            with pytest.raises(InvalidOption, match=message):
                await env.reset(data=bad)
        assert (await env.reset(seed=0)).observation.state.shape == (181,)


async def test_rows_of_a_file_bring_frames(tmp_path: Path) -> None:
    rows = [
        {"id": name, "data": small_frame(name, days), "split": "all", "episode_days": 0}
        for name, days in (("AB", 4), ("CDE", 7))
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))

    def holds(observation: Any) -> FinRLAction:
        return FinRLAction([0.0] * ((observation.state.size - 1) // 9))

    async with serve(FinRLEnvironment) as url:
        outcomes = await collect_all(lambda: FinRLEnv(url), holds, tasks=str(path))
    assert [outcome.steps for outcome in outcomes] == [3, 6]
    assert {outcome.status for outcome in outcomes} == {OutcomeStatus.TRUNCATED}


async def test_the_example_policy_plays_from_the_client() -> None:
    async with serve(FinRLEnvironment, params={"split": "test"}) as url:
        outcomes = await collect_all(lambda: FinRLEnv(url), buy_and_hold, episodes=4, seeds=0)
    assert all(outcome.steps == 251 for outcome in outcomes)
    assert sum(outcome.episode_return or 0 for outcome in outcomes) > 0


def test_it_is_found_by_name() -> None:
    spec = find_target("finrl", {"split": "test"})
    assert spec.cls is FinRLEnvironment
    assert spec.contract.isolation == "inline"
    assert ENVIRONMENT.client_class() is FinRLEnv
    assert ENVIRONMENT.action_class() is FinRLAction


def test_the_application_and_its_isolation_are_set_from_outside() -> None:
    told = served_application(
        "finrl_env.app",
        "spec.build().state().stock_dim",
        "spec.contract.isolation",
        FINRL_TICKERS="KO,PEP",
        FINRL_ISOLATION="process",
    )
    assert told == ["2", "process"]
