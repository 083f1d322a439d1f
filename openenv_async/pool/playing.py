"""Playing on a pool: rollouts, groups and any other work, many at once."""

from __future__ import annotations

import asyncio
import functools
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Unpack

from openenv_async.client.env import EnvClient
from openenv_async.deadlines import wait_uncancelled
from openenv_async.renamed import renamed_arguments, renamed_attributes
from openenv_async.rollouts.checking import check_count
from openenv_async.rollouts.collection import (
    BatchKeywords,
    CollectKeywords,
    Results,
    collect,
    collect_all,
)
from openenv_async.rollouts.streaming import (
    EpisodeStream,
    GroupStream,
    StreamKeywords,
    stream,
    stream_groups,
)
from openenv_async.types import ActT, ObsT, Outcome, StateT, Task

__all__ = ["ClientT", "Mapped", "PlayingPool", "mapped"]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    ClientT = TypeVar(
        "ClientT",
        bound=EnvClient[Any, Any, Any],
        default=EnvClient[Any, Any, Any],
        covariant=True,
    )
else:  # the default is for type checkers alone
    from typing import TypeVar

    ClientT = TypeVar("ClientT", covariant=True)

OneT = TypeVar("OneT", bound=EnvClient[Any, Any, Any])
ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


@dataclass(slots=True)
class Mapped(Generic[ItemT, ValueT]):
    """The result of ``map`` for one item.

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
        """Return the value, or raise the error if there was one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # None only if that was returned


class PlayingPool(ABC, Generic[ClientT]):
    """The methods of a pool that play on its sessions."""

    @abstractmethod
    def session(self, **options: Any) -> ClientT:
        """Return a client that takes a slot when it is opened and gives it back when closed."""

    async def rollout(
        self: PlayingPool[EnvClient[ActT, ObsT, StateT]],
        policy: Callable[..., Any],
        *,
        seed: int | None = None,
        task: Task | Mapping[str, Any] | None = None,
        **options: Unpack[BatchKeywords],
    ) -> Outcome[ObsT, ActT]:
        """Play one episode.

        Args:
            policy: chooses the actions; see ``rollouts.policies``.
            task: what it is about: a ``Task``, or a row of columns for ``reset``.
            seed: of the episode; ``None``: the environment draws one.
            options: of ``rollouts.collect``: ``max_steps``, ``timeout``, ``reset_options``.
        """
        seeds = None if seed is None else [seed]
        tasks = None if task is None else [task]
        played: list[Outcome[ObsT, ActT]] = await collect_all(
            self, policy, episodes=1, tasks=tasks, seeds=seeds, **options
        )
        return played[0]

    @renamed_arguments(n="episodes", min_k="min_episodes", min_count="min_episodes")
    def collect(
        self: PlayingPool[EnvClient[ActT, ObsT, StateT]],
        policy: Callable[..., Any],
        episodes: int | None = None,
        **options: Unpack[CollectKeywords],
    ) -> AsyncGenerator[Outcome[ObsT, ActT], None]:
        """Play ``episodes`` episodes; their outcomes as they end, exactly that many.

        Args:
            policy: chooses the actions; see ``rollouts.policies``.
            episodes: how many; with ``tasks`` all that there are.
            options: of ``rollouts.collect``: ``tasks``, ``group_size``, ``min_episodes``,
                ``deadline``, ``concurrency``, ``seeds``, ``max_steps``, ``retry``, …
        """
        return collect(self, policy, episodes=episodes, **options)

    def stream(
        self: PlayingPool[EnvClient[ActT, ObsT, StateT]],
        policy: Callable[..., Any],
        *,
        episodes: int | None = None,
        group_size: int = 1,
        partial: bool = False,
        failures: bool = False,
        **options: Unpack[StreamKeywords],
    ) -> EpisodeStream[ObsT, ActT]:
        """Play episodes for a trainer: ``async for episode in pool.stream(policy)``.

        Args:
            policy: chooses the actions; a ``VersionedPolicy`` is watched for staleness.
            episodes, group_size, partial, failures, options: of ``rollouts.stream``.
        """
        return stream(
            self,
            policy,
            episodes=episodes,
            group_size=group_size,
            partial=partial,
            failures=failures,
            **options,
        )

    def stream_groups(
        self: PlayingPool[EnvClient[ActT, ObsT, StateT]],
        policy: Callable[..., Any],
        *,
        group_size: int,
        groups: int | None = None,
        **options: Unpack[StreamKeywords],
    ) -> GroupStream[ObsT, ActT]:
        """Play groups of one task and seed each, handed over complete.

        Args:
            policy: chooses the actions.
            group_size: episodes of one task and seed.
            groups: how many in all; ``None``: one for each task, without tasks endless.
            options: of ``rollouts.stream_groups``.
        """
        return stream_groups(self, policy, group_size=group_size, groups=groups, **options)

    @renamed_arguments(n="episodes", done_when="min_episodes", min_count="min_episodes")
    async def group(
        self: PlayingPool[EnvClient[ActT, ObsT, StateT]],
        policy: Callable[..., Any],
        episodes: int = 16,
        *,
        seed: int | None = None,
        task: Task | Mapping[str, Any] | None = None,
        **options: Unpack[BatchKeywords],
    ) -> list[Outcome[ObsT, ActT]]:
        """Play one episode several times at once, as group-relative methods want it.

        Args:
            policy: chooses the actions.
            episodes: how many are started.
            seed: of all of them; ``None`` draws one.
            task: of all of them: a ``Task``, or a row of columns for ``reset``.
            options: of ``rollouts.collect``: ``min_episodes``, ``deadline``, …

        Returns:
            ``episodes`` outcomes by index, the cancelled ones included; ``status.usable`` tells.
        """
        episodes = check_count("episodes", episodes)
        if seed is None:
            seed = random.SystemRandom().getrandbits(31)
        outcomes: list[Outcome[ObsT, ActT]] = await collect_all(
            self,
            policy,
            episodes=episodes,
            tasks=None if task is None else [task],
            group_size=episodes,
            concurrency=episodes,
            seeds=[seed],
            **options,
        )
        return outcomes

    def map(
        self,
        function: Callable[[ClientT, ItemT], Awaitable[ValueT]],
        items: Iterable[ItemT],
        *,
        concurrency: int = 64,
        **session: Any,
    ) -> AsyncGenerator[Mapped[ItemT, ValueT], None]:
        """Call ``await function(env, item)`` for every item, each with an environment of its own.

        Results come as they are made. An exception of the function is in its result. Leaving the
        loop (``contextlib.aclosing``) cancels what runs and gives every slot back.

        Args:
            function: async; the environment is its own until it returns.
            items: are taken as they are needed.
            concurrency: calls at once, as far as the pool has slots.
            session: of ``session``.
        """
        make: Callable[[], ClientT] = functools.partial(self.session, **session)
        return mapped(make, function, items, concurrency)


async def mapped(
    session: Callable[[], OneT],
    function: Callable[[OneT, ItemT], Awaitable[ValueT]],
    items: Iterable[ItemT],
    concurrency: int,
) -> AsyncGenerator[Mapped[ItemT, ValueT], None]:
    """Call ``await function(client, item)`` for every item; yield results as they are made.

    Args:
        session: makes the client of one item, which is entered and left.
        function: raises what becomes the error of its item.
        items: are taken as they are needed; an error of theirs ends everything.
        concurrency: calls at once.
    """
    concurrency = check_count("concurrency", concurrency)
    if not callable(function):
        raise TypeError(f"function must be callable, got {function!r}")
    results: Results[Mapped[ItemT, ValueT]] = Results(2 * concurrency)
    left = iter(enumerate(items))
    limit = min(concurrency, len(items)) if isinstance(items, Sequence) else concurrency

    async def work() -> None:
        for index, item in left:
            made: Mapped[ItemT, ValueT] = Mapped(index, item)
            try:
                async with session() as client:
                    made.value = await function(client, item)
            except Exception as exc:
                made.error = exc
            results.put(made)
            await results.room()

    def over() -> bool:
        return all(task.done() for task in tasks)

    tasks = [asyncio.create_task(work(), name=f"openenv-map-{number}") for number in range(limit)]
    for task in tasks:
        task.add_done_callback(lambda _: results.wake())
    try:
        while (result := await results.next(over)) is not None:
            yield result
        for task in tasks:
            task.result()  # what iterating over ``items`` raised
    finally:
        for task in tasks:
            task.cancel()
        await wait_uncancelled(*tasks)


__getattr__ = renamed_attributes(__name__, {"Playing": "PlayingPool"})
