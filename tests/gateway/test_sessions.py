"""Sessions of the gateway without HTTP."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from openenv_async.errors import BudgetExhausted, CallRefused, ServerBusy, SessionClosed
from openenv_async.gateway.calls import Answer, Call, Piece
from openenv_async.gateway.sessions import (
    Budget,
    GatewayLimits,
    ModelSession,
    Prices,
    Reader,
    key_digest,
    new_key,
)


def session(limits: GatewayLimits | None = None, budget: Budget | None = None) -> ModelSession:
    key = new_key()
    return ModelSession(
        "s1",
        key,
        "http://127.0.0.1:1",
        digest=key_digest(key),
        opened_at=time.time(),
        limits=limits or GatewayLimits(),
        budget=budget or Budget(),
    )


def call() -> Call:
    return Call(dialect="chat", messages=[{"role": "user", "content": "hi"}])


def test_addresses_for_clients() -> None:
    made = session()
    assert made.openai_base_url == "http://127.0.0.1:1/v1"
    assert made.anthropic_base_url == "http://127.0.0.1:1"
    assert made.key.startswith("sk-openenv-")
    assert made.key not in repr(made)
    assert made.digest == key_digest(made.key) != made.key


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens must not be negative"):
        Budget(tokens=-1)


@pytest.mark.parametrize(
    "values",
    [{"session_ttl": 0.0}, {"call_timeout": float("nan")}, {"max_attempts": 0}],
)
def test_limits_that_let_nothing_through_are_refused(values: dict[str, Any]) -> None:
    [name] = values
    with pytest.raises(ValueError, match=f"{name} must be more than 0"):
        GatewayLimits(**values)


@pytest.mark.parametrize(
    "values",
    [{"prompt": -1.0, "completion": 1.0}, {"prompt": 1.0, "completion": float("inf")}],
)
def test_prices_by_which_no_budget_could_be_kept_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"a price of .* tokens is a number from 0 on"):
        Prices(**values)


def test_the_cost_of_an_answer() -> None:
    answer = Answer(prompt_tokens=1000, cached_tokens=400, completion_tokens=10)
    assert Prices(prompt=2.0, completion=5.0).cost(answer) == pytest.approx(2.05e-3)
    cheap = Prices(prompt=2.0, completion=5.0, cached=0.5)
    assert cheap.cost(answer) == pytest.approx((600 * 2 + 400 * 0.5 + 50) / 1e6)
    assert cheap.cost(Answer()) == 0.0


def test_calls_within_a_minute_are_counted() -> None:
    made = session(GatewayLimits(max_calls_per_minute=2))
    made.admit(100.0)
    made.admit(130.0)
    with pytest.raises(ServerBusy, match="max_calls_per_minute") as caught:
        made.admit(150.0)
    assert caught.value.retryable
    assert caught.value.detail == {"retry_after": 10.0}
    made.admit(160.0)


def test_an_ended_session_lets_nothing_in() -> None:
    made = session()
    made.is_open = False
    with pytest.raises(SessionClosed, match="s1"):
        made.admit(0.0)


def test_a_session_has_a_last_record() -> None:
    made = session(GatewayLimits(max_records=1))
    assert made.take(call()).record.call_id == "s1-0"
    with pytest.raises(CallRefused, match="max_records"):
        made.take(call())


def test_the_facts_of_a_session_hold_no_key() -> None:
    made = session(budget=Budget(calls=1))
    made.take(call())
    with pytest.raises(BudgetExhausted):
        made.take(call())
    summary = made.summary()
    assert summary["spent"]["calls"] == 1
    assert summary["budget"]["calls"] == 1
    assert made.key not in str(summary)


async def test_each_reader_has_all_pieces() -> None:
    generation = session().take(call())
    first = Reader(generation, wants_pieces=True)
    pieces = [Piece(text=text) for text in "abc"]
    generation.add(pieces[0])
    assert await first.more() == pieces[:1]
    second = Reader(generation, wants_pieces=True)
    waiting = asyncio.ensure_future(first.more())
    await asyncio.sleep(0)
    generation.add(pieces[1])
    generation.add(pieces[2])
    assert await waiting == pieces[1:]
    assert await second.more() == pieces
    whole = Reader(generation, wants_pieces=False)
    waiting = asyncio.ensure_future(whole.more())
    await asyncio.sleep(0)
    generation.finish(Answer(text="abc"))
    assert await waiting == await first.more() == await second.more() == []


async def test_a_reader_that_leaves_waits_no_more() -> None:
    generation = session().take(call())
    reader = Reader(generation, wants_pieces=True)
    waiting = asyncio.ensure_future(reader.more())
    await asyncio.sleep(0)
    reader.leave()
    assert await waiting == []
    assert reader.is_gone
    assert generation.readers == []
    assert not generation.is_done


async def test_pieces_are_passed_on_once_a_client_has_them() -> None:
    generation = session().take(call())
    generation.add(Piece(text="a"))
    assert not generation.is_passed_on
    reader = Reader(generation, wants_pieces=True)
    await reader.more()
    assert generation.is_passed_on
