"""Reserve before building: caps hold while constructors run, and come back when they fail."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any, ClassVar

import pytest

from openenv_async import Environment
from openenv_async.errors import EnvironmentStartFailed, ServerBusy, SessionClosed
from openenv_async.protocol.frames import Failed, Open
from tests.behaviours.environments import Dict, client, outcomes, served
from tests.helpers import Peer, make_engine, token

CAP = 100
OPENS = 1000


class Fragile(Environment[Dict, Dict, Dict]):
    """Takes a moment to build; fails three times in ten."""

    isolation = "thread"
    numbers: ClassVar[Any] = itertools.count()
    lock: ClassVar[threading.Lock] = threading.Lock()
    building: ClassVar[int] = 0
    alive: ClassVar[int] = 0
    peak: ClassVar[int] = 0

    def __init__(self) -> None:
        cls = type(self)
        with cls.lock:
            number = next(cls.numbers)
            cls.alive += 1
            cls.peak = max(cls.peak, cls.alive)
        time.sleep(0.002)
        if number % 10 < 3:
            with cls.lock:
                cls.alive -= 1
            raise OSError("no licence")

    def reset(self) -> Dict:
        return {}

    def step(self, action: Dict) -> Dict:
        return {}

    def close(self) -> None:
        with type(self).lock:
            type(self).alive -= 1


@pytest.fixture(autouse=True)
def fresh() -> None:
    Fragile.numbers = itertools.count()
    Fragile.alive = Fragile.peak = 0


@pytest.mark.parametrize("waiting", [0, OPENS])
async def test_a_thousand_opens_at_a_cap_of_a_hundred(waiting: int) -> None:
    async with served(Fragile, max_sessions=CAP, max_waiting=waiting) as (url, engine):
        made = [client(url) for _ in range(OPENS)]

        async def use(one: Any) -> None:
            await one.open()
            await one.reset()
            await one.close()

        results = await outcomes(use(one) for one in made)
        assert Fragile.peak <= CAP
        assert engine.stats.peak_sessions <= CAP
        failed = [r for r in results if isinstance(r, EnvironmentStartFailed)]
        busy = [r for r in results if isinstance(r, ServerBusy)]
        fine = [r for r in results if r is None]
        assert len(failed) + len(busy) + len(fine) == OPENS
        assert len(failed) == len([n for n in range(OPENS - len(busy)) if n % 10 < 3])
        assert fine
        if waiting:
            assert not busy
        assert engine.active == engine.waiting == 0
        assert Fragile.alive == 0


async def test_failed_opens_leave_nothing_on_their_connection() -> None:
    """One connection that lives on must not remember every session that could not be built."""
    engine = make_engine(Fragile, max_sessions=CAP)
    peer = Peer(engine)
    alive = 0
    for number in range(1, 601):
        peer.send(Open(number, token(number), token(number)))
        while (reply := await peer.next()).channel != number:
            assert reply.code == "session_closed"  # of one that was shut below
        if isinstance(reply, Failed):
            assert reply.code == "environment_start_failed"
        else:
            alive += 1
            peer.connection._channels.pop(number)
            engine.sessions[token(number)].shut(SessionClosed("over"))
    assert alive == 420
    assert len(peer.connection._channels) <= 64
    peer.close()
    await engine.aclose()
