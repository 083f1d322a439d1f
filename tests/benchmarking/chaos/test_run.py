"""The audit of ``bench --chaos``: it passes where steps run once, and fails where they do not."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from openenv_async import serve
from openenv_async.benchmarking import Load
from openenv_async.benchmarking.chaos import Audit, run_chaos
from openenv_async.errors import OperationUnsupported, ServerBusy, ServerError
from openenv_async.protocol.replies import Order, ReplyLog
from openenv_async.testing import BenchAsyncEnvironment, BenchEnvironment, BenchThreadEnvironment
from tests.behaviours.environments import served

LOAD = Load(sessions=16, connections=4, seconds=2.0, seed=3)


@pytest.mark.parametrize("vector", [None, 4])
@pytest.mark.parametrize("env", [BenchEnvironment, BenchThreadEnvironment, BenchAsyncEnvironment])
async def test_everything_runs_once(env: Any, vector: int | None) -> None:
    async with served(env) as (url, engine):
        report = await run_chaos(url, LOAD, target="bench", vector=vector)
        audit = report.audit
        assert audit.passed
        assert audit.seen == audit.executed > 100
        assert (audit.lost, audit.repeated, audit.mismatched, audit.unaudited) == (0, 0, 0, 0)
        assert audit.checked_by_name > 0
        assert audit.resumed > 0
        assert report.faults
        assert not engine.sessions
        assert json.loads(json.dumps(report.as_dict()))["passed"] is True


@pytest.mark.parametrize("vector", [None, 4])
async def test_shared_memory_is_audited(vector: int | None) -> None:
    """Arrays say the name of their request all over: one of another step would show."""
    async with served(Framed) as (url, engine):
        report = await run_chaos(url, LOAD, vector=vector, over="unix")
        audit = report.audit
        assert audit.passed
        assert audit.seen == audit.executed > 100
        assert (audit.lost, audit.repeated, audit.mismatched, audit.unaudited) == (0, 0, 0, 0)
        assert audit.checked_by_name > 0
        assert audit.resumed > 0
        assert report.transport == "Unix socket"
        assert set(report.faults) == {"disconnects"}
        assert engine.stats.shared_payloads > 0


async def test_a_server_without_a_unix_socket() -> None:
    async with serve(BenchEnvironment, local=False) as url:
        with pytest.raises(OperationUnsupported, match="has no Unix socket"):
            await run_chaos(url, LOAD, over="unix")


@pytest.mark.parametrize("vector", [None, 8])
async def test_a_server_that_repeats_steps_is_caught(
    vector: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = ReplyLog.order

    def forgetful(self: ReplyLog[Any], seq: int) -> Order:
        order(self, seq)
        return Order.NEW

    monkeypatch.setattr(ReplyLog, "order", forgetful)
    async with served(BenchEnvironment) as (url, _):
        report = await run_chaos(url, LOAD, vector=vector)
        assert report.audit.repeated > 0
        assert not report.audit.passed


@pytest.mark.parametrize("vector", [None, 8])
async def test_an_environment_that_mixes_replies_up_is_caught(vector: int | None) -> None:
    async with served(MixesUp) as (url, _):
        report = await run_chaos(url, LOAD, vector=vector)
        assert report.audit.mismatched > 0
        assert not report.audit.passed


class Framed(BenchEnvironment):
    def __init__(self) -> None:
        super().__init__(20_000)


class MixesUp(BenchEnvironment):
    last = ""

    def step(self, action: Any) -> Any:
        message, MixesUp.last = MixesUp.last, action.message
        action.message = message
        return super().step(action)


def test_nothing_seen_is_no_success() -> None:
    assert not Audit().passed


@pytest.mark.parametrize("vector", [None, 8])
async def test_a_server_that_is_full(vector: int | None) -> None:
    """Nothing of the sessions that were being opened goes on."""
    before = asyncio.all_tasks()
    async with served(BenchEnvironment, max_sessions=4) as (url, _):
        with pytest.raises(ServerBusy):
            await run_chaos(url, LOAD, vector=vector)
    assert asyncio.all_tasks() == before


async def test_a_server_without_an_action_schema() -> None:
    async def schema(request: web.Request) -> web.Response:
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/schema", schema)
    async with TestServer(app) as server:
        with pytest.raises(ServerError, match="gives no action schema"):
            await run_chaos(str(server.make_url("/")), LOAD)
