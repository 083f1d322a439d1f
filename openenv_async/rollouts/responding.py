"""A policy whose actions are what a responder says: a model, or an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from openenv_async.models import to_builtins
from openenv_async.rollouts.policies import Turn

__all__ = ["ResponderPolicy"]


class ResponderPolicy:
    """Plays an episode as a conversation: observations are the user's, replies the actions.

    Each episode has a conversation of its own. What the responder raises ends the rollouts, as
    with any policy.

    Args:
        responder: has ``async respond(messages, *, max_tokens, temperature, seed, stop)``, which
            gives something with a ``text``; see ``openenv_async.responders``, which has one for
            endpoints.
        to_action: what turns a reply's text into an action.
        system: first message of every conversation.
        to_text: what turns an observation into the user's message; by default a text as it is,
            anything else as JSON.
        max_turns: user messages kept with their replies, the latest; all when ``None``.
        seed: of sampling; with the episode's and the step's number it gives each reply's own.
        max_tokens, temperature, stop: of each reply.
    """

    def __init__(
        self,
        responder: Any,
        to_action: Callable[[str], Any],
        *,
        system: str | None = None,
        to_text: Callable[[Any], str] | None = None,
        max_turns: int | None = None,
        seed: int | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] | None = None,
    ) -> None:
        if max_turns is not None and max_turns < 1:
            raise ValueError(f"max_turns must be at least 1, got {max_turns}")
        self._responder = responder
        self._to_action = to_action
        self._to_text = to_text or _text
        self._first = [] if system is None else [{"role": "system", "content": system}]
        self._max_turns = max_turns
        self._seed = seed
        self._options = {"max_tokens": max_tokens, "temperature": temperature, "stop": stop}

    def for_episode(self, index: int) -> Callable[[Any, Turn], Coroutine[Any, Any, Any]]:
        """The policy of one episode, with a conversation of its own."""
        said: list[dict[str, str]] = []

        async def decide(observation: Any, turn: Turn) -> Any:
            said.append({"role": "user", "content": self._to_text(observation)})
            if self._max_turns is not None:
                del said[: -(2 * self._max_turns - 1)]
            seed = None if self._seed is None else hash((self._seed, index, turn.t)) & 0x7FFFFFFF
            reply = await self._responder.respond([*self._first, *said], seed=seed, **self._options)
            said.append({"role": "assistant", "content": reply.text})
            return self._to_action(reply.text)

        return decide

    def __call__(self, observation: Any, turn: Turn) -> Coroutine[Any, Any, Any]:
        """One reply without a conversation."""
        return self.for_episode(turn.index)(observation, turn)


def _text(observation: Any) -> str:
    if isinstance(observation, str):
        return observation
    plain = to_builtins(observation)
    if isinstance(plain, dict) and len(plain) == 1:
        (only,) = plain.values()
        if isinstance(only, str):
            return only
    return json.dumps(plain, default=str)
