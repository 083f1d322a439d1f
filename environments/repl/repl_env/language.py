"""Questions from inside the sandbox to a language model outside."""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from openenv_async.errors import InvalidOption, OpenEnvError
from openenv_async.responders import Responder

__all__ = ["LanguageModel"]

_MAX_PROMPT_SIZE: Final = 1 << 20
_CONCURRENCY: Final = 8
_REFUSALS: Final = (400, 413, 422)
"""HTTP status of answers that find fault with the question, such as a prompt that is too long."""


class LanguageModel:
    """The answers to ``llm_query`` and ``llm_query_batched`` of one episode.

    Requests come from untrusted code: each is checked, counted and bounded. Each call
    has a seed of its own, made of the episode's and the call's number.

    Args:
        responder: ``None``: every question is refused.
        max_calls: per episode.
        max_tokens: of each reply.
    """

    def __init__(self, responder: Responder | None, max_calls: int, max_tokens: int | None) -> None:
        self.calls = 0
        self._responder = responder
        self._max_calls, self._max_tokens = max_calls, max_tokens
        self._seed = 0
        self._failure: OpenEnvError | None = None

    def begin(self, seed: int) -> None:
        """A new episode."""
        self.calls, self._seed, self._failure = 0, seed, None

    def check(self) -> None:
        """Raise what kept the model from answering, if something did: the code is not at fault.

        Raises:
            ResponderFailed, DeadlineExceeded: as the responder raised it.
        """
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    async def query(self, *args: Any) -> str:
        """``llm_query(prompt)``."""
        [answer] = await self._ask(list(args[:1]))
        return answer

    async def query_batched(self, *args: Any) -> list[str]:
        """``llm_query_batched(prompts)``: several at once, answers in their order."""
        prompts = args[0] if args else None
        if not isinstance(prompts, list):
            raise TypeError("llm_query_batched() takes a list of prompts")
        return await self._ask(prompts)

    async def _ask(self, prompts: list[Any]) -> list[str]:
        responder = self._responder
        if responder is None:
            raise InvalidOption("there is no model to ask: serve with a responder")
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise TypeError(f"a prompt is a str, not a {type(prompt).__name__}")
            if len(prompt) > _MAX_PROMPT_SIZE:
                raise ValueError(f"a prompt has at most {_MAX_PROMPT_SIZE} characters")
        if not prompts:
            return []
        if self.calls + len(prompts) > self._max_calls:
            raise RuntimeError(f"the episode's {self._max_calls} questions are used up")
        first = self.calls
        self.calls += len(prompts)
        places = asyncio.Semaphore(_CONCURRENCY)

        async def one(number: int, prompt: str) -> str:
            async with places:
                reply = await responder.respond(
                    [{"role": "user", "content": prompt}],
                    max_tokens=self._max_tokens,
                    seed=random.Random(f"{self._seed}/{number}").getrandbits(31),
                )
                return reply.text

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(first + i, text)) for i, text in enumerate(prompts)]
        except ExceptionGroup as failed:
            error = failed.exceptions[0]  # one is enough for the code to know
            if isinstance(error, OpenEnvError) and error.detail.get("status") not in _REFUSALS:
                self._failure = error
            raise error from None
        return [task.result() for task in tasks]
