"""A gateway as a process: what a signal does to the calls that run."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from openenv_async.errors import OpenEnvError
from openenv_async.gateway.gateway import Gateway
from openenv_async.gateway.run import run_gateway
from tests.gateway.scripted import ROUTES, Client, Reply, ScriptedEngine, eventually, gated


class Played:
    """One client of a gateway that gets signals while its call runs."""

    def __init__(self, signals: int, opens: bool) -> None:
        self.signals = signals
        self.opens = opens
        self.reply: Reply | None = None

    def begin(self, gateway: Gateway, gate: asyncio.Event) -> None:
        self.task = asyncio.ensure_future(self._play(gateway, gate))

    async def _play(self, gateway: Gateway, gate: asyncio.Event) -> None:
        session = await gateway.open()
        async with Client(gateway.url, session.key) as client:
            await client.send("/plain", b'{"say": "hi"}')
            await eventually(lambda: bool(session.running))
            for _ in range(self.signals):
                os.kill(os.getpid(), signal.SIGTERM)
                await eventually(lambda: not gateway.is_open)
            if self.opens:
                gate.set()
            self.reply = await client.reply()


@pytest.mark.parametrize(("signals", "opens", "status"), [(1, True, 200), (2, False, 503)])
def test_a_signal_lets_calls_end_and_a_second_one_cuts_them(
    signals: int, opens: bool, status: int
) -> None:
    gate = asyncio.Event()
    played = Played(signals, opens)
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run_gateway(
        ScriptedEngine(gated(gate)),
        routes=ROUTES,
        on_listening=lambda gateway: played.begin(gateway, gate),
    )
    for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
        signal.signal(number, handler)
    assert played.reply is not None
    assert played.reply.status == status


def test_an_engine_that_is_not_there_is_told() -> None:
    with pytest.raises(OpenEnvError, match=r"127\.0\.0\.1:9"):
        run_gateway(["http://127.0.0.1:9/v1"])
