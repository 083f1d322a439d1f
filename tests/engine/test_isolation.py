"""Bad input and bad environments: a typed error for the one concerned, nothing else disturbed."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openenv_async import Environment, Timeouts
from openenv_async.engine import Engine
from openenv_async.errors import EnvironmentDied, EnvironmentRaised, SessionLost
from openenv_async.protocol.frames import (
    Cancel,
    Close,
    Closed,
    Credit,
    Failed,
    Observation,
    Open,
    Opened,
    Renew,
    Reset,
    State,
    Step,
)
from openenv_async.spec import EnvironmentSpec
from tests.behaviours.environments import (
    Commanded,
    CommandedInline,
    CommandedProcess,
    Dict,
    LedgerStream,
    client,
    clients,
    gather,
    outcomes,
    served,
)
from tests.chaos import ChaosProxy
from tests.helpers import Counter, Peer, make_engine, pack, settle, token, until


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = make_engine(Counter)
    yield made
    await made.aclose()


# -- the caller ---------------------------------------------------------------------------


async def test_wrong_secret(engine: Engine) -> None:
    owner, thief = Peer(engine), Peer(engine)
    await owner.begin()
    for resume in (True, False):
        thief.send(Open(7, token(1), token(9), resume))
        [refused] = thief.take()
        assert (refused.channel, refused.code) == (7, "session_not_found")
    thief.step(2, {}, channel=7)
    assert thief.take()[0].code == "session_not_found"
    assert (await owner.stepped(2, {})).payload
    assert owner.take() == []


@pytest.mark.parametrize("name", ["", "short", "x" * 31, "é" * 32, "../" + "a" * 29, "a" * 33])
async def test_names_that_are_none(engine: Engine, name: str) -> None:
    peer = Peer(engine)
    peer.send(Open(1, name, token(1)), Open(2, token(2), name))
    assert [frame.code for frame in peer.take()] == ["protocol_error"] * 2
    assert not engine.sessions


async def test_numbers_out_of_range(engine: Engine) -> None:
    peer = Peer(engine)
    await peer.begin()
    first = await peer.stepped(2, {})
    assert isinstance(first, Observation)
    for seq in (4, 5, 2**31, 2**63 - 1, 0, -1, -(2**40)):
        peer.step(seq, {})
        [refused] = peer.take()
        assert (refused.code, refused.seq) == ("protocol_error", seq)
    peer.step(2, {}, ack=1)  # the last one again: the same reply, and nothing runs
    [again] = peer.take()
    assert bytes(again.payload) == bytes(first.payload)
    peer.step(3, {}, ack=2)
    [third] = peer.take()
    assert isinstance(third, Observation)
    peer.step(2, {})  # acknowledged, so forgotten
    assert peer.take()[0].code == "protocol_error"
    assert engine.stats.steps == 2
    assert (await peer.stepped(4, {})).payload


async def test_acknowledgements_from_nowhere(engine: Engine) -> None:
    peer = Peer(engine)
    await peer.begin()
    for seq, ack in ((2, 99), (3, -5), (4, 2**62)):
        peer.step(seq, {}, ack=ack)
        assert isinstance(peer.take()[0], Observation)
    peer.send(Renew(1, 10**12), Renew(1, -1), Renew(77, 3), Renew(-1))
    assert isinstance(await peer.stepped(5, {}), Observation)


async def test_a_second_client_with_the_secret_takes_over_and_the_first_is_told() -> None:
    async with served(Counter) as (url, engine), ChaosProxy(url) as proxy:
        one = client(proxy.url)
        await one.reset()
        await one.step({})
        [session] = engine.sessions.values()
        other = Peer(engine)
        other.send(Open(1, session.id, session.secret, True, 2))
        [opened] = other.take()
        assert isinstance(opened, Opened)
        assert opened.resumed
        assert opened.seq == 2
        with pytest.raises(SessionLost):
            await one.step({})
        reply = await other.stepped(3, {})
        assert isinstance(reply, Observation)
        assert engine.active == 1
        # The first one, whose socket is lost now, does not take the session with it.
        proxy.cut()
        await one.reset()
        assert engine.active == 2
        assert isinstance(await other.stepped(4, {}), Observation)
        other.close()
        await one.close()


async def test_malformed_cancel_and_credit() -> None:
    engine = make_engine(LedgerStream)
    peer = Peer(engine)
    await peer.begin()
    for channel in (1, 0, -1, 5, 2**40):
        for seq in (0, -1, 1, 2, 3, 2**62):
            peer.send(Cancel(channel, seq))
            for units in (0, -1, 1, 2**62):
                peer.send(Credit(channel, seq, units))
    await settle()
    assert peer.take() == []
    for raw in (
        [6],
        [6, 1],
        [6, "1", 2],
        [6, None, None],
        [7, 1, 2],
        [7, 1, 2, "many"],
        [7, 1, 2, 1.5],
        [7, [], {}, None],
    ):
        peer.send_raw(pack([raw]))
    frames = peer.take()
    assert all(isinstance(frame, Failed) for frame in frames)
    assert {frame.code for frame in frames} == {"protocol_error"}
    assert isinstance(await peer.stepped(2, {"n": 1}), Observation)

    # In a stream: credit without end is bounded, and the cancel of another request is not mine.
    peer.send(Step(1, 3, 2, pack({"n": 2, "partials": 50}), None, 4))
    for _ in range(20):
        peer.send(Cancel(1, 2), Cancel(1, 4), Credit(1, 3, -7), Credit(1, 2, 100))
    await settle(50)
    assert len([f for f in peer.take() if not isinstance(f, Failed)]) <= 4
    peer.send(Credit(1, 3, 2**62))
    while not isinstance(await peer.next(), Observation):
        pass
    assert isinstance(await peer.stepped(4, {"n": 3}), Observation)
    peer.close()
    await engine.aclose()


async def test_a_cancel_cannot_stop_a_close() -> None:
    engine = make_engine(LedgerStream, timeouts=Timeouts(close=5.0))
    peer = Peer(engine)
    await peer.begin()
    peer.send(Step(1, 2, 1, pack({"n": 1, "partials": 9}), None, 1))
    session = engine.sessions[token(1)]
    session.shut(SessionLost("over"))
    peer.send(Cancel(1, 0), Cancel(1, -1))
    await until(lambda: not engine.sessions)
    peer.close()
    await engine.aclose()


async def test_frames_on_channels_of_others(engine: Engine) -> None:
    one, two = Peer(engine), Peer(engine)
    await one.begin(1)
    await two.begin(2)
    two.step(2, {}, channel=1)
    assert two.take()[0].code == "session_not_found"
    two.send(Cancel(1, 1), Credit(1, 1, 5), Renew(1, 1))
    assert isinstance(await one.stepped(2, {}), Observation)


# -- the environment: what it raises -----------------------------------------------------

RAISED = ["Exception", "BaseException", "SystemExit", "KeyboardInterrupt", "GeneratorExit",
          "CancelledError", "StopIteration"]  # fmt: skip


class Throwing(Environment[Dict, Dict, Dict]):
    """``Commanded``'s exceptions from an async environment."""

    async def reset(self) -> Dict:
        return {}

    async def step(self, action: Dict) -> Dict:
        if action.get("type") == "StopIteration":
            raise StopAsyncIteration("on purpose")
        if "type" in action:
            Commanded.do_raise(self, action)  # type: ignore[arg-type]  # it needs no more
        return {"steps": 1}


@pytest.mark.parametrize("what", RAISED)
@pytest.mark.parametrize("env", [Commanded, CommandedInline, CommandedProcess, Throwing])
async def test_whatever_a_step_raises_is_that_steps_answer(env: Any, what: str) -> None:
    if env is Throwing and what == "GeneratorExit":
        pytest.skip("how Python ends a coroutine: not an error that one can raise")
    workers = 1 if env is CommandedProcess else None
    async with served(env, workers=workers) as (url, engine), clients(url, 2) as (one, other):
        await gather([one.reset(), other.reset()])
        with pytest.raises(EnvironmentRaised) as caught:
            await asyncio.wait_for(one.step({"do": "raise", "type": what}), 5)
        assert caught.value.detail["raised"] in (what, f"StopAsync{what[4:]}", "RuntimeError")
        assert caught.value.phase == "step"
        assert caught.value.session_id == one.session_id
        await one.step({})  # the session goes on
        await other.step({})
        assert engine.active == 2


@pytest.mark.parametrize("where", ["init", "reset", "close", "state"])
@pytest.mark.parametrize("what", [BaseException, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("isolation", ["inline", "thread"])
async def test_whatever_else_raises(where: str, what: type[BaseException], isolation: Any) -> None:
    class Bad(Environment[Dict, Dict, Dict]):
        def __init__(self) -> None:
            self.fail("init")

        def fail(self, here: str) -> None:
            if here == where:
                raise what("on purpose")

        def reset(self) -> Dict:
            self.fail("reset")
            return {}

        def step(self, action: Dict) -> Dict:
            return {}

        def state(self) -> Dict:
            self.fail("state")
            return {}

        def close(self) -> None:
            self.fail("close")

    Bad.isolation = isolation
    engine = make_engine(Bad)
    peer = Peer(engine)
    opened = await peer.open()
    if where == "init":
        assert opened.code in ("environment_start_failed", "environment_raised")
        assert not engine.sessions
    else:
        peer.send(Reset(1, 1))
        begun = await peer.next()
        assert isinstance(begun, Failed) == (where == "reset")
        peer.send(State(1, 2, 1))
        assert isinstance(await peer.next(), Failed) == (where == "state")
        peer.send(Close(1, 3, 2))
        closed = await peer.next()
        assert isinstance(closed, Failed if where == "close" else Closed)
        await until(lambda: not engine.sessions)
    # The thread, or the loop, is as good as before.
    peer.send(Open(2, token(2), token(2)))
    assert isinstance(await peer.next(), Failed if where == "init" else Opened)
    peer.close()
    await until(lambda: not engine.sessions)
    await engine.aclose()


# -- the environment: what it does to its process -----------------------------------------


@pytest.mark.parametrize("text", ["garbage", "\n\n\n\n", "    ", "\x00", "GET / HTTP/1.1\r\n\r\n"])
async def test_a_worker_that_writes_garbage_on_its_pipe(text: str) -> None:
    async with served(CommandedProcess) as (url, engine), clients(url, 2) as (one, other):
        await gather([one.reset(), other.reset()])
        begun = time.monotonic()
        with pytest.raises(EnvironmentDied) as caught:
            await asyncio.wait_for(one.step({"do": "scribble", "text": text}), 10)
        assert time.monotonic() - begun < 3
        assert "garbage" in str(caught.value)
        assert (await other.step({})).observation["steps"] == 1
        assert engine.active == 1
        await one.reset()


async def test_an_environment_that_closes_every_descriptor() -> None:
    async with served(CommandedProcess) as (url, engine), clients(url, 2) as (one, other):
        await gather([one.reset(), other.reset()])
        begun = time.monotonic()
        with pytest.raises((EnvironmentDied, TimeoutError)):
            await asyncio.wait_for(one.step({"do": "close_fds"}, timeout=3), 10)
        assert time.monotonic() - begun < 5
        assert (await other.step({})).observation["steps"] == 1
        assert engine.active == 1


async def test_an_environment_that_forks() -> None:
    """A child holds the worker's pipe and output; the worker's death is noticed all the same."""
    async with served(CommandedProcess) as (url, engine), clients(url, 2) as (one, other):
        pid = (await one.reset()).observation["pid"]
        await other.reset()
        child = (await one.step({"do": "fork", "seconds": 30})).observation["result"]
        assert (await one.step({})).observation["pid"] == pid
        stepping = asyncio.ensure_future(one.step({"do": "sleep", "seconds": 30}))
        await other.step({})
        at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EnvironmentDied):
            await asyncio.wait_for(stepping, 10)
        assert time.monotonic() - at < 2.0
        await until(lambda: _has_ended(child), seconds=3)  # nor does the child outlive it
        assert engine.active == 1


def _has_ended(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("end", ["\n", ""])
async def test_an_environment_that_prints_megabytes(end: str) -> None:
    async with served(CommandedProcess) as (url, _), clients(url, 2) as (one, other):
        await gather([one.reset(), other.reset()])
        printing = asyncio.ensure_future(one.step({"do": "print", "megabytes": 32, "end": end}))
        slowest = 0.0
        while not printing.done():
            begun = time.monotonic()
            await other.step({})
            slowest = max(slowest, time.monotonic() - begun)
        assert (await printing).observation["steps"] == 1
        assert slowest < 1.0
        os.kill((await one.step({})).observation["pid"], signal.SIGKILL)
        with pytest.raises(EnvironmentDied) as caught:
            await one.step({"do": "sleep", "seconds": 9})
        assert caught.value.log_tail is not None
        assert len(caught.value.log_tail) <= 50 * 501


async def test_sys_exit_in_a_shared_worker() -> None:
    async with served(CommandedProcess, workers=1) as (url, _), clients(url, 3) as made:
        await gather(c.reset() for c in made)
        results = await outcomes(c.step({"do": "sys_exit"}) for c in made)
        assert all(isinstance(r, EnvironmentRaised) for r in results)
        assert {r.observation["steps"] for r in await gather(c.step({}) for c in made)} == {2}


async def test_a_worker_that_cannot_start() -> None:
    """What breaks while a worker starts is an error with its traceback."""
    engine = Engine(EnvironmentSpec(CommandedProcess, params={"poison": Poison()}))
    peer = Peer(engine)
    refused = await asyncio.wait_for(peer.open(), 15)
    assert refused.code == "environment_died"
    detail = peer.detail(refused)
    assert "no such licence" in detail["log_tail"]
    assert detail["exit_code"] == 1
    assert not engine.sessions
    await engine.aclose()


class Poison:
    def __reduce__(self) -> Any:
        return (_explode, ())


def _explode() -> None:
    raise RuntimeError("no such licence")
