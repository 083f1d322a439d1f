"""The gateway from end to end: calls come in by HTTP, a scripted engine answers them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trustme
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from openenv_async.errors import (
    CallRefused,
    GoingAway,
    JournalFailed,
    OperationUnsupported,
    ResponderUnavailable,
    ServerBusy,
    SessionNotFound,
)
from openenv_async.gateway.calls import Answer, Call, CallRecord, Piece
from openenv_async.gateway.gateway import Gateway
from openenv_async.gateway.histories import PackedCall
from openenv_async.gateway.journal import Journal
from openenv_async.gateway.sessions import Budget, GatewayLimits, Prices
from tests.gateway.scripted import (
    ROUTES,
    Client,
    FullJournal,
    ScriptedEngine,
    answer,
    eventually,
    gated,
    hello,
)


def bytes_of(folder: Path) -> bytes:
    return b"".join(each.read_bytes() for each in folder.iterdir() if each.is_file())


async def test_a_call_is_answered_and_recorded() -> None:
    engine = ScriptedEngine()
    async with Gateway(engine, routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            reply = await client.ask({"say": "hi", "model": "some-model"})
        assert (reply.status, reply.json) == (200, {"id": f"{session.id}-0", "text": "hello"})
        await eventually(lambda: session.records[0].deliveries == ["whole"])
        [record] = session.records
        assert record.messages == [{"role": "user", "content": "hi"}]
        assert record.asked_model == "some-model"
        assert record.answer == answer()
        assert record.attempts == 1
        assert record.seconds > 0
        assert session.spent.calls == 1
        assert session.spent.tokens == 3 + 5


async def test_pieces_pass_on_as_they_come() -> None:
    gate = asyncio.Event()
    async with Gateway(ScriptedEngine(gated(gate)), routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", b'{"say": "hi", "stream": true}')
            head = await client.until(b"piece he\n")
            assert b"text/event-stream" in head
            assert not session.records  # the engine is not at its end
            gate.set()
            rest = await client.until(b"0\r\n\r\n")
            assert b"piece llo\n" in rest
            assert b"end\n" in rest
        await eventually(lambda: session.records[0].deliveries == ["whole"])


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_failed_engine_is_asked_again(is_streamed: bool) -> None:
    async def script(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        if attempt == 0:
            raise ResponderUnavailable("the engine is away", retry_after=0.0)
        async for part in hello(call, attempt):
            yield part

    async with Gateway(ScriptedEngine(script), routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            reply = await client.ask({"say": "hi", "stream": is_streamed})
        assert reply.status == 200
        assert session.records[0].attempts == 2


async def test_an_engine_that_fails_for_good_is_an_error_of_the_dialect() -> None:
    async def script(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        if call.is_streamed:  # it is never taken for passed on: it comes with the error
            yield Piece(text="")
        raise ResponderUnavailable("the engine is away", retry_after=0.0, status=503)

    engine = ScriptedEngine(script)
    async with Gateway(engine, routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            reply = await client.ask({"say": "hi"})
        assert reply.status == 503
        assert reply.json["error"] == "responder_unavailable"
        await eventually(lambda: session.records[0].deliveries == ["error"])
        [record] = session.records
        assert record.error == ("responder_unavailable", "the engine is away")
        assert record.answer is None
        assert record.attempts == len(engine.calls) == 3
        assert session.spent.calls == 0


async def test_a_stream_that_the_engine_cut_does_not_end_cleanly() -> None:
    gate = asyncio.Event()

    async def script(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        yield Piece(text="he")
        await gate.wait()
        raise ResponderUnavailable("the stream was cut")

    engine = ScriptedEngine(script)
    async with Gateway(engine, routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", b'{"say": "hi", "stream": true}')
            await client.until(b"piece he\n")
            gate.set()
            rest = await client.rest()
        assert b"fail responder_unavailable\n" in rest
        assert b"end\n" not in rest
        assert not rest.endswith(b"0\r\n\r\n")  # nor does HTTP say that this was all
        assert session.records[0].deliveries == ["error"]
        assert len(engine.calls) == 1  # what was passed on cannot be taken back


async def test_the_engine_goes_on_when_a_client_leaves() -> None:
    gate = asyncio.Event()
    async with Gateway(ScriptedEngine(gated(gate)), routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", b'{"say": "hi", "stream": true}')
            await client.until(b"piece he\n")
            client.leave()
        await eventually(lambda: session.running[0].sample.deliveries == ["broken"])
        gate.set()
        await eventually(lambda: bool(session.records))
        assert session.records[0].answer == answer()


async def test_a_client_that_leaves_ends_the_call_as_set() -> None:
    engine = ScriptedEngine(gated(asyncio.Event()))
    async with Gateway(engine, routes=ROUTES, on_leave="cancel") as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", b'{"say": "hi"}')
            await eventually(lambda: bool(engine.calls))
            client.leave()
        await eventually(lambda: bool(session.records))
        assert engine.cut == 1
        error = session.records[0].error
        assert error is not None
        assert error[0] == "cancelled"


async def test_a_key_opens_its_session_and_ends_with_it() -> None:
    async with Gateway(ScriptedEngine(), routes=ROUTES) as gateway:
        one, two = await gateway.open(), await gateway.open()
        async with Client(gateway.url, one.key) as client:
            assert (await client.ask({"say": "hi"})).status == 200
            await gateway.end(one)
            refused = await client.ask({"say": "hi"})
            assert refused.status == 401
            assert refused.headers["x-should-retry"] == "false"
        assert [len(one.records), len(two.records)] == [1, 0]
        async with Client(gateway.url, "") as client:
            assert (await client.ask({"say": "hi"})).status == 401
            assert (await client.ask({"say": "hi"}, x_api_key=two.key)).status == 200
        with pytest.raises(SessionNotFound, match=one.id):
            gateway.session(one.id)


async def test_calls_that_run_are_cut_with_their_session() -> None:
    engine = ScriptedEngine(gated(asyncio.Event()))
    async with Gateway(engine, routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", b'{"say": "hi"}')
            await eventually(lambda: bool(engine.calls))
            await gateway.end(session)
            assert (await client.reply()).json["error"] == "session_closed"
        assert engine.cut == 1
    with pytest.raises(GoingAway):
        await gateway.open()


async def test_a_budget_is_kept() -> None:
    prices = Prices(prompt=1e6, completion=2e6)
    async with Gateway(ScriptedEngine(), routes=ROUTES, prices=prices) as gateway:
        for budget, words in (
            (Budget(calls=1), "all its 1 calls"),
            (Budget(tokens=8), "8 of its 8 tokens"),
            (Budget(cost=13.0), "13 of its 13 in cost"),
            (Budget(seconds=0), "its 0 seconds"),
        ):
            session = await gateway.open(budget=budget)
            async with Client(gateway.url, session.key) as client:
                if budget.seconds is None:
                    assert (await client.ask({"say": "hi"})).status == 200
                refused = await client.ask({"say": "hi"})
            assert (refused.status, refused.json["error"]) == (400, "budget_exhausted")
            assert words in refused.json["why"]
            assert refused.headers["x-should-retry"] == "false"


async def test_time_that_is_over_ends_a_call() -> None:
    engine = ScriptedEngine(gated(asyncio.Event()))
    async with Gateway(engine, routes=ROUTES, limits=GatewayLimits(call_timeout=0.05)) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            reply = await client.ask({"say": "hi"})
            assert (reply.status, reply.json["error"]) == (504, "deadline_exceeded")
        session = await gateway.open(budget=Budget(seconds=0.02))
        async with Client(gateway.url, session.key) as client:
            reply = await client.ask({"say": "hi"})
            assert (reply.status, reply.json["error"]) == (400, "budget_exhausted")


async def test_a_time_limit_of_the_samplers_own_is_told_as_its_own() -> None:
    async def script(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        yield Piece(text="he")
        raise TimeoutError

    async with Gateway(ScriptedEngine(script), routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            assert (await client.ask({"say": "hi"})).json["error"] == "responder_failed"
        [record] = session.records
        assert record.error == ("responder_failed", "the engine's client raised TimeoutError")


async def test_a_budget_that_nobody_counts_is_refused() -> None:
    async def script(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        yield Answer(text="hello")

    async with Gateway(ScriptedEngine(script), routes=ROUTES) as gateway:
        session = await gateway.open(budget=Budget(tokens=1000))
        async with Client(gateway.url, session.key) as client:
            assert (await client.ask({"say": "hi"})).status == 200
            assert "the engine told no usage" in (await client.ask({"say": "hi"})).json["why"]


async def test_limits_are_refused_by_name() -> None:
    limits = GatewayLimits(
        max_body_size=100, max_calls_per_minute=3, max_concurrent=1, max_sessions=2
    )
    gate = asyncio.Event()
    async with Gateway(ScriptedEngine(gated(gate)), routes=ROUTES, limits=limits) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as one, Client(gateway.url, session.key) as two:
            await one.send("/plain", b'{"say": "hi"}')
            await eventually(lambda: bool(session.running))
            refused = await two.ask({"say": "hi"})
            assert (refused.status, refused.headers["retry-after"]) == (503, "1.0")
            assert "max_concurrent" in refused.json["why"]
            gate.set()
            assert (await one.reply()).status == 200
            large = await one.ask({"say": "hi" * 100})
            assert large.status == 413
            assert "max_body_size" in large.json["why"]
        async with Client(gateway.url, session.key) as client:
            assert (await client.ask({"say": "hi"})).status == 200
            refused = await client.ask({"say": "hi"})
            assert refused.status == 503
            assert "max_calls_per_minute" in refused.json["why"]
        await gateway.open()
        with pytest.raises(ServerBusy, match="max_sessions"):
            await gateway.open()


async def test_requests_that_are_still_sent_count_as_well() -> None:
    limits = GatewayLimits(max_concurrent=2)
    body = b'{"say": "hi"}'
    async with contextlib.AsyncExitStack() as stack:
        gateway = await stack.enter_async_context(
            Gateway(ScriptedEngine(), routes=ROUTES, limits=limits)
        )
        session = await gateway.open()
        clients = [
            await stack.enter_async_context(Client(gateway.url, session.key)) for _ in range(3)
        ]
        for client in clients[:2]:
            await client.send("/plain", content_length=str(len(body)))
        await eventually(lambda: session.requests == 2)
        refused = await clients[2].ask({"say": "more"})
        assert (refused.status, refused.json["error"]) == (503, "server_busy")
        clients[0].leave()
        await eventually(lambda: session.requests == 1)
        assert (await clients[2].ask({"say": "more"})).status == 200
        await clients[1].send_more(body)
        assert (await clients[1].reply()).status == 200
        await eventually(lambda: session.requests == 0)


async def test_calls_whose_clients_left_count_as_well() -> None:
    gate = asyncio.Event()
    limits = GatewayLimits(max_concurrent=2)
    async with Gateway(ScriptedEngine(gated(gate)), routes=ROUTES, limits=limits) as gateway:
        session = await gateway.open()
        for count, say in enumerate(("one", "two"), 1):
            async with Client(gateway.url, session.key) as client:
                await client.send("/plain", json.dumps({"say": say}).encode())
                await eventually(lambda count=count: len(session.running) == count)  # type: ignore[misc]
                client.leave()
        await eventually(lambda: session.requests == 0)
        async with Client(gateway.url, session.key) as client:
            assert (await client.ask({"say": "three"})).status == 503
            await client.send("/plain", b'{"say": "two"}')
            await eventually(lambda: session.requests == 1)
            gate.set()
            assert (await client.reply()).json["id"] == f"{session.id}-1"


@pytest.mark.parametrize("what", ["session", "gateway"])
async def test_nothing_is_sampled_for_a_request_that_outlives(what: str) -> None:
    engine = ScriptedEngine()
    body = b'{"say": "hi"}'
    async with Gateway(engine, routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", content_length=str(len(body)))
            await eventually(lambda: session.requests == 1)
            if what == "session":
                await gateway.end(session)
            else:
                await gateway.drain(0.0)
            await client.send_more(body)
            reply = await client.reply()
        expected = (409, "session_closed") if what == "session" else (503, "going_away")
        assert (reply.status, reply.json["error"]) == expected
        assert not engine.calls


async def test_sessions_that_open_at_once_are_counted(tmp_path: Path) -> None:
    limits = GatewayLimits(max_sessions=2)
    async with (
        Journal.open(tmp_path, fsync="answer") as journal,
        Gateway(ScriptedEngine(), routes=ROUTES, journal=journal, limits=limits) as gateway,
    ):
        made = await asyncio.gather(*(gateway.open() for _ in range(4)), return_exceptions=True)
        assert sum(isinstance(each, ServerBusy) for each in made) == 2
        assert len(gateway.sessions()) == 2
        await gateway.end(gateway.sessions()[0])
        await gateway.open()


async def test_a_budget_of_cost_needs_prices() -> None:
    async with Gateway(ScriptedEngine(), routes=ROUTES) as gateway:
        with pytest.raises(CallRefused, match="needs prices"):
            await gateway.open(budget=Budget(cost=1.0))


async def test_unknown_paths_and_methods_are_told() -> None:
    async with Gateway(ScriptedEngine(), routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            reply = await client.ask({}, "/nothing")
            assert (reply.status, reply.json["error"]["code"]) == (404, "call_refused")
            reply = await client.ask({}, "/v1/nothing")
            assert (reply.status, reply.json["error"]["code"]) == (404, "call_refused")
            await client.send("/plain", method="GET")
            assert (await client.reply()).status == 405


async def test_an_engine_client_is_asked_to_its_end() -> None:
    """Its place among the calls under way, and all else that it holds, is free by then."""
    ended = asyncio.Event()

    async def script(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        yield answer()
        ended.set()

    async with Gateway(ScriptedEngine(script), routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            assert (await client.ask({"say": "hi"})).status == 200
            assert ended.is_set()


async def test_a_retry_after_a_broken_answer_joins_it_and_then_gets_the_kept_one() -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(gated(gate))
    async with Gateway(engine, routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", b'{"say": "hi", "stream": true}')
            await client.until(b"piece he\n")
            client.leave()
        await eventually(lambda: session.running[0].sample.deliveries == ["broken"])
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", b'{"say": "hi", "stream": true}')
            await client.until(b"piece he\n")  # joined: from the start
            gate.set()
            assert b"end\n" in await client.until(b"0\r\n\r\n")
        await eventually(lambda: session.records[0].deliveries == ["broken", "whole"])
        assert len(engine.calls) == 1
        assert gateway.stats()["counts"] == {
            "broken": 1,
            "joins": 1,
            "samples": 1,
            "sessions": 1,
            "whole": 1,
        }


async def test_a_kept_answer_goes_out_again() -> None:
    gate = asyncio.Event()
    engine = ScriptedEngine(gated(gate))
    async with Gateway(engine, routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", b'{"say": "hi"}')
            await eventually(lambda: bool(engine.calls))
            client.leave()
        await eventually(lambda: session.running[0].sample.deliveries == ["broken"])
        gate.set()
        await eventually(lambda: bool(session.records))
        async with Client(gateway.url, session.key) as client:
            reply = await client.ask({"say": "hi", "stream": True})
            assert reply.body == f"begin {session.id}-0\npiece hello\nend\n".encode()
            await eventually(lambda: session.records[0].deliveries == ["broken", "whole"])
            # Had whole now: the same request is a sample of its own, and said to be ambiguous.
            assert (await client.ask({"say": "hi"})).json["id"] == f"{session.id}-1"
        assert [each.ambiguous for each in session.records] == [None, 0]
        assert len(engine.calls) == 2


async def test_an_answer_that_one_agent_had_goes_to_no_other() -> None:
    """An equal request of another agent, whose earlier ones were lost, looks like a retry.

    It is counted, there was an error before, and then the connection has ended over which the
    answer went out.
    """
    down = True

    async def script(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        if down:
            yield Piece(text="he")
            raise ResponderUnavailable("the stream was cut")
        async for part in hello(call, attempt):
            yield part

    retry = {"x_stainless_retry_count": "2"}
    asked = {"say": "hi", "stream": True}
    async with Gateway(ScriptedEngine(script), routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            assert not (await client.ask(asked)).is_whole
        down = False
        async with Client(gateway.url, session.key) as client:
            reply = await client.ask(asked, **retry)
            assert (reply.headers["x-request-id"], reply.is_whole) == (f"{session.id}-0", True)
            async with Client(gateway.url, session.key) as other:
                reply = await other.ask(asked, **retry)
                assert reply.headers["x-request-id"] == f"{session.id}-1"
        async with Client(gateway.url, session.key) as client:  # both connections have ended
            reply = await client.ask(asked, **retry)
            assert reply.headers["x-request-id"] == f"{session.id}-2"
        await eventually(lambda: session.records[2].deliveries == ["whole"])
        deliveries = [each.deliveries for each in session.records]
        assert deliveries == [["error", "whole"], ["whole"], ["whole"]]
        assert [each.ambiguous for each in session.records] == [None, 0, 1]


class CopiedJournal(Journal):
    """A journal that is copied before and after each note that the end of an answer leaves.

    So a gateway that is opened on a copy begins where ``kill -9`` would have ended this one.
    """

    is_full = False

    def __init__(self, path: Path, copies: Path) -> None:
        opened = Journal.open(path)
        self.__dict__ = opened.__dict__
        self.copies = copies

    def leaving(self, session: str, number: int) -> None:
        if self.is_full:
            raise JournalFailed("there is no room on the disk", retryable=True)
        shutil.copytree(self.path, self.copies / "before")
        super().leaving(session, number)
        shutil.copytree(self.path, self.copies / "after")


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_kill_before_the_end_of_an_answer_leaves_keeps_it_and_one_after_takes_it(
    tmp_path: Path, is_streamed: bool
) -> None:
    asked = {"say": "hi", "stream": is_streamed}
    async with (
        CopiedJournal(tmp_path / "journal", tmp_path) as journal,
        Gateway(ScriptedEngine(), routes=ROUTES, journal=journal) as gateway,
    ):
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            assert (await client.ask(asked)).status == 200
    # The client had not the end: its retry gets what was sampled.
    # It had the end: the request is of another agent, whose own sample died with the gateway.
    for killed, number, ambiguous in (("before", 0, [None]), ("after", 1, [None, 0])):
        engine = ScriptedEngine()
        async with Gateway(engine, routes=ROUTES, journal=tmp_path / killed) as gateway:
            async with Client(gateway.url, session.key) as client:
                reply = await client.ask(asked)
                assert f"{session.id}-{number}".encode() in reply.body
            [kept] = gateway.sessions()
            assert [each.ambiguous for each in kept.records] == ambiguous
        assert len(engine.calls) == number


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_an_answer_does_not_end_when_that_cannot_be_noted(
    tmp_path: Path, is_streamed: bool
) -> None:
    asked = {"say": "hi", "stream": is_streamed}
    engine = ScriptedEngine()
    async with CopiedJournal(tmp_path / "journal", tmp_path) as journal:
        journal.is_full = True
        async with Gateway(engine, routes=ROUTES, journal=journal) as gateway:
            session = await gateway.open()
            async with Client(gateway.url, session.key) as client:
                reply = await client.ask(asked)
                assert b"journal_failed" in reply.body
                assert (reply.status, reply.is_whole) == (
                    (200, False) if is_streamed else (500, True)
                )
            async with Client(gateway.url, session.key) as client:
                reply = await client.ask(asked)  # a kept answer as well
                assert (reply.status, reply.json["error"]) == (500, "journal_failed")
                journal.is_full = False
                reply = await client.ask(asked)
                assert f"{session.id}-0".encode() in reply.body
                assert reply.is_whole
            await eventually(lambda: session.records[0].deliveries == ["error", "error", "whole"])
    assert len(engine.calls) == 1


async def test_an_answer_that_was_left_unread_goes_out_again() -> None:
    async with Gateway(ScriptedEngine(), routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", b'{"say": "hi"}')
            client.pause()
            await eventually(lambda: [each.deliveries for each in session.records] == [["whole"]])
            client.leave()  # with the answer unread: the system resets the connection
        await eventually(lambda: session.records[0].deliveries == ["broken"])
        async with Client(gateway.url, session.key) as client:
            assert (await client.ask({"say": "hi"})).json["id"] == f"{session.id}-0"


async def test_an_answer_that_left_after_its_client_goes_out_again() -> None:
    """The client closes its connection, and the end of its answer leaves before that is seen."""
    has_read = asyncio.Event()
    client = socket.socket()
    client.setblocking(False)

    async def script(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        yield Piece(text="he")
        await has_read.wait()
        client.close()
        yield answer()

    engine = ScriptedEngine(script)
    async with Gateway(engine, routes=ROUTES) as gateway:
        session = await gateway.open()
        loop, at = asyncio.get_running_loop(), urlsplit(gateway.url)
        await loop.sock_connect(client, (at.hostname, at.port))
        body = b'{"say": "hi", "stream": true}'
        head = f"host: x\r\nx-api-key: {session.key}\r\ncontent-length: {len(body)}\r\n\r\n"
        await loop.sock_sendall(client, b"POST /plain HTTP/1.1\r\n" + head.encode() + body)
        read = b""
        while b"piece he\n" not in read:
            read += await loop.sock_recv(client, 1000)
        has_read.set()
        await eventually(lambda: gateway.stats()["counts"].get("whole") == 1)  # as it seemed
        await eventually(lambda: [each.deliveries for each in session.records] == [["broken"]])
        async with Client(gateway.url, session.key) as again:
            assert (await again.ask({"say": "hi"})).json["id"] == f"{session.id}-0"
    assert len(engine.calls) == 1


async def test_an_answer_that_was_left_unread_goes_out_again_after_a_restart(
    tmp_path: Path,
) -> None:
    async with Gateway(ScriptedEngine(), routes=ROUTES, journal=tmp_path) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", b'{"say": "hi"}')
            client.pause()
            await eventually(lambda: [each.deliveries for each in session.records] == [["whole"]])
            client.leave()
        await eventually(lambda: session.records[0].deliveries == ["broken"])
    async with Gateway(ScriptedEngine(), routes=ROUTES, journal=tmp_path) as gateway:
        [kept] = gateway.sessions()
        assert kept.records[0].deliveries == ["broken"]
        async with Client(gateway.url, session.key) as client:
            assert (await client.ask({"say": "hi"})).json["id"] == f"{session.id}-0"


async def test_a_call_that_failed_is_asked_again_under_its_number() -> None:
    down = True

    async def script(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        if down:
            raise ResponderUnavailable("the engine is away", retry_after=60.0)
        async for part in hello(call, attempt):
            yield part

    async with Gateway(ScriptedEngine(script), routes=ROUTES) as gateway:
        session = await gateway.open(budget=Budget(calls=1))
        async with Client(gateway.url, session.key) as client:
            assert (await client.ask({"say": "hi"})).status == 502
            down = False
            assert (await client.ask({"say": "hi"})).json["id"] == f"{session.id}-0"
        [record] = session.records
        await eventually(lambda: session.records[0].deliveries == ["error", "whole"])
        assert record.error is None
        assert session.spent.calls == 1


async def test_two_equal_calls_at_once_are_two_samples() -> None:
    gate = asyncio.Event()
    async with Gateway(ScriptedEngine(gated(gate)), routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as one, Client(gateway.url, session.key) as two:
            await one.send("/plain", b'{"say": "hi"}')
            await two.send("/plain", b'{"say": "hi"}')
            await eventually(lambda: len(session.running) == 2)
            gate.set()
            ids = {(await each.reply()).json["id"] for each in (one, two)}
        assert ids == {f"{session.id}-0", f"{session.id}-1"}


async def test_sessions_go_on_after_a_restart(tmp_path: Path) -> None:
    prices = Prices(prompt=1.0, completion=1.0)
    budget = Budget(calls=2, cost=1.0)
    async with Gateway(ScriptedEngine(), routes=ROUTES, journal=tmp_path) as gateway:
        session = await gateway.open(budget=budget, prices=prices)
        ended = await gateway.open()
        await gateway.end(ended)
        async with Client(gateway.url, session.key) as client:
            assert (await client.ask({"say": "hi"})).status == 200
        before = session.records
    engine = ScriptedEngine()
    async with Gateway(engine, routes=ROUTES, journal=tmp_path) as gateway:
        [again] = gateway.sessions()
        assert (again.id, again.key, again.budget) == (session.id, "", budget)
        assert again.spent == session.spent
        assert again.records == before
        assert again.url == gateway.url
        async with Client(gateway.url, ended.key) as client:
            assert (await client.ask({"say": "hi"})).status == 401
        async with Client(gateway.url, session.key) as client:
            assert (await client.ask({"say": "more"})).json["id"] == f"{session.id}-1"
            assert (await client.ask({"say": "yet more"})).json["error"] == "budget_exhausted"
    assert session.key.encode() not in bytes_of(tmp_path)


async def test_keys_are_known_before_anybody_can_show_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents do not ask again after 401, so that none may be told so in a restart."""
    async with Gateway(ScriptedEngine(), routes=ROUTES, journal=tmp_path) as gateway:
        session = await gateway.open()
    begun = Gateway(ScriptedEngine(), routes=ROUTES, journal=tmp_path)
    listens, replies = begun._listen, []

    async def asked(host: str, port: int, tls: Mapping[str, Any]) -> str:
        url = await listens(host, port, tls)
        async with Client(url, session.key) as client:
            replies.append(await client.ask({"say": "hi"}))
        return url

    monkeypatch.setattr(begun, "_listen", asked)
    async with begun:
        assert [reply.status for reply in replies] == [200]


async def test_an_address_with_a_certificate(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(chain)
    certificate.private_key_pem.write_to_path(key)
    gateway = Gateway(
        ScriptedEngine(), routes=ROUTES, ssl_certfile=str(chain), ssl_keyfile=str(key)
    )
    async with gateway:
        session = await gateway.open()
        assert session.openai_base_url.startswith("https://127.0.0.1:")
        trusted = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        async with httpx.AsyncClient(verify=trusted) as client:
            headers = {"authorization": f"Bearer {session.key}"}
            asked = await client.post(f"{gateway.url}/plain", json={"say": "hi"}, headers=headers)
        assert asked.json()["text"] == "hello"


async def test_an_answer_without_a_delivery_goes_out_again_after_a_restart(tmp_path: Path) -> None:
    gate = asyncio.Event()
    first = ScriptedEngine(gated(gate))
    async with Gateway(first, routes=ROUTES, journal=tmp_path) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", b'{"say": "hi"}')
            await eventually(lambda: bool(first.calls))
            client.leave()
        await eventually(lambda: session.running[0].sample.deliveries == ["broken"])
        gate.set()
        await eventually(lambda: bool(session.records))
    engine = ScriptedEngine()
    async with Gateway(engine, routes=ROUTES, journal=tmp_path) as gateway:
        async with Client(gateway.url, session.key) as client:
            assert (await client.ask({"say": "hi"})).json == {
                "id": f"{session.id}-0",
                "text": "hello",
            }
        [again] = gateway.sessions()
        await eventually(lambda: again.records[0].deliveries == ["broken", "whole"])
    assert engine.calls == []


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_journal_that_fails_is_an_error_and_answers_nothing(
    tmp_path: Path, is_streamed: bool
) -> None:
    journal = FullJournal(tmp_path)
    engine = ScriptedEngine()
    async with Gateway(engine, routes=ROUTES, journal=journal) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            journal.is_full = True
            for _ in range(2):
                reply = await client.ask({"say": "hi"})
                assert (reply.status, reply.json["error"]) == (500, "journal_failed")
            journal.is_full = False
            reply = await client.ask({"say": "hi", "stream": is_streamed})
            assert f"{session.id}-0".encode() in reply.body
            assert b"hello" in reply.body
        [record] = session.records
        assert record.answer == answer()
        assert len(engine.calls) == 1  # what was sampled is written by the retry
        assert session.spent.calls == 1
        assert session.spent.tokens == 3 + 5
    await journal.aclose()


class StubbornEngine(ScriptedEngine):
    """An engine that goes on when it is cancelled, until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = asyncio.Event()
        self.ended = 0

    async def sample(
        self, call: Call, *, session: str, attempt: int = 0
    ) -> AsyncIterator[Piece | Answer]:
        while not self.let_go.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.let_go.wait()
        self.ended += 1
        yield answer()


@pytest.mark.parametrize("by", ["end", "aclose"])
async def test_a_sampler_that_lets_no_cancellation_through_holds_nobody_up(
    by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("openenv_async.gateway.gateway._ENDING", 0.05)
    engine = StubbornEngine()
    try:
        async with asyncio.timeout(10):
            kept = tmp_path if by == "aclose" else None
            async with Gateway(engine, routes=ROUTES, journal=kept) as gateway:
                session = await gateway.open()
                async with Client(gateway.url, session.key) as client:
                    await client.send("/plain", b'{"say": "hi"}')
                    await eventually(lambda: bool(session.running))
                    task = session.running[0].task
                    if by == "end":
                        await gateway.end(session)
                    else:
                        await gateway.aclose()
                    reply = await client.reply()
                    assert reply.json["error"] == "responder_failed"
                    assert "StubbornEngine did not end call" in reply.json["why"]
                assert session.running == {}
                assert gateway.running == 0
                assert "let asyncio.CancelledError through" in caplog.text
    finally:
        engine.let_go.set()
    assert task is not None
    await eventually(task.done)
    assert (engine.ended, task.exception()) == (1, None)
    [record] = session.records
    assert record.error is not None
    assert record.answer is None
    assert gateway.running == 0


async def test_an_answer_on_its_way_to_the_journal_is_kept_at_the_end(tmp_path: Path) -> None:
    writing, may_write = asyncio.Event(), asyncio.Event()

    class SlowJournal(FullJournal):
        async def answered(self, record: CallRecord, packed: PackedCall | None = None) -> None:
            writing.set()
            await may_write.wait()
            await super().answered(record, packed)

    async with (
        SlowJournal(tmp_path) as journal,
        Gateway(ScriptedEngine(), routes=ROUTES, journal=journal) as gateway,
    ):
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", b'{"say": "hi"}')
            await writing.wait()
            ending = asyncio.create_task(gateway.end(session))
            await asyncio.sleep(0)
            may_write.set()
            await ending
            assert (await client.reply()).json["text"] == "hello"
        assert session.records[0].answer == answer()


async def test_a_client_that_stalls_amid_its_body_holds_no_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = GatewayLimits(body_timeout=0.05, session_ttl=0.3)
    async with Gateway(ScriptedEngine(), routes=ROUTES, limits=limits) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", b'{"say":', content_length="13")
            reply = await client.reply()
            assert (reply.status, reply.json["error"]) == (408, "call_refused")
            assert "did not come whole within 0.05 s" in reply.json["why"]
            assert await client.rest() == b""
            await eventually(lambda: not session.is_open)
        assert session.records == []
    assert caplog.records == []


class CountedWrites:
    """A transport that notes what it is given to send."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_is_there_leaves_in_one_piece(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each send is a call of the system, and wakes the client."""
    made: list[CountedWrites] = []
    begin: Any = HttpToolsProtocol.connection_made

    def connection_made(self: Any, transport: Any) -> None:
        made.append(CountedWrites(transport))
        begin(self, made[-1])

    monkeypatch.setattr(HttpToolsProtocol, "connection_made", connection_made)
    async with Gateway(ScriptedEngine(), routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            for _ in range(2):
                reply = await client.ask({"say": "hi", "stream": stream})
                assert reply.status == 200
    [connection] = made
    assert len(connection.sent) == 2


@pytest.mark.parametrize("by", ["end", "aclose"])
@pytest.mark.parametrize("stalls", ["reading", "sending"])
async def test_the_end_cuts_clients_that_stall(
    by: str, stalls: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("openenv_async.gateway.gateway._LAST_BYTES", 0.05)

    async def long(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        for _ in range(64):
            yield Piece(text="x" * 2**20)
        yield answer("x" * 2**26)

    async with Gateway(ScriptedEngine(long), routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            if stalls == "reading":
                client.pause()
                await client.send("/plain", b'{"say": "hi", "stream": true}')
                await eventually(lambda: bool(session.records))
            else:
                await client.send("/plain", b'{"say":', content_length="13")
                await eventually(lambda: bool(session.requests))
            async with asyncio.timeout(5):
                await (gateway.end(session) if by == "end" else gateway.aclose())
                await eventually(lambda: not session.requests)
    assert caplog.records == []


async def test_idle_sessions_end() -> None:
    limits = GatewayLimits(session_ttl=0.01)
    async with Gateway(ScriptedEngine(), routes=ROUTES, limits=limits) as gateway:
        session = await gateway.open()
        await eventually(lambda: not session.is_open)
        async with Client(gateway.url, session.key) as client:
            assert (await client.ask({"say": "hi"})).status == 401


async def test_a_session_that_is_used_while_idle_ones_end_stays(tmp_path: Path) -> None:
    ending, may_end = asyncio.Event(), asyncio.Event()

    class SlowJournal(FullJournal):
        async def ended(self, session: str) -> None:
            ending.set()
            await may_end.wait()
            await super().ended(session)

    async with (
        SlowJournal(tmp_path) as journal,
        Gateway(
            ScriptedEngine(),
            routes=ROUTES,
            journal=journal,
            limits=GatewayLimits(session_ttl=3600.0),
        ) as gateway,
    ):
        first, second = await gateway.open(), await gateway.open()
        for session in (first, second):
            session.used_at -= 4000.0
        gateway._sweep()
        await ending.wait()
        async with Client(gateway.url, second.key) as client:
            assert (await client.ask({"say": "hi"})).status == 200
            closing = asyncio.create_task(gateway.aclose())
            await asyncio.sleep(0)
            assert not closing.done()  # it waits for what it began
            may_end.set()
            await closing
        assert [each.id for each in gateway.sessions()] == [second.id]
        assert not [each for each in asyncio.all_tasks() if "_end_idle" in repr(each)]


async def test_one_more_address() -> None:
    async with Gateway(ScriptedEngine(), routes=ROUTES) as gateway:
        session = await gateway.open()
        url = await gateway.listen("127.0.0.1")
        kept = await gateway.reachable_at("127.0.0.1")
        assert len({url, kept, gateway.url}) == 3
        assert await gateway.reachable_at("127.0.0.1") == kept
        async with Client(kept, session.key) as client:
            assert (await client.ask({"say": "hi"})).status == 200


async def test_calls_over_one_more_address_are_told_of_the_end() -> None:
    async with Gateway(ScriptedEngine(gated(asyncio.Event())), routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(await gateway.listen("127.0.0.1"), session.key) as client:
            await client.send("/plain", b'{"say": "hi"}')
            await eventually(lambda: bool(session.running))
            closing = asyncio.create_task(gateway.aclose())
            reply = await client.reply()
            assert (reply.status, reply.json["error"]) == (503, "going_away")
            await closing


async def test_a_closed_gateway_does_not_listen() -> None:
    gateway = Gateway(ScriptedEngine(), routes=ROUTES)
    with pytest.raises(GoingAway):
        await gateway.listen("127.0.0.1")
    async with gateway:
        pass
    with pytest.raises(GoingAway):
        await gateway.reachable_at("127.0.0.1")


async def test_a_gateway_that_drains_lets_calls_end_and_takes_no_more() -> None:
    gate = asyncio.Event()
    async with Gateway(ScriptedEngine(gated(gate)), routes=ROUTES) as gateway:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as one, Client(gateway.url, session.key) as two:
            await one.send("/plain", b'{"say": "hi"}')
            await eventually(lambda: bool(session.running))
            draining = asyncio.create_task(gateway.drain(10.0))
            await asyncio.sleep(0)
            refused = await two.ask({"say": "more"})
            assert (refused.status, refused.json["error"]) == (503, "going_away")
            await two.send("/healthz", method="GET")
            health = await two.reply()
            assert (health.status, health.json) == (503, {"status": "draining"})
            gate.set()
            assert (await one.reply()).status == 200
            await draining


async def test_versions_need_an_engine_that_has_them() -> None:
    async with Gateway(ScriptedEngine(), routes=ROUTES) as gateway:
        with pytest.raises(OperationUnsupported, match="ScriptedEngine has no publish"):
            gateway.publish(3)


def test_settings_of_unknown_values_are_refused() -> None:
    with pytest.raises(ValueError, match="system is 'anywhere' or 'first'"):
        Gateway(ScriptedEngine(), system="last")  # type: ignore[arg-type]  # the test is that
    with pytest.raises(ValueError, match="on_leave is 'finish' or 'cancel'"):
        Gateway(ScriptedEngine(), on_leave="wait")  # type: ignore[arg-type]  # the test is that


async def test_system_messages_are_put_first_for_models_that_take_one() -> None:
    asked = {
        "messages": [
            {"role": "developer", "content": "a"},
            {"role": "user", "content": "b"},
            {"role": "system", "content": "c"},
        ]
    }
    for system, roles in (
        ("anywhere", ["system", "user", "system"]),
        ("first", ["system", "user", "user"]),
    ):
        engine = ScriptedEngine()
        async with Gateway(engine, system=system) as gateway:  # type: ignore[arg-type]
            session = await gateway.open()
            async with Client(gateway.url, session.key) as client:
                assert (await client.ask(asked, "/v1/chat/completions")).status == 200
            [record] = session.records
        assert [message["role"] for message in engine.calls[0].messages] == roles
        assert [message["role"] for message in record.messages] == roles


async def test_its_application_runs_on_another_server() -> None:
    async def script(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        yield Piece(text="he")
        await passed_on.wait()
        raise ResponderUnavailable("the stream was cut")

    passed_on = asyncio.Event()
    async with Gateway(ScriptedEngine(script), routes=ROUTES) as gateway:
        session = await gateway.open()
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            body = b'{"say": "hi", "stream": true}'
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)
            passed_on.set()

        headers = [(b"x-api-key", session.key.encode())]
        scope = {"type": "http", "method": "POST", "path": "/plain", "headers": headers}
        await gateway.app(scope, receive, send)
    assert [message["type"] for message in sent[:1]] == ["http.response.start"]
    assert b"piece he\n" in sent[1]["body"]
    assert sent[-1] == {
        "type": "http.response.body",
        "body": b"fail responder_unavailable\n",
        "more_body": False,
    }
