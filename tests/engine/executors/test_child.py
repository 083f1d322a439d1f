"""A worker process as its server sees it, with small programs in the place of a worker."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import sys
import textwrap
from typing import Any

import msgspec
import pytest

from openenv_async.endpoints.tokens import TOKEN_VARIABLES
from openenv_async.engine.executors import child as child_module
from openenv_async.engine.executors.child import Child, boot_code
from openenv_async.engine.executors.offspring import MARK_VARIABLE, Sweeper
from openenv_async.engine.executors.pipe import Pipe
from openenv_async.errors import (
    EnvironmentDied,
    OpenEnvError,
    ProtocolError,
    ResourceLimit,
    ServerError,
)
from openenv_async.protocol.codec import MsgpackCodec
from openenv_async.protocol.frames import (
    Close,
    Closed,
    Failed,
    Frame,
    ObservationColumns,
    Opened,
    Step,
)
from tests.helpers import until

HELPERS = """
import json, os, signal, socket, struct, sys, time

def exactly(size):
    data = b""
    while len(data) < size:
        more = channel.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data

def read():
    head = exactly(8)
    return head[3], exactly(int.from_bytes(head[4:], "big"))

def write(kind, body):
    channel.sendall(b"\\x93OE" + bytes([kind]) + len(body).to_bytes(4, "big") + body)

def say(*what):
    print(*what, flush=True)
"""
SERVER = MsgpackCodec("server", 1 << 20)


class Watched:
    """A child whose program is ``code``, and all that it told."""

    def __init__(self, silence: float = 5.0, **changes: Any) -> None:
        self.frames: list[tuple[Any, Any]] = []
        self.unsent: list[tuple[Any, Any, OpenEnvError]] = []
        self.rows: list[ObservationColumns] = []
        self.alive: list[int] = []
        self.gone = 0
        self.child = Child(
            7,
            b"the recipe",
            "Env",
            silence,
            Sweeper(),
            lambda call, frame: self.frames.append((call, frame)),
            self._rows,
            lambda call, frame, error: self.unsent.append((call, frame, error)),
            lambda child: self.alive.append(child.stuck),
            self._gone,
        )

    def _rows(self, child: Child, frame: ObservationColumns) -> None:
        assert child is self.child
        if not frame.channels:
            raise ProtocolError("no channels")
        self.rows.append(frame)

    def _gone(self, child: Child) -> None:
        assert child is self.child
        self.gone += 1

    async def ended(self) -> OpenEnvError:
        await asyncio.wait_for(self.child.life, 20)
        assert self.gone == 1
        return self.child.closed_reason()


class Call:
    def __init__(self, id: str = "s") -> None:
        self.id = id


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the code that runs in the place of a worker."""

    def put(code: str) -> None:
        def boot(channel: int, lifeline: int) -> str:
            begin = f"channel = socket.socket(fileno={channel})\nlifeline = {lifeline}\n"
            return HELPERS + begin + textwrap.dedent(code)

        monkeypatch.setattr(child_module, "boot_code", boot)

    return put


async def test_an_exit_is_told_with_its_code_and_the_last_output(program: Any) -> None:
    program("for i in range(60): say('line', i)\nos.write(2, b'no newline')\nsys.exit(7)")
    watched = Watched()
    reason = await watched.ended()
    assert isinstance(reason, EnvironmentDied)
    assert reason.message == "the process of Env is gone: it exited with code 7; open a new session"
    assert reason.retryable
    assert reason.exit_code == 7
    assert reason.oom is False
    assert reason.detail["worker"] == 7
    assert reason.env == "Env"
    lines = str(reason.log_tail).splitlines()
    assert lines == [*(f"line {i}" for i in range(11, 60)), "no newline"]
    assert watched.child.exit_code == 7
    assert watched.child.kill_reason is None


async def test_nothing_goes_before_the_recipe(
    program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even what is queued in the turn in which the pipe is connected."""
    program("say(read()[1] == b'the recipe')\nread()\nsys.exit(3)")
    made = Pipe.connection_made

    def connection_made(pipe: Any, transport: Any) -> None:
        made(pipe, transport)
        watched.child.send(Close(1, 1, 0))

    monkeypatch.setattr(Pipe, "connection_made", connection_made)
    watched = Watched()
    reason = await watched.ended()
    assert (reason.log_tail, watched.child.exit_code) == ("True", 3)


async def test_a_long_line_is_cut_and_all_output_is_logged(
    program: Any, caplog: pytest.LogCaptureFixture
) -> None:
    program("say('x' * 2000)\nfor i in range(300): say(i)\nsay('last')")
    with caplog.at_level(logging.WARNING, "openenv_async.worker"):
        reason = await Watched().ended()
    logged = [record.getMessage() for record in caplog.records]
    assert logged == ["x" * 500, *map(str, range(300)), "last"]
    assert all(record.worker == 7 for record in caplog.records)  # type: ignore[attr-defined]
    assert str(reason.log_tail).endswith("last")


async def test_a_silent_end_has_no_output(program: Any) -> None:
    program("")
    reason = await Watched().ended()
    assert reason.log_tail is None
    assert "exited with code 0" in reason.message


@pytest.mark.parametrize("name", ["SIGTERM", "SIGABRT"])
async def test_a_signal_is_told_by_its_name(program: Any, name: str) -> None:
    program(f"os.kill(os.getpid(), signal.{name})\ntime.sleep(9)")
    reason = await Watched().ended()
    assert f"it was killed by {name};" in reason.message
    assert reason.oom is False
    assert reason.exit_code == -getattr(signal, name)


@pytest.mark.parametrize(
    ("counts", "oom"), [((3, 4), True), ((3, 3), False), ((None, 4), None), ((3, None), None)]
)
async def test_a_kill_is_lack_of_memory_if_the_system_counted_one(
    program: Any, monkeypatch: pytest.MonkeyPatch, counts: tuple[Any, Any], oom: bool | None
) -> None:
    left = list(counts)
    monkeypatch.setattr(child_module, "oom_kills", lambda: left.pop(0))
    program("os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(9)")
    reason = await Watched().ended()
    assert reason.oom is oom
    assert ("because memory ran out" in reason.message) == (oom is True)
    assert "it was killed by SIGKILL" in reason.message


async def test_a_process_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    watched = Watched()
    reason = await watched.ended()
    assert isinstance(reason, ResourceLimit)
    assert reason.message.startswith("no process could be started for Env: No such file")
    assert reason.detail["errno"] == errno.ENOENT
    assert watched.child.exit_code is None


async def test_garbage_on_the_pipe_ends_the_worker(program: Any) -> None:
    program("channel.sendall(b'Segmentation fault')\ntime.sleep(60)")
    watched = Watched()
    reason = await watched.ended()
    assert "it wrote garbage on its pipe" in reason.message
    assert watched.child.exit_code == -signal.SIGKILL
    assert watched.child.retired


@pytest.mark.parametrize(("kind", "body"), [(1, b"\xc1"), (2, b"\xc1"), (2, b"\xa1x")])
async def test_a_message_that_cannot_be_read_ends_the_worker(
    program: Any, kind: int, body: bytes
) -> None:
    program(f"write({kind}, {body!r})\ntime.sleep(60)")
    assert "it wrote garbage on its pipe" in (await Watched().ended()).message


async def test_a_kill_before_it_was_spawned(program: Any) -> None:
    program("time.sleep(60)")
    watched = Watched()
    watched.child.kill(ServerError("the first reason"))
    watched.child.kill(ServerError("another"))
    reason = await watched.ended()
    assert "the first reason" in reason.message
    assert watched.child.exit_code == -signal.SIGKILL


async def test_a_retired_worker_ends_by_itself(program: Any) -> None:
    program("read()\ntry:\n    while True: read()\nexcept EOFError:\n    sys.exit(3)")
    watched = Watched()
    await asyncio.sleep(0.2)
    watched.child.retire()
    assert watched.child.retired
    await watched.ended()
    assert watched.child.exit_code == 3


@pytest.mark.parametrize("retired", [True, False])
async def test_a_worker_that_does_not_end_is_killed(
    program: Any, monkeypatch: pytest.MonkeyPatch, retired: bool
) -> None:
    monkeypatch.setattr(child_module, "EXIT_GRACE", 0.2)
    monkeypatch.setattr(child_module, "_DEATH_GRACE", 0.2)
    program("channel.shutdown(socket.SHUT_RDWR)\nchannel.close()\ntime.sleep(60)")
    watched = Watched()
    if retired:
        await until(lambda: watched.child._pipe.connected)
        watched.child.retire()
    await watched.ended()
    assert watched.child.exit_code == -signal.SIGKILL


async def test_what_it_forked_ends_with_it(program: Any) -> None:
    """It keeps the output open, which is not waited for, and is in the worker's group."""
    program("pid = os.fork()\nif pid == 0:\n    time.sleep(60)\nsay(pid)\nos._exit(0)")
    began = asyncio.get_running_loop().time()
    reason = await Watched().ended()
    assert asyncio.get_running_loop().time() - began < 10
    pid = int(str(reason.log_tail))

    def is_gone() -> bool:
        try:
            with open(f"/proc/{pid}/stat") as file:
                return file.read().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    await until(is_gone)


async def test_a_worker_has_the_variables_of_the_server_but_its_tokens(
    program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TOKEN_VARIABLES:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("SOMETHING", "else")
    program(
        f"say(any(name in os.environ for name in {[*TOKEN_VARIABLES]}), os.environ['SOMETHING'],"
        f" len(os.environ[{MARK_VARIABLE!r}]), os.getsid(0) == os.getpid())"
    )
    reason = await Watched().ended()
    assert reason.log_tail == "False else 32 True"


async def test_the_recipe_comes_first_and_then_a_greeting(program: Any) -> None:
    program("kind, body = read(); say(kind, body)\nkind, body = read(); say(kind, body[:2])")
    reason = await Watched().ended()
    hello = bytes([0x91, 0x93])  # a batch of one frame of three items
    assert str(reason.log_tail).splitlines() == ["1 b'the recipe'", f"1 {hello!r}"]


def replying(*messages: list[Any]) -> str:
    """A program that sends these batches once it has been sent something, and stays."""
    encoded = [msgspec.msgpack.encode(message) for message in messages]
    return f"""
read(); read()
read()
for message in {encoded!r}:
    write(1, message)
time.sleep(60)
"""


async def test_frames_are_handed_to_the_session_of_their_channel(
    program: Any, caplog: pytest.LogCaptureFixture
) -> None:
    told = [Opened(1), Closed(2, 5), Closed(9, 1), Failed(0, 0, "server_error", "a word")]
    program(replying([*told], [[39, 2, "bad"], [39, 9, "bad"]]))
    watched = Watched()
    one, two = Call("one"), Call("two")
    calls: list[Any] = [one, two]
    assert [watched.child.adopt(call) for call in calls] == [1, 2]
    await until(lambda: watched.child._pipe.connected)
    await asyncio.sleep(0.05)
    watched.child.send(Close(1, 1))
    with caplog.at_level(logging.WARNING, "openenv_async.worker"):
        await until(lambda: len(watched.frames) == 3 and len(caplog.records) == 2)
    assert watched.frames[:2] == [(one, Opened(1)), (two, Closed(2, 5))]
    call, failed = watched.frames[2]
    assert (call, failed.channel, failed.code) == (two, 2, "server_error")
    assert "its worker sent a bad frame" in failed.message
    assert caplog.records[0].getMessage() == "a word"
    assert "its worker sent a bad frame" in caplog.records[1].getMessage()
    watched.child.kill(ServerError("enough"))
    reason = await watched.ended()
    assert reason.log_tail is None  # of two sessions: nobody's own


async def test_replies_to_many_sessions_are_handed_on_whole(program: Any) -> None:
    replies = ObservationColumns(b"channels", b"seqs", b"payload", b"rewards", b"flags")
    malformed = msgspec.structs.replace(replies, channels=b"")
    program(replying([replies], [replies, malformed]))
    watched = Watched()
    await until(lambda: watched.child._pipe.connected)
    await asyncio.sleep(0.05)
    watched.child.send(Close(1, 1))
    reason = await watched.ended()
    assert watched.rows == [replies, replies]
    assert "it wrote garbage on its pipe: no channels" in reason.message


async def test_a_frame_that_cannot_be_sent_comes_back(program: Any) -> None:
    program("time.sleep(60)")
    watched = Watched()
    call: Any = Call()
    watched.child.adopt(call)
    bad, lost = Step(1, 2**70, 0, b""), Step(5, 2**70, 0, b"")
    await until(lambda: watched.child._pipe.connected)
    for frame in (bad, lost, Close(1, 1)):
        watched.child.send(frame)
    await until(lambda: bool(watched.unsent))
    [(whose, frame, error)] = watched.unsent
    assert (whose, frame) == (call, bad)
    assert error.message.startswith("Step cannot be sent to its worker")
    watched.child.kill(ServerError("enough"))
    await watched.ended()


async def test_frames_of_one_turn_are_one_message(program: Any) -> None:
    program("read(); read()\nkind, body = read(); say(kind, body[0] - 0x90)")
    watched = Watched()
    await until(lambda: watched.child._pipe.connected)
    await asyncio.sleep(0.05)
    frames: list[Frame] = [Close(1, 1), Close(2, 1), Close(3, 1)]
    for frame in frames:
        watched.child.send(frame)
    assert (await watched.ended()).log_tail == "1 3"


BEATING = """
read(); read()
write(1, {up!r})
counts = {counts!r}
while True:
    kind, body = read()
    say(kind, body)
    if kind == 2 and b"beat" in body and counts:
        write(2, bytes([counts.pop(0)]))
"""


async def test_an_abandoned_call_is_told_and_signs_of_life_are_asked_for(
    program: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(child_module, "_BEAT", 0.02)
    up = SERVER.encode([Closed(1, 1)])
    program(BEATING.format(up=up, counts=[2, 1, 0]))
    watched = Watched()
    call: Any = Call("some session")
    watched.child.adopt(call)
    await until(lambda: bool(watched.frames))
    with caplog.at_level(logging.WARNING, "openenv_async.worker"):
        watched.child.abandon(call)
        await until(lambda: watched.alive == [2, 1, 0])
        await asyncio.sleep(0.1)
    notes = [record.getMessage() for record in caplog.records]
    assert notes[0].startswith("2 ")
    assert "some session" in notes[0]
    assert "drop" in notes[0]
    assert [("beat" in note) for note in notes] == [False, True, True, True]  # then no more
    watched.child.kill(ServerError("enough"))
    reason = await watched.ended()
    assert reason.log_tail  # of one session, and its own


async def test_a_worker_without_signs_of_life_is_killed(program: Any) -> None:
    up = SERVER.encode([Closed(1, 1)])
    program(BEATING.format(up=up, counts=[]))
    watched = Watched(silence=0.3)
    call: Any = Call()
    watched.child.adopt(call)
    await until(lambda: bool(watched.frames))
    watched.child.abandon(call)
    watched.child.abandon(call)
    reason = await watched.ended()
    assert "nothing else could run for 0.3 s, so it was killed" in reason.message


async def test_a_worker_that_still_starts_is_given_its_time(program: Any) -> None:
    program("time.sleep(0.5)\nsys.exit(4)")
    watched = Watched(silence=0.05)
    call: Any = Call()
    watched.child.adopt(call)
    watched.child.abandon(call)
    await watched.ended()
    assert watched.child.exit_code == 4


def test_a_worker_boots_with_the_paths_of_the_server() -> None:
    code = boot_code(5, 6)
    assert repr(sys.path) in code
    assert code.endswith("worker_main(5, 6)")
    compile(code, "boot", "exec")
