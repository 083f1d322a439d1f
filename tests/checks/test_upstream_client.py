"""The client of upstream's dialect, against this package's server and one that says little."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websocket

from openenv_async import serve
from openenv_async.checks.upstream_client import UpstreamError, UpstreamSession
from openenv_async.testing import ConformanceEnvironment


async def test_an_episode() -> None:
    async with serve(ConformanceEnvironment) as url:
        session = await UpstreamSession.connect(url)
        result = await session.reset(seed=5, episode_id="mine", text="hello")
        assert result.observation["text"] == "hello"
        assert (result.reward, result.done) == (None, False)
        state = await session.state()
        assert state["seed"] == 5
        result = await session.step({"command": "reward", "value": 2.5})
        assert result.reward == 2.5
        result = await session.step({"command": "terminate", "value": 1.0})
        assert (result.reward, result.done) == (1.0, True)
        await session.close()


async def test_an_error_has_upstreams_code() -> None:
    async with serve(ConformanceEnvironment) as url:
        session = await UpstreamSession.connect(url)
        await session.reset()
        with pytest.raises(UpstreamError, match="boom") as caught:
            await session.step({"command": "raise", "text": "boom"})
        assert caught.value.code == "EXECUTION_ERROR"
        assert str(caught.value).startswith("EXECUTION_ERROR: ")
        await session.close()
        with pytest.raises(UpstreamError) as gone:
            await session.state()
        assert gone.value.code == "CLOSED"
        await session.close()


async def test_what_is_sent_and_read() -> None:
    sent: list[Any] = []

    async def answer(socket: ServerConnection) -> None:
        async for message in socket:
            sent.append(json.loads(message))
            data = {"observation": {}, "reward": "NaN", "done": 1}
            await socket.send(json.dumps({"type": "observation", "data": data}))

    async with serve_websocket(answer, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        session = await UpstreamSession.connect(f"http://127.0.0.1:{port}", "secret")
        result = await session.reset()
        assert result.done is True
        assert result.reward is not None
        assert math.isnan(result.reward)
        await session.reset(seed=0, level=2)
        await session.step({"n": 1})
        await session.close()
        await server.wait_closed() if not server.sockets else None
    assert sent == [
        {"type": "reset", "data": {}},
        {"type": "reset", "data": {"level": 2, "seed": 0}},
        {"type": "step", "data": {"n": 1}},
        {"type": "close"},
    ]
