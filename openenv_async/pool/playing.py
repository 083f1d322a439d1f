"""Playing on a pool: rollouts, groups and any other work, many at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from openenv_async.deadlines import wait_uncancelled
from openenv_async.renamed import renamed_arguments
from openenv_async.rollouts import (
    EpisodeStream,
    GroupStream,
    collect,
    collect_all,
    stream,
    stream_groups,
)
from openenv_async.rollouts.checking import check_count
from openenv_async.rollouts.collection import Results
from openenv_async.types import Outcome

__all__ = ["Mapped", "Playing"]

ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


@dataclass(slots=True)
class Mapped(Generic[ItemT, ValueT]):
    """What ``map`` made of one item.

    Attributes:
        index: of the item.
        item: it.
        value: what the function returned; ``None`` if it raised.
        error: what it raised.
    """

    index: int
    item: ItemT
    value: ValueT | None = None
    error: Exception | None = None

    def unwrap(self) -> ValueT:
        """The value; raises the error if there was one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # None only if that was returned


class Playing:
    """The methods of a pool that play."""

    if TYPE_CHECKING:

        def session(self, **options: Any) -> Any:
            """As ``EnvPool.session``."""

    async def rollout(
        self, policy: Callable[..., Any], *, seed: int | None = None, **options: Any
    ) -> Outcome:
        """Play one episode.

        Args:
            policy: chooses the actions; see ``rollouts.policies``.
            seed: of the episode; ``None``: the environment draws one.
            options: of ``rollouts.collect``: ``max_steps``, ``timeout``, ``reset_options``.
        """
        seeds = None if seed is None else [seed]
        played = await collect_all(self, policy, episodes=1, seeds=seeds, **options)
        return played[0]

    @renamed_arguments(n="episodes", min_k="min_episodes", min_count="min_episodes")
    def collect(
        self,
        policy: Callable[..., Any],
        episodes: int,
        *,
        min_episodes: int | None = None,
        deadline: float | None = None,
        **options: Any,
    ) -> AsyncGenerator[Outcome, None]:
        """Play ``episodes`` episodes; their outcomes as they end, exactly that many.

        Args:
            policy: chooses the actions; see ``rollouts.policies``.
            episodes: how many.
            min_episodes: once this many are usable the rest is cancelled.
            deadline: seconds after which the rest is cancelled.
            options: of ``rollouts.collect``: ``concurrency``, ``seeds``, ``max_steps``,
                ``retry``, ``on_progress``, …
        """
        return collect(
            self,
            policy,
            episodes=episodes,
            min_episodes=min_episodes,
            deadline=deadline,
            **options,
        )

    def stream(self, policy: Callable[..., Any], **options: Any) -> EpisodeStream:
        """Episodes as they end, for a trainer: ``async for episode in pool.stream(policy)``.

        Args:
            policy: chooses the actions; a ``VersionedPolicy`` is watched for staleness.
            options: of ``rollouts.stream``: ``episodes``, ``group_size``, ``max_staleness``, …
        """
        return stream(self, policy, **options)

    def stream_groups(
        self, policy: Callable[..., Any], *, group_size: int, **options: Any
    ) -> GroupStream:
        """Groups of one seed each, complete, as ``rollouts.stream_groups`` gives them.

        Args:
            policy: chooses the actions.
            group_size: episodes of one seed.
            options: of ``rollouts.stream_groups``.
        """
        return stream_groups(self, policy, group_size=group_size, **options)

    @renamed_arguments(n="episodes", done_when="min_episodes", min_count="min_episodes")
    async def group(
        self,
        policy: Callable[..., Any],
        episodes: int = 16,
        *,
        min_episodes: int | None = None,
        seed: int | None = None,
        deadline: float | None = None,
        **options: Any,
    ) -> list[Outcome]:
        """Play the same episode ``episodes`` times at once, as group-relative methods want it.

        Args:
            policy: chooses the actions.
            episodes: how many are started.
            min_episodes: once this many are usable the rest is cancelled; ``None``: all are
                waited for.
            seed: of all of them; ``None`` draws one.
            deadline: seconds after which the rest is cancelled.
            options: of ``rollouts.collect``.

        Returns:
            ``episodes`` outcomes by index, the cancelled ones included; ``status.usable`` tells.
        """
        episodes = check_count("episodes", episodes)
        if seed is None:
            seed = random.SystemRandom().getrandbits(31)
        return await collect_all(
            self,
            policy,
            episodes=episodes,
            concurrency=episodes,
            seeds=[seed] * episodes,
            min_episodes=min_episodes,
            deadline=deadline,
            **options,
        )

    async def map(
        self,
        function: Callable[[Any, ItemT], Awaitable[ValueT]],
        items: Iterable[ItemT],
        *,
        concurrency: int = 64,
        **session: Any,
    ) -> AsyncGenerator[Mapped[ItemT, ValueT], None]:
        """Call ``await function(env, item)`` for every item, each with an environment of its own.

        Results come as they are made. What a function raises is in its result. Leaving the loop
        (``contextlib.aclosing``) cancels what runs and gives every slot back.

        Args:
            function: async; the environment is its own until it returns.
            items: are taken as they are needed.
            concurrency: calls at once, as far as the pool has slots.
            session: of ``session``.
        """
        concurrency = check_count("concurrency", concurrency)
        if not callable(function):
            raise TypeError(f"function must be callable, got {function!r}")
        results: Results[Mapped[ItemT, ValueT]] = Results(2 * concurrency)
        left = iter(enumerate(items))
        limit = min(concurrency, len(items)) if isinstance(items, Sequence) else concurrency

        async def player() -> None:
            for index, item in left:
                made: Mapped[ItemT, ValueT] = Mapped(index, item)
                try:
                    async with self.session(**session) as env:
                        made.value = await function(env, item)
                except Exception as exc:
                    made.error = exc
                results.put(made)
                await results.room()

        def over() -> bool:
            return all(task.done() for task in players)

        players = [
            asyncio.create_task(player(), name=f"openenv-map-{number}") for number in range(limit)
        ]
        for task in players:
            task.add_done_callback(lambda _: results.wake())
        try:
            while (result := await results.next(over)) is not None:
                yield result
            for task in players:
                task.result()  # what iterating over ``items`` raised
        finally:
            for task in players:
                task.cancel()
            await wait_uncancelled(*players)
