"""Batches of requests: when they go out, what is answered, and generation by vLLM."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from openenv_async.integrations.trl.generation import Batcher, Request, generate


class Episodes:
    """Requests of episodes to one batcher."""

    def __init__(self, wait: float = 60.0, max_batch: int | None = None, running: int = 2) -> None:
        self.running = running
        self.batcher = Batcher(wait, max_batch, lambda: self.running)
        self.calls: list[asyncio.Task[Any]] = []

    def ask(self, *prompts: int, room: int = 4) -> None:
        for prompt in prompts:
            request = Request([prompt], room)
            self.calls.append(asyncio.ensure_future(self.batcher.ask(request)))

    async def take(self) -> list[int] | None:
        """The prompts of the next batch."""
        async with asyncio.timeout(5):
            batch = await self.batcher.take()
        return None if batch is None else [request.prompt_ids[0] for request in batch]


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_batch_goes_out_when_every_running_episode_waits() -> None:
    episodes = Episodes(running=2)
    taking = asyncio.ensure_future(episodes.take())
    episodes.ask(1)
    await turns()
    assert not taking.done()
    episodes.ask(2)
    assert await taking == [1, 2]


async def test_a_batch_goes_out_when_the_others_have_ended() -> None:
    episodes = Episodes(running=2)
    taking = asyncio.ensure_future(episodes.take())
    episodes.ask(1)
    await turns()
    episodes.running = 1
    await turns()
    assert not taking.done()
    episodes.batcher.changed()
    assert await taking == [1]


async def test_a_batch_waits_for_others_no_longer_than_it_may() -> None:
    episodes = Episodes(wait=0.01, running=5)
    episodes.ask(1, 2)
    assert await episodes.take() == [1, 2]


async def test_a_full_batch_goes_out_and_the_rest_waits() -> None:
    episodes = Episodes(max_batch=2, running=9)
    episodes.ask(1, 2, 3)
    await turns()
    assert await episodes.take() == [1, 2]
    taking = asyncio.ensure_future(episodes.take())
    await turns()
    assert not taking.done()
    episodes.ask(4)
    assert await taking == [3, 4]


async def test_a_cancelled_request_is_in_no_batch() -> None:
    episodes = Episodes(running=1)
    episodes.ask(1)
    await turns()
    episodes.calls[0].cancel()
    await asyncio.wait(episodes.calls)
    episodes.ask(2)
    await turns()
    assert await episodes.take() == [2]


async def test_the_end_is_told_even_while_requests_wait() -> None:
    episodes = Episodes(running=2)
    taking = asyncio.ensure_future(episodes.take())
    episodes.ask(1)
    await turns()
    episodes.batcher.finish()
    assert await taking is None
    assert await episodes.take() is None
    episodes.calls[0].cancel()


async def test_answers_have_their_room_and_numbers_of_their_own() -> None:
    episodes = Episodes(running=3)
    episodes.ask(1, 2, 3, room=2)
    await turns()
    batch = await episodes.batcher.take()
    assert batch is not None
    episodes.calls[1].cancel()
    await asyncio.wait([episodes.calls[1]])
    ids, logprobs = [[1, 2, 3], [4], [5]], [[-1, -2, -3], [-4], [-5]]
    episodes.batcher.answer(batch, ids, logprobs)  # type: ignore[arg-type]  # whole numbers
    assert await episodes.calls[0] == ([1, 2], [-1.0, -2.0])
    assert await episodes.calls[2] == ([5], [-5.0])
    assert type((await episodes.calls[0])[1][0]) is float


async def test_answers_without_log_probabilities() -> None:
    episodes = Episodes(running=1)
    episodes.ask(1)
    await turns()
    batch = await episodes.batcher.take()
    assert batch is not None
    episodes.batcher.answer(batch, [[7]], None)
    assert await episodes.calls[0] == ([7], None)


def trainer(logprobs: Any, **flags: bool) -> Any:
    def single_turn(prompts: Any, images: Any, more: Any, count: int) -> Any:
        assert (images, more, count) == (None, {}, 1)
        return [[1, 2, 3] for _ in prompts], logprobs

    return SimpleNamespace(**{"use_vllm": False, **flags}, _generate_single_turn=single_turn)


def test_vllm_generates_by_the_trainers_own_method() -> None:
    made = trainer([[-0.1, -0.2, -0.3]], use_vllm=True)
    assert generate(made, [[9]], 2) == ([[1, 2]], [[-0.1, -0.2]])
    made = trainer(None, use_transformers_continuous_batching=True)
    assert generate(made, [[9], [8]], 9) == ([[1, 2, 3]] * 2, None)
