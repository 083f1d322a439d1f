"""A worker's pipe in the hands of the thread that runs rows: what comes is answered as before."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import pickle
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from openenv_async import EngineOptions, Environment
from openenv_async.engine.executors import worker as worker_module
from openenv_async.engine.executors.pipe import MAX_PIPE_MESSAGE, Pipe, PipeCodec
from openenv_async.engine.executors.recipe import make_recipe
from openenv_async.engine.executors.threads import ThreadExecutor
from openenv_async.protocol.columns import (
    apart,
    pack_channels,
    pack_numbers,
    replies_of,
)
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Failed,
    Frame,
    Hello,
    Observation,
    ObservationColumns,
    Open,
    Reset,
    Step,
    StepColumns,
    Welcome,
)
from openenv_async.spec import EnvironmentSpec
from tests.helpers import pack, token, unpack

COUNT = 4
BIG = 1 << 21


class Held(Environment[dict[str, Any], Any, dict[str, Any]]):
    """Counts, tells the thread, and waits, fails or shows much when it is told to."""

    go: ClassVar[threading.Event] = threading.Event()

    def reset(self) -> Any:
        self.count = 0
        return self._shown()

    def step(self, action: dict[str, Any]) -> Any:
        if action.get("wait"):
            assert self.go.wait(30)
        if action.get("fail"):
            raise ValueError("it was told to")
        self.count += 1
        return np.zeros(BIG, np.uint8) if action.get("much") else self._shown()

    def _shown(self) -> Any:
        return {"count": self.count, "thread": threading.get_ident()}

    def state(self) -> dict[str, Any]:
        return {}


class Server:
    """The server's end of the pipe."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[Any] = asyncio.Queue()
        self.notes: asyncio.Queue[int] = asyncio.Queue()
        self.executor: Any = None
        self.pipe = Pipe(self._message, lambda: None, self._note)
        self._codec = PipeCodec("client", MAX_PIPE_MESSAGE, lambda frame, exc: None)

    def _message(self, message: bytes) -> None:
        for frame in self._codec.decode(message):
            self.frames.put_nowait(frame)

    def _note(self, note: bytes) -> None:
        self.notes.put_nowait(msgspec.msgpack.decode(note))

    def send(self, *frames: Frame) -> None:
        self.pipe.send(self._codec.encode(frames))

    async def replies(self, count: int = COUNT) -> dict[int, Any]:
        """The replies to so many rows, by channel."""
        each: dict[int, Any] = {}
        while len(each) < count:
            frame = await self.frames.get()
            for reply in replies_of(frame) if isinstance(frame, ObservationColumns) else [frame]:
                assert reply.channel not in each
                each[reply.channel] = reply
        return each

    async def batch(self, seq: int, **actions: dict[str, Any]) -> dict[int, Any]:
        self.send(steps(seq, **actions))
        return await self.replies()

    async def lent(self, seq: int) -> int:
        """Step until the thread has the pipe; return the next number."""
        for _ in range(30):
            if self.executor.is_lent:
                return seq
            assert {unpack(each.payload)["count"] for each in (await self.batch(seq)).values()}
            seq += 1
        raise AssertionError("no thread borrows the pipe")


def steps(seq: int, **actions: dict[str, Any]) -> StepColumns:
    channels = range(1, COUNT + 1)
    column = apart([pack(actions.get(f"row{n}", {})) for n in channels])
    return StepColumns(pack_channels(channels), pack_numbers([seq] * COUNT), column)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """A worker in this process, with sessions that have begun their episodes."""
    Held.go.clear()
    spec = EnvironmentSpec(Held)
    recipe = pickle.loads(pickle.loads(make_recipe(spec, EngineOptions(workers=1)))[1])
    recipe = dataclasses.replace(recipe, shared=False)
    there = Server()

    def make(loop: asyncio.AbstractEventLoop) -> ThreadExecutor:
        there.executor = ThreadExecutor(loop, 8, Held, 0.05)
        return there.executor  # type: ignore[no-any-return]  # just made

    ours, theirs = socket.socketpair()
    task = asyncio.create_task(worker_module._serve(spec, recipe, theirs, make))
    ours.setblocking(False)
    await asyncio.get_running_loop().create_connection(lambda: there.pipe, sock=ours)
    try:
        there.send(Hello(PROTOCOL_VERSION))
        assert isinstance(await there.frames.get(), Welcome)
        there.send(*(Open(n, token(n), token(n + 100)) for n in range(1, COUNT + 1)))
        await there.replies()
        there.send(*(Reset(n, 1) for n in range(1, COUNT + 1)))
        await there.replies()
        yield there
    finally:
        Held.go.set()
        there.pipe.close()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        gc.unfreeze()


async def test_a_thread_reads_and_answers_batches_itself(server: Server) -> None:
    seq = await server.lent(2)
    for _ in range(20):
        replies = await server.batch(seq)
        assert {reply.seq for reply in replies.values()} == {seq}
        shown = [unpack(reply.payload) for reply in replies.values()]
        assert {each["count"] for each in shown} == {seq - 1}
        assert len({each["thread"] for each in shown}) == 1
        seq += 1
    assert server.executor.is_lent


async def test_any_other_request_is_the_loops(server: Server) -> None:
    seq = 2
    for _ in range(2):
        seq = await server.lent(seq)
        server.send(Step(2, seq, seq - 1, pack({})))
        reply = (await server.replies(1))[2]
        assert unpack(reply.payload)["count"] == seq - 1
        assert not server.executor.is_lent
        server.send(*(Step(n, seq, seq - 1, pack({})) for n in (1, 3, 4)))
        await server.replies(3)
        seq += 1


async def test_rows_that_hang_hold_up_nothing_else(server: Server) -> None:
    seq = await server.lent(2)
    server.send(Open(9, token(9), token(109)))
    await server.replies(1)
    seq = await server.lent(seq)
    server.send(steps(seq, row2={"wait": True}))
    server.pipe.note(msgspec.msgpack.encode(["beat"]))
    assert await server.notes.get() == 0
    server.send(Reset(9, 1))
    told = await server.replies(COUNT)  # of the one beside them, and the rows that go on
    assert sorted(told) == [1, 3, 4, 9]
    Held.go.set()
    assert unpack((await server.replies(1))[2].payload)["count"] == seq - 1
    assert await server.batch(seq + 1)


async def test_a_row_that_fails_is_answered_with_the_others(server: Server) -> None:
    seq = await server.lent(2)
    replies = await server.batch(seq, row3={"fail": True})
    assert isinstance(replies[3], Failed)
    assert [type(replies[n]) for n in (1, 2, 4)] == [Observation] * 3
    replies = await server.batch(seq + 1)
    assert [unpack(replies[n].payload)["count"] for n in (1, 2, 4)] == [seq] * 3


async def test_an_answer_that_the_socket_does_not_take_at_once(server: Server) -> None:
    seq = await server.lent(2)
    replies = await server.batch(seq, **{f"row{n}": {"much": True} for n in range(1, COUNT + 1)})
    assert all(len(reply.payload) > BIG for reply in replies.values())
    assert await server.batch(seq + 1)


async def test_the_end_of_the_pipe_ends_the_worker(server: Server) -> None:
    await server.lent(2)
    server.pipe.close()  # and the fixture waits for the worker
