"""Sessions in worker processes, where the requirement tests do not look."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from openenv_async.engine import EngineOptions
from openenv_async.engine.executors.pipe import PipeCodec
from openenv_async.engine.executors.processes import ProcessExecutor
from openenv_async.engine.executors.recipe import make_recipe
from openenv_async.errors import OperationUnsupported, ResourceLimit
from openenv_async.protocol.frames import (
    Begun,
    Cancel,
    Close,
    Closed,
    Credit,
    Failed,
    Observation,
    Open,
    Partial,
    Reset,
    State,
    StateIs,
    Step,
)
from openenv_async.spec import EnvironmentSpec
from tests.behaviours.environments import Commanded, CommandedProcess, LedgerStream
from tests.helpers import Format, Peer, make_engine, pack, token, unpack, until


@contextlib.asynccontextmanager
async def started(env: Any, format: Format = "json", **options: Any) -> AsyncIterator[Peer]:
    engine = make_engine(env, **options)
    peer = Peer(engine, format)
    try:
        assert isinstance(await peer.begin(), Begun)
        yield peer
    finally:
        await engine.aclose()


def workers(peer: Peer) -> int:
    executor = peer.engine._executor
    assert isinstance(executor, ProcessExecutor)
    return executor.worker_count


async def test_unreadable_session_options_start_no_worker() -> None:
    """They are found out before; a worker that was started for them would never be retired."""
    peer = Peer(make_engine(CommandedProcess), format="json")
    options = b'{"size":{"__ndarray__":["<f8",[2],"?"]}}'
    try:
        peer.send(Open(1, token(1), token(2), payload=options))
        refused = await peer.next()
        assert isinstance(refused, Failed)
        assert refused.code == "invalid_model"
        assert not peer.engine.sessions
        assert workers(peer) == 0
    finally:
        await peer.engine.aclose()


async def test_an_unreadable_action_is_the_same_error_as_elsewhere() -> None:
    """Converting it for the worker finds it out, before it gets there."""
    told = []
    for env in (Commanded, CommandedProcess):
        async with started(env) as peer:
            peer.send(Step(1, 2, 1, b"[1]"))
            refused = await peer.next()
            assert refused.code == "invalid_action"
            told.append((refused.message, peer.detail(refused)))
            assert isinstance(await peer.stepped(3, {}), Observation)
    assert told[0][0] == told[1][0]
    assert {**told[0][1], "env": ""} == {**told[1][1], "env": ""}


async def test_json_is_converted_on_its_way() -> None:
    async with started(LedgerStream, workers=1) as peer:
        seen = await peer.stepped(2, {"n": 4})
        assert unpack(seen.payload, "json")["n"] == 4
        peer.step(3, {"n": 5, "partials": 2}, ack=2, credit=1)
        partial = await peer.next()
        assert isinstance(partial, Partial)
        assert unpack(partial.payload, "json") == {"index": 0}
        peer.send(Credit(1, 3, 2))
        partial, final = await peer.next(), await peer.next()
        assert unpack(partial.payload, "json") == {"index": 1}
        assert unpack(final.payload, "json")["count"] == 2
        peer.send(State(1, 4, 3))
        assert isinstance(await peer.next(), StateIs)
        peer.send(Close(1, 5, 4))
        assert isinstance(await peer.next(), Closed)


async def test_a_stream_is_stopped() -> None:
    async with started(LedgerStream, "msgpack", workers=1) as peer:
        peer.send(Step(1, 2, 1, pack({"n": 1, "partials": 5}), credit=1))
        assert isinstance(await peer.next(), Partial)
        peer.send(Cancel(1, 2))
        stopped = await peer.next()
        assert (stopped.seq, stopped.code) == (2, "cancelled")
        assert isinstance(await peer.stepped(3, {"n": 2}), Observation)


async def test_without_descriptors_sessions_share_the_workers_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with started(CommandedProcess, "msgpack", workers=2) as peer:

        def refuse(count: int, what: str) -> None:
            raise ResourceLimit("no file descriptors are left")

        monkeypatch.setattr(peer.engine.resources, "take_descriptors", refuse)
        second = await peer.begin(2)
        assert isinstance(second, Begun)
        assert workers(peer) == 1


async def test_without_descriptors_a_session_of_its_own_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with started(CommandedProcess, "msgpack") as peer:

        def refuse(count: int, what: str) -> None:
            raise ResourceLimit("no file descriptors are left")

        monkeypatch.setattr(peer.engine.resources, "take_descriptors", refuse)
        refused = await peer.open(2)
        assert refused.code == "resource_limit"
        peer.send(Close(1, 2, 1))
        assert isinstance(await peer.next(), Closed)
        await until(lambda: workers(peer) == 0)


def test_what_cannot_be_sent_to_a_process() -> None:
    class Local(Commanded):
        pass

    with pytest.raises(OperationUnsupported, match="must be an importable class"):
        make_recipe(EnvironmentSpec(Local), EngineOptions())


async def test_a_frame_that_cannot_be_encoded_costs_its_own_request() -> None:
    """Those of other sessions that leave with it arrive, and the session goes on."""
    engine = make_engine(CommandedProcess, workers=1)
    peer = Peer(engine)
    for number in (1, 2):
        assert isinstance(await peer.begin(number), Begun)
    bad = engine.sessions[token(1)]
    for seq in (2, 3):
        bad.submit(Reset(1, seq, seq - 1, None, 2**70))
        peer.step(seq, {}, channel=2)
        replies = {frame.channel: frame for frame in [await peer.next(), await peer.next()]}
        assert replies[1].code == "protocol_error"
        assert isinstance(replies[2], Observation)
    assert isinstance(await peer.stepped(4, {}), Observation)
    assert engine.stats.workers_died == 0
    await engine.aclose()


def test_each_frame_of_a_batch_on_the_pipe_stands_for_itself() -> None:
    refused = []

    def instead(frame: Any, exc: Exception) -> Any:
        refused.append(frame)
        return None if frame.seq == 2 else Failed(1, frame.seq, "bad", str(exc), False)

    codec = PipeCodec("server", 1 << 20, instead)
    good, lost, replaced = (StateIs(1, n, b"\x80", "e", seed) for n, seed in
                            ((1, 7), (2, 2**64), (3, -(2**63) - 1)))  # fmt: skip
    read = PipeCodec("client", 1 << 20, instead).decode(codec.encode([good, lost, replaced, good]))
    assert [type(frame) for frame in read] == [StateIs, Failed, StateIs]
    assert refused == [lost, replaced]


async def test_an_unreadable_reply_of_a_worker_answers_its_request() -> None:
    engine = make_engine(CommandedProcess, workers=1)
    peer = Peer(engine)
    for number in (1, 2):
        assert isinstance(await peer.begin(number), Begun)
    [worker] = engine._executor._workers  # type: ignore[union-attr]
    receive = worker._pipe._on_message

    def spoil(message: bytes) -> None:
        frames = msgspec.msgpack.decode(message)
        spoiled = [[*f[:3], 5, *f[4:]] if f[1] == 1 else f for f in frames]
        receive(msgspec.msgpack.encode(spoiled))

    worker._pipe._on_message = worker._pipe._receiver = spoil
    peer.step(2, {}, channel=1)
    peer.step(2, {}, channel=2)
    replies = {frame.channel: frame for frame in [await peer.next(), await peer.next()]}
    assert replies[1].code == "server_error"
    assert "bad frame" in replies[1].message
    assert isinstance(replies[2], Observation)
    worker._pipe._on_message = receive
    assert isinstance(await peer.stepped(3, {}), Observation)
    assert engine.stats.workers_died == 0
    await engine.aclose()
