"""Quotas of callers: who waits, who is refused, and that nothing is executed twice or in vain."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from openenv_async import Environment, Timeouts
from openenv_async.engine import Engine
from openenv_async.engine.callers import Caller, Quota
from openenv_async.errors import OperationCancelled, QuotaReached, Unauthorized
from openenv_async.protocol.columns import apart, pack_channels, pack_numbers
from openenv_async.protocol.frames import (
    Begun,
    Cancel,
    Failed,
    Observation,
    Opened,
    Reset,
    Step,
    StepColumns,
)
from tests.helpers import Counter, Peer, make_engine, pack, token


def peer_of(engine: Engine, caller: Caller) -> Peer:
    """A client that shows a caller's token."""
    peer = Peer(engine)
    peer.connection.caller = caller
    peer.connection.account = engine.account_of(caller)
    return peer


class Threaded(Counter):
    isolation = "thread"  # type: ignore[assignment]  # the other one's is inline


class Awaited(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Counts, in a task."""

    def __init__(self) -> None:
        self.count = 0

    async def reset(self, *, seed: int | None = None) -> dict[str, Any]:
        self.count = 0
        return {"count": 0}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.count += 1
        return {"count": self.count}


async def test_sessions_beyond_the_quota_are_refused_in_all_environments() -> None:
    red = Caller("red", quota=Quota(max_sessions=2))
    first, second = make_engine(Counter), make_engine(Counter)
    one, other = peer_of(first, red), peer_of(second, red)
    await one.open(1)
    await other.open(1)
    refused = await one.open(2)
    assert (refused.code, refused.retryable) == ("quota_reached", True)
    detail = one.detail(refused)
    assert (detail["quota"], detail["limit"], detail["active"]) == ("sessions", 2, 2)
    assert detail["retry_after"] > 0
    assert isinstance(await peer_of(first, Caller("blue")).open(3), Opened)
    other.connection.lost(left=True)
    await second.aclose()
    assert red.sessions == 1
    assert isinstance(await one.open(2), Opened)
    account = first.accounts[red]
    assert (account.sessions, account.opened, account.refused["sessions"]) == (2, 2, 1)
    await first.aclose()
    assert red.sessions == 0


async def test_who_is_no_longer_valid_opens_nothing() -> None:
    red = Caller("red")
    engine = make_engine(Counter)
    peer = peer_of(engine, red)
    await peer.open(1)
    red.is_revoked = True
    assert (await peer.open(2)).code == Unauthorized.code
    await engine.aclose()


@pytest.mark.parametrize("env", [Counter, Threaded, Awaited])
async def test_steps_wait_for_their_turn(env: Any) -> None:
    red = Caller("red", quota=Quota(steps_per_second=50, burst=5))
    engine = make_engine(env)
    peer = peer_of(engine, red)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(1, 4):
        assert isinstance(await peer.begin(number), Begun)
    replies = [await peer.stepped(seq, {"add": 1}) for seq in range(2, 8)]
    assert all(isinstance(reply, Observation) for reply in replies)
    # Three are opened, three begin, six step; five at once.
    assert loop.time() - began >= (12 - 5) / 50 - 0.01
    assert engine.accounts[red].steps == 12
    assert engine.accounts[red].delayed >= 5
    await engine.aclose()


async def test_a_step_whose_turn_comes_too_late_is_refused_and_not_executed() -> None:
    red = Caller("red", quota=Quota(steps_per_second=10, burst=2))
    engine = make_engine(Counter)
    peer = peer_of(engine, red)
    await peer.begin()
    refused = [await peer.stepped(seq, {"add": 1}, timeout=0.01) for seq in (2, 3, 4)]
    assert [reply.code for reply in refused] == ["quota_reached"] * 3
    detail = peer.detail(refused[-1])
    assert (detail["quota"], detail["limit"]) == ("steps", 10)
    assert 0 < detail["retry_after"] <= 0.15  # what was refused is not paid for
    peer.step(4, {"add": 1}, timeout=0.01)  # sent again it is answered as it was, and not run
    assert (await peer.next()).code == "quota_reached"
    reply = await peer.stepped(5, {"add": 1})
    assert isinstance(reply, Observation)
    assert engine.stats.steps == 4
    await engine.aclose()


async def test_without_a_deadline_a_step_waits_a_minute_at_most() -> None:
    red = Caller("red", quota=Quota(steps_per_second=0.01, burst=2))
    engine = make_engine(Counter, timeouts=Timeouts(step=None))
    peer = peer_of(engine, red)
    await peer.begin()
    assert (await peer.stepped(2, {"add": 1})).code == "quota_reached"
    await engine.aclose()


@pytest.mark.parametrize("ends", ["cancel", "close", "lost"])
async def test_a_step_that_waits_can_be_stopped(ends: str) -> None:
    red = Caller("red", quota=Quota(steps_per_second=0.1, burst=2))
    engine = make_engine(Counter)
    peer = peer_of(engine, red)
    await peer.begin()
    peer.step(2, {"add": 1})
    assert not peer.take()
    session = engine.sessions[token(1)]
    if ends == "cancel":
        peer.send(Cancel(1, 2))
        assert (await peer.next()).code == OperationCancelled.code
        assert session.executor is engine.executor
    elif ends == "close":
        session.shut(OperationCancelled("enough"))
        assert isinstance(await peer.next(), Failed)
    else:
        peer.connection.lost(left=True)
    await engine.aclose()
    assert (session.runner.steps, red.sessions) == (0, 0)


@pytest.mark.parametrize("env", [Counter, Threaded])
async def test_the_rows_of_a_column_frame_wait_together(env: Any) -> None:
    red = Caller("red", quota=Quota(steps_per_second=20, burst=8))
    engine = make_engine(env)
    peer = peer_of(engine, red)
    for number in (1, 2, 3, 4):
        await peer.begin(number)
    await asyncio.sleep(0)
    columns = apart([pack({"add": 1})] * 4)
    began = asyncio.get_running_loop().time()
    peer.send(StepColumns(pack_channels([1, 2, 3, 4]), pack_numbers([2]), columns))
    replies = [await peer.next() for _ in range(4)]
    assert {type(reply) for reply in replies} == {Observation}
    assert asyncio.get_running_loop().time() - began >= 0.15
    assert engine.accounts[red].steps == 12
    assert engine.accounts[red].delayed == 4
    await engine.aclose()


async def test_bytes_are_paid_for_in_both_directions() -> None:
    red = Caller("red", quota=Quota(bytes_per_second=20_000))
    engine = make_engine(Awaited)
    peer = peer_of(engine, red)
    await peer.begin()
    account = engine.accounts[red]
    loop = asyncio.get_running_loop()
    began = loop.time()
    account.send(22_000)  # a large reply: what comes next waits until it is made up for
    assert isinstance(await peer.stepped(2, {"add": 1}), Observation)
    assert loop.time() - began >= 0.05
    peer.send(Step(1, 3, 2, pack({"add": 1}), 0.01), Reset(1, 4, 3))
    account.send(60_000)
    assert (account.bytes_in > 0, account.bytes_out) == (True, 82_000)
    await engine.aclose()


async def test_a_loud_caller_does_not_take_the_turn_of_a_quiet_one() -> None:
    loud = Caller("loud", quota=Quota(steps_per_second=1, burst=4))
    quiet = Caller("quiet", quota=Quota(steps_per_second=1000))
    engine = make_engine(Counter)
    noise, peer = peer_of(engine, loud), peer_of(engine, quiet)
    for number in range(1, 33):
        await noise.open(number)
        noise.send(Reset(number, 1, 0))
    await peer.open(100)
    peer.send(Reset(100, 1, 0))
    assert isinstance(await peer.next(), Begun)
    assert isinstance(await peer.stepped(2, {"add": 1}, channel=100), Observation)
    assert engine.accounts[quiet].delayed == 0
    assert engine.accounts[loud].delayed >= 28
    await engine.aclose()


async def test_callers_without_a_name_cost_nothing() -> None:
    engine = make_engine(Counter)
    peer = Peer(engine)
    await peer.begin()
    await peer.stepped(2, {"add": 1})
    assert not engine.accounts
    assert peer.connection.account is None
    await engine.aclose()


def test_the_error_is_one_of_a_full_server() -> None:
    assert QuotaReached.http_status == 429
    assert QuotaReached("x").retryable
