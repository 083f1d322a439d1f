"""The client that knows no model, against environments of every kind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from openenv_async import Environment, GenericEnvClient, serve


@dataclass
class Move:
    steps: int


@dataclass
class Seen:
    value: int
    raw: bytes = b"\0"
    extra: Any = None


class Numbers(Environment[int, int, int]):
    def reset(self) -> int:
        return 0

    def step(self, action: int) -> int:
        return action + 1

    def state(self) -> int:
        return 7


class Texts(Environment[str, list[str], list[int]]):
    def reset(self) -> list[str]:
        return []

    def step(self, action: str) -> list[str]:
        return [action, action.upper()]

    def state(self) -> list[int]:
        return [1, 2]


class Models(Environment[Move, Seen, Seen]):
    def reset(self) -> Seen:
        return Seen(0)

    def step(self, action: Move) -> Seen:
        return Seen(action.steps, extra={"b": b"\1"})

    def state(self) -> Seen:
        return Seen(5)


class Arrays(Environment[npt.NDArray[np.float32], npt.NDArray[np.float32], dict[str, Any]]):
    def reset(self) -> npt.NDArray[np.float32]:
        return np.zeros(2, np.float32)

    def step(self, action: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return action * 2

    def state(self) -> dict[str, Any]:
        return {"raw": b"\2"}


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_plain_values_both_ways(format: str) -> None:
    subprotocol = f"openenv.v1.{format}"
    async with serve(Numbers) as url, GenericEnvClient(url, subprotocol=subprotocol) as env:
        assert (await env.reset()).observation == 0
        assert (await env.step(4)).observation == 5
        assert await env.state() == 7
    async with serve(Texts) as url, GenericEnvClient(url, subprotocol=subprotocol) as env:
        assert (await env.reset()).observation == []
        assert (await env.step("a")).observation == ["a", "A"]
        assert await env.state() == [1, 2]
    async with serve(Arrays) as url, GenericEnvClient(url, subprotocol=subprotocol) as env:
        assert (await env.reset()).observation.tolist() == [0, 0]
        array = (await env.step(np.array([1, 2], np.float32))).observation
        assert (array.dtype, array.tolist()) == (np.float32, [2, 4])
        assert (await env.state())["raw"] == b"\2"
    async with serve(Models) as url, GenericEnvClient(url, subprotocol=subprotocol) as env:
        # what only the model knows, an untyped client does not: declared bytes are text in JSON
        raw = b"\0" if format == "msgpack" else "AA=="
        assert (await env.reset()).observation == {"value": 0, "raw": raw, "extra": None}
        seen = (await env.step({"steps": 3})).observation
        assert seen == {"value": 3, "raw": raw, "extra": {"b": b"\1"}}
        assert (await env.state())["value"] == 5


async def test_blocking_too() -> None:
    async with serve(Numbers) as url:
        env = GenericEnvClient(url).sync()
        try:
            assert (await asyncio.to_thread(env.reset)).observation == 0
            assert (await asyncio.to_thread(env.step, 4)).observation == 5
        finally:
            await asyncio.to_thread(env.close)
