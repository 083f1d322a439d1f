"""Reward functions: the environment's own reward, and completions scored by an environment."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openenv_async.client.arguments import reset_arguments
from openenv_async.integrations.trl.shared import SharedSource, Source
from openenv_async.rollouts import Turn, collect_all
from openenv_async.types import Outcome

__all__ = ["make_reward_func", "rollout_reward", "usable_only"]

Rewards = list[float | None]


def rollout_reward(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    env_reward: Sequence[float | None],
    **columns: Any,
) -> Rewards:
    """The return of each episode of a ``rollout_func``; ``None`` for what failed."""
    return list(env_reward)


def usable_only(function: Callable[..., Any]) -> Callable[..., Any]:
    """A reward function that gives ``None`` for the rollouts of a ``rollout_func`` that failed.

    Without it, another reward function would score what a broken environment left, and that
    score would enter the baseline.
    """

    def left_out(rewards: Sequence[float | None], failed: Sequence[bool] | None) -> Rewards:
        if failed is None:
            return list(rewards)
        return [None if bad else r for r, bad in zip(rewards, failed, strict=True)]

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Rewards:
            return left_out(await function(*args, **kwargs), kwargs.get("env_failed"))

        return awaited

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Rewards:
        return left_out(function(*args, **kwargs), kwargs.get("env_failed"))

    return called


def make_reward_func(
    source: Source | SharedSource,
    to_action: Callable[[Any, Any], Any],
    *,
    reset: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
    blocking: bool = False,
    concurrency: int = 64,
    timeout: float | None = None,
    name: str = "environment",
    **source_options: Any,
) -> Callable[..., Any]:
    """A reward function that takes each completion as one action of an episode of its own.

    All completions of a batch are scored at once.

    Args:
        source: an environment's name, a URL, several, an ``EnvPool`` or a client factory.
        to_action: makes an action of a completion (text or messages, as TRL gives it) and its
            token ids; ``None`` where the caller gives none.
        reset: makes the arguments of ``reset`` of a row: its prompt and its other columns.
        blocking: make a plain function; by default an async one, which TRL runs beside others.
            Both take ``(prompts, completions, completion_ids=None, **columns)``.
        concurrency: episodes at once.
        timeout: seconds for one.
        name: of the function, under which TRL logs the reward.
        source_options: ``params``, ``token``, and those of ``EnvPool``.

    Returns:
        The function. Its rewards are the environment's; ``None`` where it gave none or failed.
    """
    scorer = _Scorer(
        SharedSource.of(source, **source_options), to_action, reset, concurrency, timeout
    )

    async def awaited(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> Rewards:
        work = scorer.play(prompts, completions, completion_ids, columns)
        return await scorer.source.follow(work)

    def called(
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None = None,
        **columns: Any,
    ) -> Rewards:
        return scorer.source.run(scorer.play(prompts, completions, completion_ids, columns))

    made: Callable[..., Any] = called if blocking else awaited
    made.__name__ = made.__qualname__ = name
    return made


@dataclass(frozen=True)
class _Scorer:
    """Plays an episode of one step for each completion; the arguments of ``make_reward_func``."""

    source: SharedSource
    to_action: Callable[[Any, Any], Any]
    reset: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None
    concurrency: int
    timeout: float | None

    async def play(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None,
        columns: Mapping[str, Any],
    ) -> Rewards:
        """The environment's rewards, in the order of the completions."""
        if not completions:
            return []
        rows = [
            {"prompt": prompt, **{key: _at(values, i) for key, values in columns.items()}}
            for i, prompt in enumerate(prompts)
        ]
        options = [{} if self.reset is None else dict(self.reset(row)) for row in rows]
        ids = completion_ids or [None] * len(completions)

        def act(observation: Any, turn: Turn) -> Any:
            return self.to_action(completions[turn.index], ids[turn.index])

        outcomes: list[Outcome] = await collect_all(
            lambda: _Prepared(self.source.client(), options),
            act,
            episodes=len(completions),
            concurrency=self.concurrency,
            seeds=range(len(completions)),
            max_steps=1,
            timeout=self.timeout,
            retry="unstarted" if self.source.is_pool else "never",
            record=False,
        )
        return [outcome.episode_return for outcome in outcomes]


def _at(values: Any, index: int) -> Any:
    """A column's value in a row; what is no column (TRL's trainer state) is the same in all."""
    if isinstance(values, list) and index < len(values):
        return values[index]
    return values


class _Prepared:
    """A client whose episodes have their reset arguments by number, given as the seed."""

    def __init__(self, client: Any, options: Sequence[Mapping[str, Any]]) -> None:
        self._client = client
        self._options = options
        self.step = client.step
        self.close = client.close

    @property
    def episode(self) -> Any:
        return getattr(self._client, "episode", None)

    async def open(self) -> None:
        if hasattr(self._client, "open"):
            await self._client.open()

    async def reset(self, *, seed: int) -> Any:
        return await self._client.reset(**reset_arguments(self._options[seed]))
