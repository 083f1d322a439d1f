"""Sessions as HTTP requests name, call and leave them; one reply to each request."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from openenv_async.errors import ServerBusy, SessionClosed
from openenv_async.protocol.codec import encode_map
from openenv_async.protocol.frames import Failed, Opened, Partial, Waiting
from openenv_async.server.http_sessions import OPENING, HttpReplySink, as_error
from tests.helpers import Counter, gated, make_engine
from tests.server.clients import (
    SEQ,
    problem,
    served,
    step,
)

# -- exactly once, busy, disconnect -----------------------------------------------------------


async def test_a_repeated_number_gets_the_kept_reply() -> None:
    async with served() as (http, engine):
        await http.post("/reset", headers={SEQ: "1"})
        first = await http.post("/step", json=step("one"), headers={SEQ: "2"})
        again = await http.post("/step", json=step("one"), headers={SEQ: "2"})
        assert first.json() == again.json()
        other = await http.post("/step", json=step("other"), headers={SEQ: "2"})
        assert problem(other) == (400, "protocol_error")
        assert problem(await http.get("/state", headers={SEQ: "2"})) == (400, "protocol_error")
        assert problem(await http.post("/close", headers={SEQ: "2"})) == (400, "protocol_error")
        assert engine.stats.steps == 1
        assert problem(await http.get("/state", headers={SEQ: "9"})) == (400, "protocol_error")
        assert problem(await http.get("/state", headers={SEQ: "0"})) == (400, "protocol_error")
        state = await http.get("/state")
        assert state.json()["steps"] == 1
        assert state.headers[SEQ] == "3"


async def test_a_kept_reply_is_given_in_the_format_asked_for() -> None:
    async with served() as (http, _):
        await http.post("/reset")
        sent = {SEQ: "2"}
        text = await http.post("/step", json=step("one"), headers=sent)
        packed = await http.post(
            "/step", json=step("one"), headers={**sent, "Accept": "application/msgpack"}
        )
        assert msgspec.msgpack.decode(packed.content)["observation"]["echo"] == "one"
        tagged = await http.post(
            "/step", json=step("one"), headers={**sent, "Accept": "application/openenv+json"}
        )
        assert tagged.json()["observation"]["reward"] == 1.0
        assert text.json()["observation"] == {"echo": "one", "frame": None}


async def test_a_second_call_is_refused() -> None:
    env, gate = gated()
    async with served(env) as (http, _):
        await http.post("/reset")
        first = asyncio.ensure_future(http.post("/step", json={"action": {}}))
        await gate.entered.wait()
        assert problem(await http.get("/state")) == (409, "session_busy")
        gate.opened.set()
        assert (await first).json()["observation"] == {"steps": 1}
        assert (await http.get("/state")).status_code == 200


async def test_two_callers_of_one_number_share_its_reply() -> None:
    env, gate = gated()
    async with served(env) as (http, engine):
        await http.post("/reset")
        calls = [
            asyncio.ensure_future(http.post("/step", json={"action": {}}, headers={SEQ: "2"}))
            for _ in range(2)
        ]
        while engine.stats.duplicates == 0:  # noqa: ASYNC110 - the engine sets no event
            await asyncio.sleep(0.001)
        gate.opened.set()
        assert [(await call).json()["observation"] for call in calls] == [{"steps": 1}] * 2


async def test_a_caller_who_disconnects_cancels_his_step_and_keeps_his_session() -> None:
    env, gate = gated()
    async with served(env) as (http, engine):
        await http.post("/reset")
        call = asyncio.ensure_future(http.post("/step", json={"action": {}}))
        await gate.entered.wait()
        call.cancel()
        await asyncio.wait([call])
        await gate.ended.wait()
        assert gate.cancelled == 1
        gate.opened.set()
        assert (await http.post("/step", json={"action": {}})).json()["observation"] == {"steps": 1}
        assert len(engine.sessions) == 1


async def test_a_numbered_step_outlives_its_connection() -> None:
    env, gate = gated()
    async with served(env) as (http, _):
        await http.post("/reset")
        numbered: dict[str, Any] = {"json": {"action": {}}, "headers": {SEQ: "2"}}
        call = asyncio.ensure_future(http.post("/step", **numbered))
        await gate.entered.wait()
        call.cancel()
        await asyncio.wait([call])
        again = asyncio.ensure_future(http.post("/step", **numbered))
        gate.opened.set()
        assert (await again).json()["observation"] == {"steps": 1}
        assert gate.cancelled == 0


async def test_another_request_cancels_what_was_left_behind() -> None:
    env, gate = gated()
    async with served(env) as (http, engine):
        await http.post("/reset")
        call = asyncio.ensure_future(http.post("/step", json={"action": {}}, headers={SEQ: "2"}))
        await gate.entered.wait()
        call.cancel()
        await asyncio.wait([call])
        [session] = engine.sessions.values()
        while session.sink.orphan is None:  # noqa: ASYNC110 - the sink sets no event
            await asyncio.sleep(0.001)
        assert (await http.get("/state", headers={SEQ: "3"})).status_code == 200
        assert gate.cancelled == 1


async def test_a_deadline_by_body_and_by_header() -> None:
    env, gate = gated()
    async with served(env) as (http, _):
        await http.post("/reset")
        late = await http.post("/step", json={"action": {}, "timeout_s": 0.05})
        assert problem(late) == (504, "deadline_exceeded")
        late = await http.post("/step", json={"action": {}}, headers={"X-OpenEnv-Timeout": "0.05"})
        assert problem(late) == (504, "deadline_exceeded")
        assert gate.cancelled == 2
        wrong = await http.post("/step", json={"action": {}, "timeout_s": 0})
        assert problem(wrong) == (422, "invalid_model")


# -- replies by themselves ------------------------------------------------------------------------


def failed(seq: int, **detail: Any) -> Failed:
    return Failed(1, seq, "server_busy", "full", True, encode_map(detail, "json"))


@pytest.fixture
def sink() -> HttpReplySink:
    return HttpReplySink(make_engine(Counter).codecs("json"))


async def test_a_reply_goes_to_the_calls_of_its_number(sink: HttpReplySink) -> None:
    first, again, other = sink.expect(2), sink.expect(2), sink.expect(3)
    assert first is again
    assert first is not other
    reply = failed(2)
    sink.send(reply)
    assert first.result() is reply
    assert not other.done()
    sink.send(reply)  # nobody waits for it any more
    assert sink.expect(2) is not first


async def test_the_answer_to_open_has_no_number(sink: HttpReplySink) -> None:
    opening, step = sink.expect(OPENING), sink.expect(1)
    sink.send(Partial(1, 1, 0, b"{}"))
    sink.send(Waiting(1, 1, 2))
    assert not opening.done()
    assert not step.done()
    opened = Opened(1, False, 1)
    sink.send(opened)
    assert opening.result() is opened
    assert not step.done()


async def test_the_end_of_a_session_is_every_calls_end(sink: HttpReplySink) -> None:
    calls = [sink.expect(OPENING), sink.expect(1), sink.expect(2)]
    calls[1].cancel()
    reason = SessionClosed("closed")
    session: Any = None
    sink.ended(session, reason)
    assert [call.result() for call in (calls[0], calls[2])] == [reason] * 2
    sink.ended(session, SessionClosed("again"))  # nobody waits


async def test_callers_of_a_number_are_counted(sink: HttpReplySink) -> None:
    sink.enter(2)
    sink.enter(2)
    sink.enter(3)
    assert not sink.leave(2)
    assert sink.leave(2)
    assert sink.leave(3)


async def test_a_caller_who_comes_back_for_an_orphan_adopts_it(sink: HttpReplySink) -> None:
    sink.orphan = 2
    sink.enter(3)
    assert sink.orphan == 2
    sink.enter(2)
    assert sink.orphan is None


def test_a_failure_is_the_typed_error_with_its_detail() -> None:
    error = as_error(failed(1, limit=3), "json")
    assert isinstance(error, ServerBusy)
    assert (error.message, error.retryable, error.detail) == ("full", True, {"limit": 3})
