"""A large payload travels in pieces, and others step meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from openenv_async import EngineOptions, EnvClient, Environment, Limits, serve
from openenv_async.protocol import chunks

SIZE = 8_000_000


@dataclass
class Want:
    size: int


@dataclass
class Frame:
    pixels: np.ndarray


class Camera(Environment[Want, Frame, dict[str, Any]]):
    isolation = "inline"
    film = np.arange(SIZE, dtype=np.uint32).astype(np.uint8)

    def reset(self) -> Frame:
        return Frame(self.film[:1])

    def step(self, action: Want) -> Frame:
        return Frame(self.film[: action.size])


class Counted(Environment[Frame, Want, dict[str, Any]]):
    isolation = "inline"

    def reset(self) -> Want:
        return Want(0)

    def step(self, action: Frame) -> Want:
        return Want(int(action.pixels.sum(dtype=np.int64)))


LIMITS = Limits(chunk_size=256 * 1024)
OPTIONS = EngineOptions(limits=LIMITS)


async def test_others_step_while_three_large_replies_come() -> None:
    async with serve(Camera, options=OPTIONS) as url:
        # Over TCP: in shared memory a large reply is one short message.
        clients = [EnvClient[Want, Frame, dict[str, Any]](url, local=False) for _ in range(6)]
        await asyncio.gather(*(client.reset() for client in clients))
        large = asyncio.gather(*(client.step(Want(SIZE)) for client in clients[:3]))
        small = 0

        async def play(client: EnvClient[Want, Frame, dict[str, Any]]) -> None:
            nonlocal small
            while not large.done():
                await client.step(Want(1))
                small += 1

        await asyncio.gather(*(play(client) for client in clients[3:]))
        for result in await large:
            assert np.array_equal(result.observation.pixels, Camera.film)
        # Ninety-odd pieces came; in one message each way the others would have had a turn or two.
        assert small > 20
        await asyncio.gather(*(client.close() for client in clients))


async def test_large_actions_arrive_whole() -> None:
    async with (
        serve(Counted, options=OPTIONS) as url,
        EnvClient[Frame, Want, dict[str, Any]](url, limits=LIMITS) as env,
    ):
        await env.reset()
        result = await env.step(Frame(Camera.film))
        assert result.observation.size == int(Camera.film.sum(dtype=np.int64))


async def test_pieces_are_what_makes_the_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunk queue is on the way of every large payload, in both directions."""
    cut: list[int] = []
    original = chunks.ChunkQueue.put

    def put(self: chunks.ChunkQueue, frame: Any) -> None:
        cut.append(len(frame.payload))
        original(self, frame)

    monkeypatch.setattr(chunks.ChunkQueue, "put", put)
    async with (
        serve(Camera, options=OPTIONS) as url,
        EnvClient[Want, Frame, dict[str, Any]](url, local=False) as env,
    ):
        await env.reset()
        await env.step(Want(1000))
        assert not cut
        await env.step(Want(SIZE))
        assert len(cut) == 1
        assert cut[0] > SIZE
