"""Reward functions: the environment's own reward, and completions scored by an environment."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openenv_async.client.arguments import reset_arguments
from openenv_async.errors import OperationUnsupported
from openenv_async.integrations.trl.masking import failed_rows, mask_failures, masks
from openenv_async.integrations.trl.shared import SharedSessions
from openenv_async.rollouts import Turn, collect
from openenv_async.rollouts.groups import is_kept
from openenv_async.targets.resolve import Target
from openenv_async.types import Outcome

__all__ = ["make_reward_func", "rollout_reward", "usable_only"]

log = logging.getLogger("openenv_async.integrations.trl")

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
    """A reward function that gives ``None`` for the episodes that failed.

    It knows those of a ``rollout_func`` and of an ``environment_factory``. With TRL's trainers that
    is done for all reward functions anyway (``masking``); this is for others, and for what the
    function itself logs.
    """

    def left_out(rewards: Sequence[float | None], columns: Mapping[str, Any]) -> Rewards:
        failed = failed_rows(len(rewards), columns.get("env_failed"), columns.get("environments"))
        return [None if bad else r for r, bad in zip(rewards, failed, strict=True)]

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def awaited(*args: Any, **kwargs: Any) -> Rewards:
            return left_out(await function(*args, **kwargs), kwargs)

        return awaited

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Rewards:
        return left_out(function(*args, **kwargs), kwargs)

    return called


def make_reward_func(
    source: Target | SharedSessions,
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
        source: any target: a name, a URL, several, an environment class, a pool, a client, …
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
        Beside others, TRL leaves the rows of failed episodes out of all of them.
    """
    mask_failures()
    scorer = _Scorer(
        SharedSessions.of(source, **source_options), to_action, reset, concurrency, timeout
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

    made: Any = called if blocking else awaited
    made.__name__ = made.__qualname__ = name
    made.scorer = scorer
    return made  # type: ignore[no-any-return]  # a function


@dataclass
class _Scorer:
    """A reward function that plays an episode of one step for each completion."""

    source: SharedSessions
    to_action: Callable[[Any, Any], Any]
    reset: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None
    concurrency: int
    timeout: float | None
    _scored: Sequence[Any] = ()
    _failed: Sequence[bool] = ()

    def failed_of(self, completions: Sequence[Any]) -> Sequence[bool]:
        """Which episodes failed, of the completions that were scored last; else nothing."""
        return self._failed if completions is self._scored else ()

    async def play(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        completion_ids: Sequence[Any] | None,
        columns: Mapping[str, Any],
    ) -> Rewards:
        """The environment's rewards, in the order of the completions."""
        _check_masked(columns)
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

        outcomes: dict[int, Outcome] = {}
        stream = collect(
            lambda: _Prepared(self.source.client(), options),
            act,
            episodes=len(completions),
            concurrency=self.concurrency,
            seeds=range(len(completions)),
            max_steps=1,
            timeout=self.timeout,
            retry="unstarted" if self.source.is_pool else "never",
            record=False,
            on_mistake="end",
        )
        try:
            async with contextlib.aclosing(stream):
                async for outcome in stream:
                    outcomes[outcome.index] = outcome
        except Exception as exc:
            if len(outcomes) < len(completions):
                raise
            log.warning("not one completion of this batch could be made an action: %r", exc)
        ordered = [outcomes[index] for index in range(len(completions))]
        self._scored, self._failed = completions, [not _is_sound(each) for each in ordered]
        return [each.episode_return if _is_sound(each) else None for each in ordered]


def _is_sound(outcome: Outcome) -> bool:
    """Tell whether a trainer can use it; an infinite return would make its whole group NaN."""
    value = outcome.episode_return
    return is_kept(outcome) and (value is None or math.isfinite(value))


def _check_masked(columns: Mapping[str, Any]) -> None:
    """Refuse a TRL trainer that scores failed episodes with its other reward functions.

    Raises:
        OperationUnsupported: it was imported after the reward function was made.
    """
    trainer = getattr(columns.get("log_extra"), "__self__", None)
    functions = getattr(trainer, "reward_funcs", ())
    if len(functions) > 1 and hasattr(trainer, "_calculate_rewards") and not masks(type(trainer)):
        mask_failures()
        raise OperationUnsupported(
            "the other reward functions of this trainer would score failed episodes: import TRL's"
            " trainer before make_reward_func is called"
        )


def _at(values: Any, index: int) -> Any:
    """A column's value in a row; any other value (TRL's trainer state) is the same in all."""
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

    @property
    def leaving(self) -> bool:
        return getattr(self._client, "leaving", False)

    async def open(self) -> None:
        if hasattr(self._client, "open"):
            await self._client.open()

    async def reset(self, *, seed: int) -> Any:
        return await self._client.reset(**reset_arguments(self._options[seed]))
