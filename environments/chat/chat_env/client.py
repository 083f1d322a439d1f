"""The client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chat_env.models import ChatAction, ChatObservation, ChatState, Message
from openenv_async.client.env import EnvClient
from openenv_async.types import StepResult

__all__ = ["ChatEnv"]


class ChatEnv(EnvClient[ChatAction, ChatObservation, ChatState]):
    """One session of a served chat environment.

    The server sends what is new of the conversation; observations here have all of it. Another
    ``history`` of a reset is left as it is: ``full`` has the server send all, ``new`` none.
    """

    _joined: tuple[list[Message], list[int]] | None = None
    _is_behind = False

    async def reset(
        self,
        *,
        seed: int | None = None,
        episode_id: str | None = None,
        timeout: float | None = None,
        reset_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> StepResult[ChatObservation]:
        """Begin an episode; see ``EnvClient.reset`` and ``ChatEnvironment.reset``."""
        joins = "history" not in options and "history" not in (reset_options or {})
        self._joined, self._is_behind = None, False
        result = await super().reset(
            seed=seed,
            episode_id=episode_id,
            timeout=timeout,
            reset_options=reset_options,
            **options,
            **({"history": "new"} if joins else {}),
        )
        if joins:
            self._joined = result.observation.messages, result.observation.tokens
        return result

    async def step(
        self, action: ChatAction, *, timeout: float | None = None
    ) -> StepResult[ChatObservation]:
        """Take one action; see ``EnvClient.step``."""
        if self._joined is None:
            return await super().step(action, timeout=timeout)
        was_behind, self._is_behind = self._is_behind, True
        result = await super().step(action, timeout=timeout)
        seen = result.observation
        if was_behind:  # an answer may have been lost
            state = await self.state()
            seen.messages, seen.tokens = state.history_messages, state.history_tokens
        else:
            messages, tokens = self._joined
            seen.messages, seen.tokens = [*messages, *seen.messages], [*tokens, *seen.tokens]
        self._joined, self._is_behind = (seen.messages, seen.tokens), False
        return result
