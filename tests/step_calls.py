"""Count the package's own functions that a step calls: ``python -m tests.step_calls [MODULE]``.

In a process of its own, with or without a module (attrs) that is looked for in values of ``Any``.
"""

from __future__ import annotations

import asyncio
import cProfile
import importlib
import json
import os
import pstats
import statistics
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import connect as connect_socket
from websockets.typing import Subprotocol

import openenv_async
from openenv_async import GenericEnvClient, serve
from openenv_async.protocol.codec import MsgpackCodec
from openenv_async.protocol.frames import PROTOCOL_VERSION, Hello, Observation, Open, Reset, Step
from openenv_async.targets.served import connect
from openenv_async.testing import BenchEnvironment
from tests.helpers import pack, token

PACKAGE = os.path.dirname(openenv_async.__file__) + os.sep
ACTION = {"message": "hello"}
ROUNDS = 5
STEPS = 40
Calls = dict[str, float]


async def counted(step: Callable[[], Awaitable[Any]]) -> Calls:
    """Calls of one step by file of the package: the median of a few rounds."""
    for _ in range(20):
        await step()
    rounds: list[Calls] = []
    for _ in range(ROUNDS):
        profile = cProfile.Profile()
        profile.enable()
        for _ in range(STEPS):
            await step()
        profile.disable()
        calls: Calls = {}
        stats: Any = pstats.Stats(profile)
        for (path, _, _), (_, count, *_) in stats.stats.items():
            if path.startswith(PACKAGE):
                name = path.removeprefix(PACKAGE)
                calls[name] = calls.get(name, 0.0) + count / STEPS
        rounds.append(calls)
    return {
        name: statistics.median(calls.get(name, 0.0) for calls in rounds)
        for name in sorted({name for calls in rounds for name in calls})
    }


async def in_process() -> Calls:
    async with connect(BenchEnvironment, client=GenericEnvClient) as env:
        await env.reset()
        return await counted(lambda: env.step(ACTION))


async def over_socket() -> Calls:
    async with serve(BenchEnvironment) as url, GenericEnvClient(url) as env:
        await env.reset()
        return await counted(lambda: env.step(ACTION))


async def of_server() -> Calls:
    """A bare socket sends messages that were encoded before, and decodes no reply."""
    codec = MsgpackCodec("client", 1 << 20)
    async with (
        serve(BenchEnvironment) as url,
        connect_socket(
            url.replace("http", "ws") + "/ws",
            subprotocols=[Subprotocol("openenv.v1.msgpack")],
            compression=None,
        ) as socket,
    ):
        for frame in (Hello(PROTOCOL_VERSION), Open(1, token(1), token(2)), Reset(1, 1, 0)):
            await socket.send(codec.encode([frame]))
            await socket.recv()
        steps = [Step(1, seq, seq - 1, pack(ACTION)) for seq in range(2, 22 + ROUNDS * STEPS)]
        messages = [codec.encode([step]) for step in steps]
        replies: list[Any] = []

        async def step() -> None:
            await socket.send(messages[len(replies)])
            replies.append(await socket.recv())

        calls = await counted(step)
    [last] = codec.decode(replies[-1])
    assert isinstance(last, Observation), last
    return calls


async def main() -> None:
    counts = {
        "in process": await in_process(),
        "over a socket": await over_socket(),
        "server": await of_server(),
    }
    sys.stdout.write(json.dumps(counts))


if __name__ == "__main__":
    for module in sys.argv[1:]:
        importlib.import_module(module)
    asyncio.run(main())
